"""Proof of possession of SSH host keys: who may speak for a machine's keys, and who for a certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from handfast.core import hostproof, sshsig
from handfast.core.flow import Channel, Evidence, HostFinding, SshFinding, SshWish
from handfast.core.hosts import How
from handfast.core.secret import Secret
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import MAX_KEYS
from handfast.core.sshsig import Signer
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, Malformed, NotMine
from handfast.introducers import ssh_pop
from handfast.introducers.ssh_pop import SSH_HALF, PopRequest, revocation
from tests.core.sshmaterial import key as made_of
from tests.core.sshmaterial import signer as of_kind
from tests.introducers.stage import NOW, PIN, SERVER_SPKI, Honest, by_renewal
from tests.introducers.stage_ssh import (
    ALSO_KNOWN,
    KNOWN,
    LATE,
    NEW,
    OTHERS,
    SSH_SERIAL,
    STRANGER,
    SshStage,
    a_host,
    a_record,
    by_pop,
    revoking,
    with_hosts,
)
from tests.registrar.hosts import signer


def verified(honest: Honest) -> SshFinding:
    """What the introducer concludes."""
    assert isinstance(honest.stage, SshStage)
    return SSH_HALF.verify(honest.evidence, honest.stage)


def rejected(honest: Honest, match: str) -> None:
    """It is refused, and a stranger learns nothing but that."""
    with pytest.raises(EvidenceRejected, match=match):
        verified(honest)


def request(honest: Honest) -> PopRequest:
    """What was sent."""
    return msgspec.json.decode(honest.evidence.payload, type=PopRequest)


def sent(honest: Honest, **changes: object) -> Honest:
    """The same message with other fields, and the signatures as they were."""
    payload = msgspec.json.encode(msgspec.structs.replace(request(honest), **changes))
    return dataclasses.replace(honest, evidence=dataclasses.replace(honest.evidence, payload=payload))


def signed_with(signers: Sequence[Signer], namespace: str, message: bytes | None = None) -> Honest:
    """A request whose keys signed for another purpose, or something else."""
    honest = by_pop(signers=signers)
    proofs = [
        hostproof.HostKeyProof(each.public.blob, each.sign(honest.signed if message is None else message, namespace))
        for each in signers
    ]
    return sent(honest, keys=proofs)


# --- who is believed ---


def test_a_known_key_speaks_for_its_machine() -> None:
    """Which is the ledger's word: nothing in the message says whose the key is."""
    honest = by_pop(principals=("web1.lan",))
    finding = verified(honest)
    assert finding == SshFinding(
        method="ssh-pop",
        kind=Kind.HOST,
        holder="web1",
        keys=(KNOWN.public,),
        wish=SshWish(("web1.lan",)),
        once=None,
        proof=f"it holds the host key {KNOWN.public.fingerprint}",
        transcript=honest.signed,
    )


def test_several_keys_of_one_machine_in_the_order_asked() -> None:
    """Each gets its own, in the order of the request."""
    assert verified(by_pop(signers=(ALSO_KNOWN, KNOWN))).keys == (ALSO_KNOWN.public, KNOWN.public)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa"])
def test_every_kind_of_key_that_sshd_has(kind: str) -> None:
    """Each proves itself in its own way."""
    known = of_kind(kind)
    assert verified(by_pop(signers=(known,), stage=with_hosts(a_host(known)))).keys == (known.public,)


def test_a_known_key_vouches_for_a_new_one() -> None:
    """The new one signed as well, rests upon those that are known as proved, and falls with them."""
    finding = verified(by_pop(signers=(NEW, KNOWN)))
    assert finding.keys == (NEW.public, KNOWN.public)
    assert finding.host == HostFinding(
        "web1",
        (NEW.public,),
        How.HOSTKEYS_PROVE,
        f"vouched for by {KNOWN.public.fingerprint} (ssh-pop)",
        complete=False,
        basis=(KNOWN.public,),
    )


def test_a_key_that_was_reported_vouches_for_nothing() -> None:
    """Policy is told that there is nothing below the new key."""
    finding = verified(by_pop(signers=(NEW, KNOWN), stage=with_hosts(a_host(KNOWN, how=How.CONSOLE))))
    assert finding.host is not None
    assert finding.host.basis == ()


# --- who is not ---


