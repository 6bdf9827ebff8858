"""ID tokens: whom they make known, and everything that is refused though it looks like one."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import sshlogin
from handfast.core.flow import Once, Person, SshFinding, SshWish
from handfast.core.openid import MAX_TOKEN
from handfast.core.sshcert import Kind
from handfast.errors import EvidenceRejected, Malformed, NotMine, Refused
from handfast.introducers import oidc
from handfast.introducers.oidc import MOST_GROUPS, OidcIntroducer, read_keys, spent_as, verified
from tests.introducers.stage import NOW, PIN, SERVER_SPKI, Honest, by_renewal, ed25519, p256
from tests.introducers.stage_login import (
    CLIENT,
    CORP,
    CORP_KEY,
    ED_KEY,
    MINE,
    OTHER,
    OTHER_KEY,
    THIEFS,
    TokenKey,
    b64,
    by_oidc,
    claims,
    introducer,
    jwk,
    key_set,
    spent,
    token,
)
from tests.introducers.stage_ssh import SshStage

NOW_SECONDS = int(NOW.timestamp())
RSA_KEY = rsa.generate_private_key(65537, 2048)


def found(honest: Honest, by: OidcIntroducer | None = None) -> SshFinding:
    """What the introducer concludes."""
    assert isinstance(honest.stage, SshStage)
    return (by or introducer()).verify(honest.evidence, honest.stage)


def person(text: str, keys: bytes | None = None) -> Person:
    """Whom a token makes known."""
    return verified(text, CORP, read_keys(keys or key_set(jwk(CORP_KEY))), now=NOW)


def rejected(text: str, match: str, keys: bytes | None = None, kind: type[Refused] = EvidenceRejected) -> None:
    """It makes nobody known."""
    with pytest.raises(kind, match=match):
        person(text, keys)


def test_an_honest_person() -> None:
    """Whom the provider names, by an address that it has verified, with groups; once, and for the key that signed."""
    text = token()
    finding = found(by_oidc(token_=text, wish=SshWish(("ada",), timedelta(hours=1))))
    assert finding.holder == Person("oidc:corp", "248289761001", "ada@example.org", frozenset({"admins", "staff"}))
    assert (finding.kind, finding.keys, finding.host) == (Kind.USER, (MINE.public,), None)
    assert finding.wish == SshWish(("ada",), timedelta(hours=1))
    assert finding.once == Once(spent(text))
    assert "https://id.example.org says that this is ada@example.org" in finding.proof


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", RSA_KEY),
        ("RS512", RSA_KEY),
        ("PS256", RSA_KEY),
        ("ES256", CORP_KEY),
        ("ES384", ec.derive_private_key(5, ec.SECP384R1())),
        ("ES512", ec.derive_private_key(5, ec.SECP521R1())),
        ("EdDSA", ED_KEY),
        ("Ed25519", ED_KEY),
    ],
)
def test_what_providers_sign_with(algorithm: str, key: TokenKey) -> None:
    """Every algorithm of the list verifies, and with another key of its kind it does not."""
    assert person(token(key=key, alg=algorithm), key_set(jwk(key))).name == "248289761001"
    another: TokenKey = ed25519(99) if key is ED_KEY else p256(99) if key is CORP_KEY else None
    if another is not None:
        rejected(token(key=another, alg=algorithm), "signature does not fit", key_set(jwk(key)))


def test_P40_algorithms_that_prove_nothing() -> None:
    """No signature at all; and the HMAC for which the provider's public key would be the secret."""
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("none", "None", "NONE", "HS256", "HS384", "HS512", "ES256K", "dir", "", "RS1"):
        rejected(token(key=public, alg=algorithm), "proves nothing here|no three parts")
    unsigned = token(key=None, alg="none")
    assert unsigned.endswith(".")
    rejected(unsigned, "no three parts", kind=Malformed)
    rejected(f"{unsigned}AA", "proves nothing here")


