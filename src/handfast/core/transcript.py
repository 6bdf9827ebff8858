"""
What is signed in an introduction: a hash over labelled, length-prefixed fields.

Every purpose and direction has its own label, so that no signature made for one can serve another
(reflection is what broke NiFi's token protocol). A request's label is made from its method's name, which
has no space, so that none is a prefix of another; a test holds it for all that are known. Fields are
length-prefixed, so that moving a byte from one field to the next changes the hash.

``models/join_v1_asym.pv`` in the design material proves the construction with a TLS exporter, and
``n2`` and ``join_v1_noexporter`` prove it as it is here: bound to the pin and the registrar's own TLS key.
"""

from __future__ import annotations

import hashlib
import struct

ANSWER = b"handfast/1 introduction answer"
SSH_CERTIFICATES = b"handfast/1 ssh certificates"
NONCE = b"handfast/1 registrar nonce"


def request_label(method: str) -> bytes:
    """Return the label under which requests of a method are signed."""
    return f"handfast/1 {method} request".encode("ascii")


def digest(label: bytes, *fields: bytes) -> bytes:
    """Return SHA-256 over the label and each field, each preceded by its length as 4 bytes big-endian."""
    state = hashlib.sha256()
    for field in (label, *fields):
        state.update(struct.pack(">I", len(field)))
        state.update(field)
    return state.digest()


def answer(request: bytes, certificate: bytes, trust: tuple[bytes, ...], time: str) -> bytes:
    """
    Return what the registrar signs with its TLS key: the request answered, the leaf, the roots, its time.

    ``request`` is the digest the newcomer signed, so an answer fits one request in one connection.
    ``time`` is the registrar's clock as RFC 3339 text.
    """
    return digest(ANSWER, request, certificate, struct.pack(">I", len(trust)), *trust, time.encode())


def certificates(issued: tuple[bytes, ...], *, host_ca: bytes, user_ca: bytes) -> bytes:
    """Return what stands for ``certificate`` in ``answer`` where SSH certificates (wire form) are answered."""
    return digest(SSH_CERTIFICATES, host_ca, user_ca, *issued)
