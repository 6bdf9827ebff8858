"""
HTTP over a connection to an agent, which either side may have dialled; the agent is the TLS server in both cases.

The one library that talks HTTP over a socket that it has not opened itself is h11, which only knows bytes. TLS proves
a key; whose it is, is what the caller asks before anything else is sent (``Connection.certificate``).

Whoever answers may be anybody, and there may be many of him. So an answer has one head, says how long it is, and is
that long: interim answers would come without end, and chunks of one byte each cost us more than him.
"""

from __future__ import annotations

import asyncio
import base64
import http
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, TypeVar

import h11
import msgspec
from cryptography import x509

from handfast.adapters.tls import peer_chain
from handfast.core import wire
from handfast.core.agentjson import USER
from handfast.core.chain import load_certificate
from handfast.core.invitation import Address
from handfast.core.keys import UNREADABLE, spki_sha256
from handfast.core.loopback import on_loopback
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Malformed, Refused, TooMuch, Unreachable, UntrustedPeer
from handfast.newcomer.connection import problem

CONNECT = 5.0  # seconds for one address
ANSWER = 10.0  # seconds for one answer, from the last byte of the request
SEND = 60.0  # seconds for one piece of a request to be taken: the agent's own limit for a MiB
MAX_ANSWER = 2 * 1024 * 1024  # bytes
_CHUNK = 64 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    @property
    def success(self) -> bool:
        """Whether what was asked was done: an agent sends nobody elsewhere."""
        return 200 <= self.status < 300


class Stream:
    """HTTP over a connection; requests go one after the other. Who is at the other end it does not know."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        name: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._reader, self._writer, self.name, self._headers = reader, writer, name, headers
        self._http = h11.Connection(h11.CLIENT)

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        states = (self._http.our_state, self._http.their_state)
        return not self._writer.is_closing() and states in {(h11.IDLE, h11.IDLE), (h11.DONE, h11.DONE)}

    async def call(self, method: str, path: str, kind: type[T], body: object = None, *, patience: float = ANSWER) -> T:
        """
        Send JSON and return the answer as ``kind``.

        :raises HandfastError: the class that the agent's problem names. :raises Unreachable: no whole answer in time.
        """
        sent = None if body is None else msgspec.json.encode(body)
        answer = await self.request(method, path, sent, patience=patience)
        if not answer.success:
            raise self.problem(answer)
        return wire.decode(answer.body, kind)

    def problem(self, answer: Answer) -> HandfastError:
        """Return the error that an answer is about."""
        return problem(answer.body, answer.status, self.name, who="the agent")

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        kind: str = "application/json",
        patience: float = ANSWER,
    ) -> Answer:
        """Send a request and return its answer, bounded by ``MAX_ANSWER``. :raises Unreachable: as ``call``."""
        if body is not None:
            headers = [*headers, ("content-type", kind)]
        return await self._exchange(method, path, _whole(body), len(body or b""), headers, patience)

    async def upload(
        self,
        path: str,
        pieces: AsyncIterator[bytes],
        size: int,
        *,
        headers: Iterable[tuple[str, str]] = (),
        progress: Callable[[int], None] = lambda _sent: None,
        patience: float = ANSWER,
    ) -> Answer:
        """Send a body of ``size`` bytes as it comes; ``progress`` is told how many are sent. Raises as ``request``."""

        async def counted() -> AsyncIterator[bytes]:
            sent = 0
            async for piece in pieces:
                sent += len(piece)
                yield piece
                progress(sent)

        return await self._exchange("PUT", path, counted(), size, headers, patience)

    async def _exchange(
        self,
        method: str,
        path: str,
        pieces: AsyncIterator[bytes],
        size: int,
        headers: Iterable[tuple[str, str]],
        patience: float,
    ) -> Answer:
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        host = () if self._headers else (("host", "agent"),)
        head = [*host, ("content-length", str(size)), *self._headers, *headers]
        answering = asyncio.ensure_future(self._answer())
        try:
            with suppress(ConnectionError):  # while it was sent: the answer that says why may have come before
                await self._send(h11.Request(method=method, target=path, headers=head))
                async for piece in pieces:
                    if answering.done():  # refused before all of it was sent: what is left would go nowhere
                        break
                    await self._send(h11.Data(data=piece))
                else:
                    await self._send(h11.EndOfMessage())
            async with asyncio.timeout(patience):
                return await answering
        except (OSError, h11.ProtocolError, EOFError) as error:  # a TimeoutError is an OSError
            self.close()
            raise _unreachable(self.name, error) from None
        except TooMuch:
            self.close()
            raise
        finally:
            if not answering.done():
                answering.cancel()
                self.close()  # half a request, or an answer that nobody waits for: nothing can follow

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(SEND):  # who stops reading would hold us for ever
                await self._writer.drain()

    async def _answer(self) -> Answer:
        status, body = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_CHUNK)
                if not data and self._http.their_state is h11.SEND_RESPONSE and not status:
                    raise EOFError("it closed the connection")
                self._http.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError(f"an interim answer, {event.status_code}, which nobody asked for")
            elif isinstance(event, h11.Response):
                status = event.status_code
                self._check_length(event)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, bytes(body))
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise EOFError("it closed the connection")

    def _check_length(self, head: h11.Response) -> None:
        """:raises TooMuch: it is over ``MAX_ANSWER``. :raises h11.RemoteProtocolError: it does not say how long."""
        said = dict(head.headers)
        if head.status_code != http.HTTPStatus.NO_CONTENT and (
            b"content-length" not in said or b"transfer-encoding" in said
        ):
            raise h11.RemoteProtocolError("it does not say how much it sends")
        if int(said.get(b"content-length", 0)) > MAX_ANSWER:
            raise TooMuch(f"{self.name} answers with over {MAX_ANSWER} bytes")

    def close(self) -> None:
        """Close without ceremony; every message was whole, or is not wanted."""
        self._writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Connection(Stream):
    """
    One over TLS, whose other end has proved the key of ``certificate``. Make one with ``dial`` or ``over``.

    ``chain`` (DER) is what it sent along: candidates for a path to a root, of which nothing is believed.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        super().__init__(reader, writer, name)
        try:
            tls = writer.get_extra_info("ssl_object")
            sent = peer_chain(tls) if isinstance(tls, ssl.SSLObject) else []
            if not sent:
                raise UntrustedPeer(f"{name} presented no certificate")
            der, *self.chain = sent
            self.certificate, self.spki = _shown(der, name)
        except BaseException:
            self.close()  # nobody else has it, and the other side need not hang up
            raise

    @classmethod
    async def dial(cls, address: Address, context: ssl.SSLContext) -> Self:
        """Connect. :raises Unreachable: nobody is there, or nobody who speaks TLS 1.3 with us."""
        try:
            async with asyncio.timeout(CONNECT):
                made = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname="")
        except (OSError, ValueError) as error:
            raise _unreachable(str(address), error) from None
        return cls(*made, str(address))

    @classmethod
    async def over(cls, connected: socket.socket, context: ssl.SSLContext, name: str) -> Self:
        """Do the handshake over a connection that the agent has dialled. :raises Unreachable: it fails."""
        try:
            async with asyncio.timeout(CONNECT):
                made = await asyncio.open_connection(sock=connected, ssl=context, server_hostname="")
        except (OSError, ValueError) as error:
            connected.close()
            raise _unreachable(name, error) from None
        return cls(*made, name)


