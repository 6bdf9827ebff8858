"""Keys that are delivered, and agents without TLS: that both work, what each invites, and where each is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.agent.plain import Plain
from handfast.agent.run import Weaker
from handfast.controller.http import Connection, plain
from handfast.controller.passwords import forget, keep_password
from handfast.core import csr
from handfast.core.flow import Channel, Evidence, Wish
from handfast.core.instancedata import InstanceData
from handfast.core.instances import Mode, State
from handfast.core.invitation import Address
from handfast.core.records import INSTANCE
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.introducers import invitation
from handfast.registrar.instances import Wanted
from tests.controller import real
from tests.controller.agents import Agent, Keys
from tests.controller.control import DAY, Control
from tests.registrar.house import TlsKey

PASSWORD = Secret(b"correct horse battery")


@asynccontextmanager
async def agent(data: InstanceData, state: Path, weaker: Weaker) -> AsyncIterator[Address]:
    """The real agent."""
    async with real.agent(data, state, weaker=weaker) as told:
        yield real.where(told)


async def add(control: Control, mode: Mode, *, needs_key: bool = False) -> InstanceData:
    """Add an instance in a mode."""
    wanted = Wanted(name="app1.lan", lasting=DAY, mode=mode, needs_key=needs_key)
    return (await control.do(lambda them: them.add(wanted)))[0]


# --- legacy ---


async def test_a_key_is_delivered(control: Control, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It comes to run with it; it is said at each delivery; and the controller keeps no copy."""
    data = await add(control, Mode.LEGACY)
    async with agent(data, tmp_path / "state", Weaker(legacy=True)) as where:
        await control.place(where)
        running = await control.until(State.RUNNING)
        told = capsys.readouterr()
        assert "a key is delivered to whoever answers" in told.out + told.err
        assert "a key was delivered: whoever made it" in told.out + told.err
        (held,) = control.issued()
        assert (held.serial, control.spent(data)) == (running.serial, 1)
        await control.until_true(lambda: not list((control.service.data / "controller" / "delivered").iterdir()))


