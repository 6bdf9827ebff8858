"""Agents' calls: kept for whoever wants them, few for each name, and nothing is told to a stranger."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from handfast.controller import listen
from handfast.controller.listen import EACH, SOURCES, Dialled, Waiting
from handfast.errors import Unreachable

PATIENCE = 20.0


@asynccontextmanager
async def listening(
    known: Callable[[str], bool] = lambda _name: True, woken: Callable[[str], None] = lambda _name: None
) -> AsyncIterator[tuple[Dialled, tuple[str, int]]]:
    """Listen on loopback."""
    made = socket.create_server(("127.0.0.1", 0))
    dialled = Dialled(known, woken)
    task = asyncio.ensure_future(dialled.listen(made))
    try:
        yield dialled, made.getsockname()
    finally:
        task.cancel()
        await asyncio.wait({task})
        made.close()


async def call(
    address: tuple[str, int], line: bytes = b"HANDFAST-AGENT/1 web1\n", *, source: str = "127.0.0.1"
) -> socket.socket:
    """Call as an agent does, from an address of this machine, which has all that begin with 127."""
    made = socket.socket()
    made.setblocking(False)
    made.bind((source, 0))
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, address)
    await loop.sock_sendall(made, line)
    return made


async def closed(call: socket.socket) -> bool:
    """Wait until the other side has closed it."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await asyncio.get_running_loop().sock_recv(call, 1) == b""
        except ConnectionError:
            return True


async def says(taken: Waiting, call: socket.socket) -> bool:
    """Whether these two are the ends of one connection."""
    loop = asyncio.get_running_loop()
    with taken.connected as connected:
        await loop.sock_sendall(connected, b"x")
        async with asyncio.timeout(PATIENCE):
            return await loop.sock_recv(call, 1) == b"x"


async def test_a_call_waits_to_be_wanted() -> None:
    """Whether the agent calls first or is wanted first; and whoever watches is woken."""
    woken = asyncio.Event()
    async with listening(woken=lambda _name: woken.set()) as (dialled, address):
        early = await call(address)
        await woken.wait()
        assert await says(await dialled.take("web1", patience=PATIENCE), early)
        wanting = asyncio.ensure_future(dialled.take("web1", patience=PATIENCE))
        await asyncio.sleep(0)
        late = await call(address)
        assert await says(await wanting, late)
        for each in (early, late):
            each.close()


async def test_nobody_calls() -> None:
    """Whoever wants an agent that does not call is told so, in time."""
    async with listening() as (dialled, _):
        with pytest.raises(Unreachable, match="'web1' has not called"):
            await dialled.take("web1", patience=0.01)


async def test_each_source_has_few_places() -> None:
    """The newest calls by a name wait, older ones are closed, which may be gone without a word."""
    async with listening() as (dialled, address):
        calls = []
        for _ in range(EACH + 2):
            calls.append(await call(address))
            await until(lambda: len(dialled._waiting["web1"]) >= min(len(calls), EACH))
        assert [await closed(each) for each in calls[:2]] == [True, True]
        assert await says(await dialled.take("web1", patience=PATIENCE), calls[-1])
        for each in calls:
            each.close()


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that has to come about."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(KeyError):
                if true():
                    return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"HANDFAST-AGENT/2 web1\n",
        b"HANDFAST-AGENT/1 ../web1\n",
        b"HANDFAST-AGENT/1 \n",
        b"HANDFAST-AGENT/1 web1\nmore",
        b"HANDFAST-AGENT/1 stranger\n",
        b"x" * 400,
        b"\xff\n",
    ],
)
async def test_who_is_no_agent_is_closed(line: bytes) -> None:
    """Not the line, another version, no name, more than it, and a name that nobody manages: the same silence."""
    async with listening(known=lambda name: name == "web1") as (dialled, address):
        caller = await call(address, line)
        assert await closed(caller)
        assert dialled._waiting == {}
        caller.close()


