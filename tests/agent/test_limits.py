"""The agent's patience, with limits that a test can wait for: the same parts as a process has, in this one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from handfast.agent import doors, state, transfers
from tests.agent import within
from tests.agent.agents import Answer, Running, Talk
from tests.agent.within import Inside

inside = within.inside  # the fixture


@pytest.fixture
def agent(inside: Inside) -> Running:
    """An agent in this process, introduced."""
    return inside.agent


async def sent(talk: Talk, method: str, path: str, size: int, some: bytes = b"") -> Answer:
    """Announce a body, send some of it, and wait for the answer."""
    return await asyncio.to_thread(talk.ask, method, path, some, Content_Length=str(size))


@pytest.mark.parametrize("some", [b"", b"{"])
async def test_a_body_that_drips(some: bytes, agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for so long, whether some of it has come or nothing."""
    monkeypatch.setattr(state, "BODY", 0.2)
    answer = await sent(await asyncio.to_thread(agent.talk), "PUT", "/v1/services/web/configuration", 100, some)
    assert (answer.status, answer.headers["Connection"]) == (408, "close")


async def test_an_artifact_that_drips(agent: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte has so long: less is no transfer, and nothing of it stays."""
    monkeypatch.setattr(transfers, "SLOWEST", 0.2)
    answer = await sent(await asyncio.to_thread(agent.talk), "PUT", "/v1/services/web/artifacts/a", 1000, b"some")
    assert (answer.status, list((tmp_path / "artifacts").iterdir())) == (408, [])


async def test_artifacts_come_a_few_at_a_time(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more the next is told when to come again, before its body."""
    talks = [await asyncio.to_thread(agent.talk) for _ in range(state.TRANSFERS + 1)]
    head = "PUT /v1/services/web/artifacts/a{} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
    for number, talk in enumerate(talks[:-1]):
        await asyncio.to_thread(talk.tls.sendall, head.format(number).encode())
    answer = Answer(0, b"")
    for _ in range(1000):  # until all of them have begun
        answer = await sent(talks[-1], "PUT", "/v1/services/web/artifacts/late", 9, b"wonderful")
        if answer.status == 429:
            break
        talks[-1] = await asyncio.to_thread(agent.talk)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
    for talk in talks[:-1]:
        await asyncio.to_thread(talk.tls.sendall, b"wonderful")
        assert b" 201 " in await asyncio.to_thread(talk.tls.recv, 4096)


async def test_whoever_does_not_read_is_dropped(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is kept for a while, and not for ever."""
    monkeypatch.setattr(doors, "UNREAD", 0.5)
    agent, entrance = inside.agent, inside.doors
    (tmp_path / "logs/a.log").write_text("a line\n" * 100_000)
    talk = await asyncio.to_thread(agent.talk)
    request = b"GET /v1/services/web/logs/a.log?lines=10000 HTTP/1.1\r\nHost: a\r\n\r\n"
    await asyncio.to_thread(talk.tls.sendall, request * 500)
    other = await asyncio.to_thread(agent.talk)
    assert (await asyncio.to_thread(other.ask, "GET", "/v1/agent")).status == 200
    while len(entrance.callers) > 1:  # noqa: ASYNC110  nothing says when
        await asyncio.sleep(0.05)

    def received() -> int:
        total = 0
        with contextlib.suppress(OSError):
            while piece := talk.tls.recv(65536):
                total += len(piece)
        return total

    assert await asyncio.to_thread(received) < 500 * 90_000


async def test_a_handshake_that_does_not_come(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for, and whoever connects has no more than that."""
    monkeypatch.setattr(doors, "HANDSHAKE", 0.2)
    with socket.create_connection((agent.address.host, agent.address.port)) as silent:
        silent.settimeout(30)
        assert await asyncio.to_thread(silent.recv, 1) == b""