class Impostor(Agent):
    """Sits where the instance should be, has no secret, and takes what it is sent."""

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        """Take a key."""
        if request.path == "/configure":
            form = parse_qs(body.decode())
            key = load_pem_private_key(form["keypair"][0].encode(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self.now.key, self.now.chain = key, x509.load_pem_x509_certificates(form["certificate"][0].encode())
            self.show(self.now)
            return web.Response()
        return await super().answer(request, body)


async def test_P53_what_it_invites(control: Control) -> None:
    """Whoever answers first is the instance, without any secret: the seed's window, which is why it is off."""
    data = await add(control, Mode.LEGACY)
    impostor = Impostor(data)
    async with impostor.listening() as address:
        await control.place(address)
        running = await control.until(State.RUNNING)
        assert running.expected == impostor.now.spki
    assert control.alarms() == []


async def test_P53_a_confirmed_key_closes_that(control: Control, tmp_path: Path) -> None:
    """Where its fingerprint has to be known nothing is sent to another: he is quarantined, and gets no key."""
    data = await add(control, Mode.LEGACY, needs_key=True)
    impostor = Impostor(data)
    async with impostor.listening() as address:
        await control.place(address)
        await control.until(State.WAITING, why="its key has to be confirmed")
        await control.do(lambda them: them.confirm("app1.lan", bytes(32)))
        await control.until(State.QUARANTINED, why="another key than the one that was said")
    assert (impostor.calls, control.issued()) == ([], [])


async def test_an_agent_that_takes_no_key(control: Control, tmp_path: Path) -> None:
    """One without --legacy refuses, and the instance waits with that reason; the same key is kept for it."""
    data = await add(control, Mode.LEGACY)
    async with agent(data, tmp_path / "state", Weaker()) as where:
        await control.place(where)
        await control.until(State.WAITING, why="it takes no key")
    async with agent(data, tmp_path / "state", Weaker(legacy=True)) as where:
        await control.place(where)
        await control.until(State.RUNNING)
    assert len(control.issued()) == 1


async def test_P53_nobody_is_sent_a_key_who_was_added_otherwise(control: Control, tmp_path: Path) -> None:
    """An agent that would take one is introduced all the same: the mode is the controller's word, not the agent's."""
    data = await add(control, Mode.INTRODUCTION)
    async with agent(data, tmp_path / "state", Weaker(legacy=True)) as where:
        await control.place(where)
        await control.until(State.RUNNING)
    assert [each.method for each in control.issued()] == ["instance"]


async def test_a_secret_that_was_used_is_no_way_to_a_key(control: Control) -> None:
    """Somebody was introduced with it before: nothing is delivered, and that is an alarm."""
    data = await add(control, Mode.LEGACY)
    thief, tls, registrar = Keys(), TlsKey(), control.service.managing
    body, _ = invitation.present(
        data.line,
        csr_der=csr.build(thief.key),
        reintroduction_key=thief.way_back.public_key().public_bytes_raw(),
        wish=Wish(Role.AGENT),
        nonce=registrar.context.new_nonce(),
        server_spki=tls.spki,
        method=INSTANCE,
    )
    await registrar.introduce(Evidence(INSTANCE, body, Channel(tls.spki)), tls)
    impostor = Impostor(data)
    async with impostor.listening() as address:
        await control.place(address)
        await control.until(State.QUARANTINED, why="already used with another key")
    assert impostor.calls == []
    assert len(control.issued()) == 1


# --- plain ---


async def test_an_agent_without_tls(control: Control, tmp_path: Path) -> None:
    """It runs, nothing is known of it, nothing is issued; gone and back again."""
    data = await add(control, Mode.PLAIN)
    assert data.listens == Address("127.0.0.1", 7575)
    async with agent(data, tmp_path / "state", Weaker(Plain())) as where:
        await control.place(where)
        running = await control.until(State.RUNNING)
        assert (running.serial, running.expected) == (None, None)
    await control.until(State.UNREACHABLE)
    async with agent(data, tmp_path / "state", Weaker(Plain())) as where:
        await control.place(where)
        await control.until(State.RUNNING)
    assert (control.issued(), control.spent(data), control.alarms()) == ([], 0, [])


async def test_its_password(control: Control, tmp_path: Path) -> None:
    """Kept for it, and removed with it; without it the agent refuses, and the instance waits."""
    data = await add(control, Mode.PLAIN)
    async with agent(data, tmp_path / "state", Weaker(Plain(PASSWORD))) as where:
        await control.place(where)
        await control.until(State.WAITING, why="not the password of this agent")
        keep_password(control.service.data, "app1.lan", PASSWORD)
        await control.until(State.RUNNING)
    kept = control.service.data / "controller" / "passwords" / "app1.lan"
    assert kept.stat().st_mode & 0o777 == 0o600
    forget(control.service.data, "app1.lan")
    assert not kept.exists()


async def test_P53_it_is_never_asked_elsewhere(control: Control) -> None:
    """Neither added, nor placed, nor dialled off loopback: whoever is on the way would read and change all of it."""
    there = Address("192.0.2.1", 7575)
    for wanted in (
        Wanted(name="a.lan", lasting=DAY, mode=Mode.PLAIN, address=there),
        Wanted(name="a.lan", lasting=DAY, mode=Mode.PLAIN, dials=there),
        Wanted(name="a.lan", lasting=DAY, mode=Mode.PLAIN, needs_key=True),
        Wanted(name="a.lan", lasting=DAY, mode=Mode.LEGACY, dials=there),
    ):
        with pytest.raises(UsageError):
            await control.do(lambda them, wanted=wanted: them.add(wanted))  # type: ignore[misc]
    assert control.service.ledger.instances() == []
    await add(control, Mode.PLAIN)
    with pytest.raises(UsageError, match="not a loopback address"):
        await control.place(there)
    with pytest.raises(UsageError, match="not a loopback address"):
        await plain(there, PASSWORD)


async def test_what_answers_there_may_be_anybody(control: Control, tmp_path: Path) -> None:
    """A plain agent is not taken for another that was added with TLS, nor the other way round."""
    data = await add(control, Mode.INTRODUCTION)
    async with agent(data, tmp_path / "state", Weaker(Plain())) as where:
        await control.place(where)
        await control.until(State.WAITING, why="does not answer")
    honest = Agent(data)
    async with honest.listening() as address:
        stream = await plain(address)
        assert not isinstance(stream, Connection)
        stream.close()