def test_P40_an_algorithm_of_another_key_type() -> None:
    """A key verifies what it is for: one that says its algorithm no other, and no curve another's."""
    keys = key_set(jwk(CORP_KEY), jwk(RSA_KEY, "rsa", alg="RS256"))
    rejected(token(alg="ES384"), "0 keys of the provider fit", keys)
    rejected(token(key=RSA_KEY, alg="PS256", kid="rsa"), "0 keys of the provider fit", keys)
    rejected(token(key=RSA_KEY, alg="RS256"), "0 keys of the provider fit", keys)
    assert person(token(key=RSA_KEY, alg="RS256", kid="rsa"), keys).email == "ada@example.org"


def test_P40_another_issuer_with_the_same_key_id() -> None:
    """A provider speaks for itself: with its own keys under its own name, whatever it calls them."""
    theirs = token(claims(iss=OTHER.issuer), key=OTHER_KEY)
    assert found(by_oidc(token_=theirs, provider="other")).holder == dataclasses.replace(
        person(token()), origin="oidc:other"
    )
    for text, provider in (
        (theirs, "corp"),  # their token as ours
        (token(claims(), key=OTHER_KEY), "corp"),  # our issuer, signed by them
        (token(claims(), key=OTHER_KEY), "other"),  # our issuer, signed and presented as theirs
        (token(), "other"),
    ):
        with pytest.raises(EvidenceRejected, match=r"signature does not fit|the token is by"):
            found(by_oidc(token_=text, provider=provider))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iss": "https://id.example.org/"}, "the token is by 'https://id.example.org/'"),
        ({"aud": "another"}, "the token is for 'another'"),
        ({"aud": []}, "is for"),
        ({"aud": [CLIENT, "another"]}, "and not for 'handfast' alone"),
        ({"aud": ["another", CLIENT]}, "and not for 'handfast' alone"),
        ({"azp": "another"}, "issued to 'another'"),
        ({"exp": NOW_SECONDS}, "has expired"),
        ({"exp": NOW_SECONDS - 1}, "has expired"),
        ({"iat": NOW_SECONDS - 301}, "over 300 seconds old"),
        ({"iat": NOW_SECONDS + 61}, "from the future"),
        ({"nbf": NOW_SECONDS + 61}, "from the future"),
        ({"sub": ""}, "subject is no name"),
        ({"sub": "a" * 256}, "subject is no name"),
        ({"sub": "ada\nroot"}, "subject is no name"),
        ({"sub": "ada\x1b[2J"}, "subject is no name"),
        ({"sub": "a\x00b"}, "subject is no name"),
        ({"sub": "\u0430da"}, "subject is no name"),
        ({"groups": ["g"] * (MOST_GROUPS + 1)}, "has 1001 groups"),
    ],
)
def test_P40_claims_that_do_not_count(changes: dict[str, Any], words: str) -> None:
    """By somebody else, for somebody else, not of now, or with a name that a log could not bear."""
    rejected(token(claims(**changes)), words)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [CLIENT]},
        {"azp": None},
        {"iat": NOW_SECONDS - 300},
        {"iat": NOW_SECONDS + 60},
        {"iat": NOW_SECONDS - 0.5},
        {"nbf": NOW_SECONDS - 10},
        {"exp": NOW_SECONDS + 1},
        {"groups": None},
        {"nonce": "n", "at_hash": "x", "anything": {"else": [1]}},
    ],
)
def test_claims_that_do(changes: dict[str, Any]) -> None:
    """The other side of each bound."""
    assert person(token(claims(**changes))).name == "248289761001"


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("iss", "sub", "aud", "exp", "iat")),
        {"groups": "admins"},
        {"groups": [1]},
        {"groups": {"admins": True}},
        {"sub": 248289761001},
        {"aud": {"handfast": 1}},
        {"aud": [["handfast"]]},
        {"exp": "never"},
        {"exp": True},
        {"iat": [1]},
        {"email": ["ada@example.org"]},
        {"azp": [CLIENT]},
    ],
)
def test_P41_claims_of_another_kind(changes: dict[str, Any]) -> None:
    """A missing claim, or one of another type: above all a group that is one text, whose letters are no groups."""
    rejected(token(claims(**changes)), "not a IdToken", kind=Malformed)


