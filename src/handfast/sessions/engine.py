"""
The data plane of a party: TLS with the peer, the verdict on it, frames, and then raw bytes to a plain socket.

Everything runs in the event loop that it is used from (uvloop, or asyncio's own; thousands of streams in one), and
nothing here knows who dialled, what a frame says, or who may come: the dial modes and ``sessions.trust`` do.

    engine = Engine(context, judge)
    async with engine.link(connected) as link:      # TLS and the judge's verdict, each within its time
        frame = await link.receive()                # at most 64 KiB, in 5 s
        await link.send(hello.encode(answer))
        ended = await link.relay(plain)             # until both directions have ended, or something broke

``link`` raises what went wrong, ``serve`` logs it and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from handfast.adapters.callers import callers
from handfast.adapters.seldom import Seldom
from handfast.adapters.tls import SessionContext
from handfast.errors import HandfastError, Malformed, Revoked, TooMuch, Unreachable, UntrustedPeer
from handfast.sessions.channel import NO_CERTIFICATE, Channel, close_with
from handfast.sessions.relay import BUFFER, Ended, Relay

_GOODBYE = 2.0  # seconds for a peer to read why it was refused
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class HasSerial(Protocol):
    """What the engine wants to know of a peer: by which serial it may be cut off."""

    @property
    def serial(self) -> int: ...


P = TypeVar("P", bound=HasSerial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What strangers and slow peers may take. Times are in seconds.

    ``strangers`` is how many connections may be in their handshake. One more throws out the one that has been silent
    longest: so a crowd of silent connections keeps nobody out who finishes his handshake in time.
    """

    connections: int = 2048  # of peers; for one alone half of them, see ``Engine._check_place``
    strangers: int = 256
    handshake: float = 10.0
    frame: float = 5.0
    answer: float = 20.0  # to a hello: the peer may have to dial its service first
    idle: float | None = None  # for a stream without a byte either way; None is for ever


class Engine(Generic[P]):
    """
    All connections of one party.

    ``judge`` gets the peer's certificate (DER) and returns who it is, or raises: what it raises ends the connection,
    after ``refusal`` has made a frame of it for the peer. It is asked once a connection: whoever is revoked later has
    to be named to ``cut``.
    """

    def __init__(
        self,
        context: SessionContext,
        judge: Callable[[bytes], P],
        *,
        limits: Limits | None = None,
        refusal: Callable[[HandfastError], bytes] | None = None,
    ) -> None:
        self.context = context
        self.limits = limits or Limits()
        self._judge, self._refusal = judge, refusal
        self._buffer = memoryview(bytearray(BUFFER))  # of every relay: each leaves it empty before another runs
        self._strangers: dict[Channel, None] = {}  # in the order in which they came
        self._links: defaultdict[int, set[Link[P]]] = defaultdict(set)
        self._said = Seldom()

    @property
    def open(self) -> int:
        """How many peers are connected now."""
        return sum(map(len, self._links.values()))

    def peers(self) -> list[P]:
        """Return who is connected now, each credential once."""
        return [next(iter(links)).peer for links in self._links.values()]

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
            channel.abort(Unreachable("refused"))
            raise
        self._links[link.peer.serial].add(link)
        try:
            yield link
        finally:
            self._forget(link)
            link.abort(Unreachable("the connection was closed"), reset=False)

    async def serve(self, listening: socket.socket, handle: Callable[[Link[P]], Awaitable[object]]) -> None:
        """
        Accept from ``listening`` until cancelled, and call ``handle`` for each peer, each in a task of its own.

        What a stranger does is logged. So is a ``HandfastError`` of ``handle``; anything else is a bug of
        ours, logged with its place, and ends that connection only.
        """
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        try:
            async for accepted, source in callers(listening):
                task = loop.create_task(self._one(accepted, source, handle))
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
            self._report(source, error)
        except Exception:  # noqa: BLE001  the others go on
            _log.exception("connection failed", source=source)

    def _report(self, source: str, error: HandfastError) -> None:
        """Log why a connection ended: who tries without a right to is news; who scans ports, or left, is not."""
        before = None
        if isinstance(error, (Revoked, UntrustedPeer)) and error.message != NO_CERTIFICATE:
            before = self._said.due(error.code)
        if before is not None:
            _log.warning("refused", source=source, code=error.code, error=error.message, before=before)
        else:
            _log.info("connection ended", source=source, code=error.code, error=error.message)

    def _check_place(self, serial: int) -> None:
        """
        Let nobody have more places than he leaves free.

        So a friend who takes all that he gets leaves half of them to the others, and a second one half of that. A share
        that is the same for each would be too little for one client alone, or no bound for several; and to throw
        somebody out for a newcomer, as strangers are, would break a stream that has done no harm.

        :raises TooMuch: that is what it would be.
        """
        held, free = len(self._links.get(serial, ())), self.limits.connections - self.open
        if held >= free:
            message = f"{held} connections of this credential are open, and {free} places are left"
            raise TooMuch(message, hint="end some of them", after=1)

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
            peer = self._judge(certificate)
            self._check_place(peer.serial)
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

    async def receive(self, *, within: float | None = None, to: str = "say what it wants") -> bytes:
        """
        Return the body of the next frame: two bytes of length (big-endian) and that much, of which nothing is checked.

        ``within`` is how many seconds the whole frame may take, the engine's limit by default; ``to`` says, if it does
        not come, what the peer did not do.

        :raises Unreachable: it did not come, or the peer is gone. :raises UntrustedPeer: the peer refused us.
        :raises Malformed: an empty frame, or no TLS. :raises Revoked: cut off meanwhile.
        """
        async with _within(within or self._engine.limits.frame, to):
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
        return await self._relay.run()

    def leave(self) -> None:
        """
        Say that we end it, if that can be said at once: a peer cannot tell a silent end from an accident.

        Only for a control connection. A stream that is not over must not get an end that looks like its own.
        """
        if self._channel.closed is None:
            with contextlib.suppress(HandfastError):
                self._channel.finish()

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
