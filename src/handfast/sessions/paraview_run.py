"""Whole runs with ParaView: pvserver behind a session's server, and the client of a ParaView on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.clock import SystemClock
from handfast.adapters.process import child_environment
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Unreachable, UsageError
from handfast.sessions import paraview, paraview_server, party, run
from handfast.sessions.engine import Limits
from handfast.sessions.local import Endpoint
from handfast.sessions.paraview import FORWARD, Plan, Version
from handfast.sessions.paraview_client import JudgingSide, OnceWay, bring_together
from handfast.sessions.paraview_server import PvServer
from handfast.sessions.party import Party
from handfast.sessions.run import Told
from handfast.sessions.tasks import first


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
    own = party.read(path, now=SystemClock().now())
    plan = wanted.plan(own)
    if plan.warning:
        told.say(f"warning: {plan.warning}")
    program = PvServer(plan, say=told.say, overhear=lambda line: told.say(f"pvserver: {line}"))
    limits, telling = Limits(), _telling(told, own, {"scheme": plan.scheme, "paraview": plan.version.text})
    if listen is not None:
        await run.serve(path, listen, program, limits=limits, told=telling)
    elif dial is not None:
        await run.call(path, dial, every, program, limits=limits, told=telling)
    else:
        raise UsageError("nowhere to listen and nobody to dial", hint="give --listen or --dial")


@dataclass(frozen=True, slots=True)
class Client:
    """
    A ParaView on this machine, and where it meets us: we listen at ``meeting`` (``cs``), or it does (``csrc``).

    ``version`` is None where none was found. ``within``: leave after the first stream, or when none has begun in so
    many seconds; for whoever starts us for each. ``gui``: the program to start when the server is there, and to leave
    with.
    """

    meeting: Address
    scheme: str
    version: Version | None
    within: float | None = None
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
    number, here = connect_id(side.trust.party), asyncio.Event()
    telling = _telling(told, side.trust.party, {"scheme": who.scheme}, here)
    async with run.at_work(side, told), run.reaching(side, told, server=server, wait=wait) as (reached, keeping):
        way = OnceWay(reached)
        end: run.End
        if who.scheme == FORWARD:
            end = run.opened(Endpoint(who.meeting), way, told)
        else:  # ParaView listens by itself
            end = contextlib.nullcontext((str(who.meeting), lambda: bring_together(who.meeting, way, told.say)))
        works = [_misfit(side), run.hold_client(path, side, way, keeping, end, telling)]
        works += [_over(way, who.within)] if who.within is not None else []
        works += [_gui(who.gui, who, number, here)] if who.gui is not None else []
        return await first(*works)


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


async def _over(way: OnceWay, within: float) -> str:
    """:raises Unreachable: nobody has come."""
    try:
        async with asyncio.timeout(within):
            await way.begun.wait()
    except TimeoutError:
        raise Unreachable(f"no ParaView has come within {within:g} s", hint="--within has it wait longer") from None
    await way.over.wait()
    return "the connection is over"


def _telling(told: Told, own: Party, about: dict[str, str], here: asyncio.Event | None = None) -> Told:
    """Return ``told`` with what a ParaView has to be told, too; then ``here`` is set."""

    def ready(place: dict[str, object]) -> None:
        told.ready(place | about | {"connect_id": connect_id(own)})
        if here is not None:
            here.set()

    return Told(ready, told.say)