@pytest.mark.parametrize("signers", [(STRANGER,), (STRANGER, NEW)])
def test_P2_a_key_that_is_nobody_s_proves_nothing(signers: tuple[Signer, ...]) -> None:
    """Everybody has one."""
    rejected(by_pop(signers=signers), "none of these . keys is a known host key")


def test_P2_keys_of_two_machines() -> None:
    """Whoever holds both is one of them at most: no certificate for either."""
    rejected(by_pop(signers=(KNOWN, OTHERS)), "these keys are of 2 machines: web1, web2")


@pytest.mark.parametrize("others", [(OTHERS,), (NEW,)])
def test_P2_a_known_key_has_to_sign_itself(others: tuple[Signer, ...]) -> None:
    """Its public half is known to everybody: beside a key of the attacker's, with the attacker's signature."""
    honest = by_pop(signers=(KNOWN, *others))
    proofs = [
        hostproof.HostKeyProof(KNOWN.public.blob, others[0].sign(honest.signed, ssh_pop.NAMESPACE)),
        *request(honest).keys[1:],
    ]
    rejected(sent(honest, keys=proofs), f"the signature for the SSH key {KNOWN.public.fingerprint}".replace("+", r"\+"))


def test_P2_a_new_key_has_to_sign_itself() -> None:
    """Else a machine would certify a key of another's as its own."""
    honest = by_pop(signers=(KNOWN, NEW))
    known, _ = request(honest).keys
    stolen = hostproof.HostKeyProof(NEW.public.blob, KNOWN.sign(honest.signed, ssh_pop.NAMESPACE))
    rejected(sent(honest, keys=[known, stolen]), "is by SHA256")


def test_P2_a_new_key_cannot_be_added_on_the_way() -> None:
    """A man in the middle of the message appends his own, which signs what the machine signed."""
    honest = by_pop()
    mine = hostproof.HostKeyProof(NEW.public.blob, NEW.sign(honest.signed, ssh_pop.NAMESPACE))
    rejected(sent(honest, keys=[*request(honest).keys, mine]), "has not signed this")


@pytest.mark.parametrize("order", [(0,), (1,), (1, 0)])
def test_P2_the_list_of_keys_is_what_was_signed(order: tuple[int, ...]) -> None:
    """None taken away, none moved."""
    honest = by_pop(signers=(KNOWN, ALSO_KNOWN))
    keys = request(honest).keys
    rejected(sent(honest, keys=[keys[place] for place in order]), "has not signed this")


def test_P2_the_names_are_what_was_signed() -> None:
    """Neither more nor fewer; and a name is never read as a key."""
    honest = by_pop(principals=("web1.lan",))
    for principals in ([], ["web1.lan", "10.0.0.7"], ["10.0.0.7"]):
        rejected(sent(honest, principals=principals), "has not signed this")


def test_P2_another_root() -> None:
    """What a host signed for another authority is not for ours."""
    rejected(by_pop(pin=bytes(32)), "has not signed this")


def test_P2_relayed() -> None:
    """Signed in a connection to somebody else's TLS key, or arriving over another one."""
    rejected(by_pop(spki=bytes(32)), "has not signed this")
    honest = by_pop()
    elsewhere = dataclasses.replace(honest.evidence, channel=Channel(bytes(32)))
    rejected(dataclasses.replace(honest, evidence=elsewhere), "has not signed this")


def test_P2_another_nonce() -> None:
    """A fresh one of ours that was not signed, or another one of the host's own."""
    honest = by_pop()
    honest.stage.time += timedelta(seconds=1)
    rejected(sent(honest, nonce=honest.stage.nonce()), "has not signed this")
    rejected(sent(by_pop(), newcomer_nonce=bytes(32)), "has not signed this")


def test_P4_a_stale_or_foreign_nonce() -> None:
    """A recorded message is worth nothing after five minutes, and one that we never asked for nothing at all."""
    honest = by_pop()
    honest.stage.time += LATE
    rejected(honest, "nonce")
    rejected(by_pop(nonce_=bytes(56)), "nonce")
    rejected(by_pop(nonce_=SshStage(nonce_key=Secret(b"x" * 32)).nonce()), "nonce")


