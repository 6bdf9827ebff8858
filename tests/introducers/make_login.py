"""
Vectors of what a person's SSH key signs to be certified, with an operator credential or an ID token.

As in ``make_vectors``, digests and signatures are spelled a second time, from docs/protocols/ssh-login.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.roles import Role
from tests.introducers import stage, vectors
from tests.introducers.make_hosts import ECDSA, ED25519, STOLEN, HostKey, blob, line, spelled, sshsig, string
from tests.introducers.make_pop import FOREIGN, FUTURE, NONCE, OLDEST, OUR_NONCE, STALE, text
from tests.introducers.stage import DAY, NOW, PIN, SERIAL, SERVER_SPKI, a_credential, certificate
from tests.introducers.stage_login import CORP, CORP_KEY, ED_KEY, OTHER, OTHER_KEY, claims, jwk, key_set, spent, token
from tests.introducers.vectors_login import LoginFound, LoginVector, LoginWorld, ProviderConfigured

WISH = b"handfast/1 ssh login wish"
LABELS = {"operator": b"handfast/1 operator request", "oidc": b"handfast/1 oidc request"}
NAMESPACE = b"ssh-login@handfast"
CREDENTIAL = certificate().public_bytes(Encoding.DER)
SECONDS = int(NOW.timestamp())
PROVIDERS = [
    ProviderConfigured(
        name=CORP.name,
        issuer=CORP.issuer,
        client_id=CORP.client_id,
        keys=key_set(jwk(CORP_KEY), jwk(ED_KEY, "ed")).decode(),
    ),
    ProviderConfigured(
        name=OTHER.name, issuer=OTHER.issuer, client_id=OTHER.client_id, keys=key_set(jwk(OTHER_KEY)).decode()
    ),
]
ADA: dict[str, Any] = {
    "origin": "oidc:corp",
    "name": "248289761001",
    "email": "ada@example.org",
    "groups": ["admins", "staff"],
}


@dataclasses.dataclass(frozen=True)
class Case:
    """An honest message, and how this one departs from it. ``found`` is what is found otherwise."""

    name: str
    describes: str
    outcome: vectors.Outcome = "success"
    key: HostKey = ED25519
    by: HostKey | None = None  # who signs in its place
    principals: tuple[str, ...] = ()
    lifetime: int = 0
    nonce: bytes = NONCE
    pin: bytes = PIN
    spki: bytes = SERVER_SPKI
    label: bytes | None = None
    namespace: bytes = NAMESPACE
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)  # put in after signing
    drop: str = ""
    payload: str | None = None
    method: str | None = None
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    client: bytes | None = CREDENTIAL
    covered: bytes = CREDENTIAL
    provider: str = CORP.name
    token: str = dataclasses.field(default_factory=token)
    found: dict[str, Any] = dataclasses.field(default_factory=dict)


SHARED = (
    Case("one-key", "an Ed25519 key, and all that the evidence entitles to"),
    Case("ecdsa-key", "an ECDSA key", key=ECDSA),
    Case("wish", "two principals, for an hour", principals=("fleet", "ada"), lifetime=3600),
    Case("stale-nonce", "the nonce is 301 seconds old", "evidence-rejected", nonce=STALE),
    Case("oldest-nonce", "the nonce is 300 seconds old, which is allowed", nonce=OLDEST),
    Case("nonce-of-the-future", "the nonce is one second ahead of the clock", "evidence-rejected", nonce=FUTURE),
    Case("foreign-nonce", "the nonce was made with another key", "evidence-rejected", nonce=FOREIGN),
    Case("newcomer-nonce-changed", "the person's own nonce was changed after signing", "evidence-rejected",
         sent={"newcomer_nonce": bytes(32)}),
    Case("wrong-pin", "signed for the root of another authority", "evidence-rejected", pin=bytes(32)),
    Case("relayed", "signed in a connection to another TLS key: a man in the middle relays it", "evidence-rejected",
         spki=bytes(32)),
    Case("label-of-the-answer", "a signature over the label of answers: no reflection", "evidence-rejected",
         label=b"handfast/1 introduction answer"),
    Case("label-of-ssh-pop", "a signature over the label of another method", "evidence-rejected",
         label=b"handfast/1 ssh-pop request"),
    Case("namespace-of-hosts", "signed for the namespace of hosts", "evidence-rejected", namespace=b"ssh-pop@handfast"),
    Case("namespace-of-git", "signed for somebody else's namespace", "evidence-rejected", namespace=b"git"),
    Case("forged", "another key signs", "evidence-rejected", by=STOLEN),
    Case("key-swapped", "the key was exchanged for another after signing", "evidence-rejected",
         sent={"key": blob(STOLEN)}),
    Case("principal-added", "a principal was added after signing", "evidence-rejected", sent={"principals": ["root"]}),
    Case("principals-joined", "two principals became one after signing", "evidence-rejected",
         principals=("a", "b"), sent={"principals": ["ab"]}),
    Case("lifetime-changed", "the lifetime was changed after signing", "evidence-rejected", sent={"lifetime": 86400}),
    Case("key-empty", "a key of no bytes", "evidence-rejected", sent={"key": b""}),
    Case("key-in-hardware", "a key of a type that signs otherwise", "evidence-rejected",
         sent={"key": string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")}),
    Case("key-is-a-certificate", "a certificate where a key belongs", "evidence-rejected",
         sent={"key": string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32))}),
    Case("signature-empty", "no signature", "evidence-rejected", sent={"signature": b""}),
    Case("principal-empty", "a principal of no letters", "malformed", sent={"principals": [""]}),
    Case("lifetime-negative", "a lifetime that ends before it begins", "malformed", sent={"lifetime": -1}),
    Case("unknown-field", "a field nobody knows", "malformed", sent={"surprise": 1}),
    Case("no-nonce", "a field is missing", "malformed", drop="nonce"),
    Case("not-json", "no JSON", "malformed", payload="ada"),
    Case("not-an-object", "a list", "malformed", payload="[]"),
    Case("empty", "nothing", "malformed", payload=""),
    Case("other-method", "evidence of another method", "not-mine", method="renewal"),
)  # fmt: skip

BY_OPERATOR = (
    Case("no-credential", "no client certificate", "not-authorized", client=None),
    Case("another-credential-signed-for", "the key signed for another credential", "evidence-rejected",
         covered=b"another"),
    Case("unknown-credential", "a client certificate that nobody knows", "evidence-rejected",
         client=certificate(serial=SERIAL + 1).public_bytes(Encoding.DER)),
    Case("same-serial", "another client certificate with a known serial", "evidence-rejected",
         client=certificate(end=NOW + 2 * DAY).public_bytes(Encoding.DER)),
    Case("role-client", "a credential of a machine", "not-authorized", record={"role": Role.CLIENT}),
    Case("role-controller", "a credential of a controller", "not-authorized", record={"role": Role.CONTROLLER}),
    Case("expired", "a credential that has just expired", "not-authorized", record={"not_after": NOW}),
    Case("revoked", "a credential that was taken back", "revoked",
         record={"revoked_at": NOW, "revoked_reason": "keyCompromise"}),
    Case("never-issued", "a credential that was intended only", "evidence-rejected", record={"certificate": None}),
)  # fmt: skip


def _token(name: str, describes: str, outcome: vectors.Outcome = "evidence-rejected", **changes: Any) -> Case:
    """A token with other claims."""
    return Case(name, describes, outcome, token=token(claims(**changes)))


def _found(name: str, describes: str, found: dict[str, Any], **changes: Any) -> Case:
    """A token with other claims, and who is found by it."""
    return Case(name, describes, token=token(claims(**changes)), found=found)


BY_TOKEN = (
    Case("eddsa", "a token signed with Ed25519", token=token(key=ED_KEY, alg="EdDSA", kid="ed")),
    Case("no-key-id", "a token without a key id, and one key of that type", token=token(kid=None)),
    Case("other-provider", "another provider with the same key id, under its own name", provider="other",
         token=token(claims(iss=OTHER.issuer), key=OTHER_KEY), found={"origin": "oidc:other"}),
    Case("other-issuer", "another provider's token as this one's", "evidence-rejected",
         token=token(claims(iss=OTHER.issuer), key=OTHER_KEY)),
    Case("issuer-by-other", "this issuer, signed by another provider", "evidence-rejected",
         token=token(key=OTHER_KEY)),
    Case("unknown-provider", "a provider that is not configured", "evidence-rejected", provider="else"),
    Case("provider-changed", "turned to another provider after signing", "evidence-rejected",
         sent={"provider": "other"}),
    Case("token-changed", "the token was exchanged after signing", "evidence-rejected",
         sent={"token": token(claims(sub="another"))}),
    Case("alg-none", "a token without a signature", "evidence-rejected", token=token(key=None, alg="none") + "AA"),
    Case("alg-hs256", "an HMAC with the provider's public key", "evidence-rejected",
         token=token(key=key_set(jwk(CORP_KEY)), alg="HS256")),
    Case("access-token", "an access token by the same key", "evidence-rejected", token=token(typ="at+jwt")),
    Case("critical", "a field that has to be understood", "evidence-rejected", token=token(crit=["b64"], b64=True)),
    Case("key-inside", "signed by a key in its own header", "evidence-rejected",
         token=token(key=OTHER_KEY, jwk=jwk(OTHER_KEY))),
    Case("unknown-key", "a key id that nobody knows", "evidence-rejected", token=token(kid="x")),
    Case("not-a-token", "no three parts", "malformed", token="a.b"),
    _token("audience-other", "for another client", aud="another"),
    _token("audience-two", "for us and for another client", aud=["handfast", "another"]),
    _found("audience-list", "for us alone, in a list", {}, aud=["handfast"]),
    _token("party-other", "issued to another client", azp="another"),
    _token("issuer-slash", "an issuer with a slash more", iss=CORP.issuer + "/"),
    _token("expired", "it has just expired", exp=SECONDS),
    _token("old", "issued 301 seconds ago", iat=SECONDS - 301),
    _found("oldest", "issued 300 seconds ago", {}, iat=SECONDS - 300),
    _token("early", "issued 61 seconds from now", iat=SECONDS + 61),
    _token("not-yet", "not before 61 seconds from now", nbf=SECONDS + 61),
    _token("subject-with-line-feed", "a name with a line break", sub="ada\nroot"),
    _token("subject-empty", "nobody", sub=""),
    _token("groups-text", "a text where groups belong", "malformed", groups="admins"),
    _token("no-subject", "a claim is missing", "malformed", sub=None),
    _found("no-groups", "no groups", {"groups": []}, groups=None),
    _found("email-not-verified", "an address that nobody verified", {"email": None}, email_verified=False),
    _found("email-verified-text", "a text where true belongs", {"email": None}, email_verified="true"),
    _found("email-two-ats", "an address that is none", {"email": None}, email="ada@x@example.org"),
)  # fmt: skip


def _by_operator(case: Case) -> LoginVector:
    return _vector("operator", case, (hashlib.sha256(case.covered).digest(),), {}, _laptop(case))


def _laptop(case: Case) -> LoginFound:
    return LoginFound(origin="operator", name="ada-laptop", email=None, groups=[], marker=None, **_asked(case))


def _by_token(case: Case) -> LoginVector:
    who = (case.provider.encode(), hashlib.sha256(case.token.encode()).digest())
    found = LoginFound(**(ADA | case.found), marker=spent(case.token), **_asked(case))
    return _vector("oidc", case, who, {"provider": case.provider, "token": case.token}, found)


def _asked(case: Case) -> dict[str, Any]:
    return {
        "key": line(case.key),
        "principals": list(case.principals),
        "lifetime": case.lifetime,
        "transcript": b"",
    }


def _vector(method: str, case: Case, who: tuple[bytes, ...], more: dict[str, Any], found: LoginFound) -> LoginVector:
    wish = spelled(WISH, case.lifetime.to_bytes(8, "big"), *(each.encode() for each in case.principals))
    label, key = case.label or LABELS[method], blob(case.key)
    digest = spelled(label, case.pin, case.spki, OUR_NONCE, case.nonce, key, wish, *who)
    fields = {
        "nonce": case.nonce,
        "newcomer_nonce": OUR_NONCE,
        "key": key,
        "principals": list(case.principals),
        "lifetime": case.lifetime,
        "signature": sshsig(case.by or case.key, digest, case.namespace),
    }
    message = {name: value for name, value in (fields | more | case.sent).items() if name != case.drop}
    record = a_credential(**({"role": Role.OPERATOR, "machine": "ada-laptop"} | case.record))
    return LoginVector(
        describes=case.describes,
        outcome=case.outcome,
        method=case.method or method,
        world=LoginWorld(
            now=NOW,
            pin=PIN,
            nonce_key=stage.NONCE_KEY.reveal(),
            credentials=[vectors.CredentialOnRecord.of(record)] if method == "operator" else [],
            providers=PROVIDERS if method == "oidc" else [],
        ),
        connection=vectors.Connection(server_spki=SERVER_SPKI, client=case.client if method == "operator" else None),
        payload=text(message) if case.payload is None else case.payload,
        finding=_with(found, digest) if case.outcome == "success" else None,
    )


def _with(found: LoginFound, digest: bytes) -> LoginFound:
    return msgspec.structs.replace(found, transcript=digest)


def everything() -> Iterator[tuple[str, LoginVector]]:
    """Every file by its path below vectors/."""
    made: tuple[tuple[str, Callable[[Case], LoginVector], tuple[Case, ...]], ...] = (
        ("operator", _by_operator, (*BY_OPERATOR, *SHARED)),
        ("oidc", _by_token, (*BY_TOKEN, *SHARED)),
    )
    for method, make, cases in made:
        for case in cases:
            yield f"{method}/{case.name}.json", make(case)
