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
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from handfast.adapters.callers import callers
from handfast.adapters.pace import pause, sparing
from handfast.core.invitation import Address
from handfast.errors import HandfastError, Malformed, Refused, Unreachable, Unsafe
from handfast.sessions import hello, local
from handfast.sessions.channel import close_with, shut
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Control, Dial, Failed, Phone, interval
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.trust import Peer

AGAIN = 2.0  # seconds between two tries to find a server again that was there
CALL_BACK = 15.0  # seconds for a server to dial us when we asked for a stream
_CONFIRM = 5.0  # seconds for a server to say that it will phone
_MAX_ORDER = 4096  # bytes of what `session phone` says
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Way(ABC):
    """How streams come to be: we dial the server, or it dials us because we asked."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._controls: list[Link[Peer]] = []  # the newest, which counts, is the last
        self._here = asyncio.Event()
        self._handing: tuple[Phone, asyncio.Future[None]] | None = None

    async def ready(self) -> Peer:
        """Return the server, once it has proved itself."""
        await self._here.wait()
        return self._control().peer

    @abstractmethod
    async def stream(self, plain: socket.socket) -> Ended:
        """Carry ``plain``, which is ours from here on, to the service. :raises HandfastError: it never came to be."""

    async def hand_over(self, phone: Phone) -> None:
        """
        Tell the server where to phone from now on, and return when it has said that it will.

        :raises Unreachable: it is not here, or did not say so. :raises Refused: it is not one that phones.
        """
        control = self._control()
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._handing = phone, confirmed
        try:
            async with asyncio.timeout(_CONFIRM):
                await control.send(hello.encode(phone))
                await confirmed
        except TimeoutError:
            raise Unreachable("the server did not confirm it", hint="its own log may say more") from None
        finally:
            self._handing = None

    def _control(self) -> Link[Peer]:
        if not self._controls:
            raise Unreachable("the server is not connected", hint="try again when it is")
        return self._controls[-1]

    async def _hold(self, link: Link[Peer]) -> None:
        self._controls.append(link)
        self._here.set()
        try:
            await self.side.converse(link, self._act)
        finally:
            self._controls.remove(link)
            if not self._controls:
                self._here.clear()

    async def _act(self, message: Control) -> None:
        if self._handing is not None and message == self._handing[0]:
            if not self._handing[1].done():
                self._handing[1].set_result(None)
            return
        raise Malformed(f"not for a client: {type(message).__name__}", hint="both sides should run the same version")


class Forward(Way):
    """We dial."""

    def __init__(self, side: Side, server: Address) -> None:
        super().__init__(side)
        self._server = Endpoint(server)

    async def keep(self, told: Callable[[str], None], *, patient: bool) -> None:
        """
        Hold the control connection, and find the server again when it goes away.

        Without ``patient`` the first failure is raised: a wrong address is better told at once. That we were revoked
        is for ``Side.guard`` to see; a server that was may come back with a new credential.

        :raises HandfastError: the server is not there, or not ours.
        """
        failures = 0
        told = sparing(told)
        while True:
            try:
                async with self._dialled() as link:
                    await self.side.greet(link, "control")
                    if failures:
                        told(f"{self._server}: {link.peer.machine} is here again")
                    failures, patient = 0, True
                    await self._hold(link)
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
            shut(plain, reset=True)  # if it never began; an end would look like an empty answer

    async def hand_over(self, phone: Phone) -> None:
        """:raises Refused: always."""
        raise Refused("this server waits for clients, and phones nobody", hint="`serve --dial` is the one that phones")

    @contextlib.asynccontextmanager
    async def _dialled(self) -> AsyncIterator[Link[Peer]]:
        connected = await local.dial(self._server)
        async with self.side.engine.link(connected) as link:
            yield link


@dataclass(slots=True)
class _Waiting:
    """A local connection for which the server was asked to dial: it did, or could not; and then it is over."""

    plain: socket.socket
    asked: int  # the serial of the server
    link: Link[Peer] | None = None
    begun: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: asyncio.Future[Ended | HandfastError] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Reverse(Way):
    """The server dials; we asked it to over its control connection."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self._waiting: dict[str, _Waiting] = {}

    async def handle(self, link: Link[Peer]) -> None:
        """
        Take a server that dialled us: its control connection, or a stream that we asked for.

        :raises Refused: we did not. :raises HandfastError: why the connection ended.
        """
        said = await self.side.heard(link)
        if said.want == "control":
            await self.side.accept(link, said)
            await self._hold(link)  # the newest counts: a server that was restarted comes before the old one is dead
            return
        waiting = self._waiting.get(said.token or "")
        if waiting is None or waiting.asked != link.peer.serial or waiting.begun.done():
            hint = f"a server has {CALL_BACK:g} s to answer"
            error = Refused("nobody asked for this stream, or not any more", hint=hint)
            await self.side.refuse(link, error)
            raise error
        waiting.link = link
        waiting.begun.set_result(None)
        ended: Ended | HandfastError = Unreachable("this side is stopping")
        try:
            await self.side.accept(link, said)
            ended = await link.relay(waiting.plain)
        except HandfastError as error:
            ended = error
            raise
        finally:
            if not waiting.over.done():
                waiting.over.set_result(ended)

    async def stream(self, plain: socket.socket) -> Ended:
        """Ask the server to dial, and wait for it."""
        token = secrets.token_urlsafe(16)
        waiting: _Waiting | None = None
        try:
            async with asyncio.timeout(CALL_BACK):
                await self.ready()
                control = self._control()
                waiting = self._waiting[token] = _Waiting(plain, control.peer.serial)
                await control.send(hello.encode(Dial(token=token)))
                await waiting.begun
            ended = await waiting.over
        except TimeoutError:
            hint = "its log may say why"
            raise Unreachable(f"the server did not call back within {CALL_BACK:g} s", hint=hint) from None
        finally:
            self._waiting.pop(token, None)
            if waiting is not None and waiting.link is not None:
                waiting.link.abort(Unreachable("nobody waits for this stream any more"))
            shut(plain, reset=True)
        if isinstance(ended, HandfastError):
            raise ended
        return ended

    async def _act(self, message: Control) -> None:
        if isinstance(message, Failed):
            waiting = self._waiting.get(message.token)
            if waiting is not None and not waiting.begun.done():
                why = message.message or message.error
                waiting.begun.set_exception(Unreachable(f"the server says: {why}", hint="is its service running?"))
            return
        await super()._act(message)