@pytest.mark.parametrize(
    "namespace", [hostproof.NAMESPACE, ssh_pop.REVOKE_NAMESPACE, "hostkey-proof@handfast", "git", "file"]
)
def test_P2_a_signature_for_another_purpose(namespace: str) -> None:
    """What the key signs for others, were it these very bytes, is not for this."""
    rejected(signed_with((KNOWN,), namespace), "is for b'.*', not for 'ssh-pop@handfast'")


def test_P2_what_a_key_proved_in_an_introduction_is_no_proof_here() -> None:
    """The label of each request is its own, and so are the namespaces."""
    honest = by_pop()
    got = request(honest)
    fields = (PIN, SERVER_SPKI, got.newcomer_nonce, got.nonce, KNOWN.public.blob)
    for message in (
        digest(b"handfast/1 ssh host key", b"renewal", *fields),
        digest(request_label("renewal"), *fields),
        digest(request_label("ssh-revoke"), *fields),
    ):
        rejected(signed_with((KNOWN,), ssh_pop.NAMESPACE, message), "has not signed this")
    renewal = dataclasses.replace(by_renewal().evidence, method="ssh-pop")
    with pytest.raises(Malformed, match="not a PopRequest"):
        SSH_HALF.verify(renewal, with_hosts(a_host(KNOWN)))


def test_a_key_that_was_retired_is_nobody_s() -> None:
    """The ledger does not have it as the machine's any more; beside another of the machine's it counts as new."""
    stage = with_hosts(a_host(ALSO_KNOWN))
    rejected(by_pop(stage=stage), "none of these . keys is a known host key")
    again = verified(by_pop(signers=(KNOWN, ALSO_KNOWN), stage=stage))
    assert again.host is not None  # and policy refuses it, as does the ledger
    assert again.host.keys == (KNOWN.public,)


