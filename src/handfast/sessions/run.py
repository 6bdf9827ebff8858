"""Whole runs of a server or a client: from the session file to the last stream. What ``cli`` and the library start."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError
from handfast.sessions import local
from handfast.sessions.connect import Door, Forward, Reverse, Way, obey, orders_path
from handfast.sessions.control import Side
from handfast.sessions.engine import Limits
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.serve import Caller, Server, phone_path

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """Where a run says what happens: ``ready`` once, with where it listens; ``say`` for people."""

    ready: Callable[[dict[str, object]], None]
    say: Callable[[str], None]


async def serve(path: Path, listen: Address, service: Endpoint, *, limits: Limits, told: Told) -> None:
    """
    Be the session's server and wait for clients, until cancelled.

    :raises HandfastError: the file, the address; or our own credential was taken back.
    """
    side = Side.open(path, Role.SERVER, limits=limits)
    with local.public(listen) as listening:
        async with at_work(side, told):
            server = Server(side, service, told.say)
            told.ready({"listen": str(local.address_of(listening)), "to": str(service)} | about_of(side))
            await until_revoked(side, side.engine.serve(listening, server.handle))


async def call(path: Path, to: Address, every: float, service: Endpoint, *, limits: Limits, told: Told) -> None:
    """
    Be the session's server and phone a client, every ``every`` seconds while it is not there, until cancelled.

    :raises HandfastError: the file; or our own credential was taken back.
    """
    side = Side.open(path, Role.SERVER, limits=limits)
    async with at_work(side, told):
        caller = Caller(Server(side, service, told.say), to, every, memory=phone_path(path))
        told.ready({"dial": str(caller.to), "every": caller.every, "to": str(service)} | about_of(side))
        await until_revoked(side, caller.call_for_ever(told.say))


async def connect(path: Path, server: Address, door: Endpoint, *, limits: Limits, told: Told) -> str:
    """
    Be a client that dials, with a local port, until cancelled or told to leave; return why it left.

    :raises HandfastError: the server is not there at first, or not ours; our credential was taken back.
    """
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with at_work(side, told):
        way = Forward(side, server)
        return await hold_client(path, side, way, way.keep(told.say, patient=False), door, told)


async def wait(path: Path, listen: Address, door: Endpoint, *, limits: Limits, told: Told) -> str:
    """Be a client that waits to be dialled, with a local port; otherwise as ``connect``."""
    side = Side.open(path, Role.CLIENT, limits=limits)
    with local.public(listen) as listening:
        async with at_work(side, told):
            way = Reverse(side)
            told.say(f"waiting for the server at {local.address_of(listening)}")
            return await hold_client(path, side, way, side.engine.serve(listening, way.handle), door, told)


async def connect_once(path: Path, server: Address, plain: Any, *, limits: Limits, told: Told) -> Ended:
    """
    Be a client that dials for one stream, which ``plain`` (a connected socket) becomes; return what came of it.

    :raises HandfastError: it never came to be.
    """
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with at_work(side, told):
        return await _once(side, Forward(side, server).stream(plain))


async def wait_once(path: Path, listen: Address, plain: Any, *, limits: Limits, told: Told) -> Ended:
    """Be a client that waits to be dialled, for one stream; otherwise as ``connect_once``."""
    side = Side.open(path, Role.CLIENT, limits=limits)
    with local.public(listen) as listening:
        async with at_work(side, told):
            way = Reverse(side)
            told.say(f"waiting for the server at {local.address_of(listening)}")

            async def carry() -> Ended:
                await way.ready()
                return await way.stream(plain)

            async with _beside(side.engine.serve(listening, way.handle)):
                return await _once(side, carry())


async def _once(side: Side, stream: Coroutine[Any, Any, Ended]) -> Ended:
    async with _beside(stream) as ended, _beside(side.guard()) as guarded:
        await _any(ended, guarded)
        return await ended


async def hold_client(
    path: Path, side: Side, way: Way, keeping: Coroutine[Any, Any, None], door: Endpoint, told: Told
) -> str:
    """Keep a client's local port open once the server has proved itself, until told to leave; return why it left."""
    left: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def leave(why: str) -> None:
        if not left.done():
            left.set_result(why)

    async with _beside(keeping) as kept, _beside(side.guard()) as guarded:
        async with _beside(way.ready()) as here:
            await _any(here, guarded, kept)
            peer = await here
        # Only now: whoever finds the port open finds the service behind it.
        with local.listening(door) as listening, _orders(path, told) as orders:
            where = str(door) if door.path is not None else str(local.address_of(listening))
            told.ready({"local": where, "server": peer.machine} | about_of(side))
            async with (
                _beside(Door(way, say=told.say).open(listening)) as opened,
                _beside(_obey(orders, way, leave)) as obeyed,
            ):
                await _any(left, guarded, kept, opened, obeyed)
                return await left


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
    if side.trust.home_problem:
        told.say(side.trust.home_problem)
    async with side.running(lambda error: told.say(f"a revocation list: {error.message}")):
        yield


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, HandfastError):
            await task


async def until_revoked(side: Side, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until it ends or our own credential does. :raises HandfastError: whichever it was."""
    async with _beside(work) as task, _beside(side.guard()) as guarded:
        await _any(task, guarded)
        await task


def about_of(side: Side) -> dict[str, object]:
    """Return who we are, for the line that says ready."""
    own = side.trust.party
    return {"session": own.session, "name": own.name, "until": own.not_after.isoformat()}
