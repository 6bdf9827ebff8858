"""
A real controller and real agents, with somebody in between: the acceptance tests of both, by name.

What one side alone can show is tested on that side, against a counterpart that a test has in its hand. The table in
docs/protocols/agent.md says which test shows what.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from handfast.controller import watch
from handfast.controller.http import Answer, Connection
from handfast.core.instances import State
from handfast.core.invitation import Address
from handfast.core.wire import Hello
from handfast.errors import Fault, NotFound, Refused
from handfast.newcomer.keystore import Keystore
from handfast.wiring import Service
from tests.controller import between
from tests.controller.agents import Agent
from tests.controller.control import DAY, Control
from tests.controller.control import house as opened
from tests.controller.real import agent, where

LIFETIMES = '[lifetime]\nagent = "2h"\n'  # the controller's own stays a day: an agent compares it with the real time
DUE, OVER = timedelta(minutes=85), timedelta(hours=3)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Service]:
    """A registrar whose agents' credentials are short."""
    with opened(tmp_path, LIFETIMES) as service:
        yield service


def serial(state: Path) -> int:
    """Return the serial of the credential that an agent has on its disk."""
    return Keystore(state).load().certificate.serial_number


async def another(control: Control, name: str) -> None:
    """Wait until an instance has another credential than now, and answers with it."""
    before = control.last(name).serial
    await control.until_true(lambda: control.last(name).serial not in {None, before}, name)
    await control.until(State.RUNNING, name)


async def test_from_the_first_packet_to_a_renewal(control: Control, tmp_path: Path) -> None:
    """Introduced, verified, asked how it is, given a successor for a new key, verified again: without a restart."""
    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        await control.place(where(told))
        first = await control.until(State.RUNNING)
        assert (first.expected, first.serial) == (told.spki, serial(state))
        control.clock.time += DUE
        await another(control, "app1.lan")
        second = control.last()
        assert (second.expected != told.spki, second.serial) == (True, serial(state))
    assert [each.method for each in control.issued()] == ["instance", "renewal"]
    assert control.alarms() == []


# --- once, and by whom ---


async def test_token_replay(control: Control, tmp_path: Path) -> None:
    """A second agent with the same user-data, where the first one was: an alarm, and nothing for the second."""
    data = await control.add()
    async with agent(data, tmp_path / "first") as told:
        await control.place(where(told))
        await control.until(State.RUNNING)
    async with agent(data, tmp_path / "second", listen=where(told)) as second:
        found = await control.until(State.QUARANTINED)
        assert (found.expected, found.seen) == (told.spki, second.spki)
    assert len(control.issued()) == 1
    assert control.alarms().count("alarm.quarantined") == 1


async def test_a_second_key_while_the_first_is_away(control: Control, tmp_path: Path) -> None:
    """The thief was introduced as the instance that the operator released again: its own secret tells on him."""
    data = await control.add()
    async with agent(data, tmp_path / "thief") as told:
        await control.place(where(told))
        await control.until(State.RUNNING)
    async with agent(data, tmp_path / "honest", listen=where(told)):
        await control.until(State.QUARANTINED)
        await control.do(lambda them: them.release("app1.lan", reason="a mistake"))
        await control.until_true(lambda: len(control.alarms()) > 1)
        await control.until(State.QUARANTINED)
    assert len(control.issued()) == 1


async def test_expiry(control: Control, tmp_path: Path) -> None:
    """A machine that boots after its secret's time is not introduced, by either side."""
    data, state = await control.add(lasting=timedelta(minutes=5)), tmp_path / "agent"
    control.clock.time += timedelta(minutes=6)
    async with agent(data, state) as told:
        await control.place(where(told))
        await control.until(State.TIMED_OUT, why="secret was over")
    assert (control.issued(), control.spent(data)) == ([], 0)
    with pytest.raises(NotFound):
        Keystore(state).load()


