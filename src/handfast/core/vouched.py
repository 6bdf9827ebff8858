"""
The registrar's word for what it serves: a signature beside a file, by its TLS key, with the chain to the pin.

The file itself is the same for the same content, so the time stands in the signature: whoever has the file already
fetches the signature alone, and knows that nothing has changed. Every kind of file has a label of its own, so that no
word for one is a word for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from mmap import mmap

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.core.chain import load_certificate, verify_chain
from handfast.core.roles import Role
from handfast.core.transcript import digest
from handfast.core.views import time_text
from handfast.errors import Malformed, UntrustedPeer

CLOCK_STEP = timedelta(minutes=5)

# Returns the body of a GET of this path, of at most so many bytes, from the registrar that the pin names.
Get = Callable[[str, int], bytes]


class Signature(msgspec.Struct, frozen=True):
    """The registrar's word that this was what it knew at ``time``; DER, and ECDSA with SHA-256 by its TLS key."""

    sha256: bytes
    time: str
    signature: bytes
    leaf: bytes
    chain: list[bytes]
    trust: list[bytes]


def transcript(label: bytes, sha256: bytes, time: str) -> bytes:
    """Return what the registrar signs: the hash of the file, and the time as it is sent."""
    return digest(label, sha256, time.encode())


def sign(
    label: bytes,
    sha256: bytes,
    *,
    at: datetime,
    signer: Callable[[bytes], bytes],
    leaf: bytes,
    chain: Iterable[bytes],
    trust: Iterable[bytes],
) -> Signature:
    """
    Return the signature of a file with this SHA-256.

    ``signer`` makes an ECDSA signature with SHA-256 (DER) by the key of ``leaf``, of the 32 bytes that it is given.
    """
    time = time_text(at)
    return Signature(sha256, time, signer(transcript(label, sha256, time)), leaf, list(chain), list(trust))


def verify(
    content: bytes | mmap, signature: Signature, *, label: bytes, what: str, pin: bytes, now: datetime, anew: str
) -> datetime:
    """
    Return when the registrar under ``pin`` said that this is what it knows. ``what`` is the file, ``anew`` the hint.

    Checked: the hash, the chain to the pin at that time in the role registrar, the signature, and that the time is not
    to come. *Not* checked: how old it is.

    :raises UntrustedPeer: any of it is wrong.
    """
    try:
        at = datetime.fromisoformat(signature.time).astimezone(UTC)
        leaf = load_certificate(signature.leaf)
        chain = [load_certificate(der) for der in signature.chain]
        roots = [load_certificate(der) for der in signature.trust]
    except (Malformed, ValueError, OverflowError) as error:
        raise UntrustedPeer(f"the signature of the {what} cannot be read: {error}", hint=anew) from None
    verify_chain(leaf, chain, roots, pin=pin, role=Role.REGISTRAR, at=at)
    if not _fits(leaf, signature, label):
        raise UntrustedPeer(f"the registrar's signature of the {what} does not fit", hint=anew)
    if hashlib.sha256(content).digest() != signature.sha256:
        raise UntrustedPeer(f"the registrar's signature is for another {what}", hint=anew)
    if at > now + CLOCK_STEP:
        raise UntrustedPeer(
            f"the {what} was signed at {time_text(at)}, and here it is {time_text(now)}",
            hint="set the clock of this machine, or the registrar's",
        )
    return at


def _fits(leaf: x509.Certificate, signature: Signature, label: bytes) -> bool:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    signed = transcript(label, signature.sha256, signature.time)
    try:
        key.verify(signature.signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
