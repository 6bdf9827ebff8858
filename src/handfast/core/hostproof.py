"""
Proof of possession of SSH host keys, inside an introduction.

Each key signs (SSHSIG, a namespace of ours) which registrar it speaks to, in which connection, and for which request;
the request's own signature then covers these proofs. So a proof fits one request: it cannot be taken into another
machine's, replayed, or relayed by a man in the middle. What the keys sign is *not* what the request signs, under a
label of its own, so that neither stands in for the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from handfast.core import sshkeys, sshsig
from handfast.core.hosts import MAX_PLACES, SSH_PORT
from handfast.core.sshkeys import MAX_BLOB, MAX_KEYS, SshKey
from handfast.core.transcript import digest
from handfast.errors import EvidenceRejected, HandfastError

NAMESPACE = "hostkeys@handfast"
_POSSESSION = b"handfast/1 ssh host key"
_CLAIM = b"handfast/1 ssh host keys"
_Port = Annotated[int, Meta(ge=1, le=65535)]


class HostKeyProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host key (wire form), and its SSHSIG (without armor)."""

    key: Annotated[bytes, Meta(max_length=MAX_BLOB)]
    signature: Annotated[bytes, Meta(max_length=2 * MAX_BLOB)]


class HostClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All host keys of a machine, each with its proof, and the ports that its sshd listens on."""

    keys: Annotated[list[HostKeyProof], Meta(min_length=1, max_length=MAX_KEYS)]
    ports: Annotated[list[_Port], Meta(min_length=1, max_length=MAX_PLACES)]


class HostSigner(Protocol):
    """A host key that can sign."""

    @property
    def public(self) -> SshKey: ...

    def sign(self, message: bytes, namespace: str) -> bytes:
        """Return an SSHSIG without armor."""


@dataclass(frozen=True, slots=True)
class HostKeys:
    """What a newcomer claims: its host keys, able to sign, and its ports."""

    signers: tuple[HostSigner, ...]
    ports: tuple[int, ...] = (SSH_PORT,)


class _Request(Protocol):
    @property
    def nonce(self) -> bytes: ...

    @property
    def newcomer_nonce(self) -> bytes: ...

    @property
    def csr(self) -> bytes: ...

    @property
    def host(self) -> HostClaim | None: ...


def claim(host: HostKeys | None, request: _Request, *, method: str, pin: bytes, server_spki: bytes) -> HostClaim | None:
    """Return the claim that goes into ``request``; ``pin`` and ``server_spki`` are of the registrar that was proved."""
    if host is None:
        return None
    message = _message(request, method, pin, server_spki)
    proofs = [HostKeyProof(signer.public.blob, signer.sign(message, NAMESPACE)) for signer in host.signers]
    return HostClaim(proofs, list(host.ports))


def commitment(made: HostClaim | None) -> bytes:
    """Return what a request signs of its claim: nothing, where there is none."""
    if made is None:
        return b""
    keys = [field for proof in made.keys for field in (proof.key, proof.signature)]
    return digest(_CLAIM, struct.pack(f">{len(made.ports)}I", *made.ports), *keys)


def proved(request: _Request, *, method: str, pin: bytes, server_spki: bytes) -> tuple[SshKey, ...]:
    """
    Return the host keys in ``request`` whose possession it proves: all of them.

    To be asked when the request itself is authentic: up to 32 signatures are verified.

    :raises EvidenceRejected: a signature is missing, wrong, or by another key than the one it stands with.
    """
    if request.host is None:
        return ()
    message = _message(request, method, pin, server_spki)
    return tuple(sorted({_proved(proof, message) for proof in request.host.keys}))


def _proved(proof: HostKeyProof, message: bytes) -> SshKey:
    try:
        key = sshkeys.from_blob(proof.key)
        signer = sshsig.verify(proof.signature, message, namespace=NAMESPACE)
    except HandfastError as error:
        raise EvidenceRejected(f"an SSH host key is not proved: {error.message}") from None
    if signer != key:
        raise EvidenceRejected(f"the proof for the SSH host key {key.fingerprint} is by {signer.fingerprint}")
    return key


def _message(request: _Request, method: str, pin: bytes, server_spki: bytes) -> bytes:
    return digest(
        _POSSESSION, method.encode("ascii"), pin, server_spki, request.newcomer_nonce, request.nonce, request.csr
    )
