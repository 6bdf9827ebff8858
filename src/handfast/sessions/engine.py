"""
The data plane of a party: TLS with the peer, the verdict on it, frames, and then raw bytes to a plain socket.

Everything runs in the event loop that it is used from (uvloop, or asyncio's own; thousands of streams in one), and
nothing here knows who dialled, what a frame says, or who may come: the dial modes and ``sessions.trust`` do.

    engine = Engine(context, judge)
    async with engine.link(connected) as link:      # TLS and the judge's verdict, each within its time
        frame = await link.receive()                # at most 64 KiB, in 5 s
        await link.send(hello.encode(answer))
        ended = await link.relay(plain)             # until both directions have ended, or something broke

``link`` raises what went wrong, ``serve`` counts and logs it and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from handfast.adapters.tls import SessionContext
from handfast.errors import HandfastError, Malformed, Revoked, TooMuch, Unreachable
from handfast.sessions.channel import Channel, close_with
from handfast.sessions.relay import BUFFER, Ended, Relay

_GOODBYE = 2.0  # seconds for a peer to read why it was refused
_PAUSE = 0.1  # seconds, when the process has no descriptor left: the kernel's queue holds the callers meanwhile
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Known(Protocol):
    """What the engine wants to know of a peer: by which serial it may be cut off."""

    @property
    def serial(self) -> int: ...


P = TypeVar("P", bound=Known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What strangers and slow peers may take. Times are in seconds.

    ``strangers`` is how many connections may be in their handshake. One more throws out the one that has been silent
    longest: so a crowd of silent connections keeps nobody out who finishes his handshake in time.
    """

    connections: int = 1024  # of peers
    strangers: int = 256
    handshake: float = 10.0
    frame: float = 5.0
    idle: float | None = None  # for a stream without a byte either way; None is for ever


@dataclass(slots=True)
class Counters:
    """What has happened since the start; bytes are of streams that are over."""

    accepted: int = 0
    refused: int = 0
    cut: int = 0
    received: int = 0
    sent: int = 0


class Engine(Generic[P]):
    """
    All connections of one party.

    ``judge`` gets the peer's certificates (DER, its own first) and returns who it is, or raises: what it raises ends
    the connection, after ``refusal`` has made a frame of it for the peer. It is asked once a connection: whoever is
    revoked later has to be named to ``cut``.
    """

    def __init__(
        self,
        context: SessionContext,
        judge: Callable[[Sequence[bytes]], P],
        *,
        limits: Limits | None = None,
        refusal: Callable[[HandfastError], bytes] | None = None,
    ) -> None:
        self.context = context
        self.limits = limits or Limits()
        self.counters = Counters()
        self._judge, self._refusal = judge, refusal
        self._buffer = memoryview(bytearray(BUFFER))  # of every relay: each leaves it empty before another runs
        self._strangers: dict[Channel, None] = {}  # in the order in which they came
        self._links: defaultdict[int, set[Link[P]]] = defaultdict(set)
        self._open = 0

    @property
    def open(self) -> int:
        """How many peers are connected now."""
        return self._open

    @contextlib.asynccontextmanager
    async def link(self, connected: socket.socket) -> AsyncIterator[Link[P]]:
        """
        Authenticate the peer behind a connected TCP socket, which is ours from here on, and give the link to it.

        At the end of the block the connection is over, in whatever state it was.

        :raises UntrustedPeer: not a peer of this session. :raises Revoked, Refused: what the judge says.
        :raises Malformed: not TLS. :raises Unreachable: silent, or gone. :raises TooMuch: no place left.
        """
        channel = Channel(connected, self.context)
        try:
            link = await self._authenticate(channel)
        except BaseException:
            self.counters.refused += 1
            channel.abort(Unreachable("refused"))
            raise
        self._links[link.peer.serial].add(link)
        self._open += 1
        self.counters.accepted += 1
        try:
            yield link
        finally:
            self._open -= 1
            self._forget(link)
            link.abort(Unreachable("the connection was closed"), reset=False)

    async def serve(self, listening: socket.socket, handle: Callable[[Link[P]], Awaitable[object]]) -> None:
        """
        Accept from ``listening`` until cancelled, and call ``handle`` for each peer, each in a task of its own.

        What a stranger does is counted and logged. So is a ``HandfastError`` of ``handle``; anything else is a bug of
        ours, logged with its place, and ends that connection only.
        """
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    accepted, address = await loop.sock_accept(listening)
                except OSError as error:  # no descriptor left, or the caller was gone before we looked
                    _log.warning("cannot accept", error=error.strerror)
                    await asyncio.sleep(_PAUSE)
                    continue
                task = loop.create_task(self._one(accepted, str(address[0]) if address else "", handle))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                close_with(task, accepted)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self, serials: Collection[int], why: str = "its credential was revoked") -> int:
        """Reset all connections of these peers at once, whatever they are doing; return how many."""
        links = [link for serial in serials for link in self._links.get(serial, ())]
        for link in links:
            link.abort(Revoked(f"the connection of {link.peer.serial:032x} was cut: {why}"))
        self.counters.cut += len(links)
        return len(links)

    def close(self) -> None:
        """Reset every connection, strangers' too; who waits on one is told."""
        self.cut(list(self._links), why="this side is stopping")
        for channel in list(self._strangers):
            channel.abort(Unreachable("this side is stopping"))

    async def _one(self, accepted: socket.socket, source: str, handle: Callable[[Link[P]], Awaitable[object]]) -> None:
        try:
            async with self.link(accepted) as link:
                await handle(link)
        except HandfastError as error:
            _log.info("connection ended", source=source, code=error.code, error=error.message)
        except Exception:  # noqa: BLE001  the others go on
            _log.exception("connection failed", source=source)

    async def _authenticate(self, channel: Channel) -> Link[P]:
        if len(self._strangers) >= self.limits.strangers:
            longest = next(iter(self._strangers))
            del self._strangers[longest]
            longest.abort(
                TooMuch("thrown out for a newer connection: too many at once that have not said who they are")
            )
        self._strangers[channel] = None
        try:
            async with _within(self.limits.handshake, "finish the TLS handshake"):
                certificate = await channel.handshake()
            peer = self._judge([certificate])
            if self._open >= self.limits.connections:
                raise TooMuch(f"{self._open} connections are open, the most that are allowed", after=1)
        except HandfastError as error:
            await self._goodbye(channel, error)
            raise
        finally:
            self._strangers.pop(channel, None)
        return Link(self, channel, peer, self._buffer)

    async def _goodbye(self, channel: Channel, error: HandfastError) -> None:
        """Tell a peer that came through TLS why it was refused; to others OpenSSL has sent its alert."""
        with contextlib.suppress(TimeoutError, HandfastError):
            async with asyncio.timeout(_GOODBYE):
                if self._refusal is not None and channel.established:
                    await channel.send(self._refusal(error))
                await channel.farewell()

    def _forget(self, link: Link[P]) -> None:
        links = self._links[link.peer.serial]
        links.discard(link)
        if not links:
            del self._links[link.peer.serial]


