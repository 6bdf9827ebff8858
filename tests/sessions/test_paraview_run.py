"""Whole runs of both sides with a stand-in for pvserver: what is said, what begins before what, and the ends."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import handfast
from handfast.core.invitation import Address
from handfast.errors import Fault, Refused, Unreachable
from handfast.sessions import paraview_run
from handfast.sessions.paraview import FORWARD, REVERSE
from handfast.sessions.paraview_run import Client, Wanted
from tests.ports import free_port
from tests.sessions import paraview_standin, tunnels
from tests.sessions.conftest import Made
from tests.sessions.tunnels import HERE, Running, Stage, ask, listen, stage

pytestmark = pytest.mark.timeout(180)
_PVSERVER = f"""#!/bin/sh
case "$1" in --*p | --version) ;; *) : > "$0.was-started" ;; esac
exec {sys.executable} {paraview_standin.__file__} "$@"
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five programs start one after the other; and the keeper is a process of this checkout."""
    monkeypatch.setattr(tunnels, "SOON", 60.0)
    monkeypatch.setenv("PYTHONPATH", str(Path(handfast.__file__).parents[1]))


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@pytest.fixture
def pvserver(tmp_path: Path) -> Path:
    """The stand-in, as a program."""
    path = tmp_path / "pvserver"
    path.write_text(_PVSERVER)
    path.chmod(0o700)
    return path


async def server(at: Stage, ours: Made, pvserver: Path, *, native_reverse: bool = False) -> Running:
    """A pvserver behind a session, ready; without a namespace, which not everybody may have."""
    wanted = Wanted(str(pvserver), native_reverse, keep_network=True, accept_open_port=not native_reverse)
    file = ours.file("server")
    made = at.start(lambda told: paraview_run.serve(file, wanted, listen=HERE, dial=None, every=5, told=told))
    await made.ready()
    return made


def client(at: Stage, ours: Made, to: Address, scheme: str = FORWARD, within: float | None = None) -> Running:
    """The client's side, for a ParaView that nobody has installed."""
    meeting = HERE if scheme == FORWARD else Address("127.0.0.1", free_port())
    who = Client(meeting, scheme, None, within=within)
    return at.start(lambda told: paraview_run.client(ours.file("client"), who, server=to, wait=None, told=told))


async def test_both_sides_say_what_people_need(ours: Made, at: Stage, pvserver: Path) -> None:
    """Both name the same connect-id and the scheme; the server's person reads who is here, and what pvserver says."""
    serving = await server(at, ours, pvserver)
    visiting = client(at, ours, listen(serving))
    here, there = await visiting.ready(), await serving.ready()
    assert here["connect_id"] == there["connect_id"]
    assert here["scheme"] == there["scheme"] == "cs"
    assert there["paraview"] == "5.11.0"
    assert await ask(visiting.door) == b"hello"
    await serving.heard("client is here")
    await serving.heard("pvserver: Client connected.")


def renew(pvserver: Path) -> None:
    """Make it 5.13."""
    pvserver.write_text(_PVSERVER.replace('"$@"', '--newer "$@"'))


async def test_a_newer_one_is_bound_to_loopback(ours: Made, at: Stage, pvserver: Path) -> None:
    """Where pvserver knows the flag it gets it; that this leaves the node's other users is said all the same."""
    renew(pvserver)
    serving = await server(at, ours, pvserver)
    await serving.heard("--bind-address=127.0.0.1")
    await serving.heard("warning: every user of this machine can reach pvserver's port")


async def test_an_end_that_was_asked_for_is_no_loss(ours: Made, at: Stage, pvserver: Path) -> None:
    """Who ends the server does not read that pvserver was lost and is started again."""
    serving = await server(at, ours, pvserver)
    await serving.stop()
    assert not [line for line in serving.said if "lost" in line]


async def test_a_port_in_use_is_said_before_pvserver_starts(ours: Made, at: Stage, pvserver: Path) -> None:
    """The mistake is told at once, and nothing that needs minutes on a cluster was begun for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted, place = Wanted(str(pvserver), accept_open_port=True), Address(*taken.getsockname())
        serving = at.start(
            lambda told: paraview_run.serve(ours.file("server"), wanted, listen=place, dial=None, every=5, told=told)
        )
        with pytest.raises(Fault, match="cannot listen"):
            await serving.over()
    assert not started(pvserver)


async def test_a_clients_file_starts_no_pvserver(ours: Made, at: Stage, pvserver: Path) -> None:
    """The wrong file is refused before anything runs."""
    wanted = Wanted(str(pvserver), accept_open_port=True)
    serving = at.start(
        lambda told: paraview_run.serve(ours.file("client"), wanted, listen=HERE, dial=None, every=5, told=told)
    )
    with pytest.raises(Refused, match="is the file of the client"):
        await serving.over()
    assert not started(pvserver)


def started(pvserver: Path) -> bool:
    """Whether it was asked for more than its help and its version."""
    return os.path.exists(f"{pvserver}.was-started")


async def test_once_leaves_after_the_first_connection(ours: Made, at: Stage, pvserver: Path) -> None:
    """A second one finds nobody, and whoever started the client is told why it has left."""
    visiting = client(at, ours, listen(await server(at, ours, pvserver)), within=600)
    await visiting.ready()
    assert await ask(visiting.door) == b"hello"
    assert await visiting.over() == "the connection is over"
    assert await tunnels.nobody(visiting.door)


@pytest.mark.parametrize("scheme", [FORWARD, REVERSE])
async def test_once_does_not_wait_for_ever(ours: Made, at: Stage, pvserver: Path, scheme: str) -> None:
    """A GUI that never connects, as when its user pressed Cancel, leaves no client behind that holds the port."""
    serving = await server(at, ours, pvserver, native_reverse=scheme == REVERSE)
    visiting = client(at, ours, listen(serving), scheme, within=0.2)
    with pytest.raises(Unreachable, match=r"no ParaView has come within 0\.2 s"):
        await visiting.over()


async def test_once_does_not_wait_for_ever_for_a_server(ours: Made, at: Stage) -> None:
    """Where the server phones and does not, the same limit holds: the next try would find the port taken."""
    who = Client(HERE, FORWARD, None, within=0.2)
    visiting = at.start(lambda told: paraview_run.client(ours.file("client"), who, server=None, wait=HERE, told=told))
    with pytest.raises(Unreachable, match="no ParaView has come"):
        await visiting.over()


async def test_a_connection_that_has_begun_may_last() -> None:
    """The limit is for the beginning alone: afterwards only the end of the connection counts."""

    class Begun:
        """A way whose first stream runs."""

        begun, over = asyncio.Event(), asyncio.Event()

    Begun.begun.set()
    leaving = asyncio.create_task(paraview_run._over(Begun, 0))  # type: ignore[arg-type]
    done, _ = await asyncio.wait({leaving}, timeout=0.1)
    assert not done
    Begun.over.set()
    assert await leaving == "the connection is over"
