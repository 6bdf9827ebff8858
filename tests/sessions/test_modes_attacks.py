"""What hostile and broken peers of a running server or client achieve: their own connection's end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import HandfastError, Unreachable
from handfast.sessions import connect, control, hello, run, serve
from handfast.sessions.control import Side
from handfast.sessions.engine import Limits, Link
from handfast.sessions.hello import Answer, Dial, Failed, Phone, Ping, Pong
from handfast.sessions.local import Endpoint
from handfast.sessions.run import Told
from handfast.sessions.serve import Server
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made, now
from tests.sessions.streams import engine, serving
from tests.sessions.tunnels import Running, Stage, ask, counted, listen, open_, service, stage

TOKEN = "A" * 22


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@contextlib.asynccontextmanager
async def peer(made: Made, who: str, place: Address) -> AsyncIterator[Link[Peer]]:
    """An authenticated peer that says what it likes."""
    async with engine(made, who).link(await reach(place)) as link:
        yield link


async def reach(place: Address, *, window: int | None = None) -> socket.socket:
    """A TCP connection, whose end here holds ``window`` bytes that nobody has read."""
    connected = socket.socket()
    if window is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, (place.host, place.port))
    return connected


def frame(body: bytes) -> bytes:
    """A frame with any body."""
    return len(body).to_bytes(2, "big") + body


def said(want: str = "control", **more: object) -> bytes:
    """A hello."""
    about = {"v": 1, "want": want, "crl": 0, "time": int(now().timestamp())} | more
    return frame(msgspec.json.encode(about))


async def answer(link: Link[Peer]) -> Answer:
    """What the other side answers."""
    return hello.decode(await link.receive(), Answer)


async def over(link: Link[Peer]) -> None:
    """Read until the other side has ended it."""
    with pytest.raises(Unreachable):  # noqa: PT012  until it does
        while True:
            await link.receive()


BAD_HELLOS = {
    "not JSON": frame(b"GET / HTTP/1.1\r\n\r\n"),
    "empty": b"\0\0",
    "endless": b"\xff\xff" + bytes(0xFFFF),
    "nested": frame(b"[" * 60000),
    "another version": said(v=2),
    "another wish": said("shell"),
    "unknown field": said(admin=True),
    "a time of no calendar": said(time=-1),
    "a token that is none": said("stream", token="x"),
    "a control connection with a token": said(token=TOKEN),
    "too much to say": said(about={str(each): "x" for each in range(17)}),
    "somebody else's list": said(crl_der="AAAA"),
    "an answer": frame(b'{"ok":true,"crl":0,"time":0}'),
}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("what", BAD_HELLOS)
async def test_a_hello_that_is_none_ends_its_connection_only(ours: Made, at: Stage, what: str, reverse: bool) -> None:
    """An authenticated peer that speaks nonsense is let go, and the service was not touched; the others go on."""
    async with counted() as (where, counts):
        client: Running | None = None
        if reverse:
            client, place = await at.wait(ours.file("client"))
        else:
            place = listen(await at.serve(ours.file("server"), where))
        async with peer(ours, "server" if reverse else "bob", place) as link:
            await link.send(BAD_HELLOS[what])
            await over(link)
        assert counts.accepted == 0
        if reverse:
            at.call(ours.file("server"), place, where)
        if client is None:
            client = at.connect(ours.file("client"), place)
        await client.ready()
        assert await ask(client.door) == b"HELLO"


async def test_silent_peers_keep_nothing(ours: Made, at: Stage) -> None:
    """Who connects and is silent, before TLS or after it, is let go in time, and the service never saw him."""
    async with counted() as (where, counts):
        limits = Limits(handshake=3.0, frame=0.3)
        place = listen(await at.serve(ours.file("server"), where, limits=limits))
        silent = await reach(place)
        async with peer(ours, "bob", place) as link:
            await over(link)
        assert await asyncio.get_running_loop().sock_recv(silent, 100) == b""
        silent.close()
        assert counts.accepted == 0


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(512), b"\xff" * 5000],
    ids=["HTTP", "almost TLS", "ones"],
)
async def test_garbage_instead_of_tls_ends_its_connection_only(ours: Made, at: Stage, garbage: bytes) -> None:
    """A scanner learns nothing, the service is not touched, and a client gets in meanwhile."""
    async with counted() as (where, counts):
        server = await at.serve(ours.file("server"), where)
        scanner = await reach(listen(server))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(scanner, garbage)
        with contextlib.suppress(ConnectionResetError):
            while await loop.sock_recv(scanner, 100):
                pass
        scanner.close()
        assert counts.accepted == 0
        client = at.connect(ours.file("client"), server)
        await client.ready()
        assert await ask(client.door) == b"HELLO"


CONTROLS = {
    "unknown": frame(b'{"do":"exec","argv":["sh"]}'),
    "no tag": frame(b"{}"),
    "not JSON": frame(b"\x00\x01"),
    "empty": b"\0\0",
    "a hello": said(),
    "dial": hello.encode(Dial(token=TOKEN)),
    "failed": hello.encode(Failed(token=TOKEN, error="refused")),
    "phone": hello.encode(Phone(to="192.0.2.1:1", every=1)),
    "phone nowhere": frame(b'{"do":"phone","to":"nowhere","every":1}'),
    "phone all the time": frame(b'{"do":"phone","to":"127.0.0.1:1","every":0}'),
    "somebody else's list": frame(b'{"do":"crl","crl_der":"AAAA"}'),
}


@pytest.mark.parametrize("what", CONTROLS)
async def test_a_hostile_client_of_a_server_that_waits(ours: Made, at: Stage, what: str) -> None:
    """What a client has no business to say ends its control connection; nothing is dialled and nobody phoned."""
    async with counted() as (where, counts):
        server = await at.serve(ours.file("server"), where)
        async with peer(ours, "bob", listen(server)) as link:
            await link.send(said())
            assert (await answer(link)).ok
            await link.send(CONTROLS[what])
            await over(link)
        await server.heard("bob is gone: ")
        assert counts.accepted == 0
        assert not serve.phone_path(ours.file("server")).exists()


@pytest.mark.parametrize("what", ["unknown", "no tag", "not JSON", "empty", "a hello", "dial", "phone"])
async def test_a_hostile_server_of_a_client_that_waits(ours: Made, at: Stage, what: str) -> None:
    """What a server has no business to say ends its control connection, and the client waits for a better one."""
    client, place = await at.wait(ours.file("client"))
    async with peer(ours, "server", place) as link:
        await link.send(said())
        assert (await answer(link)).ok
        await client.ready()
        await link.send(CONTROLS[what])
        await over(link)
    async with service() as where:
        at.call(ours.file("server"), place, where)
        assert await ask(client.door) == b"HELLO"


@contextlib.asynccontextmanager
async def asked(
    made: Made, client: Running, place: Address
) -> AsyncIterator[tuple[Link[Peer], str, asyncio.StreamReader]]:
    """A server that was asked for a stream: its control connection, the token, and the program that waits."""
    async with peer(made, "server", place) as link:
        await link.send(said())
        assert (await answer(link)).ok
        await client.ready()
        reader, writer = await open_(client.door)
        while not isinstance(dial := hello.decode_control(await link.receive()), Dial):
            pass
        try:
            yield link, dial.token, reader
        finally:
            writer.close()


@pytest.mark.parametrize("token", [None, TOKEN], ids=["none", "guessed"])
async def test_a_stream_that_nobody_asked_for_is_refused(ours: Made, at: Stage, token: str | None) -> None:
    """Even a server of the session cannot push a stream into a client: it needs the token it was asked with."""
    client, place = await at.wait(ours.file("client"))
    async with asked(ours, client, place), peer(ours, "server", place) as link:
        await link.send(said("stream", **({} if token is None else {"token": token})))
        refused = await answer(link)
        assert (refused.ok, refused.error) == (False, "refused")
        assert "nobody asked for this stream" in refused.message


async def test_a_token_counts_once(ours: Made, at: Stage) -> None:
    """The second stream with the same token is refused, and the first one is not harmed."""
    client, place = await at.wait(ours.file("client"))
    async with (
        asked(ours, client, place) as (_, token, reader),
        peer(ours, "server", place) as first,
        peer(ours, "server", place) as second,
    ):
        await first.send(said("stream", token=token))
        assert (await answer(first)).ok
        await second.send(said("stream", token=token))
        assert not (await answer(second)).ok
        await first.send(frame(b"bytes"))
        assert await reader.readexactly(7) == frame(b"bytes")


async def test_a_token_is_for_the_server_that_was_asked(own: Made, at: Stage, tmp_path: Path) -> None:
    """Another credential of the server's role that got hold of it is refused; the one that was asked still gets in."""
    client, place = await at.wait(own.file("client"))
    async with asked(own, client, place) as (_, token, _reader):
        (tmp_path / "first.pem").write_bytes(own.file("server").read_bytes())
        own.file("server").unlink()
        own.export("server")
        async with peer(own, "server", place) as other:
            await other.send(said("stream", token=token))
            assert not (await answer(other)).ok
        own.file("server").write_bytes((tmp_path / "first.pem").read_bytes())
        async with peer(own, "server", place) as right:
            await right.send(said("stream", token=token))
            assert (await answer(right)).ok


