"""An operator and an agent: who answers is asked first, and whoever is not the instance is sent nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from handfast.controller import operate
from handfast.controller.http import Connection
from handfast.controller.identity import check_agent
from handfast.controller.operate import measured, opened
from handfast.core.instances import Instance, State
from handfast.core.invitation import Address
from handfast.errors import HandfastError, Malformed, NotFound, Refused, Revoked, Unreachable, UntrustedPeer, UsageError
from tests.controller.agents import Agent, Keys
from tests.controller.control import NOWHERE, Control, operator


@asynccontextmanager
async def introduced(control: Control, name: str = "app1.lan") -> AsyncIterator[tuple[Agent, Address]]:
    """An agent that runs, and nobody who watches it any more."""
    agent = Agent(await control.add(name))
    async with agent.listening() as address:
        await control.place(address, name)
        await control.until(State.RUNNING, name)
        await control.until_true(lambda: control.kept(name).serial is not None, name)
        await control.stop()
        yield agent, address


async def refused(control: Control, name: str, kind: type[HandfastError], message: str) -> None:
    """Try to reach an instance, which fails so."""
    with pytest.raises(kind, match=message):
        async with (await operator(control)).agent(name):
            raise AssertionError("it was reached")


async def test_the_instance_is_reached(control: Control) -> None:
    """Over a connection of the operator's own; what it answers is its own business."""
    async with introduced(control) as (agent, _), (await operator(control)).agent("app1.lan") as reached:
        calls = len(agent.calls)
        with pytest.raises(HandfastError):
            await reached.services()
        assert agent.calls[calls:] == ["GET /v1/services"]


