"""Operators who log in: only with the credential itself, as long as it stands, and for the key that signed for it."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from handfast.core import sshlogin
from handfast.core.flow import Channel, Person, SshFinding, SshWish
from handfast.core.roles import GRANTABLE, Role
from handfast.core.sshcert import Kind
from handfast.errors import EvidenceRejected, Malformed, NotAuthorized, NotMine, Revoked
from handfast.introducers.operator_login import SSH_HALF, OperatorRequest
from tests.core.sshmaterial import key as made_of
from tests.core.sshmaterial import signer as of_kind
from tests.introducers.stage import DAY, NOW, PIN, SERIAL, SERVER_SPKI, Honest, a_credential, by_renewal, certificate
from tests.introducers.stage_login import MINE, THIEFS, by_operator
from tests.introducers.stage_ssh import SshStage


def found(honest: Honest) -> SshFinding:
    """What the introducer concludes."""
    assert isinstance(honest.stage, SshStage)
    return SSH_HALF.verify(honest.evidence, honest.stage)


def changed(honest: Honest, **fields: Any) -> Honest:
    """The same message with other JSON fields, and the signature as it was."""
    tree = msgspec.json.decode(honest.evidence.payload) | fields
    return dataclasses.replace(honest, evidence=dataclasses.replace(honest.evidence, payload=msgspec.json.encode(tree)))


def an_operator(**changes: Any) -> Honest:
    """One whose credential is otherwise."""
    return by_operator(record=a_credential(**({"role": Role.OPERATOR, "machine": "ada-laptop"} | changes)))


def test_an_operator() -> None:
    """By the machine that the credential is for; nothing is spent, as the credential stays good."""
    finding = found(by_operator(wish=SshWish(("ada",), timedelta(hours=2))))
    assert finding.holder == Person("operator", "ada-laptop")
    assert (finding.kind, finding.keys, finding.once) == (Kind.USER, (MINE.public,), None)
    assert finding.wish == SshWish(("ada",), timedelta(hours=2))
    assert finding.proof == f"operator 'ada-laptop' asked with credential {SERIAL:032x}, and the SSH key signed"


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "p521", "rsa"])
def test_every_kind_of_key(kind: str) -> None:
    """An SSH key of any type that signs here may be certified."""
    assert found(by_operator(by=of_kind(kind))).keys == (of_kind(kind).public,)


def test_P40_without_a_credential() -> None:
    """The message alone is nothing: TLS has to have proved who speaks."""
    honest = by_operator()
    alone = dataclasses.replace(honest, evidence=dataclasses.replace(honest.evidence, channel=Channel(SERVER_SPKI)))
    with pytest.raises(NotAuthorized, match="no client certificate"):
        found(alone)


@pytest.mark.parametrize("role", sorted(GRANTABLE - {Role.OPERATOR}))
def test_P40_another_role(role: Role) -> None:
    """Machines are no persons."""
    with pytest.raises(NotAuthorized, match=f"'ada-laptop' has role {role}"):
        found(an_operator(role=role))


def test_P40_a_credential_that_does_not_stand() -> None:
    """Taken back, over, not yet begun, never issued, or not in the ledger at all."""
    with pytest.raises(Revoked, match="keyCompromise"):
        found(an_operator(revoked_at=NOW, revoked_reason="keyCompromise"))
    for end in (NOW, NOW - DAY):
        with pytest.raises(NotAuthorized, match="has expired"):
            found(an_operator(not_after=end))
    with pytest.raises(NotAuthorized, match="has expired"):
        found(an_operator(not_before=NOW + DAY))
    with pytest.raises(EvidenceRejected, match="not in the ledger"):
        found(an_operator(certificate=None))
    with pytest.raises(EvidenceRejected, match="not in the ledger"):
        found(by_operator(client=certificate(serial=SERIAL + 1)))
    with pytest.raises(EvidenceRejected, match="not in the ledger"):  # the same serial, and another certificate
        found(by_operator(client=certificate(end=NOW + 2 * DAY)))


def test_P40_a_key_that_signed_for_another_credential() -> None:
    """An operator who has somebody's signature cannot have that key certified as his own."""
    with pytest.raises(EvidenceRejected, match="not proved"):
        found(by_operator(covered=b"another operator's certificate"))


