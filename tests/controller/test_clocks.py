"""What is no alarm: clocks that are wrong, or are set; and an agent that says more than we know."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from cryptography import x509

from handfast.core.instances import State
from handfast.core.wire import Hello
from tests.controller.agents import Agent
from tests.controller.control import Control


async def test_ours_is_behind(control: Control) -> None:
    """Agents whose certificates begin in what we take for the future are who they are: no alarm, they run."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        control.clock.time -= timedelta(days=3)
        calls = len(agent.calls)
        await control.until_true(lambda: len(agent.calls) > calls + 3)
    await control.until(State.UNREACHABLE)
    async with agent.listening():
        await control.until(State.RUNNING)
    assert control.alarms() == []
    assert len(control.issued()) == 1


@pytest.mark.parametrize("step", [timedelta(seconds=-2), timedelta(minutes=6)], ids=["back", "ahead"])
async def test_ours_is_set_while_somebody_is_asked(control: Control, step: timedelta) -> None:
    """His answer is to a question from another time: he is asked again, and it is no alarm."""
    agent = Agent(await control.add())
    ordinary, steps = agent.introduce, [step]

    async def introduce(hello: Hello, controller: x509.Certificate) -> bytes:
        while steps:
            control.clock.time += steps.pop()
        return await ordinary(hello, controller)

    agent.introduce = introduce  # type: ignore[method-assign]
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    assert [each.reason for each in control.told if each.state is State.WAITING] == [
        "our clock was set while it was asked"
    ]
    assert control.alarms() == []


@pytest.mark.parametrize("proved", [True, False], ids=["its own key", "any key"])
async def test_what_cannot_be_read_from_its_own_key(control: Control, *, proved: bool) -> None:
    """A later agent says more than we know: no alarm, other than of a key that has proved nothing."""
    agent = Agent(await control.add())
    ordinary = agent.introduce

    async def introduce(hello: Hello, controller: x509.Certificate) -> bytes:
        said = msgspec.json.decode(await ordinary(hello, controller))
        return msgspec.json.encode(said | {"later": 1})

    async with agent.listening() as address:
        if proved:
            await control.place(address)
            await control.until(State.RUNNING)
            control.clock.time += timedelta(hours=17)
        agent.introduce = introduce  # type: ignore[method-assign]
        await control.place(address)
        await control.until(State.UNREACHABLE if proved else State.QUARANTINED, why="later")
    assert control.alarms() == ([] if proved else ["alarm.quarantined"])