async def test_who_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a line does not stay, nor one that nobody wants."""
    monkeypatch.setattr(listen, "PATIENCE", 0.01)
    monkeypatch.setattr(listen, "IDLE", 0.01)
    async with listening() as (_, address):
        silent, unwanted = await call(address, b""), await call(address)
        assert await closed(silent)
        assert await closed(unwanted)
        for each in (silent, unwanted):
            each.close()


async def test_one_that_hangs_up_is_forgotten() -> None:
    """An agent that is gone is not given to anybody."""
    async with listening() as (dialled, address):
        caller = await call(address)
        await until(lambda: len(dialled._waiting["web1"]) == 1)
        caller.close()
        await until(lambda: "web1" not in dialled._waiting)
        with pytest.raises(Unreachable):
            await dialled.take("web1", patience=0.01)
        assert sum(dialled._sources.values()) == 0


async def test_a_flood_from_one_place_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address has so many connections, whatever names it says; the oldest makes place for the next."""
    monkeypatch.setattr(listen, "PER_SOURCE", 3)
    async with listening() as (dialled, address):
        calls = [await call(address, named(f"web{number}")) for number in range(3)]
        await until(lambda: len(dialled._waiting) == 3)
        oldest = next(iter(dialled._waiting))
        calls.append(await call(address, named("web9")))
        await until(lambda: "web9" in dialled._waiting)
        assert len(dialled._waiting) == 3
        assert oldest not in dialled._waiting
        for each in calls:
            each.close()


async def test_where_an_instance_has_proved_to_be_is_no_place_of_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose connections all have proved what they are does not lose one to the next from there: that one is closed."""
    monkeypatch.setattr(listen, "PER_SOURCE", 2)
    async with listening() as (dialled, address):
        honest = [await call(address) for _ in range(2)]
        await until(lambda: len(dialled._waiting["web1"]) == 2)
        dialled.proved(dialled._waiting["web1"][0])
        more = await call(address, named("web2"))
        assert await closed(more)
        assert len(dialled._waiting["web1"]) == 2
        for each in (*honest, more):
            each.close()


def named(name: str) -> bytes:
    """The line of an agent."""
    return f"HANDFAST-AGENT/1 {name}\n".encode()


def from_elsewhere(number: int) -> str:
    """An address that is none of the agent's."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


async def test_strangers_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often somebody calls by a name, the agent's two calls wait, and it is heard when he has been."""
    async with listening() as (dialled, address):
        honest = await call(address)
        await until(lambda: len(dialled._waiting["web1"]) == 1)
        strangers = [await call(address, source=from_elsewhere(1)) for _ in range(50)]
        await until(lambda: len(dialled._waiting["web1"]) == 1 + EACH)
        assert await says(await dialled.take("web1", patience=0), honest)  # it came first
        again = await call(address)
        await until(lambda: len(dialled._waiting["web1"]) == 1 + EACH)
        stranger = await dialled.take("web1", patience=0)
        assert stranger.source == from_elsewhere(1)
        stranger.connected.close()
        dialled.had_its_turn(stranger)
        strangers += [await call(address, source=from_elsewhere(1)) for _ in range(50)]
        await until(lambda: len(dialled._waiting["web1"]) == 1 + EACH)
        assert await says(await dialled.take("web1", patience=0), again)
        for each in (honest, again, *strangers):
            each.close()


async def test_strangers_from_everywhere_with_one_name() -> None:
    """More sources than there are places for: a name has so many, and where its agent has proved to be is one."""
    async with listening() as (dialled, address):
        honest = await call(address)
        await until(lambda: len(dialled._waiting["web1"]) == 1)
        dialled.proved(dialled._waiting["web1"][0])
        strangers = [await call(address, source=from_elsewhere(number)) for number in range(3 * SOURCES)]
        await until(lambda: dialled._waiting["web1"][-1].source == from_elsewhere(3 * SOURCES - 1))
        sources = [each.source for each in dialled._waiting["web1"]]
        assert len(sources) == SOURCES
        assert sources[0] == "127.0.0.1"
        assert await says(await dialled.take("web1", patience=0), honest)
        for each in (honest, *strangers):
            each.close()