async def test_a_server_that_never_calls_back_is_said(ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's connection breaks after a while, and the person is told; a late call is refused."""
    monkeypatch.setattr(connect, "CALL_BACK", 0.2)
    client, place = await at.wait(ours.file("client"))
    async with asked(ours, client, place) as (_, token, reader):
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await client.heard("no stream: the server did not call back within 0.2 s")
        async with peer(ours, "server", place) as late:
            await late.send(said("stream", token=token))
            assert not (await answer(late)).ok


async def test_a_crowd_of_requests_is_bounded(ours: Made, at: Stage) -> None:
    """A client that asks for more streams than there are places is told so for each, and the service is spared."""
    async with counted("count") as (where, counts):
        task = at.start(lambda told: crowded(ours, told, where))
        assert (await task.over()) == {"too-much"}
        assert counts.accepted <= 3


async def crowded(made: Made, told: Told, where: Endpoint) -> set[str]:
    """A client that waits for a server with three places, and asks it for ten streams; how the others failed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        place = Address("127.0.0.1", listening.getsockname()[1])
        calling = run.call(made.file("server"), place, 1, where, limits=Limits(connections=3), told=told)
        server = asyncio.ensure_future(calling)
        try:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
            async with engine(made, "client").link(accepted) as link:
                await link.receive()
                await link.send(hello.encode(Answer(ok=True, crl=0, time=int(now().timestamp()))))
                for each in range(10):
                    await link.send(hello.encode(Dial(token=f"{each:022}")))
                failed = [hello.decode_control(await link.receive()) for _ in range(7)]
                return {each.error for each in failed if isinstance(each, Failed)}
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)


async def test_a_peer_that_reconnects_all_the_time_leaves_nothing_behind(ours: Made, at: Stage) -> None:
    """After a hundred hellos and goodbyes there are as many descriptors as before, and a client gets in."""
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        dialler = engine(ours, "bob")

        async def once(want: str) -> None:
            async with dialler.link(await reach(listen(server))) as link:
                await link.send(said(want))
                assert (await answer(link)).ok

        await once("stream")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            await asyncio.gather(once("stream"), once("control"))
        client = at.connect(ours.file("client"), server)
        await client.ready()
        assert await ask(client.door) == b"HELLO"
        await client.stop()
        await server.heard("client is gone")
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110  no event says so
            await asyncio.sleep(0.01)


async def test_who_is_silent_on_a_control_connection_is_dead(
    ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that vanished without a word is given up after DEAD, and pings keep a quiet one alive."""
    monkeypatch.setattr(control, "DEAD", 3.0)
    monkeypatch.setattr(control, "PING", 0.1)
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        client = at.connect(ours.file("client"), server)
        await client.ready()
        async with peer(ours, "bob", listen(server)) as link:
            await link.send(said())
            assert (await answer(link)).ok
            assert isinstance(hello.decode_control(await link.receive()), Ping)
            await server.heard("bob is gone: ")
        assert client.said == []
        assert [line for line in server.said if line.startswith("client")] == ["client is here"]


async def test_a_peer_that_floods_with_pings_and_never_reads_is_let_go(ours: Made) -> None:
    """Answers that nobody reads do not pile up here: the connection ends."""
    lines: list[str] = []
    side = Side.open(ours.file("server"), Role.SERVER, limits=Limits(frame=2.0))
    server = Server(side, Endpoint(Address("127.0.0.1", 1)), lines.append)
    async with serving(side.engine, server.handle) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # for those it accepts
        place = Address(*listening.getsockname())
        async with engine(ours, "bob").link(await reach(place, window=4096)) as link:
            await link.send(said())
            assert (await answer(link)).ok
            with pytest.raises(HandfastError):  # noqa: PT012  until it does
                while True:
                    await link.send(hello.encode(Ping()) * 1000)
    assert lines[0] == "bob is here"
    assert "did not read what we say within 2 s" in lines[1]


async def test_pong_answers_ping_in_order(ours: Made, at: Stage) -> None:
    """What was said before a ping has been dealt with when its pong comes."""
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        async with peer(ours, "bob", listen(server)) as link:
            await link.send(said())
            assert (await answer(link)).ok
            await link.send(hello.encode(Ping()))
            assert isinstance(hello.decode_control(await link.receive()), Pong)
