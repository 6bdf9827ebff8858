"""Whole runs with ParaView: pvserver behind a session's server, and the client of a ParaView on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.process import child_environment
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import HandfastError, UsageError
from handfast.sessions import local, paraview, paraview_server
from handfast.sessions.connect import Forward, Reverse, Way
from handfast.sessions.control import Side
from handfast.sessions.local import Endpoint
from handfast.sessions.paraview import FORWARD, Plan, Version
from handfast.sessions.paraview_client import JudgingSide, OnceWay, bring_together
from handfast.sessions.paraview_server import PvServer
from handfast.sessions.party import Party
from handfast.sessions.run import Told, about_of, at_work, hold_client, until_revoked
from handfast.sessions.serve import Caller, Server, phone_path

T = TypeVar("T")


def connect_id(party: Party) -> int:
    """Return the connect-id of the party's session."""
    return paraview.connect_id(party.root.public_bytes(Encoding.DER))


@dataclass(frozen=True, slots=True)
class Wanted:
    """How pvserver is wanted, as in ``paraview.plan``. ``keep_network``: not in a private one."""

    pvserver: str = "pvserver"
    native_reverse: bool = False
    keep_network: bool = False
    accept_open_port: bool = False
    extra: Sequence[str] = ()

    def plan(self, party: Party) -> Plan:
        """:raises HandfastError: see ``paraview.installation`` and ``paraview.plan``."""
        return paraview.plan(
            paraview.installation(self.pvserver),
            connect_id(party),
            namespaces=not self.keep_network and paraview_server.private_network(),
            native_reverse=self.native_reverse,
            accept_open_port=self.accept_open_port,
            extra=self.extra,
        )


async def serve(
    path: Path, wanted: Wanted, *, listen: Address | None, dial: Address | None, every: float, told: Told
) -> None:
    """
    Run pvserver behind the session, until cancelled. Clients come to ``listen``, or one is phoned at ``dial``.

    :raises HandfastError: the session file, ParaView, the address; pvserver does not run; we were revoked.
    """
    side = Side.open(path, Role.SERVER)
    plan = wanted.plan(side.trust.party)
    side.about |= plan.about
    if plan.warning:
        told.say(f"warning: {plan.warning}")
    with contextlib.ExitStack() as stack:
        # a port in use is said before anything is started
        listening = None if listen is None else stack.enter_context(local.public(listen))
        async with (
            PvServer(plan, say=told.say, overhear=lambda line: told.say(f"pvserver: {line}")) as pvserver,
            at_work(side, told),
        ):
            server = Server(side, Endpoint.parse(pvserver.endpoint))
            place, work = _serving(path, server, listening, dial, every, told)
            told.ready(place | about_of(side) | _meeting(side, plan.scheme) | {"paraview": plan.version.text})
            await _first(until_revoked(side, work), pvserver.ended())


def _serving(
    path: Path, server: Server, listening: socket.socket | None, dial: Address | None, every: float, told: Told
) -> tuple[dict[str, object], Coroutine[Any, Any, None]]:
    if listening is not None:
        place: dict[str, object] = {"listen": str(local.address_of(listening))}
        return place, server.side.engine.serve(listening, server.handle)
    if dial is None:
        raise UsageError("nowhere to listen and nobody to dial", hint="give --listen or --dial")
    caller = Caller(server, dial, every, memory=phone_path(path))
    return {"dial": str(caller.to), "every": caller.every}, caller.call_for_ever(told.say)


@dataclass(frozen=True, slots=True)
class Client:
    """
    A ParaView on this machine, and where it meets us: we listen at ``meeting`` (``cs``), or it does (``csrc``).

    ``version`` is None where none was found. ``once``: leave after the first stream, for whoever starts us for each.
    ``gui``: the program to start when the server is there, and to leave with.
    """

    meeting: Address
    scheme: str
    version: Version | None
    once: bool = False
    gui: str | None = None


async def client(path: Path, who: Client, *, server: Address | None, wait: Address | None, told: Told) -> str:
    """
    Be the client's side for a ParaView here, until cancelled or told to leave; return why it left.

    :raises HandfastError: as ``run.connect`` and ``run.wait``; another version of ParaView, or the other direction.
    """
    side = JudgingSide.open(path, Role.CLIENT)
    if not isinstance(side, JudgingSide):  # unreachable: a class method makes its own class
        raise TypeError(type(side))
    side.judge = lambda about: paraview.require_agreement(who.version, about, who.scheme)
    with contextlib.ExitStack() as stack:
        way: Way
        if server is not None:
            way = forward = Forward(side, server)
            keeping = forward.keep(told.say, patient=False)
        elif wait is not None:
            way = reverse = Reverse(side)
            listening = stack.enter_context(local.public(wait))
            keeping = side.engine.serve(listening, reverse.handle)
            told.say(f"waiting for the server at {local.address_of(listening)}")
        else:
            raise UsageError("no server, and nowhere to wait for one", hint="give HOST:PORT or --wait")
        once, here = OnceWay(way), asyncio.Event()

        def ready(place: dict[str, object]) -> None:
            told.ready(place | {"local": str(who.meeting)} | _meeting(side, who.scheme))
            here.set()

        works = [
            _attend(path, side, once if who.once else way, keeping, who, Told(ready, told.say), here),
            _misfit(side),
        ]
        works += [_over(once)] if who.once else []
        works += [_gui(who.gui, who, connect_id(side.trust.party), here)] if who.gui is not None else []
        async with at_work(side, told):
            return await _first(*works)


async def _attend(
    path: Path, side: Side, way: Way, keeping: Coroutine[Any, Any, None], who: Client, told: Told, here: asyncio.Event
) -> str:
    """Hold the session's client side, with a local port or with a ParaView that is dialled."""
    if who.scheme == FORWARD:
        return await hold_client(path, side, way, keeping, Endpoint(who.meeting), told)

    async def pairing() -> str:
        await here.wait()
        await bring_together(who.meeting, way, told.say)
        return ""

    with tempfile.TemporaryDirectory(prefix="handfast-paraview-") as directory:
        # ParaView listens by itself: the door of our own is one that nobody needs, for this user alone.
        door = Endpoint(path=Path(directory, "door"))
        return await _first(hold_client(path, side, way, keeping, door, told), pairing())


async def _gui(program: str, who: Client, number: int, here: asyncio.Event) -> str:
    """Start the GUI when the server is there, and return when it has ended."""
    await here.wait()
    process = await asyncio.create_subprocess_exec(
        program, f"--connect-id={number}", f"--server-url={who.scheme}://{who.meeting}",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=child_environment(),
    )  # fmt: skip
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
    return "ParaView has ended"


async def _misfit(side: JudgingSide) -> str:
    """:raises HandfastError: the server that came is not one for us."""
    raise await side.misfit


async def _over(way: OnceWay) -> str:
    await way.over.wait()
    return "the connection is over"


async def _first(*works: Coroutine[Any, Any, T]) -> T:
    """Run all until one ends, and return or raise what that one does; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for each in tasks:
            each.cancel()
        for each in tasks:
            with contextlib.suppress(asyncio.CancelledError, HandfastError):
                await each


def _meeting(side: Side, scheme: str) -> dict[str, object]:
    """What a ParaView has to be told."""
    return {"connect_id": connect_id(side.trust.party), "scheme": scheme}
