"""What follows a key that was delivered: the first renewal is for one of the agent's own, and nobody else has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.agent.run import Weaker
from handfast.config.instances import InstanceSettings, SecondKey
from handfast.controller import watch
from handfast.controller.http import Connection
from handfast.core.instancedata import InstanceData
from handfast.core.instances import Mode, State
from handfast.core.invitation import Address
from handfast.core.keys import spki_sha256
from handfast.newcomer.keystore import Keystore
from handfast.wiring import Service
from tests.controller.agents import Agent, Keys
from tests.controller.between import after
from tests.controller.control import PATIENCE, Control, controlling
from tests.controller.control import house as opened
from tests.controller.test_modes import add, agent
from tests.controller.test_real_agents import DUE, LIFETIMES, OVER, another


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Service]:
    """A registrar whose agents' credentials are short."""
    with opened(tmp_path, LIFETIMES) as service:
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


async def cut_off(control: Control, data: InstanceData, state: Path, monkeypatch: pytest.MonkeyPatch) -> Address:
    """Have an agent killed in the moment in which it was delivered a key; return where it was."""
    taken = asyncio.Event()

    async def die() -> None:
        taken.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "request", after("/configure", die))
        async with agent(data, state, Weaker(legacy=True)) as where:
            await control.place(where)
            async with asyncio.timeout(PATIENCE):
                await taken.wait()
            await control.stop()
    return where


@pytest.mark.parametrize("second", list(SecondKey))
async def test_an_agent_that_goes_back(
    house: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: SecondKey
) -> None:
    """Nothing was delivered that it has kept, so it shows the key that it made itself: it is sent the same again."""
    monkeypatch.setattr(watch, "_FIRST", 0.05)
    monkeypatch.setattr(watch, "_LONGEST", 0.1)
    async with controlling(replace(house, instances=InstanceSettings(on_second_key=second))) as control:
        honest, takes = Agent(await add(control, Mode.LEGACY)), 0
        ordinary = honest.answer

        async def answer(request: web.Request, body: bytes) -> web.Response:
            nonlocal takes
            if request.path != "/configure":
                return await ordinary(request, body)
            takes += 1
            if takes == 2:
                honest.show(delivered(body))
            return web.Response(status=204)

        honest.answer = answer  # type: ignore[method-assign]
        async with honest.listening() as address:
            await control.place(address)
            await control.until(State.WAITING, why="with its new credential: 1")
            running = await control.until(State.RUNNING)
        assert (takes, len(control.issued()), control.alarms()) == (2, 1, [])
        assert (running.expected, running.rollbacks) == (honest.now.spki, 0)


async def test_who_comes_instead_of_one_that_goes_back(control: Control) -> None:
    """The key that was delivered to one is sent to nobody else: another key is an alarm."""
    data = await add(control, Mode.LEGACY)
    first, thief = Agent(data), Agent(data)

    async def answer(request: web.Request, body: bytes) -> web.Response:
        return web.Response(status=204)

    first.answer = answer  # type: ignore[method-assign]
    async with first.listening() as address:
        await control.place(address)
        await control.until(State.WAITING, why="with its new credential: 1")
    await control.until_true(lambda: control.last().state in {State.WAITING, State.UNREACHABLE, State.VERIFY_FAILED})
    async with thief.listening(address.port):
        found = await control.until(State.QUARANTINED)
    assert (found.seen, thief.calls) == (thief.now.spki, [])


async def test_the_controller_dies_between(control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a key was delivered, and before it is written down: the agent runs with it, or is sent the same again."""
    data, state = await add(control, Mode.LEGACY), tmp_path / "state"
    await cut_off(control, data, state, monkeypatch)
    control.told.clear()
    await control.start()
    async with agent(data, state, Weaker(legacy=True)) as where:
        await control.place(where)
        await control.until(State.RUNNING)
    assert (len(control.issued()), control.alarms()) == (1, [])


def delivered(body: bytes) -> Keys:
    """Return what is in a delivery."""
    form = parse_qs(body.decode())
    key = load_pem_private_key(form["keypair"][0].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Keys(key, chain=x509.load_pem_x509_certificates(form["certificate"][0].encode()))
