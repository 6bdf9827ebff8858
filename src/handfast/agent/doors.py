"""
The agent's connections: accepted, or dialled by itself; over both the agent is the TLS server, and HTTP's.

Each handshake shows what the agent shows at that moment, and the connection remembers it. Nobody who has not proved to
be a controller gets as far as HTTP, and connections without a proof are few and short. Where all places are taken it is
not the newest that goes: places are shared by sources, which TCP has made sure of, so others from elsewhere keep nobody
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar, cast

import structlog
from cryptography import x509

from handfast.adapters.callers import callers, peer_address, prefix, readable
from handfast.adapters.seldom import Seldom
from handfast.agent.agent import Face
from handfast.agent.introduction import Asked
from handfast.core.agentjson import GREETING
from handfast.core.invitation import Address
from handfast.errors import HandfastError

HANDSHAKE = 10.0  # seconds
MAX_CONNECTIONS = 16  # a controller needs two or three; each may have a configuration or a log in memory
MAX_PROVING = 64  # handshakes at once, about 60 kB each
UNREAD = 30.0  # seconds for a controller to read what it asked for
READ = 256 * 1024  # bytes at once
UNWANTED = 90.0  # seconds to wait to be spoken to; the controller's patience is 60
_chance = secrets.SystemRandom()
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Caller:
    """
    The truth of one connection: what we showed in it, and the certificate (DER) whose key the other side proved.

    ``asked`` is what we have asked for over it, for its answer to be held to.
    """

    face: Face
    certificate: x509.Certificate
    der: bytes
    source: str
    asked: Asked | None = None

    @property
    def ends(self) -> datetime | None:
        """When it may ask for nothing more; None while our clock, which may be years off, is no measure."""
        return None if self.face.leaf is None else self.certificate.not_valid_after_utc


class Doors:
    """Leads connections to HTTP; ``face`` is asked for each, and ``admit`` refuses whoever is no controller."""

    def __init__(
        self,
        http: Callable[[], asyncio.Protocol],
        *,
        face: Callable[[], Face],
        admit: Callable[[x509.Certificate], object],
    ) -> None:
        self._http, self._face, self._admit = http, face, admit
        self._proving: dict[asyncio.Task[object], str] = {}  # their sources, the oldest first
        self._said = Seldom()
        self.buffer = memoryview(bytearray(READ))
        self.callers: dict[asyncio.BaseTransport, Caller] = {}  # whoever was silent longest first

    async def listen(self, listening: socket.socket) -> None:
        """Accept until cancelled."""
        async for accepted, host in callers(listening):
            source = prefix(peer_address((host,)))
            if len(self._proving) >= MAX_PROVING:
                one = _one_too_many(self._proving)
                del self._proving[one]
                one.cancel()
            task = asyncio.ensure_future(self.serve(accepted, source))
            self._proving[task] = source
            task.add_done_callback(partial(self._proved, accepted))

    def _proved(self, accepted: socket.socket, task: asyncio.Task[object]) -> None:
        self._proving.pop(task, None)
        if task.cancelled():  # perhaps before it began, and nobody else has the socket then
            accepted.close()

    async def dial(self, controller: Address, name: str) -> None:
        """
        Connect to a controller, and serve the connection until it ends.

        The line before TLS says who we are, for the controller to know whom to ask; it proves nothing. Then it is the
        controller's turn, perhaps a minute later, and what we show is what we show by then.

        :raises OSError: it cannot be reached, or has said nothing for ``UNWANTED`` seconds.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(controller.host, controller.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        connected = socket.socket(family, kind, protocol)
        connected.setblocking(False)
        try:
            async with asyncio.timeout(HANDSHAKE):
                await loop.sock_connect(connected, address)
                await loop.sock_sendall(connected, f"{GREETING} {name}\n".encode("ascii"))
            async with asyncio.timeout(UNWANTED):
                await readable(connected.fileno())
        except BaseException:
            connected.close()
            raise
        connection = await self.serve(connected, str(controller))
        if connection is not None:
            await connection.ended.wait()

    async def serve(self, connected: socket.socket, source: str) -> _Connection | None:
        """Do the handshake, and have HTTP served if a controller is at the other end; None if nobody is."""
        connection = _Connection(self, self._http(), self._face(), source)
        loop = asyncio.get_running_loop()
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD * 1000))
            await loop.connect_accepted_socket(
                lambda: connection,
                connected,
                ssl=connection.face.context,
                ssl_handshake_timeout=HANDSHAKE,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:  # a scanner, somebody without a certificate: their business, not news
            _log.debug("handshake failed", source=source, error=str(error)[:200])
            connected.close()
            return None
        except BaseException:
            connected.close()
            raise
        return connection

    async def close(self) -> None:
        """Drop whoever has not proved to be anybody; the others are HTTP's."""
        for task in list(self._proving):
            task.cancel()
        await asyncio.gather(*self._proving, return_exceptions=True)

    def made(self, transport: asyncio.BaseTransport, face: Face, source: str) -> bool:
        """Take note of a connection whose handshake is done; False if it is no controller's."""
        tls = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
        der = tls.getpeercert(binary_form=True)
        if der is None or tls.session_reused:  # unreachable: a certificate is demanded, and there are no tickets
            return False
        try:
            certificate = x509.load_der_x509_certificate(der)
            self._admit(certificate)
        except (HandfastError, ValueError) as error:
            if (left_out := self._said.due("no controller")) is not None:
                _log.warning("refused a caller that is no controller", reason=str(error)[:200], before=left_out)
            return False
        if len(self.callers) >= MAX_CONNECTIONS:  # controllers, all of them: one of the credentials may be stolen
            one = _one_too_many({each: caller.source for each, caller in self.callers.items()})
            del self.callers[one]
            cast(asyncio.Transport, one).abort()
        self.callers[transport] = Caller(face, certificate, der, source)
        return True

    def heard(self, transport: asyncio.BaseTransport) -> None:
        """Take note that a controller has said something."""
        if (caller := self.callers.pop(transport, None)) is not None:
            self.callers[transport] = caller


def _one_too_many(sources: Mapping[_T, str]) -> _T:
    """
    Return who has to go for a new one: the first, from the source that has most; of several sources any.

    Were it the first of all, whoever connects often enough would have everybody else dropped within a handshake.
    """
    counts = Counter(sources.values())
    most = max(counts.values())
    source = _chance.choice([each for each, count in counts.items() if count == most])
    return next(each for each, other in sources.items() if other == source)


class _Connection(asyncio.BufferedProtocol):
    """Passes everything on to HTTP, once it is known who is there."""

    def __init__(self, doors: Doors, http: asyncio.Protocol, face: Face, source: str) -> None:
        self._doors, self._http, self.face, self._source = doors, http, face, source
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._doors.made(transport, self.face, self._source):
            self._transport = cast(asyncio.Transport, transport)
            self._http.connection_made(transport)
        else:
            cast(asyncio.Transport, transport).abort()

    def get_buffer(self, _sizehint: int) -> memoryview:
        # One for all connections: what is read into it is passed on before anything else runs. As a plain protocol,
        # asyncio would call us for each record of 16 KiB, with memory of 256 KiB made for each.
        return self._doors.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._transport is not None:
            self._doors.heard(self._transport)
            self._http.data_received(bytes(self._doors.buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._http.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._http.pause_writing()
        if self._transport is not None:  # HTTP would wait for ever, with all of the answer in memory
            self._patience = asyncio.get_running_loop().call_later(UNREAD, self._transport.abort)

    def resume_writing(self) -> None:
        self._patient()
        self._http.resume_writing()

    def _patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self._patient()
        self.ended.set()
        if self._transport is not None:
            with contextlib.suppress(KeyError):
                del self._doors.callers[self._transport]
            self._http.connection_lost(error)
