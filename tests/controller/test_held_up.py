"""Whoever holds up our calls after a credential was sent: what the instance had before holds on."""

from __future__ import annotations

from datetime import timedelta

from handfast.core.instances import MOST_ROLLBACKS, State
from handfast.core.wire import IntroductionAnswer
from tests.controller.agents import Agent
from tests.controller.control import Control

LIFE = timedelta(hours=24)


async def test_a_renewal_that_the_agent_never_shows(control: Control) -> None:
    """It runs on with what it has, whatever is held up; some tries come at once, and then one for each hour."""
    agent, taken = Agent(await control.add()), 0
    ordinary = agent.take

    async def forget(answer: IntroductionAnswer) -> None:
        nonlocal taken
        taken += 1

    async with agent.listening() as address:
        await control.place(address)
        first = await control.until(State.RUNNING)
        agent.take = forget  # type: ignore[method-assign]
        control.clock.time += timedelta(hours=17)
        held = await control.until(State.RUNNING, why=f"with its new credential: {MOST_ROLLBACKS}")
        assert (held.serial, held.expected) == (first.serial, agent.now.spki)
        calls = len(agent.calls)
        await control.until_true(lambda: len(agent.calls) > calls + 5)
        assert (taken, control.last().state) == (MOST_ROLLBACKS, State.RUNNING)
        control.clock.time += LIFE / 24 + timedelta(seconds=1)
        await control.until(State.RUNNING, why=f"with its new credential: {MOST_ROLLBACKS + 1}")
        agent.take = ordinary  # type: ignore[method-assign]
        control.clock.time += LIFE / 24 + timedelta(seconds=1)
        await control.until_true(lambda: control.last().serial not in {None, first.serial})
        renewed = await control.until(State.RUNNING)
        assert (renewed.expected, renewed.rollbacks, renewed.reason) == (agent.now.spki, 0, "")
    assert [each.method for each in control.issued()] == ["instance", "renewal"]
    assert control.alarms() == []