async def test_wrong_instance_id(control: Control, tmp_path: Path) -> None:
    """Another instance answers: its secret stays its own, and at its own place it is introduced."""
    await control.add()
    other = await control.add("app2.lan")
    async with agent(other, tmp_path / "agent") as told:
        await control.place(where(told))
        await control.until(State.QUARANTINED, why=r"the secret of 'app2.lan' answers for 'app1.lan'")
        assert (control.spent(other), control.issued("app2.lan")) == (0, [])
        await control.place(where(told), "app2.lan")
        await control.until(State.RUNNING, "app2.lan")


async def test_another_agent_in_its_place(control: Control, tmp_path: Path) -> None:
    """With its own genuine certificate: it is known, and so it is nobody here."""
    one, two = await control.add(), await control.add("app2.lan")
    async with agent(one, tmp_path / "one") as told, agent(two, tmp_path / "two") as other:
        await control.place(where(told))
        await control.place(where(other), "app2.lan")
        await control.until(State.RUNNING)
        await control.until(State.RUNNING, "app2.lan")
        await control.place(where(other))
        await control.until(State.QUARANTINED, why="'app2.lan' answers, with its own genuine certificate")
        assert control.last("app2.lan").state is State.RUNNING


# --- what survives ---


async def test_reboot_keeps_identity(control: Control, tmp_path: Path) -> None:
    """Gone and back: the same key and the same serial, and nobody is introduced again."""
    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        await control.place(where(told))
        first = await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    async with agent(data, state, listen=where(told)) as again:
        assert (again.stage, again.spki) == ("held", told.spki)
        assert (await control.until(State.RUNNING)).serial == first.serial == serial(state)
    assert len(control.issued()) == 1


@pytest.mark.parametrize("same", ["same secret", "secret of its own"])
async def test_clone_with_changed_instance_id(control: Control, tmp_path: Path, same: str) -> None:
    """A copied disk is nobody elsewhere: its key is not used again, and a copied secret is spent."""
    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        await control.place(where(told))
        await control.until(State.RUNNING)
        shutil.copytree(state, tmp_path / "clone", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
        if same == "same secret":
            theirs = replace(data, instance_id="i-another")
        else:
            theirs = await control.add("app2.lan")
        async with agent(theirs, tmp_path / "clone") as clone:
            assert (clone.stage, clone.spki != told.spki) == ("new", True)
            if same == "same secret":
                await control.place(where(clone))
                await control.until(State.QUARANTINED)
            else:
                await control.place(where(clone), "app2.lan")
                await control.until(State.RUNNING, "app2.lan")
                assert control.last().state is State.RUNNING


async def test_mismatched_pair(control: Control, tmp_path: Path) -> None:
    """A disk with one agent's key and another's certificate: it does not start, and says which files."""
    for name in ("app1.lan", "app2.lan"):
        async with agent(await control.add(name), tmp_path / name) as told:
            await control.place(where(told), name)
            await control.until(State.RUNNING, name)
    one, two = (next((tmp_path / name).glob(".generations/*/privkey.pem")) for name in ("app1.lan", "app2.lan"))
    one.write_bytes(two.read_bytes())
    with pytest.raises(Fault, match="are not a pair"):
        async with agent(await control.add("app3.lan"), tmp_path / "app1.lan"):
            pass


async def test_expired_leaf(control: Control, tmp_path: Path) -> None:
    """A machine that was off for longer than its credential comes back as itself."""
    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        await control.place(where(told))
        await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    control.clock.time += OVER
    async with agent(data, state, listen=where(told)):
        await another(control, "app1.lan")
    assert [each.method for each in control.issued()] == ["instance", "reintroduction"]
    assert control.alarms() == []


@pytest.mark.parametrize("renewing", [False, True], ids=["first", "renewal"])
@pytest.mark.parametrize("taken", [False, True], ids=["before it was sent", "after it was taken"])
async def test_controller_crash_after_issue(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, renewing: bool, taken: bool
) -> None:
    """It died with the certificate issued, and the next one gives the very same: one serial for one key."""
    reached, ordinary = asyncio.Event(), Connection.request

    async def die(self: Connection, method: str, path: str, *arguments: bytes, **more: float) -> Answer:
        if path != "/v1/introduction/answer" or reached.is_set() or (renewing and len(control.issued()) == 1):
            return await ordinary(self, method, path, *arguments)
        if taken:
            await ordinary(self, method, path, *arguments)
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Connection, "request", die)
    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        await control.place(where(told))
        if renewing:
            await control.until(State.RUNNING)
            control.clock.time += DUE
        async with asyncio.timeout(20):
            await reached.wait()
        await control.stop()
        issued = [each.serial for each in control.issued()]
        control.told.clear()
        await control.start()
        running = await control.until_true(
            lambda: bool(control.told) and control.last().state is State.RUNNING and control.last().serial == issued[-1]
        )
        assert [each.serial for each in control.issued()] == issued
        assert serial(state) == running.serial
    assert len(issued) == 1 + renewing
    assert control.alarms() == []


