"""
Proof of possession: an SSH host's own key asks for its certificate, or for the next one, and for those of new keys.

Proof     host -> registrar      each key signs the request (SSHSIG); one of them is a known host key of the machine
Answer    registrar -> host      ECDSA by the TLS key, chained to the pin, over request, certificates, CAs, roots, time
Trusts    whoever holds a key that the ledger has as the machine's now, as long as it is there
Replay    within five minutes, and only over the same TLS key: it gets the certificates that are out already
Spec      docs/protocols/ssh-certificates.md

No certificate is presented: what the key is called, and whether, is the ledger's word, and policy decides anew each
time. A new key is vouched for by one that is known as proved, as when sshd proves it over a connection
(hostkeys-prove), and falls with it.

The other message, by which either kind of certificate is taken back, proves the same of the certified key.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from handfast.core import sshkeys, sshsig, wire
from handfast.core.evidence import opened
from handfast.core.flow import Evidence, HostFinding, SshFinding, SshWish
from handfast.core.hostproof import HostKeyProof, HostSigner
from handfast.core.hosts import MAX_PLACES, Grade, Host, How
from handfast.core.ports import SshContext
from handfast.core.records import REASONS, SshRecord
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import MAX_KEYS, SshKey
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, HandfastError, Malformed

NAME = "ssh-pop"
NAMESPACE = "ssh-pop@handfast"
REVOKE = "ssh-revoke"
REVOKE_NAMESPACE = "ssh-revoke@handfast"

_MAX_SERIAL = 2**63 - 1  # what our ledger gives


class PopRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/ssh/certificates/ssh-pop; without ``principals``, all that the machine is called."""

    nonce: wire.Nonce
    newcomer_nonce: wire.Nonce
    keys: Annotated[list[HostKeyProof], Meta(min_length=1, max_length=MAX_KEYS)]
    principals: Annotated[list[wire.NameText], Meta(max_length=MAX_PLACES + 1)] = []


class SshRevocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/ssh/revocations; ``signature`` (SSHSIG, no armor) is by the key in the certificate ``serial``."""

    nonce: wire.Nonce
    serial: Annotated[str, Meta(pattern="^[1-9][0-9]{0,18}$", max_length=19)]
    reason: Annotated[str, Meta(max_length=32)]
    signature: Annotated[bytes, Meta(max_length=sshsig.MAX_SIGNATURE)]


def transcript(request: PopRequest, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that every key signs, and to which the answer is bound."""
    return digest(
        request_label(NAME),
        pin,
        server_spki,
        request.newcomer_nonce,
        request.nonce,
        struct.pack(">I", len(request.keys)),  # where the keys end, and the names begin
        *(proof.key for proof in request.keys),
        *(principal.encode() for principal in request.principals),
    )


