"""Whole runs of a server or a client: from the session file to the last stream. What ``cli`` and the library start."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import HandfastError, Unreachable
from handfast.sessions import local
from handfast.sessions.connect import Door, Forward, Reverse, Way, obey, orders_path
from handfast.sessions.control import Side
from handfast.sessions.engine import Limits
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.serve import Caller, Server, phone_path


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
        async with _at_work(side, told):
            server = Server(side, service)
            told.ready({"listen": str(local.address_of(listening)), "to": str(service)} | _about(side))
            await _until_revoked(side, side.engine.serve(listening, server.handle))


async def call(path: Path, to: Address, every: float, service: Endpoint, *, limits: Limits, told: Told) -> None:
    """
    Be the session's server and phone a client, every ``every`` seconds while it is not there, until cancelled.

    :raises HandfastError: the file; or our own credential was taken back.
    """
    side = Side.open(path, Role.SERVER, limits=limits)
    async with _at_work(side, told):
        caller = Caller(Server(side, service), to, every, memory=phone_path(path))
        told.ready({"dial": str(caller.to), "every": caller.every, "to": str(service)} | _about(side))
        await _until_revoked(side, caller.call_for_ever(told.say))


async def connect(path: Path, server: Address, door: Endpoint, *, limits: Limits, told: Told) -> str:
    """
    Be a client that dials, with a local port, until cancelled or told to leave; return why it left.

    :raises HandfastError: the server is not there at first, or not ours; our credential was taken back.
    """
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with _at_work(side, told):
        way = Forward(side, server)
        return await _client(path, side, way, way.keep(told.say, patient=False), door, told)


async def wait(path: Path, listen: Address, door: Endpoint, *, limits: Limits, told: Told) -> str:
    """Be a client that waits to be dialled, with a local port; otherwise as ``connect``."""
    side = Side.open(path, Role.CLIENT, limits=limits)
    with local.public(listen) as listening:
        async with _at_work(side, told):
            way = Reverse(side)
            told.say(f"waiting for the server at {local.address_of(listening)}")
            return await _client(path, side, way, side.engine.serve(listening, way.handle), door, told)


async def connect_once(path: Path, server: Address, plain: Any, *, limits: Limits, told: Told) -> Ended:
    """
    Be a client that dials for one stream, which ``plain`` (a connected socket) becomes; return what came of it.

    :raises HandfastError: it never came to be.
    """
    side = Side.open(path, Role.CLIENT, limits=limits)
    async with _at_work(side, told):
        return await Forward(side, server).stream(plain)


async def wait_once(path: Path, listen: Address, plain: Any, *, limits: Limits, told: Told) -> Ended:
    """Be a client that waits to be dialled, for one stream; otherwise as ``connect_once``."""
    side = Side.open(path, Role.CLIENT, limits=limits)
    with local.public(listen) as listening:
        async with _at_work(side, told):
            way = Reverse(side)
            serving = asyncio.create_task(side.engine.serve(listening, way.handle))
            told.say(f"waiting for the server at {local.address_of(listening)}")
            try:
                return await way.stream(plain)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)


async def _client(
    path: Path, side: Side, way: Way, keeping: Coroutine[Any, Any, None], door: Endpoint, told: Told
) -> str:
    left: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def leave(why: str) -> None:
        if not left.done():
            left.set_result(why)

    async with _beside(keeping) as kept:
        here = asyncio.create_task(way.ready())
        waited: set[asyncio.Task[Any]] = {here, kept}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not here.done():
            here.cancel()
            await kept  # which says why
            raise Unreachable("the server never came")
        peer = here.result()
        # Only now: whoever finds the port open finds the service behind it.
        with local.listening(door) as listening, local.listening(Endpoint(path=orders_path(path))) as orders:
            where = str(door) if door.path is not None else str(local.address_of(listening))
            told.ready({"local": where, "server": peer.machine} | _about(side))
            async with _beside(Door(way).open(listening)) as opened, _beside(obey(orders, way, leave)) as obeyed:
                watched = {kept, opened, obeyed, asyncio.ensure_future(_revoked(side))}
                await asyncio.wait({left, *watched}, return_when=asyncio.FIRST_COMPLETED)
                for task in watched:
                    if task.done():
                        await task
                    elif task not in {kept, opened, obeyed}:
                        task.cancel()
                return left.result() if left.done() else ""


@contextlib.asynccontextmanager
async def _at_work(side: Side, told: Told) -> AsyncIterator[None]:
    if side.trust.home_problem:
        told.say(side.trust.home_problem)
    async with side.running(lambda error: told.say(f"a revocation list cannot be used: {error.message}")):
        yield


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, HandfastError):
            await task


async def _until_revoked(side: Side, work: Coroutine[Any, Any, None]) -> None:
    async with _beside(work) as task, _beside(_revoked(side)) as revoked:
        await asyncio.wait({task, revoked}, return_when=asyncio.FIRST_COMPLETED)
        for each in (revoked, task):
            if each.done():
                await each


async def _revoked(side: Side) -> None:
    """Wait until our own credential is taken back. :raises Revoked: it was."""
    while True:
        side.trust.check_own()
        await asyncio.sleep(0.25)


def _about(side: Side) -> dict[str, object]:
    own = side.trust.party
    return {"session": own.session, "name": own.name, "until": own.not_after.isoformat()}
