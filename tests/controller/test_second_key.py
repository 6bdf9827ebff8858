"""`[instances] on_second_key`: the secret is used with a second key; a thief was first, or is second."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handfast.config.instances import InstanceSettings, SecondKey
from handfast.controller import watch
from handfast.core.instances import State
from handfast.core.secret import Secret
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import Control, controlling

BOTH = InstanceSettings(on_second_key=SecondKey.BOTH)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses."""
    monkeypatch.setattr(watch, "_FIRST", 0.05)
    monkeypatch.setattr(watch, "_LONGEST", 0.1)


async def run_and_leave(control: Control, agent: Agent) -> None:
    """Come to run, and be gone."""
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)


async def test_P52_both_are_put_aside(house: Service) -> None:
    """The instance shows up after a thief: it is seen, and what he was given is good for nothing, by the log's word."""
    async with controlling(replace(house, instances=BOTH)) as control:
        data = await control.add()
        thief, honest = Agent(data), Agent(data)
        await run_and_leave(control, thief)
        honest.port = thief.port
        async with honest.listening():
            found = await control.until(State.QUARANTINED, why="already used with another key")
        assert found.reason.endswith("what the first key was given is revoked")
        (held,) = control.issued()
        assert held.revoked_reason == "keyCompromise"
        assert control.alarms() == ["alarm.second-key", "alarm.quarantined"]
        thief.port = honest.port
        control.told.clear()
        await control.do(lambda them: them.release("app1.lan", reason="we thought that it was nothing"))
        async with thief.listening():
            await control.until(State.QUARANTINED, why="its credential was taken back")


async def test_what_was_renewed_is_taken_back_too(house: Service) -> None:
    """The first one has had successors: none of them holds."""
    async with controlling(replace(house, instances=BOTH)) as control:
        data = await control.add()
        thief = Agent(data)
        async with thief.listening() as address:
            await control.place(address)
            first = await control.until(State.RUNNING)
            control.clock.time += (thief.now.chain[0].not_valid_after_utc - control.clock.now()) * 0.7
            await control.until_true(lambda: control.last().serial not in {None, first.serial})
            await control.until(State.RUNNING)
        await control.until(State.UNREACHABLE)
        honest = Agent(data)
        honest.port = thief.port
        async with honest.listening():
            await control.until(State.QUARANTINED, why="is revoked")
        assert [each.revoked_reason for each in control.issued()] == ["keyCompromise"] * 2


async def test_P52_whoever_has_no_secret_has_nothing_revoked(house: Service) -> None:
    """Somebody took the address: quarantine as ever, and the instance keeps what it has."""
    async with controlling(replace(house, instances=BOTH)) as control:
        data = await control.add()
        agent = Agent(data)
        await run_and_leave(control, agent)
        stranger = Agent(replace(data, line=replace(data.line, seed=Secret(bytes(range(32))))))
        stranger.port = agent.port
        async with stranger.listening():
            await control.until(State.QUARANTINED, why="without our certificate")
        assert [each.revoked_reason for each in control.issued()] == [None]
        assert control.alarms() == ["alarm.quarantined"]
        for body in stranger.heard:
            assert data.line.seed.reveal() not in body
