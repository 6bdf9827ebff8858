"""A controller and its instances, over real TLS: from the first answer to the end, whatever fails on the way."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import pytest
from aiohttp import web

from handfast.controller import control as controls
from handfast.controller import http
from handfast.controller.control import Controller
from handfast.core.instances import MOST_ROLLBACKS, State
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.core.wire import IntroductionAnswer
from handfast.errors import Fault, Refused, Unreachable, UsageError
from handfast.registrar.instances import Wanted
from handfast.wiring import Service
from tests.controller.agents import Agent, Keys
from tests.controller.control import DAY, Control
from tests.ports import free_port
from tests.standin import talking


async def test_an_instance_comes_to_run(control: Control) -> None:
    """It is placed, introduced, verified over a new connection, and asked how it is; all of it is on record."""
    data = await control.add()
    agent = Agent(data)
    async with agent.listening() as address:
        await control.place(address)
        running = await control.until(State.RUNNING)
        assert control.states() == [State.INTRODUCING, State.VERIFYING, State.RUNNING]
        (held,) = control.issued()
        assert (held.role, held.serial, held.method) == (Role.AGENT, running.serial, "instance")
        assert running.expected == agent.now.spki
        await control.until_true(lambda: len(agent.calls) > 10)
        connections = agent.connections
        await control.until_true(lambda: len(agent.calls) > 20)
        assert agent.connections == connections  # one that runs keeps its connection
    kept = control.kept()
    assert (kept.serial, kept.expected, kept.issued_key) == (held.serial, agent.now.spki, None)
    await control.until(State.UNREACHABLE)
    assert control.alarms() == []


async def test_silence_is_what_a_machine_that_boots_looks_like(control: Control) -> None:
    """Nobody there, something that is no TLS, an agent at last: waiting, with its reason, and then it runs."""
    data = await control.add()
    address = Address("127.0.0.1", free_port())
    await control.place(address)
    await control.until(State.WAITING, why="does not answer")

    async def greets(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    async with talking(greets, port=address.port):
        await control.until_true(lambda: len(control.told) > 1)
    async with Agent(data).listening(address.port):
        await control.until(State.RUNNING)


async def test_expiry(control: Control) -> None:
    """A secret that is over introduces nobody, whoever answers then; only adding it anew helps."""
    data = await control.add(lasting=timedelta(minutes=5))
    control.clock.time += timedelta(minutes=6)
    agent = Agent(data)
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.TIMED_OUT, why="secret was over")
        assert agent.calls == []
    assert control.issued() == []
    with pytest.raises(Refused, match=r"the secret of 'app1\.lan' is over"):
        await control.do(lambda them: them.release("app1.lan", reason="x"))


async def test_its_key_is_confirmed_first(control: Control) -> None:
    """Where a fingerprint is required nothing is asked of it before a person has said which key it has."""
    data = await control.add(needs_key=True)
    agent = Agent(data)
    async with agent.listening() as address:
        await control.place(address)
        waiting = await control.until(State.WAITING, why="has to be confirmed")
        assert waiting.seen == agent.now.spki
        assert (agent.calls, control.spent(data)) == ([], 0)
        await control.do(lambda them: them.confirm("app1.lan", agent.now.spki))
        await control.until(State.RUNNING)


async def test_controller_crash_after_issue(control: Control) -> None:
    """Killed between issuing and hearing of it, it asks again, and the same key gets the same serial."""
    data = await control.add()
    agent = Agent(data)
    reached, serials = asyncio.Event(), []

    async def lose(answer: IntroductionAnswer) -> None:
        serials.append(answer.certificate)
        reached.set()
        await asyncio.Event().wait()

    ordinary, agent.take = agent.take, lose  # type: ignore[method-assign]
    async with agent.listening() as address:
        await control.place(address)
        async with asyncio.timeout(20):
            await reached.wait()
        await control.stop()
        agent.take = ordinary  # type: ignore[method-assign]
        await control.start()
        running = await control.until(State.RUNNING)
        assert [each.serial for each in control.issued()] == [running.serial]
        assert agent.now.chain[0].serial_number == running.serial
        assert len(serials) == 1


async def test_a_lost_answer(control: Control) -> None:
    """The agent never got its certificate: it is asked again, and gets that same one."""
    data = await control.add()
    agent, lost = Agent(data), 0
    ordinary = agent.answer

    async def answer(request: web.Request, body: bytes) -> web.Response:
        nonlocal lost
        if request.path.endswith("/answer") and lost < 2:
            lost += 1
            drop(request)
        return await ordinary(request, body)

    def drop(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    agent.answer = answer  # type: ignore[method-assign]
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    assert len(control.issued()) == 1
    assert control.alarms() == []


@pytest.mark.parametrize("renewing", [False, True])
async def test_a_lost_receipt(control: Control, renewing: bool) -> None:
    """The agent has its certificate, and the controller dies before it hears so: it is recognized all the same."""
    data = await control.add()
    agent, taken = Agent(data), asyncio.Event()
    ordinary = agent.take

    async def take(answer: IntroductionAnswer) -> None:
        await ordinary(answer)
        if taken.is_set() or (renewing and len(control.issued()) == 1):
            return
        taken.set()
        await asyncio.Event().wait()

    agent.take = take  # type: ignore[method-assign]
    async with agent.listening() as address:
        await control.place(address)
        if renewing:
            await control.until(State.RUNNING)
            control.clock.time += timedelta(hours=17)
        async with asyncio.timeout(20):
            await taken.wait()
        await control.stop()
        control.told.clear()
        await control.start()
        running = await control.until(State.RUNNING)
        assert (running.serial, running.expected) == (agent.now.chain[0].serial_number, agent.now.spki)
    assert len(control.issued()) == 1 + renewing
    assert control.alarms() == []


async def test_an_agent_that_goes_back(control: Control) -> None:
    """It takes its certificate and then shows what it had: it is asked again, and after some times left to a person."""
    data = await control.add()
    agent = Agent(data)
    takes = 0
    ordinary = agent.take

    async def take(answer: IntroductionAnswer) -> None:
        nonlocal takes
        takes += 1
        if takes > MOST_ROLLBACKS:
            await ordinary(answer)

    agent.take = take  # type: ignore[method-assign]
    async with agent.listening() as address:
        await control.place(address)
        failed = await control.until(State.VERIFY_FAILED)
        assert (takes, failed.rollbacks) == (MOST_ROLLBACKS, MOST_ROLLBACKS)
        assert len(control.issued()) == 1
        await control.do(lambda them: them.release("app1.lan", reason="its disk was full"))
        await control.until(State.RUNNING)


async def test_renewal(control: Control) -> None:
    """In the middle of its life it is given a successor for a new key, verified like the first."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        first = await control.until(State.RUNNING)
        old = agent.now.spki
        control.clock.time += timedelta(hours=17)
        await control.until_true(lambda: control.last().serial not in {None, first.serial})
        second = await control.until(State.RUNNING)
        assert State.RENEWING in control.states()
        assert second.expected == agent.now.spki != old
        assert [each.method for each in control.issued()] == ["instance", "renewal"]


