"""Agents as vantage points: who is asked to look, and that whoever does not answer as the instance has not seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from handfast.agent.plain import Plain
from handfast.agent.run import Weaker
from handfast.config.scan import ScanSettings
from handfast.controller import looks, operate
from handfast.controller.credential import OwnCredential
from handfast.core import vantage
from handfast.core.instances import Mode, State
from handfast.core.look import Seen
from handfast.errors import Fault, HandfastError, NotAuthorized, TooMuch
from handfast.policy.look import against_look, notes
from handfast.wiring import Service
from handfast.wiring.vantage import Agents, everywhere
from tests.controller import dialling, test_modes
from tests.controller.agents import Agent, Keys
from tests.controller.control import Control
from tests.controller.real import agent as real
from tests.controller.real import where
from tests.controller.test_operate import introduced
from tests.newcomer.test_vantage import ALL, ED, LOOK, Here

ASKED = f"POST {looks.PATH}"
HONEST = msgspec.json.encode(vantage.answer(LOOK, ALL))
UNSEEN = (
    "'db1.example' does not lead to the addresses given, or not only to these",
    f"192.0.2.1 at port 22 did not show {ED.fingerprint}",
)


def asking(control: Control) -> looks.Looks:
    """What the registrar asks agents with, that is their controller."""
    return looks.Looks(lambda: control.service, lambda: control.controller.credential)


async def look(control: Control, *names: str) -> tuple[Seen, ...]:
    """Look as a registrar, for which these instances look."""
    settings = ScanSettings(agents=names or ("app1.lan",))
    return await everywhere(Here(), settings, control.clock.now, Agents(asking(control).look)).look(LOOK)


async def unseen(control: Control, why: str) -> None:
    """Look, and see that the agent's silence speaks against all of it, and that our log says why."""
    seen = await look(control)
    assert against_look(LOOK, seen) == UNSEEN
    assert any(note.startswith("agent:app1.lan: ") and why in note for note in notes(LOOK, seen)), notes(LOOK, seen)


class Looking(Agent):
    """An agent that says of a look what a test wants it to."""

    status, says = 200, HONEST
    error: HandfastError | None = None
    may: asyncio.Event | None = None

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        """As ``Agent``."""
        if request.path != looks.PATH:
            return await super().answer(request, body)
        if self.error is not None:
            raise self.error
        if self.may is not None:
            await self.may.wait()
        return web.Response(status=self.status, body=self.says, content_type="application/json")

    @property
    def looked(self) -> int:
        """How often it was asked to look."""
        return self.calls.count(ASKED)


@asynccontextmanager
async def running(control: Control) -> AsyncIterator[Looking]:
    """An instance that runs, and nobody who watches it any more."""
    async with introduced(control) as (agent, address):
        keys = agent.now
    looking = Looking(agent.data, keys=keys)
    async with looking.listening(address.port):
        yield looking


async def test_an_honest_one_is_asked(control: Control) -> None:
    """It is sent what another registrar would be, and its word is one among the others."""
    async with running(control) as agent:
        seen = await look(control)
        assert [each.by for each in seen] == ["registrar", "agent:app1.lan"]
        assert against_look(LOOK, seen) == ()
        assert agent.heard == [msgspec.json.encode(vantage.request(LOOK))]


@pytest.mark.parametrize(
    "says",
    [
        {"names": ["db1.example"], "hosts": [{"address": "192.0.2.1", "port": 22, "keys": ["SHA256:x"]}]},
        {"names": [], "hosts": [{"address": "192.0.2.1", "port": 22, "keys": [ED.fingerprint]}]},
        (
            200,
            {"names": ["db1.example"], "hosts": [{"address": "192.0.2.1", "port": 24, "keys": [ED.fingerprint]}]},
            "",
        ),
        {"names": ["db1.example"], "hosts": []},
    ],
    ids=["another key", "no name", "another port", "no host"],
)
async def test_one_that_says_otherwise(control: Control, says: object) -> None:
    """A host that is another from where it is, or that it says so of, is refused for that alone."""
    async with running(control) as agent:
        agent.says = msgspec.json.encode(says)
        assert set(against_look(LOOK, await look(control))) <= set(UNSEEN)
        assert against_look(LOOK, await look(control))
        assert agent.looked == 2


