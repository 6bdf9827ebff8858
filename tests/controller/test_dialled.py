"""Agents that dial their controller: introduced like others, and nobody gets anything by calling in their name."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from handfast.agent import run as runs
from handfast.agent.run import Ready, run
from handfast.config.instances import InstanceSettings, SecondKey
from handfast.controller import lend, watch
from handfast.controller.control import connect
from handfast.controller.http import Connection
from handfast.controller.lend import borrow
from handfast.core.instancedata import InstanceData
from handfast.core.instances import State
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.errors import Unreachable
from handfast.registrar.instances import Wanted
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import DAY, PATIENCE, Control, controlling

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses, on either side; and whoever else calls is looked at soon."""
    for module, name, seconds in (
        (watch, "_FIRST", 0.05),
        (watch, "_LONGEST", 0.1),
        (watch, "AFRESH", 0.3),
        (runs, "REDIAL", 0.05),
        (lend, "PATIENCE", 3.0),
    ):
        monkeypatch.setattr(module, name, seconds)


@asynccontextmanager
async def taking(service: Service, second: SecondKey = SecondKey.QUARANTINE) -> AsyncIterator[Control]:
    """A controller that takes calls."""
    settings = InstanceSettings(listen=Address("127.0.0.1", 0), on_second_key=second)
    async with controlling(replace(service, instances=settings)) as control:
        await eventually(lambda: control.controller.listens is not None)
        yield control


async def eventually(so: Callable[[], bool]) -> None:
    """Wait for something that has to come about."""
    async with asyncio.timeout(PATIENCE):
        while not so():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.02)


async def add(control: Control, name: str = "app1.lan", *, needs_key: bool = False) -> InstanceData:
    """Add an instance that dials."""
    wanted = Wanted(name=name, lasting=DAY, dials=control.controller.listens, needs_key=needs_key)
    return (await control.do(lambda them: them.add(wanted)))[0]


@asynccontextmanager
async def real(data: InstanceData, state: Path, where: Address) -> AsyncIterator[Ready]:
    """The real agent, dialling."""
    told: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(run(data, state=state, policy=None, ready=told.set_result, dial=where))
    try:
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if running.done():
            running.result()
        yield told.result()
    finally:
        running.cancel()
        await asyncio.wait({running})


