"""An agent in this process, of the same parts as one that is a process: for limits that a test can wait for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handfast.agent import policy
from handfast.agent.agent import Agent
from handfast.agent.app import application, runner
from handfast.agent.doors import Doors
from handfast.agent.state import State
from handfast.core.invitation import Address
from handfast.newcomer.keystore import Keystore
from tests.agent.agents import POLICY, Running, Talk
from tests.agent.test_agent import Controlling, given
from tests.interop.hosts import Host


@dataclass(frozen=True)
class Inside:
    """The agent, what leads to it, and what its requests share."""

    agent: Running
    doors: Doors
    state: State

    def talk(self, source: str = "127.0.0.1") -> Talk:
        """Connect as the controller, or with its stolen key, from an address of this machine."""
        address = (self.agent.address.host, self.agent.address.port)
        connected = socket.create_connection(address, 30, (source, 0))
        self.agent.talks.callback(connected.close)
        talk = Talk(self.agent.context().wrap_socket(connected))
        self.agent.talks.callback(talk.close)
        return talk


@pytest.fixture
async def inside(controlling: Controlling, tmp_path: Path) -> AsyncIterator[Inside]:
    """An agent in this process, introduced."""
    for name in ("logs", "artifacts"):
        (tmp_path / name).mkdir()
    host = Host(tmp_path / "agent")
    data = given(controlling)
    keystore = Keystore(tmp_path / "state")
    shared = State(Agent(data, keystore, now=lambda: datetime.now(UTC)), data)
    shared.adopt(policy.parse(POLICY.format(tmp_path, "").encode(), source="policy"))
    http = runner(application(shared))
    await http.setup()
    assert http.server is not None
    entrance = Doors(http.server, face=lambda: shared.agent.face, admit=shared.agent.authorize)
    shared.callers = entrance.callers
    listening = socket.create_server(("127.0.0.1", 0))
    accepting = asyncio.create_task(entrance.listen(listening))
    running = Running(controlling, data, host, tmp_path)
    running.address = Address("127.0.0.1", listening.getsockname()[1])
    await asyncio.to_thread(running.introduce)
    yield Inside(running, entrance, shared)
    await asyncio.to_thread(running.talks.close)
    accepting.cancel()
    await asyncio.wait({accepting})
    await entrance.close()
    await http.cleanup()
    listening.close()
    assert not entrance.callers
