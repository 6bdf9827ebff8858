"""How instances are, as whoever asks beside the one who watches is told."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from handfast.adapters import files
from handfast.controller import status
from handfast.core.instances import State
from handfast.core.invitation import Address
from tests.controller.agents import Agent
from tests.controller.control import PATIENCE, Control


async def test_whoever_asks_is_told_how_they_are(control: Control) -> None:
    """As long as somebody watches; afterwards what lasts is all that is said."""
    agent = Agent(await control.add())
    data, ledger = control.service.data, control.service.ledger

    def states() -> list[tuple[State, bool]]:
        found = status.current(data, ledger.instances(), at=control.clock.now())
        return [(each.instance.state, each.watched) for each in found]

    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        await control.until_true(lambda: states() == [(State.RUNNING, True)])
        control.clock.time += timedelta(minutes=2)
        await control.until_true(lambda: states() == [(State.RUNNING, True)])
        await control.stop()
        assert states() == [(State.UNREACHABLE, False)]


async def test_when_it_has_last_proved_to_be_itself(control: Control) -> None:
    """Moves on with each call that is answered, and stays when it is silent, or when nobody is who he should be."""
    agent, data = Agent(await control.add()), control.service.data

    def contact() -> datetime | None:
        (found,) = status.current(data, control.service.ledger.instances(), at=control.clock.now())
        return found.contact

    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        await control.until_true(lambda: contact() == control.clock.now())
        control.clock.time += timedelta(minutes=2)
        await control.until_true(lambda: contact() == control.clock.now())
    last = control.clock.now()
    await control.until(State.UNREACHABLE)
    control.clock.time += timedelta(minutes=2)
    await control.until_true(lambda: contact() == last)


async def test_what_is_being_written_at_the_end_is_withdrawn(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be stopped: the watch ends after it, or what it writes would say that somebody watches."""
    begun, go, written, real = threading.Event(), threading.Event(), threading.Event(), files.write_atomic

    def slow(path: Path, content: bytes) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        real(path, content)
        written.set()

    monkeypatch.setattr(status, "write_atomic", slow)
    await control.add()
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    stopping = asyncio.ensure_future(control.stop())
    await asyncio.wait({stopping}, timeout=0.2)  # it would end here, if it did not wait
    go.set()
    await stopping
    assert await asyncio.to_thread(written.wait, PATIENCE)
    assert not (control.service.data / "controller" / status.NAME).exists()


async def test_a_status_that_is_old_or_damaged_says_nothing(control: Control) -> None:
    """Nor does one of an instance that somebody has changed since."""
    await control.add()
    await control.stop()
    data, kept, now = control.service.data, control.service.ledger.instances(), control.clock.now()
    status.publish(data, kept, at=now)
    assert status.current(data, kept, at=now) == [status.Current(kept[0], True, None)]
    met, unknown = now - timedelta(seconds=5), [status.Current(kept[0], False, None)]
    status.publish(data, kept, at=now, contacts={kept[0].name: met})
    assert status.current(data, kept, at=now) == [status.Current(kept[0], True, met)]
    assert status.current(data, kept, at=now + timedelta(minutes=1)) == unknown
    assert status.current(data, kept, at=now - timedelta(minutes=1)) == unknown
    await control.place(Address("127.0.0.1", 1))
    placed = control.service.ledger.instances()
    assert status.current(data, placed, at=now) == [status.Current(placed[0], False, met)]
    (data / "controller" / status.NAME).write_text("{")
    assert status.current(data, kept, at=now) == unknown