@asynccontextmanager
async def calling(agent: Agent, where: Address, name: str = "app1.lan") -> AsyncIterator[None]:
    """A small agent, honest or not, that calls again and again under a name."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", agent.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()

    async def call() -> None:
        loop = asyncio.get_running_loop()
        while True:
            made = socket.socket()
            made.setblocking(False)
            with contextlib.suppress(OSError):
                await loop.sock_connect(made, (where.host, where.port))
                await loop.sock_sendall(made, f"HANDFAST-AGENT/1 {name}\n".encode())
                spoken = asyncio.Event()
                loop.add_reader(made.fileno(), spoken.set)
                try:
                    await asyncio.wait_for(spoken.wait(), 5)
                finally:
                    loop.remove_reader(made.fileno())
                assert runner.server is not None
                transport, _ = await loop.connect_accepted_socket(runner.server, made, ssl=agent.door())
                while not transport.is_closing():  # noqa: ASYNC110  the protocol is aiohttp's
                    await asyncio.sleep(0.02)
            made.close()
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(call())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        await runner.cleanup()


def dialled(control: Control) -> Address:
    """Where calls are taken."""
    assert control.controller.listens is not None
    return control.controller.listens


async def test_an_instance_that_dials_comes_to_run(house: Service, tmp_path: Path) -> None:
    """Introduced over its own call, verified over the next, asked how it is; it renews, and comes back."""
    async with taking(house) as control:
        data = await add(control)
        where = dialled(control)
        async with real(data, tmp_path / "state", where):
            first = await control.until(State.RUNNING)
            assert first.dials
            control.clock.time += timedelta(hours=17)
            await control.until_true(lambda: control.last().serial not in {None, first.serial})
            await control.until(State.RUNNING)
        await control.until(State.UNREACHABLE)
        async with real(data, tmp_path / "state", where):
            await control.until(State.RUNNING)
        assert [each.method for each in control.issued()] == ["invitation", "renewal"]
        assert control.alarms() == []


async def test_another_process_is_lent_a_call(house: Service, tmp_path: Path) -> None:
    """While one call is being talked over the other can be had: what takes long holds up nobody who asks."""
    async with taking(house) as control:
        data = await add(control)
        async with real(data, tmp_path / "state", dialled(control)):
            running = await control.until(State.RUNNING)
            lent = await connect(running, control.controller.credential, control.service.data)
            assert isinstance(lent, Connection)
            assert lent.spki == running.expected
            before = len(control.told)
            for _ in range(5):
                assert (await lent.request("GET", "/v1/agent")).status == 200
                await asyncio.sleep(0.1)
            lent.close()
            assert all(each.state is State.RUNNING for each in control.told[before:])


async def test_nothing_is_lent_where_nobody_watches(house: Service, tmp_path: Path) -> None:
    """Or where the agent does not call: it is said which of the two."""
    async with taking(house) as control:
        await add(control)
        with pytest.raises(Unreachable, match=r"'app1\.lan' has not called"):
            await asyncio.to_thread(borrow, control.service.data, "app1.lan")
        await control.stop()
        with pytest.raises(Unreachable, match="nobody takes its calls"):
            await asyncio.to_thread(borrow, control.service.data, "app1.lan")
        assert not (control.service.data / "controller" / lend.NAME).exists()


async def test_P51_a_stranger_who_calls_by_its_name(house: Service) -> None:
    """Before and after it was introduced: no alarm, no quarantine, nothing spent, and the instance comes to run."""
    async with taking(house) as control:
        data = await add(control)
        forged = replace(data, line=replace(data.line, seed=Secret(bytes(range(32)))))
        stranger, honest = Agent(forged), Agent(data)
        async with calling(stranger, dialled(control)):
            await control.until(State.WAITING, why="somebody else calls by its name")
            assert (control.spent(data), control.issued()) == (0, [])
            for body in stranger.heard:
                assert data.line.seed.reveal() not in body
        async with calling(honest, dialled(control)):
            await control.until(State.RUNNING)
        await control.until(State.UNREACHABLE)
        calls = len(stranger.calls)
        async with calling(stranger, dialled(control)):
            await eventually(lambda: len(stranger.calls) > calls)
            await control.until(State.UNREACHABLE)
        async with calling(honest, dialled(control)):
            await control.until(State.RUNNING)
        assert control.alarms() == []


async def test_P51_another_agent_who_calls_by_its_name(house: Service) -> None:
    """A genuine one has a certificate, which says who it is: it cannot have others quarantined."""
    async with taking(house) as control:
        other, data = Agent(await add(control, "app2.lan")), await add(control)
        async with calling(other, dialled(control), "app2.lan"):
            await control.until(State.RUNNING, "app2.lan")
        async with calling(other, dialled(control)):
            await control.until(State.WAITING, why="'app2.lan' answers, with its own genuine certificate")
        async with calling(Agent(data), dialled(control)):
            await control.until(State.RUNNING)
        assert control.alarms() == []


@pytest.mark.parametrize("second", list(SecondKey))
async def test_P52_a_thief_who_calls_first(house: Service, second: SecondKey) -> None:
    """The instance itself calls later, with the secret and another key: that is an alarm, while the thief runs."""
    async with taking(house, second) as control:
        data = await add(control)
        thief, honest = Agent(data), Agent(data)
        async with calling(thief, dialled(control)):
            await control.until(State.RUNNING)
            async with calling(honest, dialled(control)):
                found = await control.until(State.QUARANTINED, why="already used with another key")
        assert control.alarms() == ["alarm.second-key", "alarm.quarantined"]
        (held,) = control.issued()
        both = second is SecondKey.BOTH
        assert held.revoked_reason == ("keyCompromise" if both else None)
        assert ("what the first key was given is revoked" in found.reason) == both


async def test_its_key_is_confirmed_before_it_is_asked(house: Service) -> None:
    """Who calls with another key than the one that was said is nobody, and the right one is introduced."""
    async with taking(house) as control:
        data = await add(control, needs_key=True)
        thief, honest = Agent(data), Agent(data)
        async with calling(thief, dialled(control)):
            waiting = await control.until(State.WAITING, why="its key has to be confirmed")
            assert waiting.seen == thief.now.spki
            await control.do(lambda them: them.confirm("app1.lan", honest.now.spki))
            await control.until(State.WAITING, why="another key than the one that was said")
            assert (thief.calls, control.spent(data)) == ([], 0)
        async with calling(honest, dialled(control)):
            await control.until(State.RUNNING)


async def test_nobody_is_listened_to_without_a_word(house: Service) -> None:
    """Without [instances] listen there is no port, and an instance that dials says why it is not there."""
    async with controlling(house) as control:
        wanted = Wanted(name="app1.lan", lasting=DAY, dials=Address("127.0.0.1", 9))
        await control.do(lambda them: them.add(wanted))
        await control.until(State.WAITING, why="nobody takes its calls")
        assert control.controller.listens is None
