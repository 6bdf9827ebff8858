"""Whole runs of a server or a client: from the session file to the last stream. What ``cli`` starts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Fault, UsageError
from handfast.sessions import local
from handfast.sessions.connect import Door, Forward, Reverse, Way, obey, orders_path
from handfast.sessions.control import Side
from handfast.sessions.engine import Limits
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.serve import DialingServer, Server, phone_path
from handfast.sessions.tasks import beside, first

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """Where a run says what happens: ``ready`` once, with where it listens; ``say`` for people."""

    ready: Callable[[dict[str, object]], None]
    say: Callable[[str], None]


class Program(Protocol):
    """A service that a run starts: inside ``async with`` it is ready at ``endpoint``. Peers are told ``about`` it."""

    @property
    def about(self) -> dict[str, str]: ...
    @property
    def endpoint(self) -> Endpoint: ...
    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def ended(self) -> None:
        """Wait for its end. :raises HandfastError: always, for nobody has asked for it."""


async def serve(path: Path, listen: Address, service: Endpoint | Program, *, limits: Limits, told: Told) -> None:
    """
    Be the session's server and wait for clients, until cancelled. A program is started when all else is in order.

    :raises HandfastError: the file, the address; our own credential was taken back, or the program has ended.
    """
    side = Side.open(path, Role.SERVER, limits=limits, about=_about(service))
    with local.public(listen) as listening:
        async with at_work(side, told), _started(service) as (endpoint, ended):
            server = Server(side, endpoint, told.say)
            told.ready({"listen": str(local.address_of(listening)), "to": str(endpoint)} | about_of(side))
            await first(side.guard(), ended(), side.engine.serve(listening, server.handle))


async def call(
    path: Path, to: Address, every: float, service: Endpoint | Program, *, limits: Limits, told: Told
) -> None:
    """
    Be the session's server and phone a client, every ``every`` seconds while it is not there, until cancelled.

    :raises HandfastError: as ``serve``.
    """
    side = Side.open(path, Role.SERVER, limits=limits, about=_about(service))
    async with at_work(side, told), _started(service) as (endpoint, ended):
        caller = DialingServer(Server(side, endpoint, told.say), to, every, memory=phone_path(path))
        told.ready({"dial": str(caller.to), "every": caller.every, "to": str(endpoint)} | about_of(side))
        await first(side.guard(), ended(), caller.call_for_ever(told.say))


def _about(service: Endpoint | Program) -> dict[str, str]:
    return {} if isinstance(service, Endpoint) else service.about


@contextlib.asynccontextmanager
async def _started(
    service: Endpoint | Program,
) -> AsyncIterator[tuple[Endpoint, Callable[[], Coroutine[Any, Any, Any]]]]:
    if isinstance(service, Endpoint):
        yield service, asyncio.Event().wait  # for ever
    else:
        async with service:
            yield service.endpoint, service.ended


Welcome = Callable[[socket.socket], bool]  # whether a local connection is of somebody who may use the session


async def connect(
    path: Path, server: Address, door: Endpoint, *, limits: Limits, told: Told, welcome: Welcome = local.is_ours
) -> str:
    """
    Be a client that dials, with a local port, until cancelled or told to leave; return why it left.

    :raises HandfastError: the server is not there at first, or not ours; our credential was taken back.
    """
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with at_work(side, told), reaching(side, told, server=server) as (way, keeping):
        return await hold_client(path, side, way, keeping, opened(door, way, told, welcome), told)


async def wait(
    path: Path, listen: Address, door: Endpoint, *, limits: Limits, told: Told, welcome: Welcome = local.is_ours
) -> str:
    """Be a client that waits to be dialled, with a local port; otherwise as ``connect``."""
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with at_work(side, told), reaching(side, told, wait=listen) as (way, keeping):
        return await hold_client(path, side, way, keeping, opened(door, way, told, welcome), told)


@contextlib.asynccontextmanager
async def reaching(
    side: Side, told: Told, *, server: Address | None = None, wait: Address | None = None
) -> AsyncIterator[tuple[Way, Coroutine[Any, Any, None]]]:
    """
    Give a client's way to the server, which it dials or for whose call it waits, and the work that keeps it open.

    :raises UsageError: neither is given. :raises HandfastError: nobody can wait there.
    """
    if server is not None:
        forward = Forward(side, server)
        yield forward, forward.keep(told.say, patient=False)
    elif wait is not None:
        with local.public(wait) as listening:
            reverse = Reverse(side)
            told.say(f"waiting for the server at {local.address_of(listening)}")
            yield reverse, side.engine.serve(listening, reverse.handle)
    else:
        raise UsageError("no server, and nowhere to wait for one", hint="give HOST:PORT or --wait")


async def connect_once(path: Path, server: Address, plain: socket.socket, *, limits: Limits, told: Told) -> Ended:
    """
    Be a client that dials for one stream, which ``plain`` (a connected socket) becomes; return what came of it.

    :raises HandfastError: it never came to be.
    """
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with at_work(side, told):
        return await first(side.guard(), Forward(side, server).stream(plain))


async def wait_once(path: Path, listen: Address, plain: socket.socket, *, limits: Limits, told: Told) -> Ended:
    """Be a client that waits to be dialled, for one stream; otherwise as ``connect_once``."""
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with at_work(side, told), reaching(side, told, wait=listen) as (way, keeping):

        async def carry() -> Ended:
            await way.ready()
            return await way.stream(plain)

        async with beside(keeping):
            return await first(side.guard(), carry())


End = contextlib.AbstractContextManager[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]


async def hold_client(
    path: Path, side: Side, way: Way, keeping: Coroutine[Any, Any, None], end: End, told: Told
) -> str:
    """
    Keep a client's local ``end`` open once the server has proved itself, until told to leave; return why it left.

    ``end`` gives where programs meet us, and what makes streams of their connections until it is cancelled.
    """
    left: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def leave(why: str) -> None:
        if not left.done():
            left.set_result(why)

    async with beside(keeping) as kept, beside(side.guard()) as guarded:
        async with beside(way.ready()) as here:
            await _any(here, guarded, kept)
            peer = await here
        # Only now: whoever finds the port open finds the service behind it.
        with end as (where, meet), _orders(path, told) as orders:
            told.ready({"local": where, "server": peer.machine} | about_of(side))
            async with beside(meet()) as met, beside(_obey(orders, way, leave)) as obeyed:
                await _any(left, guarded, kept, met, obeyed)
                return await left


@contextlib.contextmanager
def opened(
    door: Endpoint, way: Way, told: Told, welcome: Welcome = local.is_ours
) -> Iterator[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
    """Be an ``End`` that is a local port, or a Unix socket."""
    with local.listening(door) as listening:
        where = str(door) if door.path is not None else str(local.address_of(listening))
        yield where, lambda: Door(way, welcome, told.say).open(listening)


async def _any(wanted: asyncio.Future[Any], *others: asyncio.Future[Any]) -> None:
    """Wait until one of these is over. :raises HandfastError: why one of the others is: none has an end of its own."""
    await asyncio.wait({wanted, *others}, return_when=asyncio.FIRST_COMPLETED)
    for each in others:
        if each.done():
            await each


@contextlib.contextmanager
def _orders(path: Path, told: Told) -> Iterator[socket.socket | None]:
    """Listen for `session phone`; a client for which that cannot be is a client all the same."""
    with contextlib.ExitStack() as stack:
        listening = None
        try:
            listening = stack.enter_context(local.listening(Endpoint(path=orders_path(path))))
        except Fault as error:
            told.say(f"`handfast session phone` cannot reach this client: {error.message}")
        yield listening


async def _obey(listening: socket.socket | None, way: Way, leave: Callable[[str], None]) -> None:
    if listening is None:
        await asyncio.Event().wait()
    else:
        await obey(listening, way, leave)


@contextlib.asynccontextmanager
async def at_work(side: Side, told: Told) -> AsyncIterator[None]:
    """Look for revocations while the block runs, and end every connection with it."""
    async with side.running(lambda error: told.say(f"revocation lists: {error.message}")):
        yield


def about_of(side: Side) -> dict[str, object]:
    """Return who we are, for the line that says ready."""
    own = side.trust.party
    return {"session": own.session, "name": own.name, "until": own.not_after.isoformat()}