@pytest.mark.parametrize(
    ("status", "says", "why"),
    [
        (200, b"yes", "JSON is malformed"),
        (200, b"", "truncated"),
        (204, b"", "truncated"),
        (200, b"{}", "names"),
        (
            200,
            b'{"names":["db1.example"],"hosts":[{"address":"here","port":22,"keys":[]}]}',
            "not an IP address: 'here'",
        ),
        (302, b"", "answered with status 302 and no reason"),
        (404, b"", "answered with status 404 and no reason"),
        (500, b"Internal", "answered with status 500 and no reason"),
    ],
)
async def test_one_that_answers_something_else(control: Control, status: int, says: bytes, why: str) -> None:
    """What is no answer is none: an agent of another version, or none at all."""
    async with running(control) as agent:
        agent.status, agent.says = status, says
        await unseen(control, why)
        assert agent.looked == 1


async def test_one_that_refuses(control: Control) -> None:
    """Its policy does not have it look: nothing is certified, and our log says that it was that."""
    async with running(control) as agent:
        agent.error = NotAuthorized("the policy of this machine does not let it look at hosts")
        await unseen(control, "the policy of this machine does not let it look at hosts")


async def test_one_that_had_too_much(control: Control) -> None:
    """It has not disagreed: the newcomer comes again."""
    async with running(control) as agent:
        agent.error = TooMuch("asked to look at hosts too often")
        with pytest.raises(TooMuch, match="others that look for us were asked too often just now"):
            await look(control)


async def test_one_that_is_gone(control: Control) -> None:
    """Nobody is where it was."""
    async with running(control):
        pass
    await unseen(control, "does not answer")