def revocation_transcript(request: SshRevocation, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that the certified key signs to take its certificate back."""
    serial = struct.pack(">Q", int(request.serial))
    return digest(request_label(REVOKE), pin, server_spki, request.nonce, serial, request.reason.encode())


# --- the host's half ---


def present(
    signers: Sequence[HostSigner], *, pin: bytes, nonce: bytes, server_spki: bytes, principals: Sequence[str] = ()
) -> tuple[bytes, bytes]:
    """
    Return the host's message (JSON) and the digest that the registrar's answer must sign.

    Call it only after the pin has matched: ``server_spki`` is the hash of the TLS key the registrar proved.
    """
    unsigned = PopRequest(
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        keys=[HostKeyProof(signer.public.blob, b"") for signer in signers],
        principals=list(principals),
    )
    signed = transcript(unsigned, pin=pin, server_spki=server_spki)
    proofs = [HostKeyProof(signer.public.blob, signer.sign(signed, NAMESPACE)) for signer in signers]
    return msgspec.json.encode(msgspec.structs.replace(unsigned, keys=proofs)), signed


def present_revocation(
    signer: HostSigner, *, serial: int, reason: str, pin: bytes, nonce: bytes, server_spki: bytes
) -> bytes:
    """Return the message (JSON) by which a certified key takes its certificate back."""
    unsigned = SshRevocation(nonce=nonce, serial=str(serial), reason=reason, signature=b"")
    signed = revocation_transcript(unsigned, pin=pin, server_spki=server_spki)
    return msgspec.json.encode(msgspec.structs.replace(unsigned, signature=signer.sign(signed, REVOKE_NAMESPACE)))


# --- the registrar's half ---


@dataclass(frozen=True, slots=True)
class PopIntroducer:
    """The registrar's half."""

    name: ClassVar[str] = NAME
    evidence: ClassVar[type[msgspec.Struct]] = PopRequest

    def verify(self, evidence: Evidence, context: SshContext) -> SshFinding:
        """
        Return whose keys have signed this request, and which of them are new.

        *Not* checked: whether they may have certificates, for how long, and whether the last ones were taken back
        (policy).

        :raises EvidenceRejected: no key is a machine's, they are of two machines, or one did not sign this.
        """
        request = opened(evidence, PopRequest, context, method=self.name)
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        keys = _keys(request)
        hosts = {key: host for key in keys if (host := context.host_of_key(key)) is not None}
        if not hosts:  # before a signature is looked at: a stranger's keys cost us nothing
            raise EvidenceRejected(
                f"none of these {len(keys)} keys is a known host key: {', '.join(key.fingerprint for key in keys[:3])}",
                hint="`handfast join --ssh` makes them known",
            )
        proofs = {key: proof.signature for key, proof in zip(keys, request.keys, strict=True)}
        for key in sorted(keys, key=lambda key: key not in hosts):  # who poses as a known one is told first
            _check(proofs[key], signed, key, namespace=NAMESPACE)
        if len(machines := sorted({host.machine for host in hosts.values()})) > 1:
            raise EvidenceRejected(f"these keys are of {len(machines)} machines: {', '.join(machines)}")
        host = next(iter(hosts.values()))
        return SshFinding(
            method=self.name,
            kind=Kind.HOST,
            holder=host.machine,
            keys=keys,
            wish=SshWish(tuple(request.principals)),
            once=None,
            proof=f"it holds the host key {', '.join(key.fingerprint for key in keys if key in hosts)}",
            transcript=signed,
            host=_rekeyed(host, keys, known=tuple(key for key in keys if key in hosts)),
        )


def revocation(evidence: Evidence, context: SshContext) -> tuple[SshRecord, str]:
    """
    Return the certificate whose key takes it back, and why; also where it was taken back before.

    :raises NotMine: another message. :raises Malformed: not such a request, or no reason of RFC 5280 §5.3.1.
    :raises EvidenceRejected: no such certificate, or another key signed.
    """
    request = opened(evidence, SshRevocation, context, method=REVOKE)
    if request.reason not in REASONS:
        raise Malformed(f"not a reason: {request.reason!r}", hint=f"one of {', '.join(REASONS)}")
    serial = int(request.serial)
    if str(serial) != request.serial:  # ``$`` lets a line feed pass
        raise Malformed(f"not a serial: {request.serial!r}")
    record = context.ssh_certificate(serial) if serial <= _MAX_SERIAL else None
    if record is None or record.certificate is None:
        raise EvidenceRejected(f"SSH certificate {serial} is not in the ledger")
    signed = revocation_transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
    _check(request.signature, signed, record.leaf.key, namespace=REVOKE_NAMESPACE)
    return record, request.reason


def _keys(request: PopRequest) -> tuple[SshKey, ...]:
    try:
        keys = tuple(sshkeys.from_blob(proof.key) for proof in request.keys)
    except HandfastError as error:
        raise EvidenceRejected(f"not an SSH host key: {error.message}") from None
    if len(set(keys)) < len(keys):
        raise Malformed("the same SSH host key twice", hint="ask once for each key")
    return keys


def _check(signature: bytes, signed: bytes, key: SshKey, *, namespace: str) -> None:
    try:
        signer = sshsig.verify(signature, signed, namespace=namespace)
    except HandfastError as error:
        raise EvidenceRejected(f"the SSH key {key.fingerprint} has not signed this: {error.message}") from None
    if signer != key:
        raise EvidenceRejected(f"the signature for the SSH key {key.fingerprint} is by {signer.fingerprint}")


def _rekeyed(host: Host, keys: tuple[SshKey, ...], *, known: tuple[SshKey, ...]) -> HostFinding | None:
    """
    Return that the new keys are the machine's, on the word of those that are known as proved.

    It is ``hostkeys-prove``, and not how the known one became known: when that is retired, because it was stolen, what
    the thief has added with it must go as well.
    """
    new = tuple(key for key in keys if key not in known)
    if not new:
        return None
    proved = {each.key for each in host.keys if each.how.grade is Grade.PROVED}
    basis = tuple(sorted(proved & set(known)))
    detail = f"vouched for by {', '.join(key.fingerprint for key in basis)} ({NAME})"
    return HostFinding(host.machine, new, How.HOSTKEYS_PROVE, detail, complete=False, basis=basis)


SSH_HALF = PopIntroducer()
