"""Agents' calls that are lent to commands: what becomes of them when one side dies, and of two who want the same."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from handfast.controller import lend
from handfast.controller.credential import DIRECTORY
from handfast.controller.http import Connection
from handfast.controller.lend import borrow
from handfast.controller.listen import Dialled, Waiting
from handfast.controller.reach import connect
from handfast.core.instances import Instance, State
from handfast.errors import Unreachable
from handfast.wiring import Service
from tests.controller.control import Control
from tests.controller.dialling import add, dialled, eventually, hurry, real, taking

NOBODY = r"'app1\.lan' calls its controller, and nobody takes its calls"
_BORROWER = """
import asyncio, sys
from pathlib import Path
from handfast.controller.lend import borrow

async def main():
    lent = await borrow(Path(sys.argv[1]), "app1.lan")
    print("lent", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses."""
    hurry(monkeypatch)


@asynccontextmanager
async def running(house: Service, tmp_path: Path) -> AsyncIterator[tuple[Control, Instance]]:
    """A real agent, introduced over its own call, of which it has two."""
    async with taking(house) as control:
        data = await add(control)
        async with real(data, tmp_path / "state", dialled(control)):
            yield control, await control.until(State.RUNNING)


async def lent(control: Control, instance: Instance) -> Connection:
    """Be lent a call, over which the instance answers."""
    made = await connect(instance, control.controller.credential, control.service.data)
    assert isinstance(made, Connection)
    assert made.spki == instance.expected
    assert (await made.request("GET", "/v1/agent")).status == 200
    return made


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have who lends calls wait so long for one. Who asks him waits for his word as ever, which may come late."""
    ordinary = Dialled.take

    async def take(self: Dialled, name: str, *, patience: float) -> Waiting:
        return await ordinary(self, name, patience=min(patience, seconds))

    monkeypatch.setattr(Dialled, "take", take)


async def test_whoever_watches_dies(house: Service, tmp_path: Path) -> None:
    """What a command has been lent stays its own to the end; who comes then is told that nobody takes its calls."""
    async with running(house, tmp_path) as (control, instance):
        held = await lent(control, instance)
        await control.stop()
        assert (await held.request("GET", "/v1/agent")).status == 200
        held.close()
        with pytest.raises(Unreachable, match=NOBODY) as told:
            await borrow(control.service.data, "app1.lan")
        assert "[instances] watch = true" in told.value.hint
        await control.start()
        await eventually(lambda: control.controller.listens is not None)


async def test_whoever_watches_dies_while_somebody_waits(house: Service) -> None:
    """He is told at once, and not that the agent does not call."""
    async with taking(house) as control:
        await add(control)
        waiting = asyncio.ensure_future(borrow(control.service.data, "app1.lan"))
        calls = control.controller._calls
        assert calls is not None
        await eventually(lambda: "app1.lan" in calls._wanted)
        await control.stop()
        with pytest.raises(Unreachable, match=NOBODY):
            await waiting


async def test_whoever_watched_was_killed(house: Service) -> None:
    """His socket is still there: nobody answers at it, and the next one takes its place."""
    place = house.data / DIRECTORY / lend.NAME
    place.parent.mkdir(0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    with pytest.raises(Unreachable, match=NOBODY):
        await borrow(house.data, "app1.lan")
    async with taking(house) as control:
        await add(control)
        with pytest.raises(Unreachable, match="has not called"):
            await borrow(house.data, "app1.lan")


async def test_a_command_is_killed(house: Service, tmp_path: Path) -> None:
    """The call that it had ends with it: the agent calls anew, and the next command has that one."""
    async with running(house, tmp_path) as (control, instance):
        command = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _BORROWER,
            str(control.service.data),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert command.stdout is not None
            async with asyncio.timeout(40):
                assert await command.stdout.readline() == b"lent\n"
        finally:
            command.kill()
            await command.wait()
        (await lent(control, instance)).close()
        assert control.last().state is State.RUNNING


async def test_a_command_is_interrupted_while_it_waits(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken for it any more: the next call is there for others."""
    monkeypatch.setattr(lend, "PATIENCE", 60.0)
    async with taking(house) as control:
        await add(control)
        calls = control.controller._calls
        assert calls is not None
        waiting = asyncio.ensure_future(borrow(control.service.data, "app1.lan"))
        await eventually(lambda: "app1.lan" in calls._wanted)
        waiting.cancel()
        await eventually(lambda: "app1.lan" not in calls._wanted)
        assert waiting.cancelled()


async def test_two_commands_at_once(house: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has the call, and the other is told so if that takes long; else it has it afterwards."""
    async with running(house, tmp_path) as (control, instance):
        first = await lent(control, instance)
        with monkeypatch.context() as patch:
            impatient(patch, 0.3)
            with pytest.raises(Unreachable, match=r"'app1\.lan' has not called") as told:
                await lent(control, instance)
        assert "another command may have its call" in told.value.hint
        monkeypatch.setattr(lend, "PATIENCE", 40.0)
        second = asyncio.ensure_future(lent(control, instance))
        calls = control.controller._calls
        assert calls is not None
        await eventually(lambda: "app1.lan" in calls._wanted)
        assert (await first.request("GET", "/v1/agent")).status == 200
        first.close()
        (await second).close()


@pytest.mark.parametrize("asked", [b"../app1", b"\xff\0", b"x" * 400, b"nobody.lan"])
async def test_who_asks_for_nobody(house: Service, asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name, or nobody's: there is nothing to lend, and the next one is answered all the same."""
    impatient(monkeypatch, 0.1)
    async with taking(house) as control:
        place = control.service.data / DIRECTORY / lend.NAME
        await eventually(place.exists)
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(str(place))
            writer.write(asked)
            assert await reader.read(1) in {b"-", b""}
            writer.close()
        with pytest.raises(Unreachable, match="has not called"):
            await borrow(control.service.data, "app1.lan")


async def test_a_call_that_comes_as_who_lends_it_ends() -> None:
    """In whichever moment around that in which it comes: it is the borrower's by then, or nobody's, and is closed."""
    assert await cancelled(in_between)
    outcomes = [await cancelled(partial(after, turns=turns)) for turns in range(12)]
    assert outcomes[0] is True
    assert outcomes[-1] is False
    assert outcomes == sorted(outcomes, reverse=True)


async def in_between(_task: asyncio.Task[None]) -> None:
    """As soon as it is taken for who asked: he has not got it."""


async def after(task: asyncio.Task[None], turns: int) -> None:
    """So many turns of the loop after it has come."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


async def cancelled(cancel: Callable[[asyncio.Task[None]], Awaitable[None]]) -> bool:
    """Have a call come to who lends it, and cancel him then; whether he was, and not done before."""
    asked, asks = socket.socketpair()
    agent, connected = socket.socketpair()
    taken: asyncio.Future[Waiting] = asyncio.get_running_loop().create_future()
    waiting = asyncio.Event()

    class Calls:
        """Somebody who calls when the test has him call."""

        async def take(self, _name: str, *, patience: float) -> Waiting:
            waiting.set()
            return await taken

        def had_its_turn(self, _call: Waiting) -> None:
            if cancel is in_between:
                task.cancel()

    with asked, asks, agent:
        for each in (asked, asks):
            each.setblocking(False)
        task = asyncio.ensure_future(lend._lent(asked, cast(Dialled, Calls())))
        asks.send(b"app1.lan")
        await waiting.wait()
        taken.set_result(Waiting(connected, "app1.lan", "127.0.0.1", 0))
        await cancel(task)
        await asyncio.wait({task})
        assert connected.fileno() == -1
        return task.cancelled()
