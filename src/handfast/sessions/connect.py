"""
The session's client: a local port, or standard input and output, that lead to the server's service.

In this order: the server proves itself, then the local port opens. A program that found an open port behind which
nobody is would report something else than the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from handfast.core.invitation import Address
from handfast.errors import Fault, HandfastError, Malformed, Refused, Revoked, Unreachable
from handfast.sessions import hello, local
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Control, Dial, Failed, Phone
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.serve import pause
from handfast.sessions.trust import Peer

AGAIN = 2.0  # seconds between two tries to find a server again that was there
CALL_BACK = 15.0  # seconds for a server to dial us when we asked for a stream
_MAX_ORDER = 4096  # bytes of what `session phone` says
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Way:
    """How streams come to be: we dial the server, or it dials us because we asked."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._control: Link[Peer] | None = None
        self._here = asyncio.Event()

    async def ready(self) -> Peer:
        """Return the server, once it has proved itself."""
        await self._here.wait()
        if self._control is None:  # unreachable: it was set before the event
            raise Fault("no control connection")
        return self._control.peer

    async def stream(self, plain: socket.socket) -> Ended:
        """Carry ``plain``, which is ours from here on, to the service. :raises HandfastError: it never came to be."""
        raise NotImplementedError

    async def hand_over(self, phone: Phone) -> None:
        """Tell the server where to phone from now on. :raises Unreachable: it is not here."""
        if self._control is None:
            raise Unreachable("the server is not connected", hint="try again when it is")
        await self._control.send(hello.encode(phone))

    async def _hold(self, link: Link[Peer]) -> None:
        self._control = link
        self._here.set()
        try:
            await self.side.converse(link, self._act)
        finally:
            if self._control is link:
                self._control = None
                self._here.clear()

    async def _act(self, message: Control) -> None:
        raise Malformed(f"not for a client: {type(message).__name__}", hint="both sides should run the same version")


class Forward(Way):
    """We dial."""

    def __init__(self, side: Side, server: Address) -> None:
        super().__init__(side)
        self._server = Endpoint(server)

    async def keep(self, told: Callable[[str], None], *, patient: bool) -> None:
        """
        Hold the control connection, and find the server again when it goes away.

        Without ``patient`` the first failure is raised: a wrong address is better told at once.

        :raises HandfastError: the server is not there, or not ours.
        """
        failures = 0
        while True:
            try:
                async with self._dialled() as link:
                    await self.side.greet(link, "control")
                    failures, patient = 0, True
                    await self._hold(link)
            except Revoked:
                raise
            except HandfastError as error:
                if not patient:
                    raise
                told(f"{self._server}: {error.message}")
            failures += 1
            await asyncio.sleep(pause(AGAIN, failures))

    async def stream(self, plain: socket.socket) -> Ended:
        """Dial for one stream."""
        try:
            async with self._dialled() as link:
                await self.side.greet(link, "stream")
                return await link.relay(plain)
        finally:
            plain.close()

    @contextlib.asynccontextmanager
    async def _dialled(self) -> AsyncIterator[Link[Peer]]:
        connected = await local.dial(self._server)
        async with self.side.engine.link(connected) as link:
            yield link


