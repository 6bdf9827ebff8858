"""Whoever shows what OpenSSL takes for a certificate, and nobody can read, is hung up on, and nobody waits for him."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from handfast.adapters.callers import readable
from handfast.controller.http import Connection
from handfast.core.instances import State
from handfast.core.invitation import Address
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import PATIENCE, Control
from tests.controller.dialling import add, calling, dialled, eventually, greeted, hurry, taking
from tests.controller.odd import ODD, showing


class Ended(asyncio.Protocol):
    """The other side of a connection, which never hangs up itself; ``over`` when somebody else did."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.over.set()

    def eof_received(self) -> bool:
        """Keep our half."""
        return True


@asynccontextmanager
async def stranger(where: Address, kind: str, directory: Path, ends: list[Ended]) -> AsyncIterator[None]:
    """Call by the name of an instance, again and again, and show an odd certificate."""
    context, loop = showing(kind, directory), asyncio.get_running_loop()

    async def call() -> None:
        while True:
            with contextlib.suppress(OSError):
                made = await greeted(where, "app1.lan", "127.0.0.9")
                try:
                    async with asyncio.timeout(5):
                        await readable(made.fileno())
                except BaseException:
                    made.close()
                    raise
                _, end = await loop.connect_accepted_socket(Ended, made, ssl=context)
                ends.append(end)
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(call())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("kind", ODD)
async def test_he_calls_by_a_name(house: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """Each of his connections is ended by us, and the instance is introduced beside him; it is no alarm."""
    hurry(monkeypatch)
    async with taking(house) as control:
        data, ends = await add(control), list[Ended]()
        async with stranger(dialled(control), kind, tmp_path, ends):
            await eventually(lambda: len(ends) >= 3)
            async with asyncio.timeout(PATIENCE):
                for end in ends[:3]:
                    await end.over.wait()
            async with calling(Agent(data), dialled(control)):
                await control.until(State.RUNNING)
        assert control.alarms() == []


async def test_he_sits_at_its_address(control: Control, tmp_path: Path) -> None:
    """What has a key, and no names that can be read, is somebody else: quarantine; and he is hung up on."""
    await control.add()
    ends: list[Ended] = []

    def made() -> Ended:
        ends.append(Ended())
        return ends[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(made, "127.0.0.1", 0, ssl=showing("no text", tmp_path))
    async with server:
        await control.place(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        await control.until(State.QUARANTINED, why="a certificate that cannot be read")
        async with asyncio.timeout(PATIENCE):
            await ends[0].over.wait()


async def test_whatever_one_caller_does_the_others_are_heard(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours that one of them finds is his: it ends his call, and he has had his turn."""
    hurry(monkeypatch)
    ordinary = Connection.over.__func__  # type: ignore[attr-defined]
    found = 0

    async def over(cls: type[Connection], connected: object, context: object, name: str) -> Connection:
        nonlocal found
        if connected.getpeername()[0] == "127.0.0.9":  # type: ignore[attr-defined]
            found += 1
            connected.close()  # type: ignore[attr-defined]
            raise AttributeError("a mistake")
        return await ordinary(cls, connected, context, name)  # type: ignore[no-any-return]

    monkeypatch.setattr(Connection, "over", classmethod(over))
    async with taking(house) as control:
        data = await add(control)
        async with calling(Agent(data), dialled(control), source="127.0.0.9"):
            with capture_logs() as logged:
                await eventually(lambda: found >= 2)
                async with calling(Agent(data), dialled(control)):
                    await control.until(State.RUNNING)
        errors = [each for each in logged if each["event"] == "unexpected"]
        assert {each["error"] for each in errors} == {"AttributeError: a mistake"}
