"""
The JSON that crosses the wire, as msgspec structs: what all methods share.

A method's own request stands in its introducer. Requests refuse unknown fields (every input is accounted
for); answers ignore them, so that an older newcomer can talk to a newer registrar. Binary fields are base64,
as msgspec writes bytes; times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from handfast.errors import Malformed

MAX_REQUEST = 64 * 1024  # bytes of any request body; a join needs about 1,500
MAX_ANSWER = 1024 * 1024  # bytes of any answer a newcomer reads; a join's is about 4,000


# The lengths are for a line feed at the end, which ``$`` lets pass.
KeyId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", max_length=16)]
Serial = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=64)]
Ed25519Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Ed25519Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Csr = Annotated[bytes, Meta(max_length=16 * 1024)]
NameText = Annotated[str, Meta(max_length=253)]


class Hello(msgspec.Struct, frozen=True):
    """GET /v1/hello: public, and trusted for nothing until the pin has matched."""

    nonce: bytes
    time: str
    trust: list[bytes]
    chain: list[bytes]


class IntroductionAnswer(msgspec.Struct, frozen=True):
    """What a successful introduction returns: the leaf, its chain, the roots, and the registrar's proof."""

    certificate: bytes
    chain: list[bytes]
    trust: list[bytes]
    time: str
    signature: bytes


class CertificatesAnswer(msgspec.Struct, frozen=True):
    """
    What asking for SSH certificates returns, in the order of the keys, and both SSH CAs' keys (all in wire form).

    ``signature`` is by the registrar's TLS key, over ``transcript.answer`` of the request, of
    ``transcript.certificates``, the roots and the time: so whoever knows the pin knows the SSH CAs.
    """

    certificates: list[bytes]
    host_ca: bytes
    user_ca: bytes
    trust: list[bytes]
    time: str
    signature: bytes


class SshRevokedAnswer(msgspec.Struct, frozen=True):
    """POST /v1/ssh/revocations: ``serial`` is decimal, as ssh-keygen has it; ``holder`` had that certificate."""

    serial: str
    holder: str
    kind: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    An RFC 9457 problem.

    ``code`` is one of errors.py; ``reasons`` only for those entitled to know. ``after`` is that of ``TooMuch``.
    """

    title: str
    status: int
    code: str
    type: str = "about:blank"
    detail: str = ""
    hint: str = ""
    reasons: list[str] = []
    after: int = 0


T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T:
    """
    Read JSON as ``kind``.

    :raises Malformed: not JSON, a missing, unknown or mistyped field (named by its path).
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a {kind.__name__}: {error}", hint="both sides should run the same version") from None