@pytest.mark.parametrize("changes", [{"exp": 1e400}, {"iat": float("nan")}])
def test_numbers_that_are_none(changes: dict[str, Any]) -> None:
    """What no clock has is no time."""
    with pytest.raises(Refused):
        person(token(json.dumps(claims() | changes).encode()))


@pytest.mark.parametrize(
    ("email", "verified_"),
    [
        ("ada@example.org", False),
        ("ada@example.org", None),
        ("ada@example.org", "true"),
        ("ada@example.org", 1),
        ("ada@example.org", "false"),
        ("", True),
        ("ada", True),
        ("ada@", True),
        ("@example.org", True),
        ("ada@b@example.org", True),
        ("ada @example.org", True),
        ("ada\n@example.org", True),
        ("ada@example.org\n", True),
        ("ada@exa mple.org", True),
        ("ada@ex\u0430mple.org", True),
        ("\u212aim@example.org", True),
        ("kim@\u212aorp.example", True),
        ("a" * 65 + "@example.org", True),
    ],
)
def test_P41_addresses_that_nobody_verified(email: str, verified_: Any) -> None:
    """Only `true` means that the provider has verified it, and only what is one is an address; else there is none."""
    assert person(token(claims(email=email, email_verified=verified_))).email is None


def test_P40_an_access_token_is_no_id_token() -> None:
    """It is by the same key and often for the same audience, and any service that it was sent to has it."""
    for kind in ("at+jwt", "application/at+jwt", "logout+jwt", "secevent+jwt"):
        rejected(token(typ=kind), "no ID token")
    assert person(token(typ="jwt")) == person(token())
    assert person(token(typ=None)) == person(token())


def test_P40_critical_fields() -> None:
    """What has to be understood and is not, is refused; a key in the header is never used."""
    rejected(token(crit=["b64"], b64=False), "critical")
    rejected(token(crit=[]), "critical")
    thief = p256(4004)
    inside = token(key=thief, jwk=jwk(thief), jku="https://thief.example", x5u="https://thief.example", x5c=["AA"])
    rejected(inside, "signature does not fit")


def test_key_ids() -> None:
    """Without one, the only key that fits is meant; where several do, none is guessed; an unknown one is said."""
    assert person(token(kid=None)) == person(token())
    rejected(token(kid=None), "2 keys of the provider fit", key_set(jwk(CORP_KEY), jwk(OTHER_KEY, "b")))
    rejected(token(), "2 keys of the provider fit", key_set(jwk(CORP_KEY), jwk(OTHER_KEY)))
    rejected(token(kid="unknown"), "0 keys of the provider fit the token's 'ES256' and key id 'unknown'")
    rejected(token(), "0 keys", key_set(jwk(CORP_KEY, None)))


def test_P40_what_was_changed() -> None:
    """One bit of what is signed, or of the signature."""
    head, body, made = token().split(".")
    mallory = b64(json.dumps(claims(email="mallory@example.org")).encode())
    rejected(f"{head}.{mallory}.{made}", "signature does not fit")
    other_head = b64(b'{"alg":"ES256","kid":"2026-11"}')
    rejected(f"{other_head}.{body}.{made}", "signature does not fit")
    rejected(f"{head}.{body}.{made[:-4]}AAAA", "signature does not fit")
    rejected(f"{head}.{body}.AAAA", "signature does not fit")


@pytest.mark.parametrize(
    "text", ["", "a", "a.b", "a.b.c.d", "..", "a.b.c\n", " a.b.c", "a.b.c=", "e30.e30.e30", "ä.b.c", "W10.e30.AA"]
)
def test_what_is_no_token(text: str) -> None:
    """Not three parts of base64url, or no header in the first."""
    rejected(text, "not an ID token|_Header", kind=Malformed)


