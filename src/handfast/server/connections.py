"""
Accepting connections: limits first, then the handshake, then HTTP.

The loop accepts by itself, instead of leaving it to ``create_server``, for three reasons: a connection counts
from its first packet and not from the end of its handshake; each handshake uses the serving certificate of its
moment, and its connection remembers which; and a new certificate drops nobody.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol, cast

import structlog
from aiohttp import web
from cryptography import x509

from handfast.adapters.callers import callers, peer_address, prefix
from handfast.core.names import IPAddress
from handfast.server.limits import Limits
from handfast.server.metrics import Metrics

_UNREAD = 256 * 1024  # bytes that the kernel keeps for a client; the largest answer is a few of these
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Identity(Protocol):
    """What a TLS listener presents, and proves itself with."""

    @property
    def context(self) -> ssl.SSLContext: ...

    @property
    def spki_sha256(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo that is presented."""

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """Return what an answer carries as proof of us."""


@dataclass(frozen=True, slots=True)
class Peer:
    """
    The truth of one connection, taken when its handshake ended.

    ``identity`` is what *we* presented in it, whatever is presented in others since; None without TLS.
    ``client`` was verified by TLS to our root in that moment; *not* checked: its role, its revocation, and
    whether it has expired since.
    """

    identity: Identity | None
    source: IPAddress | None
    client: x509.Certificate | None


class Connections:
    """All that are open, over all listeners: what is counted, and who is behind each."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._sources: Counter[str] = Counter()
        self._total = 0
        self.peers: dict[asyncio.BaseTransport, Peer] = {}

    def admit(self, source: str) -> bool:
        """Count a connection, or say that it is one too many."""
        if self._total >= self._limits.connections:
            self._metrics.refused_connections.labels("total").inc()
            return False
        if self._sources[source] >= self._limits.connections_per_source:
            self._metrics.refused_connections.labels("source").inc()
            return False
        self._total += 1
        self._sources[source] += 1
        self._metrics.connections.set(self._total)
        return True

    def release(self, source: str) -> None:
        """Count a connection that has ended."""
        self._total -= 1
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]  # or the table would grow with every address ever seen
        self._metrics.connections.set(self._total)


class Listener:
    """One listening socket; ``identity`` gives the serving certificate of the moment, None for plain HTTP."""

    def __init__(
        self,
        listening: socket.socket,
        http: web.Server,
        connections: Connections,
        limits: Limits,
        identity: Callable[[], Identity] | None,
    ) -> None:
        self._socket, self._http, self._connections = listening, http, connections
        self._limits, self._identity = limits, identity
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._accepting = self._loop.create_task(self._accept())

    async def close(self) -> None:
        """Stop accepting, and drop those whose handshake is not over; open connections stay."""
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    async def _accept(self) -> None:
        async for accepted, host in callers(self._socket):
            source = peer_address((host,))
            if not self._connections.admit(prefix(source)):
                accepted.close()
                continue
            identity = self._identity() if self._identity is not None else None
            connection = _Connection(self._http(), self._connections, identity, source, self._limits.unread)
            task = self._loop.create_task(self._serve(accepted, connection, identity))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)
            task.add_done_callback(partial(_close_cancelled, accepted, connection))

    async def _serve(self, accepted: socket.socket, connection: _Connection, identity: Identity | None) -> None:
        timeouts: dict[str, float] = {}
        if identity is not None:
            timeouts = {
                "ssl_handshake_timeout": self._limits.handshake_timeout,
                "ssl_shutdown_timeout": self._limits.goodbye,
            }
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client that does not read: the kernel keeps little for it, and not for long, also after a close.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._limits.unread * 1000))
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=identity.context if identity is not None else None, **timeouts
            )
        except OSError as error:
            # Garbage, a scanner, an unacceptable client certificate, a timeout: the stranger's business, not news.
            connection.failed()
            _log.debug("handshake failed", source=str(connection.source), error=str(error)[:200])
        except BaseException:
            connection.failed()
            raise


def _close_cancelled(accepted: socket.socket, connection: _Connection, task: asyncio.Task[None]) -> None:
    if task.cancelled():  # perhaps before it began, and nobody else has them then
        accepted.close()
        connection.failed()


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and keeps the books."""

    def __init__(
        self,
        http: asyncio.Protocol,
        connections: Connections,
        identity: Identity | None,
        source: IPAddress | None,
        unread: float,
    ) -> None:
        self._http, self._connections = http, connections
        self._identity, self.source, self._unread = identity, source, unread
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._counted = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.session_reused:
            # unreachable with TLS 1.3 without tickets. A resumed session would prove neither side's key anew.
            self._transport.abort()
            return
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        client = x509.load_der_x509_certificate(der) if der else None
        self._connections.peers[transport] = Peer(self._identity, self.source, client)
        self._http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._http.data_received(data)

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()
        if self._transport is not None:
            # aiohttp would wait for ever, and the place be taken.
            self._patience = asyncio.get_running_loop().call_later(self._unread, self._transport.abort)

    def resume_writing(self) -> None:
        self._be_patient()
        self._http.resume_writing()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self._be_patient()
        if self._transport is not None and self._connections.peers.pop(self._transport, None) is not None:
            self._http.connection_lost(error)
        self.failed()

    def failed(self) -> None:
        """Give the place back, once."""
        if self._counted:
            self._counted = False
            self._connections.release(prefix(self.source))
