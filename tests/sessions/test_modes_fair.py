"""Peers with a valid certificate who take what they can get, and what is left to the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from handfast.adapters import files
from handfast.adapters.clock import SystemClock
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Unreachable
from handfast.policy.decide import by_operator
from handfast.server import session
from handfast.sessions import connect, control, hello, revocations, serve
from handfast.sessions.control import Side
from handfast.sessions.engine import Engine, Limits, Link
from handfast.sessions.hello import Answer, Phone, Pong
from handfast.sessions.local import Endpoint
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made, now
from tests.sessions.streams import ANSWER, dial, engine, serving
from tests.sessions.test_modes_attacks import reach, said
from tests.sessions.test_modes_revoked import breaks, flows, looked, programs, transferring
from tests.sessions.tunnels import SOON, Stage, ask, listen, moved, open_, service, stage
from tests.standin import talking

__all__ = ["programs"]


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a server that is gone every 50 ms."""
    monkeypatch.setattr(connect, "AGAIN", 0.05)


# --- places ---


async def places(stack: contextlib.AsyncExitStack, mine: Engine[Peer], listening: Any) -> int:
    """Take all the places that one gets, and return how many they are."""
    count = 0
    with contextlib.suppress(Unreachable):
        while True:
            link = await stack.enter_async_context(mine.link(await dial(listening)))
            assert await link.receive() == b"ok"
            count += 1
    return count


async def test_attack_a_friend_who_takes_all_he_gets_leaves_places_to_others(own: Made) -> None:
    """He gets half of them, the next half of what is left; the client gets in, and streams that are open stay."""
    session.friend(own.directory, "eve")
    own.export("eve")

    async def handle(link: Link[Peer]) -> None:
        await link.send(ANSWER)
        await asyncio.Event().wait()

    server = engine(own, "server", limits=Limits(connections=16))
    async with serving(server, handle) as listening, contextlib.AsyncExitStack() as stack:
        assert await places(stack, engine(own, "bob"), listening) == 8
        assert await places(stack, engine(own, "eve"), listening) == 4
        assert await places(stack, engine(own, "client"), listening) == 2
        assert server.open == 14


# --- the control connection ---


async def test_attack_lists_that_are_not_newer_are_not_verified(own: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number, or that it is the same, is enough: a peer may send one all the time."""
    trust = own.trust("server")
    before = own.publish()
    session.revoke(own.directory, "bob")
    after = own.publish()
    assert trust.adopt(after)
    read: list[bytes] = []
    monkeypatch.setattr(revocations, "read", lambda der, *_, **__: read.append(der))
    assert not trust.adopt(before)
    assert not trust.adopt(after)
    assert read == []


async def test_attack_a_flood_on_a_control_connection_waits(ours: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes faster than it may is read later: the peer waits, and the time is everybody else's."""
    monkeypatch.setattr(control, "RATE", 5000.0)
    monkeypatch.setattr(control, "BURST", 100.0)
    side = Side.open(ours.file("server"), Role.SERVER)
    rest = iter([hello.encode(Pong())] * 2100)

    class Flood:
        """A link on which the next frame is always there."""

        async def receive(self, *, within: float | None = None, to: str = "") -> bytes:
            """Return at once; at the end of the flood it is over."""
            if (one := next(rest, None)) is None:
                raise Unreachable("the flood is over")
            return one[2:]

        def leave(self) -> None:
            """Say nothing."""

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unreachable, match="the flood is over"):
        await side.converse(Flood(), serve._refuse_all)  # type: ignore[arg-type]
    assert loop.time() - began > 0.39  # 2,000 more than at once


