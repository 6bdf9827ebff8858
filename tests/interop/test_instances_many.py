"""Two hundred agents at once, each at an address of its own, and among them machines that take calls and are silent."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.core.instances import State
from handfast.core.invitation import Address
from tests.controller import control as controls
from tests.controller.control import Control, controlling
from tests.controller.real import agent, where

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COUNT, HOLES = 200, 40


@pytest.fixture
async def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Control]:
    """A controller with its ordinary pauses; what is waited for is the work of two hundred."""
    monkeypatch.setattr(controls, "PATIENCE", 300.0)
    with controls.house(tmp_path) as service:
        async with controlling(service, every=15.0) as running:
            yield running


def place(number: int) -> Address:
    """The address of an agent: loopback is a network of sixteen million, and 7575 is everybody's port."""
    return Address(f"127.75.{number // 100}.{number % 100 + 1}", 7575)


def name(number: int) -> str:
    """What it is called: every sixth is a hole."""
    return f"app{number:03}.lan"


async def test_two_hundred_at_once(control: Control, tmp_path: Path) -> None:
    """Each is introduced with its own key, once, whoever keeps silent beside it; no alarm, no second certificate."""
    every = range(COUNT + HOLES)
    holes = {number for number in every if number % 6 == 5}
    assert len(holes) == HOLES
    async with AsyncExitStack() as agents:
        with ExitStack() as silent:
            keys = {}
            for number in every:
                data = await control.add(name(number), lasting=timedelta(hours=1))
                if number in holes:
                    at = place(number)
                    silent.enter_context(socket.create_server((at.host, at.port), backlog=16))
                else:
                    told = await agents.enter_async_context(
                        agent(data, tmp_path / f"agent{number}", listen=place(number))
                    )
                    assert where(told) == place(number)
                    keys[name(number)] = told.spki
            for number in every:
                await control.place(place(number), name(number))
            for each in keys:
                await control.until(State.RUNNING, each)
            for number in holes:
                await control.until(State.WAITING, name(number), why="took too long")
        assert {each: control.last(each).expected for each in keys} == keys
        assert {each: len(control.issued(each)) for each in keys} == dict.fromkeys(keys, 1)
        for number in holes:
            assert (control.issued(name(number)), control.alarms(name(number))) == ([], [])
        assert control.service.ledger.events(kind_prefix="alarm.") == []
