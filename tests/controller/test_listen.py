"""Agents' calls: kept for whoever wants them, few for each name, and nothing is told to a stranger."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from handfast.controller import listen
from handfast.controller.listen import EACH, Dialled
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


async def call(address: tuple[str, int], line: bytes = b"HANDFAST-AGENT/1 web1\n") -> socket.socket:
    """Call as an agent does."""
    made = socket.socket()
    made.setblocking(False)
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


async def says(connected: socket.socket, call: socket.socket) -> bool:
    """Whether these two are the ends of one connection."""
    loop = asyncio.get_running_loop()
    with connected:
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


async def test_each_name_has_few_places() -> None:
    """The newest calls wait, older ones are closed: a stranger who says a name does not keep its agent out."""
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
    """One address has so many connections, whatever names it says."""
    monkeypatch.setattr(listen, "PER_SOURCE", 3)
    async with listening() as (dialled, address):
        calls = [await call(address, f"HANDFAST-AGENT/1 web{number}\n".encode()) for number in range(3)]
        await until(lambda: len(dialled._waiting) == 3)
        more = await call(address, b"HANDFAST-AGENT/1 web9\n")
        assert await closed(more)
        for each in (*calls, more):
            each.close()