@dataclass(frozen=True, slots=True)
class Door:
    """The local port: each connection of a user who is ``welcome`` becomes a stream."""

    way: Way
    welcome: Callable[[socket.socket], bool] = local.is_ours
    say: Callable[[str], None] = _log.warning

    async def open(self, listening: socket.socket) -> None:
        """Accept until cancelled."""
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        try:
            async for accepted, _ in callers(listening):
                if not self.welcome(accepted):
                    self.say(
                        "refused a local connection: it is not this user's, or it was over already, or the kernel does"
                        " not say whose it is (of --local unix:PATH it always does)"
                    )
                    accepted.close()
                    continue
                task = loop.create_task(self._one(accepted))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                close_with(task, accepted)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, accepted: socket.socket) -> None:
        try:
            ended = await self.way.stream(accepted)
        except HandfastError as error:
            self.say(f"no stream: {error.message}")
            return
        why = "" if ended.error is None else ended.error.message
        _log.info("stream ended", received=ended.received, sent=ended.sent, error=why)
        if why:
            self.say(f"a stream ended after {ended.received + ended.sent} bytes: {why}")


# --- `session phone`, said to the client that runs ---


def orders_path(path: Path) -> Path:
    """Return the socket on which a running client takes orders, beside its session file."""
    return path.with_name(f"{path.name}.ctl")


async def obey(listening: socket.socket, way: Way, leave: Callable[[str], None]) -> None:
    """Take orders of our own user until cancelled; after a hand-over ``leave`` is called with what was done."""
    loop = asyncio.get_running_loop()
    async for accepted, _ in callers(listening):
        with accepted:
            if not local.is_ours(accepted):
                continue
            reply, done = "ok", ""
            try:
                async with asyncio.timeout(_CONFIRM):
                    said = msgspec.json.decode(await loop.sock_recv(accepted, _MAX_ORDER), type=Phone)
                await way.hand_over(said)
                done = f"the server phones {said.to} now"
            except HandfastError as error:
                reply = error.message
            except (msgspec.DecodeError, UnicodeDecodeError, TimeoutError, OSError) as error:
                reply = f"not an order: {error}"
            with contextlib.suppress(OSError):
                await loop.sock_sendall(accepted, reply.encode())
            if done:
                leave(done)


def order(path: Path, to: Address, every: float) -> None:
    """
    Have the client that runs with this session file tell its server to phone ``to`` next, and leave.

    :raises UsageError: see ``interval``. :raises Unreachable: no client runs with this file.
    :raises Unsafe: another user listens in its place, who would only say that it was done.
    :raises Refused: its server is not there, or not one that phones.
    """
    phone = Phone(to=str(to), every=interval(every))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(3 * _CONFIRM)
        try:
            asking.connect(str(orders_path(path)))
            if not local.is_ours(asking):
                raise Unsafe(
                    f"{str(orders_path(path))!r} is another user's: it is not your client that listens there",
                    hint="keep the session file in a directory that only you can write to",
                )
            asking.sendall(msgspec.json.encode(phone))
            reply = asking.recv(_MAX_ORDER).decode(errors="replace")
        except OSError as error:
            raise Unreachable(
                f"no client runs with {str(path)!r}: {error.strerror or error}",
                hint="say it while `handfast session connect` runs with this file",
            ) from None
    if reply != "ok":
        raise Refused(f"the client says: {reply}", hint="try again when the server is connected")
