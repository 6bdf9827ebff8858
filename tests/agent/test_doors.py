"""Who has a place at the agent's door: neither strangers nor stolen credentials keep the controller out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from handfast.agent import doors
from handfast.agent.agent import Face
from handfast.agent.doors import MAX_CONNECTIONS, MAX_PROVING, Caller
from handfast.agent.state import LARGE
from handfast.core.roles import Role
from tests.agent import within
from tests.agent.agents import Answer, Talk
from tests.agent.within import Inside

inside = within.inside  # the fixture
THIEF = "127.0.0.2"
T = TypeVar("T")


async def until(so: Callable[[], bool]) -> None:
    """Wait until something is so, of which nothing says when."""
    async with asyncio.timeout(30):
        while not so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ask(talk: Talk, method: str = "GET", path: str = "/v1/agent", body: Any = None) -> Answer:
    """Send a request, and wait for its answer."""
    return await asyncio.to_thread(talk.ask, method, path, body)


async def is_gone(talk: Talk) -> bool:
    """Wait until a connection that says nothing is ended; False if it is answered instead."""
    try:
        return (await ask(talk)).status != 200
    except OSError:
        return True


class Halfway:
    """A controller that has said its first word of TLS, and waits for what its network does with it."""

    def __init__(self, inside: Inside) -> None:
        self.connected = socket.create_connection((inside.agent.address.host, inside.agent.address.port), 30)
        self._came, self._to_go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = inside.agent.context().wrap_bio(self._came, self._to_go)
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.connected.sendall(self._to_go.read())

    def status(self) -> bytes:
        """Go on from there, and ask who it is."""
        self._on(self._tls.do_handshake)
        self._tls.write(b"GET /v1/agent HTTP/1.1\r\nHost: agent\r\n\r\n")
        return self._on(lambda: bytes(self._tls.read(12)))

    def _on(self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._send()
                piece = self.connected.recv(65536)
                assert piece, "it was dropped"
                self._came.write(piece)
            else:
                self._send()
                return done

    def _send(self) -> None:
        self.connected.sendall(self._to_go.read())


async def test_a_flood_within_one_round_trip(inside: Inside) -> None:
    """However many connect from elsewhere while a controller's handshake is on its way, it is not the one to go."""
    halfway = await asyncio.to_thread(Halfway, inside)
    address = (inside.agent.address.host, inside.agent.address.port)
    flood = [await asyncio.to_thread(socket.create_connection, address, 30, (THIEF, 0)) for _ in range(3 * MAX_PROVING)]
    try:
        flood[MAX_PROVING].settimeout(30)
        assert await asyncio.to_thread(flood[MAX_PROVING].recv, 1) == b""  # more have come than there are places
        assert await asyncio.to_thread(halfway.status) == b"HTTP/1.1 200"
    finally:
        halfway.connected.close()
        for each in flood:
            each.close()


def test_who_has_to_go() -> None:
    """The first from where most are; where nobody has more than another, chance: else it could be foreseen."""
    sources = {"a": "1", "b": "2", "c": "2", "d": "2", "e": "3"}
    assert {doors._one_too_many(sources) for _ in range(100)} == {"b"}
    equal = {"a": "1", "b": "2", "c": "2", "d": "1", "e": "3"}
    assert {doors._one_too_many(equal) for _ in range(2000)} == {"a", "b"}


async def test_a_thiefs_connections_keep_nobody_out(inside: Inside) -> None:
    """All places are taken with a stolen key, over and over: the controller gets in, and stays in."""
    thieves = [await asyncio.to_thread(inside.talk, THIEF) for _ in range(MAX_CONNECTIONS + 1)]
    await until(lambda: len(inside.doors.callers) == MAX_CONNECTIONS)
    controller = await asyncio.to_thread(inside.talk)
    assert (await ask(controller)).status == 200
    for _ in range(2 * MAX_CONNECTIONS):
        thieves.append(await asyncio.to_thread(inside.talk, THIEF))
        assert (await ask(thieves[-1])).status == 200
    assert (await ask(controller)).status == 200
    assert len(inside.doors.callers) == MAX_CONNECTIONS
    assert await is_gone(thieves[0])


async def test_of_one_source_the_silent_go(inside: Inside) -> None:
    """Where the thief has the controller's own address, it is whoever has said nothing for longest."""
    silent = await asyncio.to_thread(inside.talk)
    controller = await asyncio.to_thread(inside.talk)
    for _ in range(MAX_CONNECTIONS):
        assert (await ask(controller)).status == 200
        another = await asyncio.to_thread(inside.talk)
        assert (await ask(another)).status == 200
    assert (await ask(controller)).status == 200
    assert await is_gone(silent)