@dataclass(slots=True)
class _Waiting:
    """A local connection for which the server was asked to dial: it did, or could not; and then it is over."""

    plain: socket.socket
    begun: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: asyncio.Future[Ended] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Reverse(Way):
    """The server dials; we asked it to over its control connection."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self._waiting: dict[str, _Waiting] = {}

    async def handle(self, link: Link[Peer]) -> None:
        """Take a server that dialled us: its control connection, or a stream that we asked for."""
        said = await self.side.heard(link)
        if said.want == "control":
            await self.side.accept(link, said)
            await self._hold(link)  # the newest counts: a server that was restarted comes before the old one is dead
            return
        waiting = self._waiting.pop(said.token or "", None)
        if waiting is None:
            error = Refused("nobody asked for this stream, or not any more")
            await self.side.refuse(link, error)
            raise error
        if waiting.begun.done():
            raise Unreachable("nobody waits for this stream any more")
        waiting.begun.set_result(None)
        try:
            await self.side.accept(link, said)
            ended = await link.relay(waiting.plain)
        except HandfastError as error:
            if not waiting.over.done():
                waiting.over.set_exception(error)
            raise
        if not waiting.over.done():
            waiting.over.set_result(ended)

    async def stream(self, plain: socket.socket) -> Ended:
        """Ask the server to dial, and wait for it."""
        token, waiting = secrets.token_urlsafe(16), _Waiting(plain)
        try:
            await self.ready()
            if self._control is None:
                raise Unreachable("the server is gone", hint="it phones again by itself")
            self._waiting[token] = waiting
            await self._control.send(hello.encode(Dial(token=token)))
            try:
                async with asyncio.timeout(CALL_BACK):
                    await waiting.begun
            except TimeoutError:
                hint = "its log may say why"
                raise Unreachable(f"the server did not call back within {CALL_BACK:g} s", hint=hint) from None
            return await waiting.over
        finally:
            self._waiting.pop(token, None)
            plain.close()

    async def _act(self, message: Control) -> None:
        if isinstance(message, Failed):
            waiting = self._waiting.pop(message.token, None)
            if waiting is not None and not waiting.begun.done():
                why = message.message or message.error
                waiting.begun.set_exception(Unreachable(f"the server says: {why}", hint="is its service running?"))
            return
        await super()._act(message)


@dataclass(slots=True)
class Door:
    """The local port: each of our own user's connections becomes a stream."""

    way: Way
    any_user: bool = False

    async def open(self, listening: socket.socket) -> None:
        """Accept until cancelled."""
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except OSError as error:
                    _log.warning("cannot accept", error=error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                accepted.setblocking(False)
                if not (self.any_user or local.is_ours(accepted)):
                    _log.warning("refused a local connection of another user")
                    accepted.close()
                    continue
                task = loop.create_task(self._one(accepted))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, accepted: socket.socket) -> None:
        try:
            ended = await self.way.stream(accepted)
        except HandfastError as error:
            _log.warning("no stream", error=error.message)
            return
        why = "" if ended.error is None else ended.error.message
        _log.info("stream ended", received=ended.received, sent=ended.sent, error=why)


# --- `session phone`, said to the client that runs ---


def orders_path(path: Path) -> Path:
    """Return the socket on which a running client takes orders, beside its session file."""
    return path.with_name(f"{path.name}.ctl")


async def obey(listening: socket.socket, way: Way, leave: Callable[[str], None]) -> None:
    """Take orders of our own user until cancelled; after a hand-over ``leave`` is called with what was done."""
    loop = asyncio.get_running_loop()
    while True:
        accepted, _ = await loop.sock_accept(listening)
        with accepted:
            accepted.setblocking(False)
            if not local.is_ours(accepted):
                continue
            reply, done = "ok", ""
            try:
                async with asyncio.timeout(5):
                    said = msgspec.json.decode(await loop.sock_recv(accepted, _MAX_ORDER), type=Phone)
                    await way.hand_over(said)
                    done = f"the server phones {said.to} now"
            except HandfastError as error:
                reply = error.message
            except (msgspec.DecodeError, TimeoutError) as error:
                reply = f"not an order: {error}"
            with contextlib.suppress(OSError):
                await loop.sock_sendall(accepted, reply.encode())
            if done:
                leave(done)


def order(path: Path, to: Address, every: float) -> None:
    """
    Have the client that runs with this session file tell its server to phone ``to`` next, and leave.

    :raises Unreachable: no client runs with this file. :raises Refused: its server is not there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(10)
        try:
            asking.connect(str(orders_path(path)))
            asking.sendall(msgspec.json.encode(Phone(to=str(to), every=every)))
            reply = asking.recv(_MAX_ORDER).decode(errors="replace")
        except OSError as error:
            raise Unreachable(
                f"no client runs with {str(path)!r}: {error.strerror or error}",
                hint="say it while `handfast session connect` runs with this file",
            ) from None
    if reply != "ok":
        raise Refused(f"the client says: {reply}", hint="try again when the server is connected")
