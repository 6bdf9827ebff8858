"""Strangers at the port where agents call: whatever they do there, the agents get in, within a few looks."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from handfast.controller import http, listen, operate, watch
from handfast.controller.calls import answered
from handfast.controller.listen import Dialled, Waiting
from handfast.controller.operate import Operator
from handfast.core.instancedata import InstanceData
from handfast.core.instances import State
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Unreachable
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import operator
from tests.controller.dialling import add, calling, dialled, eventually, hurry, real, silent, taking

ELSEWHERE = [f"127.1.0.{number}" for number in range(1, 6)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses, and not much patience with who says nothing."""
    hurry(monkeypatch)
    monkeypatch.setattr(http, "CONNECT", 1.0)


def forged(data: InstanceData, number: int = 0) -> Agent:
    """Who knows all but the secret."""
    return Agent(replace(data, line=replace(data.line, seed=Secret(bytes(31) + bytes([number])))))


async def test_strangers_who_say_nothing(house: Service, tmp_path: Path) -> None:
    """More of them than there are places, from many sources, before and after: it is introduced, and comes back."""
    async with taking(house) as control:
        data, where = await add(control), dialled(control)
        async with silent(where, ELSEWHERE) as counts:
            await eventually(lambda: all(count >= 2 for count in counts))
            for _ in range(2):
                async with real(data, tmp_path / "state", where):
                    await control.until(State.RUNNING)
                await control.until(State.UNREACHABLE)
        assert len(control.issued()) == 1
        assert control.alarms() == []


async def test_strangers_who_speak_tls(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source has its turn: a new instance is asked before those who were asked are asked again."""
    monkeypatch.setattr(http, "CONNECT", 20.0)  # who is here speaks, however long that takes
    before: list[int] = []
    ordinary = Dialled._offer

    def offer(self: Dialled, call: Waiting) -> None:
        """From this moment on it is one of those whose turn may be."""
        if call.source == "127.0.0.1":
            before.append(sum(len(stranger.calls) for stranger in strangers))
        ordinary(self, call)

    monkeypatch.setattr(Dialled, "_offer", offer)
    async with taking(house) as control, AsyncExitStack() as they:
        data, where = await add(control), dialled(control)
        strangers = [forged(data, number) for number in range(len(ELSEWHERE))]
        for stranger, source in zip(strangers, ELSEWHERE, strict=True):
            await they.enter_async_context(calling(stranger, where, source=source))
        await eventually(lambda: all(stranger.calls for stranger in strangers))
        async with calling(Agent(data), where):
            await control.until(State.RUNNING)
            # One look was under way; in the next it was its turn, and from then on its key was known.
            assert sum(len(stranger.calls) for stranger in strangers) - before[0] <= 2
        await control.until(State.UNREACHABLE)
        assert control.spent(data) == 1
        assert control.alarms() == []


async def test_a_neighbor_does_not_keep_it_from_being_verified(house: Service) -> None:
    """Somebody behind the same address, who calls ever again: its certified key is waited for, and no other will do."""
    async with taking(house) as control:
        data, where = await add(control), dialled(control)
        stranger, honest = forged(data), Agent(data)
        async with calling(stranger, where), calling(honest, where):
            await control.until(State.RUNNING)
        assert State.VERIFY_FAILED not in control.states()
        assert control.alarms() == []


async def test_a_thief_at_a_place_that_has_proved_itself(house: Service) -> None:
    """He is heard first there, and runs: whoever calls from elsewhere is still heard, and that is an alarm."""
    async with taking(house) as control:
        data, where = await add(control), dialled(control)
        thief, honest = Agent(data), Agent(data)
        async with calling(thief, where):
            await control.until(State.RUNNING)
            async with silent(where, ELSEWHERE[1:]), calling(honest, where, source=ELSEWHERE[0]):
                await control.until(State.QUARANTINED, why="already used with another key")
        assert control.alarms() == ["alarm.second-key", "alarm.quarantined"]


async def test_strangers_with_every_name(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who knows all names calls by each, with more than all places, and slow lines besides."""
    monkeypatch.setattr(listen, "MAX_WAITING", 18)
    monkeypatch.setattr(listen, "MAX_GREETING", 4)
    names = [f"app{number}.lan" for number in range(3)]
    async with taking(house) as control, AsyncExitStack() as they:
        data, where = [await add(control, name) for name in names], dialled(control)
        for name in names:
            await they.enter_async_context(silent(where, ELSEWHERE, name))
        slow = [await asyncio.open_connection(where.host, where.port, local_addr=("127.1.1.1", 0)) for _ in range(8)]
        for _, writer in slow:
            writer.write(b"HANDFAST-AGENT")
        for number, each in enumerate(data, 2):
            await they.enter_async_context(calling(Agent(each), where, each.instance, source=f"127.0.0.{number}"))
        for name in names:
            await control.until(State.RUNNING, name)
            assert control.alarms(name) == []
        for _, writer in slow:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_a_command_among_strangers(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is lent a stranger's call sends him nothing, and asks for the next."""
    monkeypatch.setattr(operate, "_WRITTEN_DOWN", 0.1)
    monkeypatch.setattr(watch, "AFRESH", 3600.0)  # whoever watches has one of the two calls
    async with taking(house) as control:
        data, where = await add(control), dialled(control)
        stranger, honest = forged(data), Agent(data)
        async with AsyncExitStack() as they:
            await they.enter_async_context(calling(honest, where))
            await control.until(State.RUNNING)
            await they.enter_async_context(calling(stranger, where, source=ELSEWHERE[1]))
            counts = await they.enter_async_context(silent(where, ELSEWHERE[2:]))
            await eventually(lambda: all(counts))
            calls, command = len(stranger.calls), asyncio.ensure_future(asked(await operator(control)))
            await eventually(lambda: stranger.connections > 0)
            await they.enter_async_context(calling(honest, where, source=ELSEWHERE[0]))
            await command
        assert "GET /v1/services" in honest.calls
        assert "GET /v1/services" not in stranger.calls[calls:]


async def test_a_command_among_strangers_alone(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up, and says why."""
    monkeypatch.setattr(operate, "_WRITTEN_DOWN", 0.1)
    monkeypatch.setattr(operate, "_CALLERS", 2)
    async with taking(house) as control:
        data, where = await add(control), dialled(control)
        async with calling(Agent(data), where):
            await control.until(State.RUNNING)
        await control.until(State.UNREACHABLE)
        made = await operator(control)
        async with silent(where, ELSEWHERE[:2]) as counts:
            await eventually(lambda: all(counts))
            with pytest.raises(Unreachable, match=r"app1\.lan does not answer: it took too long"):
                async with made.agent("app1.lan"):
                    raise AssertionError("it was reached")


async def test_only_the_instance_is_waited_for(house: Service) -> None:
    """With patience nobody else will do: in the end it is said that others have called."""
    async with taking(house) as control:
        data, where = await add(control), dialled(control)
        async with calling(Agent(data), where):
            running = await control.until(State.RUNNING)
        await control.until(State.UNREACHABLE)
        calls, context = control.controller._calls, control.controller.credential.context
        assert calls is not None
        async with calling(forged(data), where):
            with pytest.raises(Unreachable, match="has not called"):
                await answered(calls, running, context, patience=0.5)


async def asked(operator: Operator) -> None:
    """Ask for what a small agent does not have."""
    async with operator.agent("app1.lan") as reached:
        with pytest.raises(HandfastError):
            await reached.services()