async def test_a_stranger_is_sent_nothing(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody at its address who shows a key of his own: the operator is told which, and he is told nothing."""
    monkeypatch.setattr(operate, "_WRITTEN_DOWN", 0.1)
    async with introduced(control) as (agent, address):
        pass
    thief = Agent(agent.data, keys=Keys())
    async with thief.listening(address.port):
        await refused(control, "app1.lan", UntrustedPeer, r"'app1\.lan' has the key SHA256:\S+, and at .* answers SHA")
    assert (thief.connections, thief.calls, thief.heard) == (1, [], [])


async def test_another_instance_is_sent_nothing(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a genuine certificate of ours, at the first one's address."""
    monkeypatch.setattr(operate, "_WRITTEN_DOWN", 0.1)
    async with introduced(control) as (_, address):
        pass
    await control.start()
    async with introduced(control, "app2.lan") as (other, _):
        calls, keys = len(other.calls), other.now
    liar = Agent(other.data, keys=keys)
    async with liar.listening(address.port):
        await refused(control, "app1.lan", UntrustedPeer, "has the key")
    assert (liar.calls, len(other.calls)) == ([], calls)


async def test_a_certificate_has_to_be_the_instances(control: Control) -> None:
    """Name, role, time and chain, also where somebody has the right key."""
    async with introduced(control) as (agent, _):
        leaf, instance, authority = agent.now.chain[0], control.kept(), control.service.authority.public
    now = control.clock.now()
    check_agent(leaf, authority.chain, instance, authority, at=now)
    with pytest.raises(UntrustedPeer, match=r"'app1\.lan' answers for 'app2\.lan'"):
        check_agent(leaf, authority.chain, replace(instance, name="app2.lan"), authority, at=now)
    with pytest.raises(UntrustedPeer, match="does not chain to the pinned root"):
        check_agent(leaf, authority.chain, instance, authority, at=now + timedelta(days=3))
    controllers = (await operator(control)).credential.certificate
    with pytest.raises(UntrustedPeer, match="controller"):
        check_agent(controllers, authority.chain, instance, authority, at=now)


async def test_a_renewal_at_this_moment_is_no_alarm(control: Control) -> None:
    """The agent shows its next key before whoever watches has written that down: it is waited for."""
    async with introduced(control) as (agent, _):
        before = control.kept()
        earlier = replace(before, expected=b"\1" * 32)
        ledger = Late(control, [earlier, earlier, before])
        made = replace(await operator(control), ledger=ledger)  # type: ignore[arg-type]
        async with made.agent("app1.lan") as reached:
            assert isinstance(reached.connection, Connection)
            assert reached.connection.spki == agent.now.spki
        assert ledger.rows == []


class Late:
    """A ledger whose rows of the instance come one after the other."""

    def __init__(self, control: Control, rows: list[Instance]) -> None:
        self.rows, self._ledger = rows, control.service.ledger

    def instance(self, _name: str) -> Instance:
        """The next row."""
        return self.rows.pop(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)


async def test_who_is_not_introduced_is_not_asked(control: Control) -> None:
    """Nor is one that is quarantined, has no address, or is none."""
    agent = Agent(await control.add())
    await refused(control, "app1.lan", Refused, r"'app1\.lan' is pending, and not introduced")
    await refused(control, "app9.lan", NotFound, r"no instance 'app9\.lan'")
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    await control.stop()
    await refused(control, "app1.lan", Unreachable, "does not answer")
    thief = Agent(agent.data, keys=Keys())
    await control.start()
    async with thief.listening(agent.port):
        await control.until(State.QUARANTINED)
        await control.stop()
        connections = thief.connections
        with pytest.raises(Refused, match=r"'app1\.lan' is quarantined: it shows a key") as told:
            async with (await operator(control)).agent("app1.lan"):
                raise AssertionError("it was reached")
        assert told.value.hint == "find out who it was; then: handfast instance release app1.lan --reason …"
        assert thief.connections == connections


async def test_a_revoked_one_is_not_asked(control: Control) -> None:
    """Whatever its certificate says."""
    async with introduced(control) as (agent, _):
        calls = len(agent.calls)
        await asyncio.to_thread(control.service.administration.revoke, "app1.lan", reason="keyCompromise")
        await refused(control, "app1.lan", Revoked, "is revoked")
        assert len(agent.calls) == calls


async def test_nobody_is_there(control: Control) -> None:
    """Said at once, with where."""
    async with introduced(control):
        pass
    await control.place(NOWHERE)
    await refused(control, "app1.lan", Unreachable, r"127\.0\.0\.1:9 does not answer: connect")


def test_a_file_is_measured(tmp_path: Path) -> None:
    """What is to be deployed is what somebody has said it is, or nothing is sent."""
    file = tmp_path / "app.war"
    file.write_bytes(b"x" * 3_000_000)
    artifact = measured(file)
    assert artifact.size == 3_000_000
    assert measured(file, artifact.sha256) == artifact
    with pytest.raises(Refused, match=f"has the SHA-256 {artifact.sha256}, not 00"):
        measured(file, "0" * 64)
    with pytest.raises(NotFound, match="no file"):
        measured(tmp_path / "none")
    with pytest.raises(UsageError, match="is a directory"):
        measured(tmp_path)


async def test_what_has_come_is_compared(control: Control, tmp_path: Path) -> None:
    """An agent that says it has something else than was sent has not been deployed to."""
    artifact = tmp_path / "site.tar"
    artifact.write_bytes(b"all of it")
    async with introduced(control) as (agent, _):
        ordinary = agent.answer

        async def answer(request: web.Request, body: bytes) -> web.Response:
            if request.method != "PUT":
                return await ordinary(request, body)
            about = {"name": "site.tar", "size": len(body), "sha256": "00" * 32}
            return web.json_response(about, status=201)

        agent.answer = answer  # type: ignore[method-assign]
        async with (await operator(control)).agent("app1.lan") as reached:
            with pytest.raises(Malformed, match="the agent says that it has '0000") as told:
                await reached.deploy("web", "site.tar", measured(artifact), lambda _sent, _of: None)
        assert told.value.hint == "it is not what was sent: look at the machine"
        assert agent.heard[-1] == b"all of it"


@pytest.mark.parametrize("by", [-2_000_000, -1, 1, 2_000_000])
async def test_a_file_that_changes_while_it_is_sent(control: Control, tmp_path: Path, by: int) -> None:
    """It is not the machine that does not answer; and nothing that nobody has measured is deployed."""
    file = tmp_path / "site.tar"
    file.write_bytes(b"x" * 3_000_000)
    artifact = measured(file)
    file.write_bytes(b"x" * (3_000_000 + by))
    async with introduced(control) as (agent, _), (await operator(control)).agent("app1.lan") as reached:
        with pytest.raises(Malformed, match=r"'.*/site\.tar' has changed while it was sent") as told:
            await reached.deploy("web", "site.tar", artifact, lambda _sent, _of: None)
        assert told.value.hint == "send it when it is complete"
        assert not reached.connection.usable
        assert max(map(len, agent.heard)) < 100_000


async def test_whoever_does_not_exist_costs_nothing(control: Control) -> None:
    """No credential is made, and no passphrase asked for, only to say so."""
    await control.stop()
    before = len(control.service.ledger.credentials())
    for name in ("app9.lan", "../app9"):
        with pytest.raises(HandfastError), opened(control.service.data, name, pytest.fail):
            raise AssertionError("it was opened")
    assert len(control.service.ledger.credentials()) == before


async def test_a_machine_has_so_many_services(control: Control) -> None:
    """Each is asked for: more than a thousand are a lie, and none is."""
    async with introduced(control) as (agent, _):
        ordinary = agent.answer

        async def answer(request: web.Request, body: bytes) -> web.Response:
            if request.path != "/v1/services":
                return await ordinary(request, body)
            services = [{"name": f"s{n}", "full_name": "", "operations": ["status"]} for n in range(1001)]
            return web.json_response({"services": services})

        agent.answer = answer  # type: ignore[method-assign]
        async with (await operator(control)).agent("app1.lan") as reached:
            with pytest.raises(Malformed, match="not a Services"):
                await reached.services()
        assert agent.calls[-1] == "GET /v1/services"