async def test_a_long_message_counts_for_as_many_as_it_is_long(ours: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of 44 KiB are not to be had at the rate of pings."""
    spent: list[float] = []

    async def spend(_pace: object, cost: float) -> None:
        spent.append(cost)

    monkeypatch.setattr(control._Pace, "spend", spend)
    side = Side.open(ours.file("server"), Role.SERVER)
    said_ = iter(
        [
            *(hello.encode(each) for each in (Pong(), Phone(to="127.0.0.1:1", every=1))),
            hello.encode(hello.Crl(crl_der=ours.trust("server").crl or b"")),
            b"xx" + b'{"do":"pong"' + b" " * 40_000 + b"}",
        ]
    )

    class Talk:
        """A link on which these come, and then an end."""

        async def receive(self, *, within: float | None = None, to: str = "") -> bytes:
            """Return the next one."""
            if (one := next(said_, None)) is None:
                raise Unreachable("over")
            return one[2:]

        def leave(self) -> None:
            """Say nothing."""

    async def act(_message: object) -> None:
        """Take what is neither a list nor a pong."""

    with pytest.raises(Unreachable):
        await side.converse(Talk(), act)  # type: ignore[arg-type]
    assert spent == [1, 501, 1, 40]


async def test_attack_where_to_phone_said_again_and_again_is_written_once(
    own: Made, at: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is confirmed; the disk is asked when something changes, and never by the thread that has the streams."""
    writes: list[str] = []
    real = files.write_atomic

    def write(path: Path, content: bytes) -> None:
        if path == serve.phone_path(own.file("server")):
            assert threading.current_thread() is not threading.main_thread()
            writes.append(json.loads(content)["to"])
        real(path, content)

    monkeypatch.setattr(files, "write_atomic", write)
    monkeypatch.setattr(control, "RATE", 1e6)
    with contextlib.closing(listener()) as listening:
        place = Address(*listening.getsockname())
        at.call(own.file("server"), place, Endpoint(Address("127.0.0.1", 1)))
        accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
        async with engine(own, "client").link(accepted) as link:
            await link.receive()
            await link.send(hello.encode(Answer(ok=True, crl=0, time=int(now().timestamp()))))
            for to in ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:2", "127.0.0.1:1"):
                phone = Phone(to=to, every=1)
                await link.send(hello.encode(phone))
                assert hello.decode_control(await link.receive(within=SOON)) == phone
    assert writes == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"]


def listener() -> socket.socket:
    """A socket that waits for the server's call."""
    made = socket.create_server(("127.0.0.1", 0))
    made.setblocking(False)
    return made


# --- certificates that end ---


async def test_attack_a_stream_ends_with_its_peers_certificate(
    own: Made, at: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[Any]
) -> None:
    """A friend's certificate for some hours opens nothing for longer, by the server's clock as it is; others go on."""
    short = {"lifetime": timedelta(hours=20)}
    monkeypatch.setattr(session, "by_operator", lambda **given: by_operator(**given | short))
    own.file("bob").unlink()
    own.export("bob")
    passed, real = [timedelta()], SystemClock().now

    class Passing:
        def now(self) -> datetime:
            return real() + passed[0]

    async with service("pour") as where:
        with monkeypatch.context() as patched:
            patched.setattr(control, "SystemClock", Passing)
            server = await at.serve(own.file("server"), where)
        _, reading = await transferring(at, own.file("client"), server, programs)
        friend, cut = await transferring(at, moved(own, "bob", tmp_path / "friend"), server, programs)
        passed[0] = timedelta(hours=19)  # the clock was set, and the session's friend is still one
        await looked(monkeypatch)
        await flows(cut)
        passed[0] = timedelta(hours=21)
        await breaks(cut)
        await flows(reading)
        await friend.heard("the peer says: ")  # it is not let in again
        await server.heard("bob is gone: ")
        assert not server.task.done()


# --- who is told of what ---


async def refusals(made: Made, listening: Any, who: str, times: int) -> None:
    """Come to a server that does not let one in."""
    for _ in range(times):
        with contextlib.suppress(Exception):
            async with engine(made, who).link(await dial(listening)) as link:
                await link.receive()
                await link.receive()


async def never(link: Link[Peer]) -> None:
    """Nobody gets this far."""
    raise AssertionError(f"{link.peer} got in")


async def test_who_has_no_right_to_come_is_news_and_a_scan_is_not(own: Made, theirs: Made) -> None:
    """Another session's party and a revoked one are warned of, once in a while each; noise never is."""
    friend = engine(own, "bob")
    session.revoke(own.directory, "bob")
    server = engine(own, "server")
    with capture_logs() as logged:
        async with serving(server, never) as listening:
            for _ in range(3):
                scanner = await dial(listening)
                await asyncio.get_running_loop().sock_sendall(scanner, b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    while await asyncio.get_running_loop().sock_recv(scanner, 100):
                        pass
                scanner.close()
            await refusals(theirs, listening, "client", 3)
            for _ in range(3):
                with contextlib.suppress(Unreachable):
                    async with friend.link(await dial(listening)) as link:
                        await link.receive()
            async with asyncio.timeout(SOON):
                while len(logged) < 9:  # noqa: ASYNC110  each is logged when its goodbye is over
                    await asyncio.sleep(0.01)
    assert {each["event"] for each in logged} == {"refused", "connection ended"}
    assert sorted(each["code"] for each in logged) == [*["malformed"] * 3, *["revoked"] * 3, *["untrusted-peer"] * 3]
    warned = sorted((each["event"], each["code"]) for each in logged if each["log_level"] == "warning")
    assert warned == [("refused", "revoked"), ("refused", "untrusted-peer")]


async def test_an_orderly_end_and_an_accident_read_differently(own: Made, at: Stage) -> None:
    """A client that is ended says so to its server, and a server to its clients; what is killed only breaks off."""
    async with service() as where:
        server = await at.serve(own.file("server"), where)
        client = at.connect(own.file("client"), server)
        await client.ready()
        assert await ask(client.door) == b"HELLO"
        await client.stop()
        assert await server.heard("client is gone: ") == "client is gone: the peer ended the connection"
        async with engine(own, "bob").link(await reach(listen(server))) as link:
            await link.send(said())
            assert hello.decode(await link.receive(), Answer).ok
        assert "broke off" in await server.heard("bob is gone: ")
        left = at.connect(own.file("client"), server)
        await left.ready()
        await server.stop()
        assert (await left.heard(": the peer ended the connection")).startswith("127.0.0.1:")


async def test_a_client_that_leaves_says_so_in_the_reverse_mode_too(own: Made, at: Stage) -> None:
    """The server that phones it reads an end, and phones again."""
    async with service() as where:
        client, address = await at.wait(own.file("client"))
        server = at.call(own.file("server"), address, where)
        await client.ready()
        await client.stop()
        assert await server.heard("ended") == f"{address}: the peer ended the connection"


@contextlib.asynccontextmanager
async def taking(count: int) -> AsyncIterator[tuple[Endpoint, asyncio.Event, asyncio.Future[BaseException | bytes]]]:
    """A service that says when it was called and had ``count`` bytes, and what it had then: the rest, or an error."""
    called, ended = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(count)
        called.set()
        try:
            ended.set_result(await reader.read())
        except ConnectionError as error:
            ended.set_result(error)
        writer.close()

    async with talking(take) as port:
        yield Endpoint(Address("127.0.0.1", port)), called, ended


async def test_attack_a_client_that_ends_in_mid_stream_leaves_no_whole_one(own: Made, at: Stage) -> None:
    """Whatever it says of its own end: the service behind a stream that was not over sees a reset."""
    async with taking(14) as (where, half, ended):
        client = at.connect(own.file("client"), await at.serve(own.file("server"), where))
        await client.ready()
        _, writer = await open_(client.door)
        writer.write(b"half of a file")
        await half.wait()
        await client.stop()
        async with asyncio.timeout(SOON):
            assert isinstance(await ended, ConnectionResetError)
        writer.close()


async def test_attack_a_stream_that_ends_before_its_first_byte_is_not_an_empty_one(own: Made, at: Stage) -> None:
    """A client that is gone when the server has just said yes has not sent an empty file."""
    async with taking(0) as (where, called, ended):
        place = listen(await at.serve(own.file("server"), where))
        async with engine(own, "client").link(await reach(place)) as link:
            await link.send(said("stream"))
            assert hello.decode(await link.receive(), Answer).ok
            await called.wait()
        async with asyncio.timeout(SOON):
            assert isinstance(await ended, ConnectionResetError)