async def test_expired_leaf(control: Control) -> None:
    """An agent without a controller for longer than its credential comes back by its way back, as itself."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        first = await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    control.clock.time += 3 * DAY
    async with agent.listening():
        await control.until_true(lambda: control.last().serial not in {None, first.serial})
        await control.until(State.RUNNING)
    assert [each.method for each in control.issued()] == ["instance", "reintroduction"]
    assert control.alarms() == []


async def test_reboot_keeps_identity(control: Control) -> None:
    """It is gone and comes back with the same key: nothing is introduced again."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    async with agent.listening():
        await control.until(State.RUNNING)
    assert len(control.issued()) == 1


async def test_a_black_hole_does_not_stall_others(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever swallows what he is sent holds up nobody; nor does he who never ends his answer."""
    monkeypatch.setattr(http, "CONNECT", 30.0)
    holes = [socket.create_server(("127.0.0.1", 0), backlog=1) for _ in range(3)]
    try:
        for number, hole in enumerate(holes):
            await control.add(f"hole{number}.lan")
            await control.place(Address("127.0.0.1", hole.getsockname()[1]), f"hole{number}.lan")
        silent = Agent(await control.add("silent.lan"))
        called, forever = asyncio.Event(), asyncio.Event()

        async def never(request: web.Request, body: bytes) -> web.Response:
            called.set()
            await forever.wait()
            return web.Response()

        silent.answer = never  # type: ignore[method-assign]
        async with silent.listening() as quiet:
            await control.place(quiet, "silent.lan")
            async with asyncio.timeout(20):
                await called.wait()
            agent = Agent(await control.add())
            async with agent.listening() as address:
                await control.place(address)
                await control.until(State.RUNNING)
            forever.set()
    finally:
        for hole in holes:
            hole.close()


async def test_removed(control: Control) -> None:
    """Its connection ends, nothing is asked of it any more, and its credential is revoked."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        await control.do(lambda them: them.remove("app1.lan", reason="it is gone"))
        (held,) = control.issued()
        assert held.revoked_reason == "cessationOfOperation"
        other = Agent(await control.add("app2.lan"))
        async with other.listening() as there:
            await control.place(there, "app2.lan")
            await control.until(State.RUNNING, "app2.lan")
            calls, more = len(agent.calls), len(other.calls)
            await control.until_true(lambda: len(other.calls) > more + 10, "app2.lan")
            assert len(agent.calls) == calls


async def test_one_process_watches(control: Control) -> None:
    """A second controller for the same directory is refused, and told why."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        with pytest.raises(Fault, match="is in use by process"):
            await Controller(lambda: control.service, tell=control.tell).run()


async def test_its_own_credential_is_renewed(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of its life, while it runs; new connections present the new one."""
    monkeypatch.setattr(controls, "_CREDENTIAL", 0.05)
    await control.stop()
    await control.start()
    name = control.service.name
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
        control.clock.time += timedelta(hours=13)
        await control.until_true(lambda: len(control.issued(name)) > 1)
    assert {each.role for each in control.issued(name)} == {Role.CONTROLLER}
    again = Agent(await control.add("app2.lan"), keys=Keys())
    async with again.listening() as address:
        await control.place(address, "app2.lan")
        await control.until(State.RUNNING, "app2.lan")


async def test_the_registrars_own_name_is_no_instances(control: Control) -> None:
    """Nor once a controller has made its credential under it: to remove it would take back our own."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    name = control.service.name
    with pytest.raises(UsageError, match="is the registrar itself"):
        await control.do(lambda them: them.add(Wanted(name=name, lasting=DAY)))


async def test_many_at_once(control: Control) -> None:
    """However many come at a time, each is introduced with its own key, once."""
    count = 40
    agents = [Agent(await control.add(f"app{number}.lan")) for number in range(count)]
    async with asyncio.TaskGroup() as tasks:
        ended = asyncio.Event()

        async def serve(agent: Agent) -> None:
            async with agent.listening() as address:
                await control.place(address, agent.data.instance)
                await ended.wait()

        for agent in agents:
            tasks.create_task(serve(agent))
        for agent in agents:
            await control.until(State.RUNNING, agent.data.instance)
        ended.set()
    assert all(len(control.issued(each.data.instance)) == 1 for each in agents)


def test_before_it_has_begun(house: Service) -> None:
    """Whoever asks for its credential already is told to try again: no failure of ours."""
    with pytest.raises(Unreachable, match="the controller is about to begin") as told:
        _ = Controller(lambda: house, tell=lambda _before, _after: None).credential
    assert told.value.hint == "try again"
