"""
What is promised of a controller and its agents, and is in no other file: real ones on both sides, as a rule.

The others are in ``test_real_agents`` and ``test_control_attacks``; docs/protocols/agent.md has a table of all.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from cryptography import x509

from handfast.agent import run
from handfast.agent.agent import TRIAL
from handfast.config.instances import InstanceSettings, SecondKey
from handfast.controller.http import Connection
from handfast.controller.watch import Watch, Watched
from handfast.core.instance_views import instance_view
from handfast.core.instancedata import InstanceData
from handfast.core.instances import Instance, State
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.core.wire import Hello
from handfast.errors import Refused
from handfast.wiring import Service
from tests.controller import between, first_use
from tests.controller.agents import Agent, Keys
from tests.controller.between import Cable, first_words
from tests.controller.control import Control, Hand, controlling
from tests.controller.control import house as opened
from tests.controller.real import agent, where
from tests.controller.test_real_agents import DUE, LIFETIMES, serial
from tests.core.test_instances import NEW
from tests.interop.hosts import HANDFAST, Host, Process, local_host
from tests.ports import free_port

BOTH = InstanceSettings(on_second_key=SecondKey.BOTH)
ANSWER = "/v1/introduction/answer"
QUESTION = b"GET /v1/agent HTTP/1.1\r\nHost: agent\r\n\r\n"
PROCESSES = 4


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Service]:
    """A registrar whose agents' credentials are short."""
    with opened(tmp_path, LIFETIMES) as service:
        yield service


# --- two processes never make two ---