# --- in the middle ---


async def test_relay_that_passes_on_every_byte(control: Control, tmp_path: Path) -> None:
    """He is a cable: introduction and renewal go through him, and nothing that he has seen can be read."""
    data, state = await control.add(), tmp_path / "agent"
    async with agent(data, state) as told:
        wire = between.Cable(where(told))
        async with wire.listening() as place:
            await control.place(place)
            await control.until(State.RUNNING)
            control.clock.time += DUE
            await another(control, "app1.lan")
    leaf = Keystore(state).load().leaf
    for secret in (data.line.seed.reveal(), data.line.key_id.encode(), b"nonce", b"/v1/", b"app1.lan", leaf):
        assert secret not in wire.seen
    assert control.alarms() == []


class Between(Agent):
    """Ends TLS on both sides: to the controller he shows a key of his own, to the agent whatever he has."""

    behind: Address
    own: tuple[Callable[[], ssl.SSLContext], ...]
    answers: list[bytes]

    async def introduce(self, hello: Hello, controller: x509.Certificate) -> bytes:
        """Ask the agent behind him, in every way that he has."""
        for context in self.own:
            self.answers.append(await asyncio.to_thread(between.first_words, self.behind, context()))
        raise Refused("nothing to show")


@pytest.mark.parametrize("introduced", [False, True], ids=["new", "running"])
async def test_relay_in_the_middle(control: Control, tmp_path: Path, *, introduced: bool) -> None:
    """With no certificate, one of his own, and another agent's genuine one: no agent says a word to him."""
    data, state, thief = await control.add(), tmp_path / "agent", tmp_path / "thief"
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(agent(await control.add("thief.lan"), thief))
        await control.place(where(other), "thief.lan")
        await control.until(State.RUNNING, "thief.lan")
        told = await stack.enter_async_context(agent(data, state))
        if introduced:
            await control.place(where(told))
            await control.until(State.RUNNING)
        relay = Between(data)
        relay.behind, relay.answers = where(told), []
        relay.own = (between.bare, between.made_up, lambda: between.agents_own(thief))
        place = await stack.enter_async_context(relay.listening())
        await control.place(place)
        if introduced:
            await control.until(State.QUARANTINED, why="without our certificate")
            assert set(relay.answers) <= {b""}
            for each in relay.own:
                assert await asyncio.to_thread(between.first_words, where(told), each()) == b""
            return
        await control.until(State.WAITING, why="nothing to show")
        assert set(relay.answers) == {b""}
        assert (control.spent(data), control.issued()) == (0, [])
        await control.place(where(told))
        await control.until(State.RUNNING)


# --- many ---


async def test_slow_peers_stall_nobody(control: Control, tmp_path: Path) -> None:
    """More who take a connection and say nothing than the controller connects to at once: the others are introduced."""
    async with AsyncExitStack() as stack:
        for number in range(watch.CONNECTING + 16):
            hole = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            await control.add(f"hole{number}.lan", lasting=DAY)
            await control.place(Address("127.0.0.1", hole.getsockname()[1]), f"hole{number}.lan")
        for number in range(3):
            data = await control.add(f"app{number}.lan")
            told = await stack.enter_async_context(agent(data, tmp_path / f"agent{number}"))
            await control.place(where(told), f"app{number}.lan")
        for number in range(3):
            await control.until(State.RUNNING, f"app{number}.lan")