async def test_each_source_has_its_turn() -> None:
    """A new agent among as many strangers as there are places is heard before any of them is heard again."""
    async with listening() as (dialled, address):
        for turn in range(1, SOURCES + 1):
            line = [await call(address, source=from_elsewhere(number)) for number in range(SOURCES - 1)]
            await until(lambda: len(dialled._waiting["web1"]) == SOURCES - 1)
            honest = await call(address)
            await until(lambda: len(dialled._waiting["web1"]) == SOURCES)
            taken = await dialled.take("web1", patience=0)
            taken.connected.close()
            dialled.had_its_turn(taken)
            for each in (honest, *line):
                each.close()
            await until(lambda: "web1" not in dialled._waiting)
            assert (taken.source == "127.0.0.1") == (turn == SOURCES)  # it came last each time


async def test_strangers_with_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows all names and calls by them has the oldest of his own closed, and not the agents'."""
    monkeypatch.setattr(listen, "MAX_WAITING", 20)
    async with listening() as (dialled, address):
        honest = [await call(address, named(f"web{number}"), source=f"127.0.0.{number + 1}") for number in range(10)]
        await until(lambda: len(dialled._waiting) == 10)
        strangers = [
            await call(address, named(f"web{number % 10}"), source=from_elsewhere(number % 3)) for number in range(40)
        ]
        assert [await closed(each) for each in strangers[:30]] == [True] * 30
        for number, each in enumerate(honest):
            assert await says(await dialled.take(f"web{number}", patience=0), each)
        for each in (*honest, *strangers):
            each.close()


async def test_slow_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who fills all places and says nothing, or a byte at a time, loses the oldest to whoever says his name."""
    monkeypatch.setattr(listen, "MAX_GREETING", 4)
    async with listening() as (dialled, address):
        slow = [await call(address, b"HANDFAST", source=from_elsewhere(1)) for _ in range(4)]
        await until(lambda: len(dialled._greeting) == 4)
        neighbor = await call(address, b"H")  # few have come from there: it stays
        assert await closed(slow[0])
        honest = await call(address)
        await until(lambda: len(dialled._waiting.get("web1", ())) == 1)
        assert await closed(slow[1])
        await asyncio.get_running_loop().sock_sendall(neighbor, named("web2")[1:])
        await until(lambda: "web2" in dialled._waiting)
        assert await says(await dialled.take("web1", patience=0), honest)
        for each in (honest, neighbor, *slow):
            each.close()


async def test_who_was_heard_does_not_wake_anybody() -> None:
    """A stranger does not choose how often he is looked at: only who is new does, or who has proved to be it."""
    woken: list[str] = []
    async with listening(woken=woken.append) as (dialled, address):
        for _ in range(2):
            stranger = await call(address)
            await until(lambda: len(dialled._waiting.get("web1", ())) == 1)
            assert woken == ["web1"]  # by the first of the two
            heard = await dialled.take("web1", patience=0)
            heard.connected.close()
            dialled.had_its_turn(heard)
            stranger.close()
        dialled._proved["web1"] = "127.0.0.1"
        honest = await call(address)
        await until(lambda: len(woken) == 2)
        honest.close()


async def test_who_is_not_waited_for_any_more_is_not_lost() -> None:
    """A call that comes in the moment in which whoever wanted it gives up is closed, for its agent to call anew."""
    async with listening() as (dialled, _):
        wanting = asyncio.ensure_future(dialled.take("web1", patience=PATIENCE))
        await until(lambda: "web1" in dialled._wanted)
        caller, ours = socket.socketpair()
        caller.setblocking(False)
        dialled._sources["here"] += 1
        dialled._offer(Waiting(ours, "web1", "here", 0))
        wanting.cancel()
        assert await closed(caller)
        assert wanting.cancelled()
        assert (dialled._waiting, dialled._wanted, dialled._sources) == ({}, {}, Counter())
        caller.close()