class Link(Generic[P]):
    """A connection to a peer that was judged: frames first, then, once, raw bytes."""

    def __init__(self, engine: Engine[P], channel: Channel, peer: P, buffer: memoryview) -> None:
        self.peer = peer
        self._engine, self._channel, self._buffer = engine, channel, buffer
        self._relay: Relay | None = None

    async def receive(self, *, within: float | None = None) -> bytes:
        """
        Return the body of the next frame: two bytes of length (big-endian) and that much, of which nothing is checked.

        ``within`` is how many seconds the whole frame may take, the engine's limit by default.

        :raises Unreachable: it did not come, or the peer is gone. :raises UntrustedPeer: the peer refused us.
        :raises Malformed: an empty frame, or no TLS. :raises Revoked: cut off meanwhile.
        """
        async with _within(within or self._engine.limits.frame, "say what it wants"):
            length = int.from_bytes(await self._channel.receive(2), "big")
            if not length:
                raise Malformed("an empty frame", hint="the peer does not speak this protocol")
            return await self._channel.receive(length)

    async def send(self, frame: bytes) -> None:
        """Send a whole frame (``hello.encode`` makes one). :raises Unreachable: the peer is gone, or does not read."""
        async with _within(self._engine.limits.frame, "read what we say"):
            await self._channel.send(frame)

    async def dismiss(self, frame: bytes) -> None:
        """Send a last frame, let the peer read it for two seconds at most, and close. Never raises."""
        with contextlib.suppress(TimeoutError, HandfastError):
            async with asyncio.timeout(_GOODBYE):
                await self._channel.send(frame)
                await self._channel.farewell()

    async def relay(self, plain: socket.socket) -> Ended:
        """
        Pass bytes between the peer and ``plain`` (connected; TCP or Unix), which is ours from here on.

        Returns when both directions have ended, when one broke, or when the peer was cut off.
        """
        self._relay = Relay(self._channel, plain, self._buffer, idle=self._engine.limits.idle)
        ended = await self._relay.run()
        self._engine.counters.received += ended.received
        self._engine.counters.sent += ended.sent
        return ended

    def abort(self, why: HandfastError, *, reset: bool = True) -> None:
        """End it at once, both sides; whoever waits on it gets ``why``."""
        if self._relay is not None and not self._relay.over:
            self._relay.fail(why)
        self._channel.abort(why, reset=reset)


@contextlib.asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unreachable(f"the peer did not {what} within {seconds:g} s", hint="is it busy, or no session?") from None