async def test_one_that_does_not_answer(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for within limits, and has not seen anything then."""
    monkeypatch.setattr(looks, "LONGEST", 1.0)
    async with running(control) as agent:
        agent.may = asyncio.Event()
        await unseen(control, "'app1.lan' has not looked in time")
        assert agent.looked == 1
        agent.may.set()


async def test_somebody_else_at_its_place_is_asked_nothing(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """He has a key of his own, and would say that he sees whatever he is asked."""
    monkeypatch.setattr(operate, "_WRITTEN_DOWN", 0.1)
    async with running(control) as agent:
        pass
    thief = Looking(agent.data, keys=Keys())
    async with thief.listening(agent.port):
        await unseen(control, "'app1.lan' has the key SHA256:")
    assert (thief.connections, thief.calls, thief.heard) == (1, [], [])


async def test_another_instance_at_its_place_is_asked_nothing(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a genuine certificate of ours, which is for another name."""
    monkeypatch.setattr(operate, "_WRITTEN_DOWN", 0.1)
    async with running(control) as agent:
        pass
    await control.start()
    async with introduced(control, "app2.lan") as (other, _):
        pass
    liar = Looking(other.data, keys=other.now)
    async with liar.listening(agent.port):
        await unseen(control, "'app1.lan' has the key SHA256:")
    assert liar.calls == []


async def test_only_those_that_are_named(control: Control) -> None:
    """Another instance, which would look, is not asked in the place of one that does not."""
    async with running(control) as agent:
        await control.start()
        async with introduced(control, "app2.lan") as (second, address):
            keys = second.now
        other = Looking(second.data, keys=keys)
        async with other.listening(address.port):
            agent.error = NotAuthorized("no")
            await unseen(control, "no")
            assert (agent.looked, other.looked) == (1, 0)
            assert against_look(LOOK, await look(control, "app2.lan")) == ()
            assert (agent.looked, other.looked) == (1, 1)
            assert against_look(LOOK, await look(control, "app2.lan", "app1.lan")) == UNSEEN


async def test_who_is_nobody_is_not_asked(control: Control) -> None:
    """One that was never added, is not introduced, or whose credential was taken back."""
    await unseen(control, "no instance 'app1.lan'")
    async with running(control) as agent:
        await control.add("app3.lan")
        with pytest.raises(HandfastError, match="is pending, and not introduced"):
            await asking(control).look("app3.lan", LOOK)
        await asyncio.to_thread(control.service.administration.revoke, "app1.lan", reason="keyCompromise")
        await unseen(control, "is revoked")
        assert agent.looked == 0


async def test_nobody_watches(control: Control) -> None:
    """While this process is not the controller, or has no credential yet, no agent sees anything."""
    settings = ScanSettings(agents=("app1.lan",))
    seen = await everywhere(Here(), settings, control.clock.now, Agents()).look(LOOK)
    assert against_look(LOOK, seen) == UNSEEN
    assert "agent:app1.lan: 192.0.2.1 at port 22: nobody here watches the instances at the moment" in notes(LOOK, seen)
    await control.add()

    def none() -> OwnCredential:
        raise Fault("the controller has no credential")

    agents = Agents(looks.Looks(lambda: control.service, none).look)
    seen = await everywhere(Here(), settings, control.clock.now, agents).look(LOOK)
    assert against_look(LOOK, seen) == UNSEEN


async def test_without_tls_nobody_is_a_witness(control: Control, tmp_path: Path) -> None:
    """Who answers there proves nothing: he is not asked."""
    data = await test_modes.add(control, Mode.PLAIN)
    async with test_modes.agent(data, tmp_path / "state", Weaker(Plain())) as there:
        await control.place(there)
        await control.until(State.RUNNING)
        await unseen(control, "'app1.lan' is asked without TLS")


async def test_so_many_at_a_time(control: Control) -> None:
    """More looks than an agent has connections for are refused, and those that are under way stay."""
    async with running(control) as agent, AsyncExitStack() as stack:
        agent.may = asyncio.Event()
        asks = asking(control)
        held = [asyncio.ensure_future(asks.look("app1.lan", LOOK)) for _ in range(looks.AT_ONCE)]
        stack.callback(agent.may.set)
        await dialling.eventually(lambda: agent.looked == looks.AT_ONCE)
        with pytest.raises(TooMuch, match="too many at a time"):
            await asks.look("app1.lan", LOOK)
        agent.may.set()
        assert [against_look(LOOK, (await each,)) for each in held] == [()] * looks.AT_ONCE
        assert against_look(LOOK, (await asks.look("app1.lan", LOOK),)) == ()


async def test_a_real_agent(control: Control, tmp_path: Path) -> None:
    """It looks by its own policy: one that gives nothing refuses, one that does sees that nobody is there."""
    data, policy = await control.add(), tmp_path / "policy.toml"
    policy.write_text("")
    async with real(data, tmp_path / "state", policy=policy) as told:
        await control.place(where(told))
        await control.until(State.RUNNING)
        await unseen(control, "the policy of this machine does not let it look at hosts")
    policy.write_text("looks = true\n")
    async with real(data, tmp_path / "state", policy=policy, listen=where(told)):
        await control.until(State.RUNNING)
        await unseen(control, "'192.0.2.1' is not one to scan: reserved")


async def test_a_real_agent_that_dials(house: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked over its second call, one look at a time; it goes on being watched over its first."""
    dialling.hurry(monkeypatch)
    async with dialling.taking(house) as control:
        data = await dialling.add(control)
        async with dialling.real(data, tmp_path / "state", dialling.dialled(control)):
            await control.until(State.RUNNING)
            await unseen(control, "the policy of this machine does not let it look at hosts")
            asks = asking(control)
            told = await asyncio.gather(*(asks.look("app1.lan", LOOK) for _ in range(2)), return_exceptions=True)
            assert sorted(type(each).__name__ for each in told) == ["NotAuthorized", "TooMuch"]
            assert control.last().state is State.RUNNING
