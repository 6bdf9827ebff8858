"""pvserver's keeper, with a stand-in that does what the real one cannot be made to do. The real one: tests/interop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

import handfast
from handfast.core.invitation import Address
from handfast.errors import Fault
from handfast.sessions import paraview_client, paraview_server
from handfast.sessions.local import Endpoint
from handfast.sessions.paraview import Plan, Version
from handfast.sessions.paraview_keeper import Keeper, Spec
from handfast.sessions.paraview_server import PvServer
from tests.sessions import paraview_standin

STANDIN = (sys.executable, paraview_standin.__file__)
V511 = Version(5, 11, "5.11.0")


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper is a process of this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(Path(handfast.__file__).parents[1]))


def standin(*flags: str, reverse: bool = False, private: bool = False) -> Plan:
    """Return a plan whose pvserver is the stand-in."""
    calls = ("--reverse-connection", "--client-host=127.0.0.1") if reverse else ()
    return Plan((*STANDIN, *calls, *flags), (), private, "csrc" if reverse else "cs", V511, "")


class Heard:
    """What was said, as events to wait for."""

    def __init__(self) -> None:
        self.lines = list[str]()
        self._more = asyncio.Condition()
        self._notes = set[asyncio.Task[None]]()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._notes.add(asyncio.get_running_loop().create_task(self._note()))

    async def _note(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def expect(self, text: str, times: int = 1) -> list[str]:
        """Return the lines with ``text`` when there are so many."""
        async with self._more:
            await self._more.wait_for(lambda: sum(text in line for line in self.lines) >= times)
        return [line for line in self.lines if text in line]

    async def pid(self, nth: int = 0) -> int:
        """Return the process id that the stand-in has said."""
        return int((await self.expect("pid", nth + 1))[nth].split()[1])


@contextlib.asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[tuple[PvServer, Heard, Heard]]:
    """Run a plan; with what people are told, and what the program says."""
    told, heard = Heard(), Heard()
    async with PvServer(plan, say=told, overhear=heard) as server:
        yield server, told, heard


async def ask(endpoint: Endpoint, message: bytes) -> bytes:
    """Send a message and the end of it, and return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(endpoint.path)
    writer.write(message)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def gone(pid: int) -> None:
    """Wait for a process that is not our child."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(descriptor, ended.set)
            await ended.wait()
            asyncio.get_running_loop().remove_reader(descriptor)
        finally:
            os.close(descriptor)


@pytest.fixture
def private_network(sources: None) -> None:
    """Skip where the kernel does not let this user have a namespace."""
    if not paraview_server.private_network():
        pytest.skip("needs user namespaces")


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def exists(path: Path) -> bool:
    """Whether it is there."""
    return path.exists()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_the_endpoint_carries_bytes_both_ways() -> None:
    """Several at once, large ones whole, and the end of one direction does not end the other."""
    async with running(standin()) as (server, _, _):
        sent = [bytes([n]) * (1 + n * 700_000) for n in range(1, 4)]
        assert await asyncio.gather(*(ask(server.endpoint, each) for each in sent)) == sent


async def test_only_its_owner_may_use_the_endpoint() -> None:
    """The socket is 0600 in a directory 0700, which is gone afterwards."""
    async with running(standin()) as (server, _, _):
        path = Path(str(server.endpoint.path))
        assert mode(path) == 0o600
        assert mode(path.parent) == 0o700
    assert not exists(path.parent)


async def test_a_private_network_hides_the_port(private_network: None) -> None:
    """Inside there is a listener, outside there is none; and the socket reaches it."""
    async with running(standin(private=True)) as (server, _, heard):
        (line,) = await heard.expect("Accepting")
        with pytest.raises(OSError):  # noqa: PT011  refused, unless by chance something else listens there
            await asyncio.open_connection("127.0.0.1", int(line.rpartition(":")[2]))
        assert await ask(server.endpoint, b"through") == b"through"
        assert os.readlink(f"/proc/{await heard.pid()}/ns/net") != os.readlink("/proc/self/ns/net")


async def test_the_user_is_the_same_in_the_private_network(private_network: None) -> None:
    """pvserver runs as who started it: what it reads and writes belongs to whom it always did."""
    async with running(standin(private=True)) as (_, _, heard):
        assert os.stat(f"/proc/{await heard.pid()}").st_uid == os.geteuid()


async def test_pvserver_is_started_again_and_the_loss_is_said() -> None:
    """A pvserver that ends takes the pipeline with it; the next caller finds a new one behind the same endpoint."""
    async with running(standin()) as (server, told, heard):
        first = await heard.pid()
        assert await ask(server.endpoint, b"\4") == b""
        await told.expect("the pipeline is lost")
        assert await ask(server.endpoint, b"again") == b"again"
        assert await heard.pid(1) != first


async def test_what_does_not_start_says_why() -> None:
    """The last lines of a pvserver that fails are in the error."""
    with pytest.raises(Fault, match=r"does not run: cannot open display\nno GPU here"):
        async with running(standin("--broken")):
            pass


async def test_a_program_that_is_not_there_is_a_fault() -> None:
    """Nothing waits for it."""
    with pytest.raises(Fault, match="does not run"):
        async with running(Plan(("/nonexistent/pvserver",), (), False, "cs", V511, "")):
            pass


async def test_its_end_ends_pvserver() -> None:
    """After the block nothing runs any more."""
    async with running(standin()) as (_, _, heard):
        pid = await heard.pid()
    await gone(pid)


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_cancelled_while_it_ends(turns: int) -> None:
    """Is cancelled, however far the end is; nothing is left, and pvserver ends."""
    over, pids, places = asyncio.Event(), list[int](), list[Path]()

    async def use() -> None:
        async with running(standin()) as (server, _, heard):
            pids.append(await heard.pid())
            assert server.endpoint.path is not None
            places.append(server.endpoint.path)
            over.set()

    using = asyncio.ensure_future(use())
    await over.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    assert using.cancel()
    await asyncio.wait({using})
    assert using.cancelled()
    await gone(pids[0])
    assert not exists(places[0].parent)


async def test_a_killed_keeper_is_a_fault_and_leaves_nothing() -> None:
    """kill -9 of the keeper: the kernel ends pvserver, and whoever waits for the end is told."""
    async with running(standin()) as (server, _, heard):
        pid = await heard.pid()
        assert server._process is not None
        server._process.kill()
        with pytest.raises(Fault, match="its keeper was killed"):
            await server.ended()
        await gone(pid)


_KILLED = """\
import asyncio, os, sys
from handfast.sessions.paraview import Plan, Version
from handfast.sessions.paraview_keeper import Keeper, Spec
from handfast.sessions.paraview_server import PvServer
async def main():
    async with PvServer(Plan(tuple(sys.argv[1:]), (), False, "cs", Version(5, 11, "5.11"), ""), say=print) as server:
        print(server.endpoint, flush=True)
        await server.ended()
