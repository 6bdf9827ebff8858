"""
The session's server: it brings authenticated peers to one service, waiting for them or phoning them.

The service is dialled only for a peer that was authenticated and asked for a stream: pvserver, for one, gives its only
place to whoever connects first, and says nothing for ever to a silent caller.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from handfast.adapters import files
from handfast.adapters.pace import pause, sparing
from handfast.core.invitation import Address
from handfast.errors import (
    Fault,
    HandfastError,
    Malformed,
    NotFound,
    Refused,
    TooMuch,
    UntrustedPeer,
    UsageError,
)
from handfast.sessions import hello, local
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Control, Dial, Failed, Phone, interval
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.trust import Peer

_PATIENCE = 4  # failures before the address that our own user gave is tried, too
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def _silent(_text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server's side at work; ``service`` is what its peers get to. ``say`` gets what people want to know."""

    side: Side
    service: Endpoint
    say: Callable[[str], None] = _silent

    async def handle(self, link: Link[Peer]) -> None:
        """
        Serve a peer that dialled us: a stream, or its control connection.

        :raises HandfastError: why it ended: nothing came of a stream, or a control connection is over.
        """
        said = await self.side.heard(link)
        if said.want == "stream":
            await self._stream(link, said)
            return
        await self.side.accept(link, said)
        self.say(f"{link.peer.machine} is here")
        try:
            await self.side.converse(link, _refuse_all)
        except HandfastError as error:
            self.say(f"{link.peer.machine} is gone: {error.message}")
            raise

    async def _stream(self, link: Link[Peer], said: hello.Hello) -> None:
        try:
            plain = await local.dial(self.service)
        except HandfastError as error:
            self.say(f"no stream for {link.peer.machine}: {error.message}")
            await self.side.refuse(link, error, hello.UNREACHABLE_SERVICE)
            raise
        try:
            await self.side.accept(link, said)
        except BaseException:
            plain.close()
            raise
        self.told(await link.relay(plain), link.peer)

    def told(self, ended: Ended, peer: Peer) -> None:
        """Note how a stream ended; people hear of what did not end in order."""
        error = "" if ended.error is None else ended.error.message
        _log.info("stream ended", peer=peer.machine, received=ended.received, sent=ended.sent, error=error)
        if error:
            self.say(f"a stream of {peer.machine} ended after {ended.received + ended.sent} bytes: {error}")


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``FILE.phone``: whom to phone and how often (seconds), and who said so (a serial), so that a restart knows."""

    to: str
    every: float
    by: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{1,40}\Z")]


class DialingServer:
    """A server that dials its clients: reverse, and phoning home or a friend when the client said so."""

    def __init__(self, server: Server, to: Address, every: float, *, memory: Path) -> None:
        """``every`` is in seconds, ``memory`` keeps a hand-over. :raises UsageError: too often, or too rarely."""
        self._server, self._memory = server, memory
        every = interval(every)
        self._kept = kept = _remembered(memory)
        self._home = to, every
        self._by = int(kept.by, 16) if kept is not None else None
        self.to, self.every = (Address.parse(kept.to), kept.every) if kept is not None else self._home
        self._streams: set[asyncio.Task[None]] = set()
        self._was_here = False

    async def call_for_ever(self, told: Callable[[str], None]) -> None:
        """
        Dial, hold the conversation, and dial again, until cancelled.

        A peer that is not ours is told and tried again: somebody else may sit at that address for a while. That we
        were revoked is for ``Side.guard`` to see.
        """
        failures = 0
        told = sparing(told)
        try:
            while True:
                at = self._next(failures, told)
                try:
                    await self._call(at, told)
                except HandfastError as error:
                    told(f"{at}: {error.message}")
                failures = 0 if self._was_here else failures + 1
                await asyncio.sleep(pause(self.every, failures))
        finally:
            for task in self._streams:
                task.cancel()
            await asyncio.gather(*self._streams, return_exceptions=True)

    def _next(self, failures: int, told: Callable[[str], None]) -> Address:
        """
        Return whom to phone now.

        What somebody said counts until he is taken back. And when nobody is where he said, every second try goes to
        where the server's own user said: a friend's word must not lock the owner out.
        """
        if self._by is not None and self._server.side.trust.revoked(self._by):
            self._by, self._kept, (self.to, self.every) = None, None, self._home
            told(f"phoning {self.to} again: whoever said otherwise was revoked")
            with contextlib.suppress(OSError):
                self._memory.unlink(missing_ok=True)
        return self._home[0] if failures >= _PATIENCE and failures % 2 else self.to

    async def _call(self, at: Address, told: Callable[[str], None]) -> None:
        side = self._server.side
        self._was_here = False
        connected = await local.dial(Endpoint(at))
        async with side.engine.link(connected) as link:
            await side.greet(link, "control")
            self._was_here = True
            told(f"{link.peer.machine} is at {at}")

            async def act(message: Control) -> None:
                if isinstance(message, Dial):
                    await self._begin(link, at, message.token)
                elif isinstance(message, Phone):
                    await self._hand_over(message, link.peer.serial, told)
                    await link.send(hello.encode(message))  # the client leaves when it knows that we know

            await side.converse(link, act)

    async def _begin(self, control: Link[Peer], at: Address, token: str) -> None:
        # The half that a lone credential gets: for more the service would be dialled, and the link refused then.
        if len(self._streams) >= max(1, self._server.side.engine.limits.connections // 2):
            count = len(self._streams)
            error = TooMuch(f"{count} streams are open, the most that are allowed", hint="end some of them")
            await self._failed(control, token, error, error.code)
            return
        task = asyncio.create_task(self._stream(control, at, token))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _stream(self, control: Link[Peer], to: Address, token: str) -> None:
        side = self._server.side
        try:
            plain = await local.dial(self._server.service)
        except HandfastError as error:
            await self._failed(control, token, error, hello.UNREACHABLE_SERVICE)
            return
        try:
            connected = await local.dial(Endpoint(to))
            async with side.engine.link(connected) as link:
                if link.peer.serial != control.peer.serial:
                    raise UntrustedPeer("another peer of this session answered the call", hint="is the port shared?")
                await side.greet(link, "stream", token)
                self._server.told(await link.relay(plain), link.peer)
        except HandfastError as error:
            await self._failed(control, token, error, error.code)
        finally:
            plain.close()

    async def _failed(self, control: Link[Peer], token: str, error: HandfastError, code: str) -> None:
        self._server.say(f"no stream for {control.peer.machine}: {error.message}")
        with contextlib.suppress(HandfastError):
            await control.send(hello.encode(Failed(token=token, error=code, message=error.message[:1000])))

    async def _hand_over(self, message: Phone, by: int, told: Callable[[str], None]) -> None:
        said = Remembered(message.to, message.every, f"{by:x}")
        self.to, self.every, self._by = message.address, message.every, by
        told(f"phoning {self.to} from now on, every {self.every:g} s")
        if said == self._kept:
            return
        try:
            # In a thread: the disk may take its time, and the streams go on. Never two at once: this is awaited.
            await asyncio.to_thread(files.write_atomic, self._memory, msgspec.json.encode(said))
            self._kept = said
        except Fault as error:
            told(f"a restart would not know that: {error.message}")


def phone_path(path: Path) -> Path:
    """Return where a server remembers whom to phone, beside its session file."""
    return path.with_name(f"{path.name}.phone")


async def _refuse_all(message: Control) -> None:
    """:raises Malformed: always: a client of the forward mode has no reason to say anything."""
    raise Malformed(f"not for a server that waits: {type(message).__name__}", hint="use --dial on the server")


def _remembered(path: Path) -> Remembered | None:
    """:raises Unsafe: another user could have written it. :raises Refused: it is damaged."""
    try:
        kept = msgspec.json.decode(files.read_private(path), type=Remembered)
        Address.parse(kept.to)
        interval(kept.every)
    except NotFound:
        return None
    except (msgspec.DecodeError, Malformed, UsageError):
        hint = "remove it: the server phones where --dial says then"
        raise Refused(f"{str(path)!r} is damaged", hint=hint) from None
    return kept