def test_a_stranger_costs_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that nobody has are refused before one is verified; of known ones the first that is wrong ends it."""
    seen: list[bytes] = []
    real = sshsig.verify

    def counted(signature: bytes, message: bytes, *, namespace: str) -> object:
        seen.append(signature)
        return real(signature, message, namespace=namespace)

    monkeypatch.setattr(sshsig, "verify", counted)
    rejected(by_pop(signers=tuple(signer(number) for number in range(50, 50 + MAX_KEYS))), "none of these 32 keys")
    assert seen == []
    many = tuple(signer(number) for number in range(50, 49 + MAX_KEYS))
    honest = by_pop(signers=(*many, KNOWN))
    wrong = hostproof.HostKeyProof(KNOWN.public.blob, STRANGER.sign(honest.signed, ssh_pop.NAMESPACE))
    rejected(sent(honest, keys=[*request(honest).keys[:-1], wrong]), "is by SHA256")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("blob", "match"),
    [(b"", "not an SSH host key"), (b"\0\0\0\1x", "not an SSH host key"), (b"\0\0\0\xffssh-ed25519", "not an SSH")],
)
def test_what_is_no_key(blob: bytes, match: str) -> None:
    """It is refused like a wrong one."""
    rejected(sent(by_pop(), keys=[hostproof.HostKeyProof(blob, b"")]), match)


def test_a_certificate_in_the_place_of_a_key() -> None:
    """Keys alone are asked about."""
    certificate = a_record().certificate
    assert certificate is not None
    rejected(sent(by_pop(), keys=[hostproof.HostKeyProof(certificate, b"")]), "a certificate")


def test_a_key_we_cannot_verify_with() -> None:
    """One in a hardware token, or of a type of tomorrow, may be in the registry; it proves nothing here."""
    odd = made_of("ssh-ed448", b"x" * 57)
    stage = with_hosts(dataclasses.replace(a_host(KNOWN), keys=(dataclasses.replace(a_host(KNOWN).keys[0], key=odd),)))
    honest = by_pop(stage=stage)
    proof = hostproof.HostKeyProof(odd.blob, request(honest).keys[0].signature)
    rejected(sent(honest, keys=[proof]), "has not signed this")


def test_the_same_key_twice() -> None:
    """Nobody needs that, and it would be two certificates."""
    with pytest.raises(Malformed, match="twice"):
        verified(by_pop(signers=(KNOWN, KNOWN)))


@pytest.mark.parametrize("count", [0, MAX_KEYS + 1])
def test_no_key_or_too_many(count: int) -> None:
    """Refused while it is read."""
    with pytest.raises(Malformed, match="keys"):
        verified(by_pop(signers=(KNOWN,) * count))


# --- taking a certificate back ---


def revoked(attempt: tuple[SshStage, Evidence]) -> tuple[int, str]:
    """Which certificate is taken back, and why."""
    stage, evidence = attempt
    record, reason = revocation(evidence, stage)
    return record.serial, reason


@pytest.mark.parametrize("kind", list(Kind))
def test_either_kind_is_taken_back_by_its_own_key(kind: Kind) -> None:
    """A host's and a user's, for the reason that was signed."""
    assert revoked(revoking(record=a_record(kind=kind))) == (SSH_SERIAL, "keyCompromise")


def test_again_it_is_the_same() -> None:
    """Whoever lost the answer asks again, and is told the same."""
    before = a_record(revoked_at=NOW, revoked_reason="keyCompromise")
    assert revoked(revoking(record=before)) == (SSH_SERIAL, "keyCompromise")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"by": STRANGER}, "is by SHA256"),
        ({"by": ALSO_KNOWN}, "is by SHA256"),
        ({"pin": bytes(32)}, "has not signed this"),
        ({"spki": bytes(32)}, "has not signed this"),
        ({"nonce_": bytes(56)}, "nonce"),
        ({"serial": SSH_SERIAL + 1}, "SSH certificate 4712 is not in the ledger"),
        ({"serial": 2**63}, "is not in the ledger"),
        ({"serial": 1}, "SSH certificate 1 is not in the ledger"),
    ],
)
def test_P2_nobody_else_takes_it_back(changes: dict[str, object], match: str) -> None:
    """Not by another key, for another authority, over another connection; and no other certificate."""
    with pytest.raises(EvidenceRejected, match=match):
        revoked(revoking(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [{"serial": "4712"}, {"reason": "superseded"}])
def test_P2_what_is_signed_is_one_certificate_and_one_reason(field: dict[str, str]) -> None:
    """A message cannot be turned to another certificate of the same key, nor to a reason of less weight."""
    stage, evidence = revoking()
    stage.certificates[SSH_SERIAL + 1] = dataclasses.replace(a_record(), serial=SSH_SERIAL + 1)
    payload = msgspec.json.encode(msgspec.json.decode(evidence.payload) | field)
    with pytest.raises(EvidenceRejected, match="has not signed this"):
        revocation(dataclasses.replace(evidence, payload=payload), stage)


def test_P4_a_revocation_late() -> None:
    """A recorded one is worth nothing after five minutes."""
    stage, evidence = revoking()
    stage.time += LATE
    with pytest.raises(EvidenceRejected, match="nonce"):
        revocation(evidence, stage)


def test_P2_a_signature_for_a_certificate_does_not_take_one_back() -> None:
    """Nor the other way round: the namespaces differ, and so do the labels."""
    stage, evidence = revoking()
    tree = msgspec.json.decode(evidence.payload, type=ssh_pop.SshRevocation)
    signed = ssh_pop.revocation_transcript(tree, pin=PIN, server_spki=SERVER_SPKI)
    for namespace in (ssh_pop.NAMESPACE, hostproof.NAMESPACE):
        payload = msgspec.json.encode(msgspec.structs.replace(tree, signature=KNOWN.sign(signed, namespace)))
        with pytest.raises(EvidenceRejected, match="not for 'ssh-revoke@handfast'"):
            revocation(dataclasses.replace(evidence, payload=payload), stage)


def test_what_is_no_revocation() -> None:
    """Another message, another reason than RFC 5280 has, a serial of 0 or with signs in it."""
    stage, evidence = revoking()
    with pytest.raises(NotMine, match="evidence of method"):
        revocation(dataclasses.replace(evidence, method="ssh-pop"), stage)
    with pytest.raises(Malformed, match="not a reason: 'because'"):
        revoked(revoking(reason="because"))
    for serial in ("0", "-1", "+1", "01", "1\n", "9" * 20, ""):
        payload = msgspec.json.encode(msgspec.json.decode(evidence.payload) | {"serial": serial})
        with pytest.raises(Malformed, match="serial"):
            revocation(dataclasses.replace(evidence, payload=payload), stage)


def test_an_intent_is_not_taken_back() -> None:
    """Nobody has that certificate."""
    with pytest.raises(EvidenceRejected, match="is not in the ledger"):
        revoked(revoking(record=dataclasses.replace(a_record(), certificate=None)))