async def plain(address: Address, password: Secret | None = None) -> Stream:
    """
    Connect without TLS, to an agent on this machine that somebody develops with.

    :raises UsageError: not a loopback address. :raises Unreachable: nobody is there.
    """
    on_loopback(address, what="an agent without TLS")
    try:
        async with asyncio.timeout(CONNECT):
            reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError as error:
        raise _unreachable(str(address), error) from None
    headers: tuple[tuple[str, str], ...] = (("host", str(address)),)
    if password is not None:
        encoded = base64.b64encode(f"{USER}:".encode() + password.reveal()).decode("ascii")
        headers += (("authorization", f"Basic {encoded}"),)
    return Stream(reader, writer, str(address), headers)


def _shown(der: bytes, name: str) -> tuple[x509.Certificate, bytes]:
    """
    Return a certificate, and the SHA-256 of its key.

    :raises UntrustedPeer: OpenSSL takes more for a certificate than can be read.
    """
    try:
        certificate = load_certificate(der)
        return certificate, spki_sha256(certificate.public_key())
    except (Malformed, *UNREADABLE) as error:
        raise UntrustedPeer(f"{name} presented what is no certificate: {str(error)[:80]!r}") from None


async def _whole(body: bytes | None) -> AsyncIterator[bytes]:
    if body:
        yield body


def _unreachable(name: str, error: BaseException) -> HandfastError:
    if isinstance(error, Refused | UntrustedPeer):
        return error
    if isinstance(error, TimeoutError):
        return Unreachable(f"{name} does not answer: it took too long")
    reason = (getattr(error, "reason", None) or "").replace("_", " ").lower()  # OpenSSL's: WRONG_VERSION_NUMBER
    text = reason or getattr(error, "strerror", None) or str(error) or type(error).__name__
    words = "".join(filter(str.isprintable, str(text)))[:200]
    return Unreachable(f"{name} does not answer: {words[:1].lower()}{words[1:]}")