async def test_strangers_end_no_connection(inside: Inside) -> None:
    """Only who has proved to be a controller takes a controller's place."""
    talks = [await asyncio.to_thread(inside.talk) for _ in range(MAX_CONNECTIONS)]
    await until(lambda: len(inside.doors.callers) == MAX_CONNECTIONS)
    leaf = inside.agent.controlling.certificate(Role.AGENT)
    for _ in range(3):
        assert await is_gone(await asyncio.to_thread(inside.agent.talk, leaf))
    for talk in talks:
        assert (await ask(talk)).status == 200


async def test_refused_callers_are_one_line(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has any credential of ours could fill the disk with the agent's log."""
    said: list[str] = []

    class Log:
        def warning(self, text: str, **_: object) -> None:
            said.append(text)

    monkeypatch.setattr(doors, "_log", Log())
    leaf = inside.agent.controlling.certificate(Role.AGENT)
    for _ in range(5):
        assert await is_gone(await asyncio.to_thread(inside.agent.talk, leaf))
    assert said == ["refused a caller that is no controller"]


async def test_a_certificate_that_ends_ends_its_connections(inside: Inside) -> None:
    """TLS has looked at its dates once; a connection that is kept busy is no way around them."""
    talk, ends = await asyncio.to_thread(inside.talk), inside.agent.controlling.leaf.not_valid_after_utc
    inside.state.now = lambda: ends - timedelta(minutes=2)
    answer = await ask(talk)
    assert (answer.status, "Connection" in answer.headers) == (200, False)
    inside.state.now = lambda: ends
    for method, path in (("GET", "/v1/agent"), ("POST", "/v1/services/web/start"), ("GET", "/status")):
        answer = await ask(talk, method, path)
        assert answer.headers["Connection"] == "close"
        assert b"the certificate that this connection began with is over" in answer.body
        assert answer.status == (500 if path == "/status" else 409)
        talk = await asyncio.to_thread(inside.talk)
    inside.state.now = lambda: ends - timedelta(minutes=2)
    assert (await ask(talk, "GET", "/v1/services/web")).json() == {"state": "stopped"}


async def test_shortly_before_its_end_it_connects_again(inside: Inside) -> None:
    """So a controller that has its next certificate loses no request by it."""
    talk, ends = await asyncio.to_thread(inside.talk), inside.agent.controlling.leaf.not_valid_after_utc
    inside.state.now = lambda: ends - timedelta(seconds=30)
    answer = await ask(talk, "POST", "/v1/services/web/start")
    assert (answer.status, answer.headers["Connection"]) == (200, "close")


def test_a_new_machines_clock_is_no_measure(inside: Inside) -> None:
    """Before the introduction it may be years off, and TLS compared nothing with it."""
    leaf, face = inside.agent.controlling.leaf, inside.state.agent.face
    assert Caller(face, leaf, b"", "").ends == leaf.not_valid_after_utc
    assert Caller(Face(face.context, face.spki), leaf, b"", "").ends is None


async def test_two_controllers_at_once(inside: Inside) -> None:
    """Each connection has the answer to its own hello; another's hello in between breaks nothing."""
    controlling = inside.agent.controlling
    one, two = await asyncio.to_thread(inside.talk), await asyncio.to_thread(inside.talk, THIEF)
    asked = await ask(one, "POST", "/v1/introduction", controlling.hello())
    late = await ask(two, "POST", "/v1/introduction", controlling.hello())
    answer = await asyncio.to_thread(controlling.answer, "renewal", asked.body, one.shown)
    assert (await ask(one, "POST", "/v1/introduction/answer", answer)).status == 204
    assert (await ask(await asyncio.to_thread(inside.talk))).json()["stage"] == "held"
    again = await ask(one, "POST", "/v1/introduction/answer", answer)
    assert (again.status, again.json()["detail"]) == (409, "no introduction is under way on this connection")
    slow = await asyncio.to_thread(controlling.answer, "renewal", late.body, two.shown)
    refused = await ask(two, "POST", "/v1/introduction/answer", slow)
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    assert "another credential was kept since" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/services/web/configuration"), ("POST", "/services/web/configure")]
)
async def test_large_bodies_come_a_few_at_a_time(inside: Inside, method: str, path: str) -> None:
    """Each may be 4 MiB, several times over: one more waits, and goes on when another has ended."""
    slow = [await asyncio.to_thread(inside.talk, THIEF) for _ in range(LARGE)]
    kind = "application/x-www-form-urlencoded"
    for talk in slow:
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 4000000\r\n\r\n"
        await asyncio.to_thread(talk.tls.sendall, head.encode() + b"{")
    await until(inside.state.large.locked)
    controller = await asyncio.to_thread(inside.talk)
    configured = asyncio.create_task(
        ask(controller, "PUT", "/v1/services/web/configuration", {"files": {"site": "good\n"}})
    )
    await until(lambda: len(inside.state.busy) == LARGE + 1)
    assert (await ask(await asyncio.to_thread(inside.talk))).status == 200
    assert not configured.done()
    await asyncio.to_thread(slow[0].close)
    assert (await configured).json() == {"state": "stopped"}