@pytest.mark.parametrize(
    "change",
    [
        {"principals": ["root"]},
        {"lifetime": 60},
        {"key": msgspec.to_builtins(THIEFS.public.blob)},
        {"newcomer_nonce": msgspec.to_builtins(bytes(32))},
        {"signature": msgspec.to_builtins(b"")},
        {"signature": msgspec.to_builtins(b"SSHSIG")},
    ],
)
def test_P40_what_the_key_did_not_sign(change: dict[str, Any]) -> None:
    """Every field is covered."""
    with pytest.raises(EvidenceRejected, match=r"the SSH key is not proved|the proof for the SSH key"):
        found(changed(by_operator(), **change))


def test_P40_a_proof_by_another_key() -> None:
    """A signature that fits, by a key other than the one that it stands with."""
    honest = by_operator()
    request = msgspec.json.decode(honest.evidence.payload, type=OperatorRequest)
    theirs = sshlogin.signed(THIEFS, honest.signed)
    with pytest.raises(EvidenceRejected, match="is by SHA256:"):
        found(changed(honest, signature=msgspec.to_builtins(theirs)))
    assert request.key == MINE.public.blob


def test_P40_another_namespace() -> None:
    """What the key signed for something else, a file or a Git commit, is nothing here."""
    honest = by_operator()
    for namespace in ("file", "git", "hostkeys@handfast", "ssh-pop@handfast"):
        other = MINE.sign(honest.signed, namespace)
        with pytest.raises(EvidenceRejected, match="not for 'ssh-login@handfast'"):
            found(changed(honest, signature=msgspec.to_builtins(other)))


def test_P40_another_registrar_connection_or_time() -> None:
    """Relayed over another TLS key, meant for another root, or with a nonce that is not fresh."""
    for attempt in (by_operator(pin=b"\1" * 32), by_operator(spki=b"\1" * 32)):
        with pytest.raises(EvidenceRejected, match="not proved"):
            found(attempt)
    with pytest.raises(EvidenceRejected, match="nonce is not ours"):
        found(by_operator(nonce_=bytes(56)))
    late = by_operator()
    late.stage.time = NOW + timedelta(seconds=301)
    with pytest.raises(EvidenceRejected, match="nonce is not ours"):
        found(late)
    assert PIN != b"\1" * 32


@pytest.mark.parametrize(
    "change",
    [
        {"principals": [""]},
        {"principals": ["a" * 256]},
        {"principals": ["a"] * 257},
        {"principals": "ada"},
        {"principals": [1]},
        {"lifetime": -1},
        {"lifetime": 10**12},
        {"lifetime": "1h"},
        {"key": ""},
        {"key": msgspec.to_builtins(bytes(20_000))},
        {"signature": msgspec.to_builtins(bytes(40_000))},
        {"nonce": ""},
        {"unknown": 1},
    ],
)
def test_messages_that_are_none(change: dict[str, Any]) -> None:
    """A field of another kind, too long, or unknown."""
    kind = EvidenceRejected if change == {"key": ""} else Malformed
    with pytest.raises(kind):
        found(changed(by_operator(), **change))


def test_keys_that_do_not_sign_here() -> None:
    """A key in hardware signs something else; it is refused, and not taken unproved."""
    token = made_of("sk-ssh-ed25519@openssh.com", b"\1" * 32, b"ssh:")
    with pytest.raises(EvidenceRejected, match=r"not proved|is by"):
        found(changed(by_operator(), key=msgspec.to_builtins(token.blob)))


def test_another_method() -> None:
    """It is not mine to judge."""
    with pytest.raises(NotMine):
        found(dataclasses.replace(by_operator(), evidence=by_renewal().evidence))
