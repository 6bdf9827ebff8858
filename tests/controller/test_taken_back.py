"""Credentials that were taken back: an agent's says nothing any more, and the controller's own is replaced."""

from __future__ import annotations

import asyncio

import pytest

from handfast.controller import control as controls
from handfast.controller.credential import own
from handfast.core.instances import State
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import Control, operator
from tests.controller.dialling import add, calling, dialled, eventually, hurry, taking


async def revoke(control: Control, serial: int) -> None:
    """Take a credential back, as an operator does."""
    ledger, now = control.service.ledger, control.clock.now()
    await asyncio.wrap_future(ledger.revoke(serial, reason="keyCompromise", at=now))


async def test_what_it_has_was_revoked(control: Control) -> None:
    """An instance that runs is quarantined, over the connection that it has; nothing is asked of it any more."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        running = await control.until(State.RUNNING)
        assert running.serial is not None
        await revoke(control, running.serial)
        found = await control.until(State.QUARANTINED, why="its credential was taken back")
        assert (found.seen, found.expected) == (agent.now.spki, agent.now.spki)
        calls = len(agent.calls)
        control.told.clear()
        await control.do(lambda them: them.release("app1.lan", reason="again"))
        await control.until(State.QUARANTINED, why="its credential was taken back")
    assert len(agent.calls) == calls


@pytest.mark.parametrize("introduced", [False, True], ids=["before it is introduced", "after"])
async def test_who_has_what_was_revoked_calls(
    house: Service, monkeypatch: pytest.MonkeyPatch, *, introduced: bool
) -> None:
    """The instance was removed and added anew; whoever has its former key calls by its name: no alarm, and it runs."""
    hurry(monkeypatch)
    async with taking(house) as control:
        former = Agent(await add(control))
        async with calling(former, dialled(control)):
            await control.until(State.RUNNING)
        await control.do(lambda them: them.remove("app1.lan", reason="stolen"))
        control.told.clear()
        agent = Agent(await add(control))
        connections = former.connections
        if introduced:
            async with calling(agent, dialled(control)):
                await control.until(State.RUNNING)
            await control.until(State.UNREACHABLE)
        async with calling(former, dialled(control)):
            await eventually(lambda: former.connections >= connections + 3)
            await control.until(State.UNREACHABLE if introduced else State.WAITING, why="its credential was taken back")
            async with calling(agent, dialled(control), source="127.0.0.3"):
                await control.until(State.RUNNING)
        assert control.alarms() == []
        assert control.last().expected == agent.now.spki


async def test_the_former_one_still_listens(control: Control) -> None:
    """Removed and added anew while its former agent runs at the address: it waits, and says for what; no alarm."""
    former = Agent(await control.add())
    async with former.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        await control.do(lambda them: them.remove("app1.lan", reason="added anew"))
        control.told.clear()
        agent = Agent(await control.add())
        await control.place(address)
        await control.until(State.WAITING, why="is the former agent still running?")
    async with agent.listening() as address:
        await control.place(address)
        assert (await control.until(State.RUNNING)).expected == agent.now.spki
    assert control.alarms() == []


async def test_the_controllers_own(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revoked, it is replaced by one for another key, by who watches and by an operator's commands."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        first = control.controller.credential
        monkeypatch.setattr(controls, "_CREDENTIAL", 0.05)
        await revoke(control, first.certificate.serial_number)
        await control.stop()
        await control.start()
        await eventually(lambda: control.controller._credential is not None)
        second = control.controller.credential
        assert second.spki != first.spki
        await revoke(control, second.certificate.serial_number)
        await eventually(lambda: control.controller.credential.spki != second.spki)
        third = control.controller.credential
        assert (await asyncio.to_thread(own, control.service)).spki == third.spki
        await revoke(control, third.certificate.serial_number)
        assert (await operator(control)).credential.spki not in {first.spki, second.spki, third.spki}
