"""A socket that systemd passed: it is where the agent listens, and stays systemd's while there is no agent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from handfast.adapters import systemd
from handfast.agent.plain import Plain
from handfast.agent.run import SOCKET, Ready, Weaker, run
from handfast.core.invitation import Address
from handfast.errors import UsageError
from tests.agent.test_agent import Controlling, given

ELSEWHERE = Address("127.0.0.1", 1)


class Systemd:
    """Who holds a listening socket, and passes it to each agent that is started."""

    def __init__(self, patch: pytest.MonkeyPatch, host: str = "127.0.0.1") -> None:
        self._patch = patch
        self.listening = socket.create_server((host, 0))
        self.where = Address(*self.listening.getsockname())

    def passes(self, name: str = SOCKET) -> None:
        """Pass it to this process."""
        self._patch.setattr(systemd, "_FIRST_FD", os.dup(self.listening.fileno()))
        for variable, value in (("PID", str(os.getpid())), ("FDS", "1"), ("FDNAMES", name)):
            self._patch.setenv(f"LISTEN_{variable}", value)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    """systemd, with a socket on loopback."""
    made = Systemd(monkeypatch)
    yield made
    made.listening.close()


@asynccontextmanager
async def started(controlling: Controlling, directory: Path, *, dial: Address | None = None) -> AsyncIterator[Ready]:
    """An agent, for the length of the block."""
    told: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    work = run(
        given(controlling),
        state=directory / "state",
        policy=None,
        ready=told.set_result,
        listen=None if dial else ELSEWHERE,
        dial=dial,
    )
    running = asyncio.ensure_future(work)
    try:
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if running.done():
            running.result()
        yield told.result()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_nobody_can_have_the_port(controlling: Controlling, held: Systemd, tmp_path: Path) -> None:
    """Neither while the agent runs nor after it has ended: a user who had it would be taken for the agent."""
    held.passes()
    async with started(controlling, tmp_path) as ready:
        assert ready.listens == held.where
        assert not {name for name in os.environ if name.startswith("LISTEN_")}
        _, writer = await asyncio.open_connection(held.where.host, held.where.port)
        writer.close()
    with pytest.raises(OSError, match="in use"):
        socket.create_server((held.where.host, held.where.port))


async def test_who_dials_does_not_listen(controlling: Controlling, held: Systemd, tmp_path: Path) -> None:
    """The socket is of no use to it."""
    held.passes()
    async with started(controlling, tmp_path, dial=ELSEWHERE) as ready:
        assert (ready.listens, ready.dials) == (None, ELSEWHERE)
        assert not {name for name in os.environ if name.startswith("LISTEN_")}


async def test_a_socket_without_its_name(controlling: Controlling, held: Systemd, tmp_path: Path) -> None:
    """Whoever forgot the name is told so, and not that somebody else has the port, which is systemd."""
    held.passes("handfast-agent.socket")
    with pytest.raises(UsageError, match=r"systemd passed a socket called 'handfast-agent\.socket'") as refused:
        async with started(controlling, tmp_path):
            pass
    assert refused.value.hint == "FileDescriptorName=agent"


async def test_without_tls_it_has_to_be_loopback_too(
    controlling: Controlling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is where systemd listens, and not what the command line says."""
    everywhere = Systemd(monkeypatch, "0.0.0.0")
    everywhere.passes()
    with everywhere.listening, pytest.raises(UsageError, match=r"an agent without TLS at '0\.0\.0\.0:"):
        await run(
            given(controlling),
            state=tmp_path / "state",
            policy=None,
            ready=lambda _ready: None,
            listen=Address("127.0.0.1", 7575),
            weaker=Weaker(Plain()),
        )