asyncio.run(main())
"""


async def test_whoever_started_it_may_be_killed() -> None:
    """kill -9 of the session's server leaves no pvserver, no keeper and no socket behind."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED, *STANDIN, stdout=subprocess.PIPE
    )  # fmt: skip
    assert parent.stdout is not None
    path = Path((await parent.stdout.readline()).decode().strip().removeprefix("unix:"))
    (keeper,) = children(parent.pid)
    (server,) = children(keeper)
    parent.kill()
    await parent.wait()
    await gone(keeper)
    await gone(server)
    assert not exists(path.parent)


async def test_native_reverse_pairs_callers() -> None:
    """pvserver calls the keeper, who hands that call to the next client; afterwards there is a new pvserver."""
    async with running(standin(reverse=True)) as (server, told, heard):
        assert await ask(server.endpoint, b"first") == b"first"
        await told.expect("the pipeline is lost")
        assert await ask(server.endpoint, b"second") == b"second"
        assert await heard.pid(1) != await heard.pid()


_CALLER = "import socket, sys; c = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); sys.exit(len(c.recv(1)))"


@pytest.mark.root
async def test_another_user_cannot_pass_for_pvserver() -> None:
    """Whoever dials the keeper first is dropped if it is another user's process: a client would talk to it."""
    spec = Spec(socket="", command=[], anchor=[], private=False, reverse=True)
    with socket.create_server(("127.0.0.1", 0)) as caller, tempfile.TemporaryDirectory() as directory:
        keeper = Keeper(structs.replace(spec, socket=f"{directory}/s"))
        waiting = asyncio.create_task(asyncio.to_thread(keeper._await_call, caller))
        place = str(caller.getsockname()[1])
        stranger = await asyncio.create_subprocess_exec("/usr/bin/python3", "-c", _CALLER, place, user=65534)
        assert await stranger.wait() == 0  # the end of the connection, and not a byte
        assert not keeper._ready
        with socket.create_connection(caller.getsockname()):
            await waiting
        assert keeper._call is not None
        keeper._call.close()
        keeper._entrance.close()


_LISTENER = """
import os, socket
with socket.create_server(("127.0.0.1", 0)) as ear:
    os.write(1, b"%d\\n" % ear.getsockname()[1])
    got, _ = ear.accept()
    os.write(1, b"got %d\\n" % len(got.recv(1)))
"""


@pytest.mark.root
async def test_another_user_who_listens_before_paraview_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In native reverse who listens is given pvserver: only this user's own process is."""
    monkeypatch.setattr(paraview_client, "_LOOKS", 10)
    given: asyncio.Queue[socket.socket] = asyncio.Queue()

    class Given:
        """A way that notes what it was given."""

        async def stream(self, plain: socket.socket) -> None:
            """Keep it."""
            await given.put(plain)
            await asyncio.Event().wait()

    told: asyncio.Queue[str] = asyncio.Queue()
    for user, ours in ((65534, False), (os.geteuid(), True)):
        listener = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-c", _LISTENER, user=user, stdout=subprocess.PIPE
        )
        assert listener.stdout is not None
        place = Address("127.0.0.1", int(await listener.stdout.readline()))
        pairing = asyncio.create_task(paraview_client.bring_together(place, Given(), told.put_nowait))  # type: ignore[arg-type]
        if ours:
            (await given.get()).close()
        else:
            assert "not this user's ParaView" in await told.get()
        assert await listener.stdout.read() == b"got 0\n"
        await listener.wait()
        pairing.cancel()
        await asyncio.gather(pairing, return_exceptions=True)
    assert given.empty()
