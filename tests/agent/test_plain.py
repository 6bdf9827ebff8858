"""An agent without TLS: on loopback alone, for its own user, or whoever knows the password; and no page's request."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handfast.agent import plain
from handfast.agent.plain import Plain
from handfast.agent.run import Weaker
from handfast.cli.main import run as command_line
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.errors import UsageError
from tests.agent.agents import POLICY, controller
from tests.agent.test_agent import given
from tests.controller import real

ANY = Address("127.0.0.1", 0)
PASSWORD = Secret(b"correct horse battery")


@asynccontextmanager
async def developed(directory: Path, password: Secret | None = None) -> AsyncIterator[Address]:
    """An agent without TLS, for the length of the block."""
    for name in ("logs", "artifacts", "controller"):
        (directory / name).mkdir()
    policy = directory / "policy.toml"
    policy.write_text(POLICY.format(directory, ""))
    with controller(directory / "controller") as controlling:
        weaker = Weaker(Plain(password))
        async with real.agent(given(controlling), directory / "state", policy=policy, weaker=weaker) as told:
            yield real.where(told)


async def ask(where: Address, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Send a request without TLS."""
    return await asyncio.to_thread(_asked, where, method, path, headers)


def _asked(where: Address, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    talk = http.client.HTTPConnection(where.host, where.port, timeout=30)
    try:
        talk.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = talk.getresponse()
        return answer.status, answer.read()
    finally:
        talk.close()


def basic(password: str, user: str = "handfast") -> str:
    """The header of RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_its_own_user_has_all_that_the_policy_gives(tmp_path: Path) -> None:
    """Both APIs, without any introduction; and no introduction either."""
    async with developed(tmp_path) as where:
        status, about = await ask(where, "GET", "/v1/agent")
        assert (status, b'"stage":"plain"' in about) == (200, True)
        assert await ask(where, "POST", "/v1/services/web/start") == (200, b'{"state":"started"}')
        assert (await ask(where, "GET", "/services/web/status"))[0] == 200
        assert (await ask(where, "GET", "/v1/services/other"))[0] == 404
        assert (await ask(where, "POST", "/v1/introduction"))[0] in {400, 409}
        assert (await ask(where, "POST", "/configure"))[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "[::2]:80"},
        {"Origin": "http://127.0.0.1:7575"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": ""},
    ],
)
async def test_P53_a_web_page_gets_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    """The developer's browser is his own user: a page's request has an origin, or a name that leads here by DNS."""
    async with developed(tmp_path) as where:
        status, told = await ask(where, "POST", "/v1/services/web/start", **headers)
        assert (status, b"web page" in told) == (403, True)
        assert await ask(where, "GET", "/v1/services/web") == (200, b'{"state":"stopped"}')
        assert (await ask(where, "GET", "/v1/services/web", **headers))[0] == 403  # as of an image, or a link


async def test_what_it_says_of_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everywhere the same: it has no stage of an introduction, and whether a controller has called nobody knows."""
    async with developed(tmp_path) as where:
        status, told = await ask(where, "GET", "/v1/agent")
        assert (status, json.loads(told)["stage"]) == (200, "plain")
        capsys.readouterr()
        assert await asyncio.to_thread(command_line, ["agent", "status", "--state", str(tmp_path / "state")]) == 0
        shown = capsys.readouterr().out
    assert f"web1: plain, listens at {where}\n" in shown
    assert "  controller" not in shown


@pytest.mark.parametrize("site", ["none", "same-origin"])
async def test_a_developer_may_look_with_a_browser(tmp_path: Path, site: str) -> None:
    """An address that was typed into it is nobody else's request."""
    async with developed(tmp_path) as where:
        assert (await ask(where, "GET", "/v1/services/web", Sec_Fetch_Site=site))[0] == 200


async def test_another_user_of_this_machine_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is everybody's who has an account; the kernel says whose a connection is."""
    monkeypatch.setattr(plain, "peer_uid", lambda _connected: os.geteuid() + 12345)
    async with developed(tmp_path) as where:
        status, told = await ask(where, "POST", "/v1/services/web/start")
        assert (status, b"its own user alone" in told) == (403, True)
    monkeypatch.setattr(plain, "peer_uid", lambda _connected: None)
    (tmp_path / "again").mkdir()
    async with developed(tmp_path / "again") as where:
        assert (await ask(where, "GET", "/v1/agent"))[0] == 403


async def test_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows it may call, whose user he is; nobody else may, nor is it guessed from what is said."""
    monkeypatch.setattr(plain, "peer_uid", lambda _connected: None)
    right = PASSWORD.reveal().decode()
    async with developed(tmp_path, PASSWORD) as where:
        assert (await ask(where, "GET", "/v1/agent", Authorization=basic(right)))[0] == 200
        for wrong in (basic("wrong"), basic(right, "root"), "Basic ?", f"Bearer {right}", basic(right + "x"), "Basic"):
            status, told = await ask(where, "POST", "/v1/services/web/start", Authorization=wrong)
            assert (status, b"not the password" in told, right.encode() in told) == (403, True, False)
        assert (await ask(where, "GET", "/v1/agent"))[0] == 403
        assert (await ask(where, "GET", "/v1/agent", Authorization=basic(right), Origin="http://x"))[0] == 403


@pytest.mark.parametrize(
    ("weaker", "listens", "why"),
    [
        (Weaker(Plain()), Address("0.0.0.0", 7575), "not a loopback address"),
        (Weaker(Plain()), Address("::", 7575), "not a loopback address"),
        (Weaker(Plain(PASSWORD)), Address("192.0.2.1", 7575), "not a loopback address"),
        (Weaker(Plain()), Address("localhost", 7575), "not a loopback address"),
        (Weaker(Plain()), None, "an agent that dials speaks TLS"),
        (Weaker(Plain(Secret(b"short"))), Address("127.0.0.1", 7575), "a password of under 12"),
        (Weaker(Plain(), legacy=True), Address("127.0.0.1", 7575), "exclude each other"),
    ],
)
def test_P53_nowhere_else(weaker: Weaker, listens: Address | None, why: str) -> None:
    """Off loopback there is no agent without TLS, with a password or without."""
    with pytest.raises(UsageError, match=why):
        weaker.check(listens)


@pytest.mark.parametrize(
    ("weaker", "said"),
    [
        (Weaker(Plain()), "no TLS: on this machine its own user may do all"),
        (Weaker(Plain(PASSWORD)), "no TLS: on this machine whoever knows the password"),
        (Weaker(legacy=True), "a key may be delivered to this agent"),
        (Weaker(), ""),
    ],
)
def test_it_is_said_at_every_start(weaker: Weaker, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever starts it reads what is weaker than an introduction, each time."""
    for _ in range(2):
        weaker.check(Address("127.0.0.1", 7575))
        told: Any = capsys.readouterr()
        assert said in told.out + told.err
        assert bool(said) == bool(told.out + told.err)


async def test_tls_is_not_spoken_there(tmp_path: Path) -> None:
    """A controller that expects TLS is not answered by something else."""
    async with developed(tmp_path) as where:
        reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(b"\x16\x03\x01\x00\x05hello")
        async with asyncio.timeout(30):
            assert not (await reader.read(5)).startswith(b"\x16")
        writer.close()
