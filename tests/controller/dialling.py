"""Agents that dial, honest or not, beside a controller that takes their calls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from handfast.adapters.callers import readable
from handfast.agent import run as runs
from handfast.agent.run import Ready, run
from handfast.config.instances import InstanceSettings, SecondKey
from handfast.controller import lend, watch
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from handfast.registrar.instances import Wanted
from handfast.wiring import Service
from tests.controller.agents import Agent
from tests.controller.control import DAY, PATIENCE, Control, controlling
from tests.standin import http


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no long pauses, on either side; and whoever else calls is looked at soon."""
    for module, name, seconds in (
        (watch, "_FIRST", 0.05),
        (watch, "_LONGEST", 0.1),
        (watch, "AFRESH", 0.3),
        (runs, "REDIAL", 0.05),
        (lend, "PATIENCE", 3.0),
    ):
        monkeypatch.setattr(module, name, seconds)


@asynccontextmanager
async def taking(service: Service, second: SecondKey = SecondKey.QUARANTINE) -> AsyncIterator[Control]:
    """A controller that takes calls."""
    settings = InstanceSettings(listen=Address("127.0.0.1", 0), on_second_key=second)
    async with controlling(replace(service, instances=settings)) as control:
        await eventually(lambda: control.controller.listens is not None)
        yield control


async def eventually(so: Callable[[], bool]) -> None:
    """Wait for something that has to come about."""
    async with asyncio.timeout(PATIENCE):
        while not so():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.02)


async def add(control: Control, name: str = "app1.lan", *, needs_key: bool = False) -> InstanceData:
    """Add an instance that dials."""
    wanted = Wanted(name=name, lasting=DAY, dials=control.controller.listens, needs_key=needs_key)
    return (await control.do(lambda them: them.add(wanted)))[0]


@asynccontextmanager
async def real(data: InstanceData, state: Path, where: Address) -> AsyncIterator[Ready]:
    """The real agent, dialling."""
    told: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(run(data, state=state, policy=None, ready=told.set_result, dial=where))
    try:
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if running.done():
            running.result()
        yield told.result()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def greeted(where: Address, name: str, source: str) -> socket.socket:
    """Call by a name, from an address of this machine, which has all that begin with 127."""
    made, loop = socket.socket(), asyncio.get_running_loop()
    try:
        made.setblocking(False)
        made.bind((source, 0))
        await loop.sock_connect(made, (where.host, where.port))
        await loop.sock_sendall(made, f"HANDFAST-AGENT/1 {name}\n".encode())
    except BaseException:
        made.close()
        raise
    return made


@asynccontextmanager
async def calling(
    agent: Agent, where: Address, name: str = "app1.lan", *, source: str = "127.0.0.1"
) -> AsyncIterator[None]:
    """A small agent, honest or not, that calls again and again under a name, from an address of this machine."""

    async def call(server: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                made = await greeted(where, name, source)
                try:
                    async with asyncio.timeout(5):
                        await readable(made.fileno())
                except BaseException:
                    made.close()
                    raise
                transport, _ = await loop.connect_accepted_socket(server, made, ssl=agent.door())
                while not transport.is_closing():  # noqa: ASYNC110  the protocol is aiohttp's
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.02)

    async with http(agent.handle) as server:
        task = asyncio.ensure_future(call(server))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


def dialled(control: Control) -> Address:
    """Where calls are taken."""
    assert control.controller.listens is not None
    return control.controller.listens


@asynccontextmanager
async def silent(where: Address, sources: Sequence[str], name: str = "app1.lan") -> AsyncIterator[list[int]]:
    """Strangers who say a name and never speak TLS, two from each source, again and again; how often each has."""
    counts = [0] * len(sources)

    async def call(number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError), await greeted(where, name, sources[number]) as made:
                counts[number] += 1
                while await loop.sock_recv(made, 4096):
                    pass
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(call(number)) for number in range(len(sources)) for _ in range(2)]
    try:
        yield counts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
