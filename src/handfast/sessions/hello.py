"""
What is said on a session's connection before its bytes flow, and on its control connection. Pure: bytes in, values out.

    first frames    whoever dialled TCP sends ``Hello``, the other ``Answer``; then a stream is raw bytes
    control         ``Dial``, ``Failed``, ``Phone``, ``Crl``, ``Ping``, ``Pong`` in either direction, tagged by ``do``

A frame is its length (two bytes, big-endian) and that much JSON. What asks for something refuses unknown fields,
answers ignore them (as ``core.wire``). All of it comes after TLS has proved the peer, which is still not believed:
everything has a bound, and a revocation list is adopted for its signature only.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from handfast.core import wire
from handfast.core.invitation import Address
from handfast.errors import Malformed, TooMuch, UsageError

ALPN = "handfast-session/1"
MAX_FRAME = 0xFFFF  # bytes after the length
MAX_CRL = 44 * 1024  # bytes of DER that fit a frame in base64: some 900 revocations, of a handful of parties
MIN_INTERVAL, MAX_INTERVAL = 0.1, 86400.0  # seconds between two calls
UNREACHABLE_SERVICE = "service-unreachable"
_HEAD = 2  # bytes

Token = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{22,64}\Z")]  # 128 bits or more, base64url
CrlNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time = Annotated[int, Meta(ge=0, le=253402300799)]  # Unix seconds, to the end of the year 9999
CrlDer = Annotated[bytes, Meta(min_length=1, max_length=MAX_CRL)]
About = Annotated[
    dict[Annotated[str, Meta(max_length=40)], Annotated[str, Meta(max_length=200)]], Meta(max_length=16)
]  # for people: versions, a host's name


def interval(every: float) -> float:
    """Return how often to phone, in seconds, if a peer would take it, too. :raises UsageError: it would not."""
    if not MIN_INTERVAL <= every <= MAX_INTERVAL:
        raise UsageError(f"cannot phone every {every:g} s", hint=f"choose from {MIN_INTERVAL:g}s to {MAX_INTERVAL:g}s")
    return every


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    The first frame, from whoever dialled.

    ``crl`` is the number of the newest list it knows, 0 for none; ``time`` its clock. ``token`` names the request that
    a stream of the reverse modes answers.
    """

    v: Literal[1] = 1
    want: Literal["stream", "control"]
    crl: CrlNumber
    time: Time
    token: Token | None = None
    crl_der: CrlDer | None = None
    about: About = {}

    def __post_init__(self) -> None:
        if self.token is not None and self.want != "stream":
            raise ValueError("a token is for a stream")


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it. ``error`` is a code of ``errors.py`` or ``service-unreachable``; None means go on."""

    ok: bool
    crl: CrlNumber
    time: Time
    error: Annotated[str, Meta(max_length=40)] | None = None
    message: Annotated[str, Meta(max_length=1000)] = ""
    crl_der: CrlDer | None = None
    about: About = {}

    def __post_init__(self) -> None:
        if self.ok == (self.error is not None):
            raise ValueError("either ok or an error")


class _Control(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do"
):
    pass


class Dial(_Control, frozen=True, kw_only=True, tag="dial"):
    """The client asks the server for one more connection, which will name this token."""

    token: Token


class Failed(_Control, frozen=True, kw_only=True, tag="failed"):
    """The server could not serve that: a code and a sentence, as in ``Answer``."""

    token: Token
    error: Annotated[str, Meta(max_length=40)]
    message: Annotated[str, Meta(max_length=1000)] = ""


class Phone(_Control, frozen=True, kw_only=True, tag="phone"):
    """Where the server is to call when this connection has ended, and how often to try (seconds)."""

    to: Annotated[str, Meta(max_length=300)]
    every: Annotated[float, Meta(ge=MIN_INTERVAL, le=MAX_INTERVAL)]

    def __post_init__(self) -> None:
        try:
            Address.parse(self.to)
        except Malformed as error:
            raise ValueError(error.message) from None

    @property
    def address(self) -> Address:
        """``to``, parsed."""
        return Address.parse(self.to)


class Crl(_Control, frozen=True, kw_only=True, tag="crl"):
    """A newer revocation list, for whoever has none so new."""

    crl_der: CrlDer


class Ping(_Control, frozen=True, kw_only=True, tag="ping"):
    """Are you there?"""


class Pong(_Control, frozen=True, kw_only=True, tag="pong"):
    """I am."""


Control = Dial | Failed | Phone | Crl | Ping | Pong
T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    """
    Return the whole frame of a message.

    :raises TooMuch: over ``MAX_FRAME`` bytes: leave the revocation list out.
    """
    body = msgspec.json.encode(message)
    if len(body) > MAX_FRAME:
        raise TooMuch(f"a frame of {len(body)} bytes, at most {MAX_FRAME} fit")
    return len(body).to_bytes(_HEAD, "big") + body


def decode(body: bytes, kind: type[T]) -> T:
    """
    Read a frame's body as ``Hello`` or ``Answer``.

    :raises Malformed: not JSON, another version, a field missing, unknown, mistyped or out of bounds.
    """
    return wire.decode(body, kind)


def decode_control(body: bytes) -> Control:
    """
    Read a frame of a control connection.

    :raises Malformed: as ``decode``; a message that this version does not know.
    """
    try:
        message: Control = _CONTROL.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a control message: {error}", hint="both sides should run the same version") from None
    return message


_CONTROL = msgspec.json.Decoder(Control)
