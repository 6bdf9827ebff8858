"""Agents that dial their controller: introduced like others, and nobody gets anything by calling in their name."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.config.instances import InstanceSettings, SecondKey
from handfast.controller import lend
from handfast.controller.control import Controller
from handfast.controller.http import Connection
from handfast.controller.lend import borrow
from handfast.controller.reach import connect
from handfast.core.instances import State
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.errors import Fault, Unreachable
from handfast.registrar.instances import Wanted
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import DAY, controlling
from tests.controller.dialling import add, calling, dialled, eventually, hurry, real, taking

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses."""
    hurry(monkeypatch)


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
        assert [each.method for each in control.issued()] == ["instance", "renewal"]
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
            await borrow(control.service.data, "app1.lan")
        await control.stop()
        with pytest.raises(Unreachable, match="nobody takes its calls"):
            await borrow(control.service.data, "app1.lan")
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


async def test_the_port_is_another_programs(house: Service) -> None:
    """Said with the setting that names another one; nothing is watched meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = InstanceSettings(listen=Address("127.0.0.1", taken.getsockname()[1]))
        with pytest.raises(Fault, match="is in use by another program") as told:
            await Controller(lambda: replace(house, instances=settings), tell=lambda _before, _after: None).run()
    assert told.value.hint == "stop it, or choose another port with [instances] listen"