def test_two_processes_never_make_two(house: Service) -> None:
    """Several that need the controller's credential for the first time, at one moment: they have the same one."""
    with ExitStack() as stack:
        host = Host(house.data.parent / "here")
        program = [sys.executable, first_use.__file__, str(house.data)]
        begun = [
            stack.enter_context(
                subprocess.Popen(
                    program, env=host.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(PROCESSES)
        ]
        for each in begun:
            stack.callback(each.kill)
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in begun:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        said = {each.communicate(timeout=60)[0] for each in begun}
        assert [each.returncode for each in begun] == [0] * PROCESSES
    (held,) = house.ledger.credentials(house.name)
    assert held.role is Role.CONTROLLER
    assert said == {f"serial {held.serial:032x}\n"}


def test_two_controllers_on_an_empty_directory() -> None:
    """Two `up` that would both make the authority: one does, the other is refused, and there is one root afterwards."""
    with local_host() as host:
        data = host.directory / "registrar"
        line = (*HANDFAST, "up", "--data", data, "--listen", "127.0.0.1:0", "--json")
        both = [host.start(*line) for _ in range(2)]
        first, second = _in_the_order_of_their_end(both)
        assert "is in use by process" in "\n".join(first.lines)
        ready = json.loads(second.expect('"url"'))
        shown = host.handfast("ca", "show", "--data", data, "--json").json()
        assert ready["pin"] == shown["pin"]
        assert second.stop() == 0


def test_the_port_where_agents_call_is_another_programs() -> None:
    """`up` that would be their controller does not start: it says so, and with which setting."""
    with local_host() as host, socket.create_server(("127.0.0.1", 0)) as taken:
        data, place = host.directory / "registrar", f"127.0.0.1:{taken.getsockname()[1]}"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text(f'[instances]\nwatch = true\nlisten = "{place}"\n')
        refused = host.start(*HANDFAST, "up", "--data", data, "--listen", "127.0.0.1:0")
        assert refused.wait() == 1
        said = "\n".join(refused.lines)
        assert f"'{place}' is in use by another program" in said
        assert "choose another port with [instances] listen" in said


def _in_the_order_of_their_end(both: list[Process]) -> tuple[Process, Process]:
    while True:
        for one, other in (both, both[::-1]):
            try:
                one._popen.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            assert one.wait() == 1
            return one, other


# --- states, and how often ---


async def test_pauses_are_jittered_and_bounded() -> None:
    """From a second to fifteen while nobody answers, never two alike, and about as often as is said while it runs."""
    chances = iter([0.0, 1.0] * 100)
    watched_by = Watch(
        lambda: pytest.fail("nobody is met"), Nothing(), Nothing.dial, every=15.0, jitter=lambda: next(chances)
    )
    waiting = replace(NEW, state=State.WAITING)
    pauses = [
        (watched_by._pause(Watched(waiting, tries=tries)), watched_by._pause(Watched(waiting, tries=tries)))
        for tries in (0, 1, 2, 3, 4, 50, 10_000)
    ]
    assert pauses == [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), *[(7.5, 15.0)] * 3]
    running = Watched(replace(NEW, state=State.RUNNING))
    assert [watched_by._pause(running) for _ in range(2)] == pytest.approx([13.5, 16.5])
    for state in (State.PENDING, State.TIMED_OUT, State.VERIFY_FAILED, State.QUARANTINED):
        assert watched_by._pause(Watched(replace(NEW, state=state))) is None


class Nothing:
    """A registry that has nothing, and a way to nobody."""

    def instances(self) -> list[Instance]:
        return []

    async def keep(self, before: Instance, after: Instance) -> Instance:
        return pytest.fail(f"{before} became {after}")

    @staticmethod
    async def dial(instance: Instance) -> Connection:
        return pytest.fail(f"{instance} was dialled")


async def test_an_introduction_that_takes_long_is_seen(control: Control) -> None:
    """Between seeing its key and issuing for it an instance is `introducing`, to whoever looks."""
    slow, asked, go = Agent(await control.add()), asyncio.Event(), asyncio.Event()
    ordinary = slow.answer

    async def answer(request: web.Request, body: bytes) -> web.Response:
        if request.path == "/v1/introduction":
            asked.set()
            await go.wait()
        return await ordinary(request, body)

    slow.answer = answer  # type: ignore[method-assign]
    async with slow.listening() as address:
        await control.place(address)
        async with asyncio.timeout(20):
            await asked.wait()
        go.set()
        await control.until(State.RUNNING)
    assert State.INTRODUCING in control.states()


def test_what_is_pending_says_why() -> None:
    """That nobody has said where it is, whether it is watched or not."""
    pending = replace(NEW, state=State.PENDING, address=None)
    assert {instance_view(pending, watched=watched).reason for watched in (False, True)} == {
        "nobody has said where it is"
    }


# --- verified on a new connection, or rolled back ---


@pytest.fixture
def agents_clock(monkeypatch: pytest.MonkeyPatch) -> Hand:
    """The clock of all agents, which a test moves: it counts the minute in which a call has to come."""
    hand = Hand(datetime.now(UTC))
    monkeypatch.setattr(run, "_clock", lambda: hand.now)
    return hand


@pytest.mark.parametrize("renewing", [False, True], ids=["first", "renewal"])
async def test_it_goes_back_if_no_verified_call_follows(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agents_clock: Hand, *, renewing: bool
) -> None:
    """The controller dies when its answer was taken: the agent shows what it had, and comes to the same certificate."""
    taken = asyncio.Event()

    async def die() -> None:
        taken.set()
        await asyncio.Event().wait()

    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        before = await asyncio.to_thread(between.shown, where(told))
        if renewing:
            await control.place(where(told))
            await control.until(State.RUNNING)
            before = await asyncio.to_thread(between.shown, where(told))
        monkeypatch.setattr(Connection, "request", between.after(ANSWER, die))
        if renewing:
            control.clock.time += DUE
        else:
            await control.place(where(told))
        async with asyncio.timeout(40):
            await taken.wait()
        await control.stop()
        trial = await asyncio.to_thread(between.shown, where(told))
        assert trial.serial_number == control.issued()[-1].serial != before.serial_number
        agents_clock.time += TRIAL
        assert await asyncio.to_thread(between.shown, where(told)) == before
        control.told.clear()
        await control.start()
        await control.until_true(lambda: bool(control.told) and control.last().serial == trial.serial_number)
        await control.until(State.RUNNING)
        assert serial(state) == trial.serial_number
    assert [each.method for each in control.issued()] == ["instance", "renewal"][: 1 + renewing]
    assert control.alarms() == []


# --- a relay at each state ---


class Relay(Agent):
    """Ends TLS where the instance should be, with whatever key he has, and is good for nothing else."""

    async def introduce(self, hello: Hello, controller: x509.Certificate) -> bytes:
        """He has no evidence."""
        raise Refused("nothing to show")


async def refused_everywhere(address: Address, thief: Path) -> None:
    """Whoever has no certificate, one of his own making, or another agent's genuine one, gets not a byte from it."""
    for context in (between.bare, between.made_up, lambda: between.agents_own(thief)):
        assert await asyncio.to_thread(first_words, address, context()) == b""


@pytest.mark.parametrize("stolen", [False, True], ids=["a key of his own", "another agent's certificate"])
@pytest.mark.parametrize("when", ["waiting", "introducing", "verifying", "running", "renewing", "unreachable"])
async def test_a_relay_at_each_state(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, *, stolen: bool
) -> None:
    """From some state on he sits between: he hears a hello or nothing, the agent is silent to him, and it is told."""
    thief, data, state = tmp_path / "thief", await control.add(), tmp_path / "agent"
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(agent(await control.add("thief.lan"), thief))
        await control.place(where(other), "thief.lan")
        await control.until(State.RUNNING, "thief.lan")
        told = await stack.enter_async_context(agent(data, state))
        relay = Relay(data, keys=between.stolen(thief) if stolen else Keys())
        there = await stack.enter_async_context(relay.listening())
        cable = Cable(there if when == "waiting" else where(told))

        async def lead() -> None:
            cable.lead(there)

        in_between = await stack.enter_async_context(cable.listening())
        if when in {"introducing", "verifying"}:
            path = ANSWER if when == "verifying" else "/v1/introduction"
            monkeypatch.setattr(Connection, "request", between.after(path, lead, of=in_between))
        await control.place(in_between)
        if when in {"running", "renewing", "unreachable"}:
            await control.until(State.RUNNING)
        if when == "renewing":
            monkeypatch.setattr(Connection, "request", between.after(ANSWER, lead, of=in_between))
            control.clock.time += DUE
        elif when == "unreachable":
            cable.lead(Address("127.0.0.1", free_port()))
            await control.until(State.UNREACHABLE)
        if when in {"running", "unreachable"}:
            cable.lead(there)
        early = when in {"waiting", "introducing"}
        if early and not stolen:
            await control.until(State.WAITING, why="nothing to show")
        else:
            found = await control.until(State.QUARANTINED)
            assert (found.seen, control.alarms()) == (relay.now.spki, ["alarm.quarantined"])
        await refused_everywhere(where(told), thief)
        hellos = [body for body in relay.heard if body]
        assert early or not hellos
        for body in hellos:
            assert set(msgspec.json.decode(body)) == {"nonce", "time", "trust", "chain"}
        assert len(control.issued()) == {"waiting": 0, "renewing": 2}.get(when, 1)
        await control.until(State.RUNNING, "thief.lan")  # whose credential is due at the same time


# --- stolen user-data ---


async def put_aside(control: Control, data: InstanceData, thief: Path, honest: Path) -> Address:
    """Have a thief introduced, and then the machine itself meet its controller; return where both were."""
    async with agent(data, thief) as told:
        await control.place(where(told))
        await control.until(State.RUNNING)
    async with agent(data, honest, listen=where(told)) as second:
        found = await control.until(State.QUARANTINED, why="is revoked")
        assert (found.expected, found.seen) == (told.spki, second.spki)
    return where(told)


async def test_stolen_user_data_puts_both_aside(house: Service, tmp_path: Path) -> None:
    """The thief was first: the machine itself is an alarm, nobody is talked to, and what he was given is revoked."""
    async with controlling(replace(house, instances=BOTH)) as control:
        await put_aside(control, await control.add(), tmp_path / "thief", tmp_path / "honest")
        (held,) = control.issued()
        assert (held.revoked_reason, held.serial) == ("keyCompromise", serial(tmp_path / "thief"))
        assert control.alarms() == ["alarm.second-key", "alarm.quarantined"]


async def test_whose_certificate_is_revoked_does_not_run(house: Service, tmp_path: Path) -> None:
    """Somebody released it without looking: the thief, whose certificate was revoked, is not taken back."""
    async with controlling(replace(house, instances=BOTH)) as control:
        data = await control.add()
        place = await put_aside(control, data, tmp_path / "thief", tmp_path / "honest")
        control.told.clear()
        async with agent(data, tmp_path / "thief", listen=place):
            await control.do(lambda them: them.release("app1.lan", reason="a mistake"))
            await control.until_true(lambda: bool({State.RUNNING, State.QUARANTINED} & set(control.states())))
        assert State.RUNNING not in control.states()
