"""
One HTTPS request to a foreign server, bounded in time and size.

The standard library's HTTP client connects again by itself, follows what a header says about lengths, and has no
limit for the whole; here one connection carries one request, and a byte too much or too late ends it.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from handfast.errors import Malformed, TooMuch, Unreachable, UntrustedPeer

TIMEOUT = 10.0  # seconds for the connection, for the handshake, and for request and answer together
MAX_ANSWER = 1 << 20  # bytes of a body, as the original's client
_MAX_HEAD = 1 << 16  # bytes that status line and headers may have beside it


class NotYetError(Exception):
    """Nobody listens there yet: nothing was sent, and the same may work in a moment."""


@dataclass(frozen=True, slots=True)
class Place:
    """A host (a name or an IP address, no brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. The body is a stranger's unless TLS or the caller proved otherwise."""

    status: int
    body: bytes


@contextlib.contextmanager
def connected(place: Place, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """
    Connect and shake hands.

    :raises NotYetError: nobody listens, the name is not known, or the connection was cut in the handshake.
    :raises UntrustedPeer: its certificate does not verify, where ``context`` verifies.
    :raises Unreachable: it does not speak TLS as we do.
    """
    try:
        raw = socket.create_connection((place.host, place.port), timeout=TIMEOUT)
    except (OSError, UnicodeError) as error:  # the latter for a name that is none
        raise NotYetError(_reason(error)) from None
    with raw, _shaken(raw, place, context) as connection:
        yield connection


def _shaken(raw: socket.socket, place: Place, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(raw, server_hostname=place.host)
    except ssl.SSLCertVerificationError as error:
        raise UntrustedPeer(
            f"{place} presents a certificate that does not verify: {error.verify_message}",
            hint="does the trust store have its CA, and the certificate this host name?",
        ) from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError, TimeoutError) as error:
        raise NotYetError(_reason(error)) from None  # a proxy accepts before the server behind it is there
    except OSError as error:
        raise Unreachable(
            f"no TLS with {place}: {_reason(error)}", hint="is this the right port, and does it speak TLS 1.2 or 1.3?"
        ) from None


def ask(connection: ssl.SSLSocket, place: Place, method: str, target: str, body: bytes = b"") -> Answer:
    """
    Send one request and return its answer; redirects are answers.

    :raises Unreachable: no whole answer in time.
    :raises TooMuch: an answer of over ``MAX_ANSWER`` bytes. :raises Malformed: one that is not HTTP.
    """
    head = f"{method} {target} HTTP/1.1\r\nHost: {place}\r\nUser-Agent: handfast\r\nConnection: close\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    stream = _Bounded(connection, deadline=time.monotonic() + TIMEOUT)
    try:
        connection.sendall(head.encode("ascii") + b"\r\n" + body)
        response = http.client.HTTPResponse(cast("socket.socket", stream), method=method)
        with contextlib.closing(response):
            response.begin()
            answer = response.read(MAX_ANSWER + 1)
            if response.length and len(answer) <= MAX_ANSWER:  # with a limit, http.client takes half for a whole
                raise http.client.IncompleteRead(answer, response.length)
    except http.client.IncompleteRead:
        raise Unreachable(
            f"{place} broke off in the middle of its answer", hint="see its log, then try again"
        ) from None
    except (http.client.HTTPException, ValueError) as error:
        words = str(error)[:80] or type(error).__name__
        raise Malformed(f"{place} does not answer in HTTP: {words!r}", hint="is this the right port?") from None
    except OSError as error:
        raise Unreachable(f"no answer from {place}: {_reason(error)}", hint="see its log, then try again") from None
    if len(answer) > MAX_ANSWER:
        raise TooMuch(f"{place} sent over {MAX_ANSWER} bytes", hint="is this the right port?")
    return Answer(response.status, answer)


class _Bounded(io.RawIOBase):
    """Reads from a connection until the deadline (monotonic seconds) and a limit of bytes."""

    def __init__(self, connection: ssl.SSLSocket, *, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._left = MAX_ANSWER + _MAX_HEAD

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks a socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise TooMuch(f"an answer of over {MAX_ANSWER} bytes", hint="is this the right port?")
        return count


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    words = str(text)[:200]
    return words[:1].lower() + words[1:]
