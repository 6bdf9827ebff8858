"""
What a person's SSH key signs to be certified: which registrar it speaks to, in which connection, and for what.

It is the half of the evidence that the methods for users share. What says who the person is, an operator credential or
a token, is covered by the signature, so that it is good for this very key only.
"""

from __future__ import annotations

import struct
from datetime import timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from handfast.core import sshkeys, sshsig, wire
from handfast.core.flow import SshWish
from handfast.core.hostproof import HostSigner
from handfast.core.sshcert import MAX_PRINCIPALS
from handfast.core.sshkeys import MAX_BLOB, SshKey
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, HandfastError

NAMESPACE = "ssh-login@handfast"
MAX_LIFETIME = 366 * 24 * 3600  # seconds that may be asked for
_WISH = b"handfast/1 ssh login wish"


class LoginRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    What every request for a user's certificate has: one key (wire form), what is wished, and the key's SSHSIG.

    No ``principals`` are all that the evidence entitles to; a ``lifetime`` (seconds) of 0 is the longest there is.
    """

    nonce: wire.Nonce
    newcomer_nonce: wire.Nonce
    key: Annotated[bytes, Meta(max_length=MAX_BLOB)]
    principals: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=255)]], Meta(max_length=MAX_PRINCIPALS)
    ] = []
    lifetime: Annotated[int, Meta(ge=0, le=MAX_LIFETIME)] = 0
    signature: Annotated[bytes, Meta(max_length=sshsig.MAX_SIGNATURE)]

    @property
    def wish(self) -> SshWish:
        """What is asked for."""
        return SshWish(tuple(self.principals), timedelta(seconds=self.lifetime) if self.lifetime else None)


def transcript(request: LoginRequest, method: str, *, pin: bytes, server_spki: bytes, who: tuple[bytes, ...]) -> bytes:
    """
    Return the digest that the SSH key signs. ``who`` is what says who the person is, as the method has it.

    ``pin`` and ``server_spki`` are of the registrar that was proved.
    """
    principals = (each.encode() for each in request.principals)
    wish = digest(_WISH, struct.pack(">Q", request.lifetime), *principals)
    return digest(
        request_label(method), pin, server_spki, request.newcomer_nonce, request.nonce, request.key, wish, *who
    )


def signed(signer: HostSigner, transcript: bytes) -> bytes:
    """Return the key's SSHSIG over a transcript."""
    return signer.sign(transcript, NAMESPACE)


def proved(request: LoginRequest, transcript: bytes) -> SshKey:
    """
    Return the key in ``request``, whose possession it proves.

    :raises EvidenceRejected: its signature is wrong, for something else, or by another key.
    """
    try:
        key = sshkeys.from_blob(request.key)
        signer = sshsig.verify(request.signature, transcript, namespace=NAMESPACE)
    except HandfastError as error:
        raise EvidenceRejected(f"the SSH key is not proved: {error.message}") from None
    if signer != key:
        raise EvidenceRejected(f"the proof for the SSH key {key.fingerprint} is by {signer.fingerprint}")
    return key
