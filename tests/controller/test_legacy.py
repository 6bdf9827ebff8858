"""What follows a key that was delivered: the first renewal is for one of the agent's own, and nobody else has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from handfast.agent.run import Weaker
from handfast.core.instances import Mode, State
from handfast.core.keys import spki_sha256
from handfast.newcomer.keystore import Keystore
from handfast.wiring import Service
from tests.controller.agents import Agent, Keys
from tests.controller.control import Control
from tests.controller.control import house as opened
from tests.controller.test_modes import add, agent
from tests.controller.test_real_agents import DUE, LIFETIMES, OVER, another


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Service]:
    """A registrar whose agents' credentials are short."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text(LIFETIMES)
    with opened(tmp_path) as service:
        yield service


def held_key(state: Path) -> bytes:
    """The SHA-256 of the key that an agent has on its disk."""
    return spki_sha256(Keystore(state).load().private_key.public_key())


@pytest.mark.parametrize("legacy", [True, False], ids=["--legacy", "without it by then"])
async def test_the_first_renewal_is_for_a_key_of_its_own(control: Control, tmp_path: Path, *, legacy: bool) -> None:
    """After it the key that went over the network is worth nothing, and nothing is delivered again."""
    data, state = await add(control, Mode.LEGACY), tmp_path / "state"
    async with agent(data, state, Weaker(legacy=True)) as where:
        await control.place(where)
        first = await control.until(State.RUNNING)
        delivered = held_key(state)
        assert first.expected == delivered
    await control.until(State.UNREACHABLE)
    async with agent(data, state, Weaker(legacy=legacy)) as where:
        await control.place(where)
        await control.until(State.RUNNING)
        assert len(control.issued()) == 1
        control.clock.time += DUE
        await another(control, "app1.lan")
        own = control.last().expected
        assert own == held_key(state) != delivered
        await control.until_true(lambda: not list((control.service.data / "controller" / "delivered").iterdir()))
    assert [(each.method, each.predecessor) for each in control.issued()] == [
        ("operator", None),
        ("renewal", first.serial),
    ]
    assert control.alarms() == []


async def test_a_delivered_key_that_is_over(control: Control, tmp_path: Path) -> None:
    """A machine that was off for longer cannot come back with it: that is said, nothing is issued, and no alarm."""
    data, state = await add(control, Mode.LEGACY), tmp_path / "state"
    async with agent(data, state, Weaker(legacy=True)) as where:
        await control.place(where)
        await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    control.clock.time += OVER
    async with agent(data, state, Weaker(legacy=True)) as where:
        await control.place(where)
        await control.until(State.UNREACHABLE, why="the key that was delivered to it is over")
    assert (len(control.issued()), control.alarms()) == (1, [])


async def test_who_kept_the_key_that_was_delivered(control: Control, tmp_path: Path) -> None:
    """After the first renewal it shows a former key with a genuine certificate, and that is an alarm."""
    data, state = await add(control, Mode.LEGACY), tmp_path / "state"
    async with agent(data, state, Weaker(legacy=True)) as where:
        await control.place(where)
        await control.until(State.RUNNING)
        held = Keystore(state).load()
        kept = Keys(held.private_key, chain=[x509.load_der_x509_certificate(der) for der in (held.leaf, *held.chain)])
        control.clock.time += DUE
        await another(control, "app1.lan")
    thief = Agent(data, keys=kept)
    async with thief.listening() as there:
        await control.place(there)
        found = await control.until(State.QUARANTINED, why="another key than the certified one")
    assert (found.seen, thief.calls, len(control.issued())) == (kept.spki, [], 2)