def test_P40_a_second_spelling_of_a_token_is_the_same_token() -> None:
    """The signature can be written in other ways by anybody: the marker is made of what is signed."""
    text = token()
    head, body, made = text.split(".")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
    pair = base64.urlsafe_b64decode(made + "==")
    twisted = b64(pair[:32] + (order - int.from_bytes(pair[32:])).to_bytes(32))
    second = f"{head}.{body}.{twisted}"
    assert second != text
    assert person(second) == person(text)
    assert spent_as(second) == spent_as(text) == spent(text)
    honest, thief = found(by_oidc(token_=text)), found(by_oidc(token_=second, by=THIEFS))
    assert honest.once == thief.once
    assert honest.keys != thief.keys


def test_P40_the_key_covers_token_and_wish() -> None:
    """Another token, provider, key, principal or lifetime in the place of what the SSH key signed is refused."""
    honest = by_oidc(wish=SshWish(("ada",), timedelta(hours=1)))
    tree = msgspec.json.decode(honest.evidence.payload)
    changes: list[dict[str, Any]] = [
        {"token": token(claims(iat=NOW_SECONDS - 2))},
        {"provider": "other"},
        {"principals": ["ada", "root"]},
        {"principals": []},
        {"lifetime": 7200},
        {"lifetime": 0},
        {"newcomer_nonce": msgspec.to_builtins(b"\x09" * 32)},
        {"nonce": msgspec.to_builtins(honest.stage.nonce()[:-1] + b"x")},
        {"key": msgspec.to_builtins(THIEFS.public.blob)},
        {"signature": msgspec.to_builtins(b"")},
    ]
    for change in changes:
        sent = dataclasses.replace(honest.evidence, payload=msgspec.json.encode(tree | change))
        with pytest.raises(EvidenceRejected):
            found(dataclasses.replace(honest, evidence=sent))


def test_P40_another_registrar_or_connection() -> None:
    """A man in the middle who had somebody's request would have it for another TLS key, or under another root."""
    for attempt in (
        by_oidc(pin=b"\1" * 32),
        by_oidc(spki=b"\1" * 32),
        by_oidc(nonce_=bytes(56)),
    ):
        with pytest.raises(EvidenceRejected, match=r"the SSH key is not proved|the nonce is not ours"):
            found(attempt)


def test_P40_the_operators_proof_is_not_this_one() -> None:
    """The label is the method's: what an SSH key signed for one is nothing for another."""
    honest = by_oidc()
    request = msgspec.json.decode(honest.evidence.payload, type=oidc.OidcRequest)
    other = sshlogin.transcript(request, "operator", pin=PIN, server_spki=SERVER_SPKI, who=(b"",))
    moved = msgspec.structs.replace(request, signature=sshlogin.signed(MINE, other))
    sent = dataclasses.replace(honest.evidence, payload=msgspec.json.encode(moved))
    with pytest.raises(EvidenceRejected, match="not proved"):
        found(dataclasses.replace(honest, evidence=sent))


def test_providers_that_are_not_there() -> None:
    """One that is not configured, one whose keys were never had, and a registrar without any."""
    with pytest.raises(EvidenceRejected, match="no provider 'else'"):
        found(by_oidc(provider="else"))
    with pytest.raises(EvidenceRejected, match="keys of the provider 'corp' are not known"):
        found(by_oidc(), OidcIntroducer({"corp": CORP}))
    with pytest.raises(EvidenceRejected, match="no provider"):
        found(by_oidc(), oidc.SSH_HALF)
    with pytest.raises(NotMine):
        found(dataclasses.replace(by_oidc(), evidence=by_renewal().evidence))


def test_P40_a_late_token() -> None:
    """The registrar's clock decides, and the nonce with it."""
    honest = by_oidc()
    honest.stage.time = NOW + timedelta(seconds=298)
    with pytest.raises(EvidenceRejected, match="over 300 seconds old"):
        found(honest)


def test_a_token_that_is_too_long() -> None:
    """It is not read at all."""
    with pytest.raises(Malformed, match="token"):
        found(by_oidc(token_="a" * (MAX_TOKEN + 1)))
