"""HTTP to an agent: whole answers or an error in time, bodies as they come, and connections that go on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.tls import agent_context, controller_context
from handfast.controller import http
from handfast.controller.http import Connection
from handfast.core.invitation import Address
from handfast.core.keys import spki_sha256
from handfast.core.roles import Role
from handfast.errors import Malformed, NotFound, TooMuch, Unreachable
from tests.authority.helpers import Pki, grant, new_key
from tests.ports import free_port
from tests.standin import Handler, answering, talking

PKI, OTHER = Pki.make(), Pki.make()
AGENT_KEY, OUR_KEY = new_key(), new_key()


class Said(msgspec.Struct):
    """An answer."""

    word: str


def chain(pki: Pki, role: Role, key: ec.EllipticCurvePrivateKey) -> list[x509.Certificate]:
    """Return a leaf and its issuer."""
    return [pki.leaf(grant(pki.domain, role, machine=str(role), public_key=key.public_key())), pki.issuing]


def ours(pki: Pki = PKI) -> ssl.SSLContext:
    """Return our context."""
    return controller_context(chain(pki, Role.CONTROLLER, OUR_KEY), OUR_KEY)


def agents() -> ssl.SSLContext:
    """Return an agent's context."""
    return agent_context(chain(PKI, Role.AGENT, AGENT_KEY), AGENT_KEY, PKI.root, clock=False)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Address]:
    """Serve every request with the handler, as an agent does."""
    async with answering(handler, agents()) as port:
        yield Address("127.0.0.1", port)


async def word(request: web.Request) -> web.Response:
    """Answer with the body's length and the path."""
    return web.json_response({"word": f"{request.method} {request.path} {len(await request.read())}"})


async def test_requests_follow_each_other() -> None:
    """One connection carries many, and says which key the agent has proved."""
    async with serving(word) as address, await Connection.dial(address, ours()) as connection:
        assert connection.spki == spki_sha256(AGENT_KEY.public_key())
        assert connection.chain == [PKI.issuing.public_bytes(Encoding.DER)]
        assert (await connection.call("GET", "/a", Said)).word == "GET /a 0"
        assert (await connection.call("POST", "/b", Said, {"x": 1})).word == "POST /b 7"
        assert connection.usable
        assert (await connection.request("DELETE", "/c")).status == 200


async def test_a_dialled_connection_is_the_same() -> None:
    """Where the agent dials, its TLS is the server's all the same."""
    async with serving(word) as address:
        dialled = socket.create_connection((address.host, address.port))
        dialled.setblocking(False)
        async with await Connection.over(dialled, ours(), "web1") as connection:
            assert (await connection.call("GET", "/a", Said)).word == "GET /a 0"


async def test_an_upload_is_streamed_and_told() -> None:
    """A body goes as it comes, and whoever waits is told how far it is."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(50_000)

    seen: list[int] = []

    async def count(request: web.Request) -> web.Response:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.json_response({"word": str(size)})

    async with serving(count) as address, await Connection.dial(address, ours()) as connection:
        answer = await connection.upload("/x", pieces(), 5_000_000, progress=seen.append)
        assert (answer.status, msgspec.json.decode(answer.body)["word"]) == (200, "5000000")
    assert (seen[0], seen[-1], len(seen)) == (50_000, 5_000_000, 100)


async def test_a_refusal_ends_an_upload() -> None:
    """An agent that says no before all of it has come is heard, and the rest is not sent."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(64 * 1024)

    async def refuse(_request: web.Request) -> web.Response:
        response = web.json_response({"title": "too much", "status": 413, "code": "too-much"}, status=413)
        response.force_close()
        return response

    async with serving(refuse) as address, await Connection.dial(address, ours()) as connection:
        answer = await connection.upload("/x", endless(), 10 * 2**30)
        assert answer.status == 413
        assert isinstance(connection.problem(answer), TooMuch)
    assert sent < 2000


async def test_a_problem_is_its_error() -> None:
    """What the agent refuses is the same error here."""

    async def missing(_request: web.Request) -> web.Response:
        body = {"title": "not found", "status": 404, "code": "not-found", "detail": "no service 'x'"}
        return web.json_response(body, status=404)

    async with serving(missing) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(NotFound, match="no service 'x'"):
            await connection.call("GET", "/v1/services/x", Said)


async def test_what_is_no_answer_is_an_error() -> None:
    """JSON of another shape, and more of it than we read."""

    async def wrong(request: web.Request) -> web.Response:
        return web.json_response({"other": 1} if request.path == "/a" else {"word": "x" * http.MAX_ANSWER})

    async with serving(wrong) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(Malformed, match="not a Said"):
            await connection.call("GET", "/a", Said)
        with pytest.raises(TooMuch, match="answers with over"):
            await connection.call("GET", "/b", Said)


async def test_silence_is_bounded() -> None:
    """An agent that does not answer holds nobody, and its connection is not used again."""
    silent = asyncio.Event()

    async def never(_request: web.Request) -> web.Response:
        await silent.wait()
        return web.Response()

    async with serving(never) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ does not answer: it took too long"):
            await connection.request("GET", "/", patience=0.2)
        assert not connection.usable
        silent.set()


async def test_nobody_there_is_said() -> None:
    """A closed port, something that is no TLS, and an agent of another authority."""
    with pytest.raises(Unreachable, match="does not answer: "):
        await Connection.dial(Address("127.0.0.1", free_port()), ours())

    left = asyncio.Event()

    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read()
        writer.close()
        left.set()

    async with talking(greets) as port:
        address = Address("127.0.0.1", port)
        with pytest.raises(Unreachable, match=r"does not answer: [a-z ]+$"):  # in words, though OpenSSL has WORDS_SO
            await Connection.dial(address, ours())
        await left.wait()


async def test_an_agent_takes_no_stranger() -> None:
    """A controller of another authority gets no answer."""
    async with serving(word) as address:
        connection = await Connection.dial(address, ours(OTHER))
        with pytest.raises(Unreachable):
            await connection.request("GET", "/")


@asynccontextmanager
async def saying(piece: bytes, *, forever: bool = False) -> AsyncIterator[Address]:
    """Say something to each request over TLS, once or without end."""
    heard = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(65536)
            writer.write(piece)
            while forever:
                await writer.drain()
                await asyncio.sleep(0)  # else nobody has a turn, not even the news that the other side is gone
                writer.write(piece)
            await reader.read(65536)
        writer.transport.abort()
        heard.set()

    async with talking(say, context=agents()) as port:
        yield Address("127.0.0.1", port)
        await heard.wait()  # hung up on


CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000
BOTH = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("piece", "forever", "why"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, True, "an interim answer, 100, which nobody asked for"),
        (b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n", False, "an interim answer, 103"),
        (CHUNKS, True, "it does not say how much it sends"),
        (BOTH, False, "it does not say how much it sends"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf", False, "it does not say how much it sends"),
    ],
    ids=["100 without end", "103", "chunks", "both", "until it closes"],
)
async def test_an_answer_has_one_head_and_a_length(piece: bytes, why: str, *, forever: bool) -> None:
    """Whoever answers otherwise is heard no longer, and hung up on."""
    async with saying(piece, forever=forever) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(Unreachable, match=f"does not answer: {why}"):
            await connection.request("GET", "/")
        assert not connection.usable


async def test_what_is_announced_as_too_much_is_not_read() -> None:
    """A length over what we read ends it at once."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {http.MAX_ANSWER + 1}\r\n\r\n".encode()
    async with saying(head) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(TooMuch, match="answers with over"):
            await connection.request("GET", "/")
        assert not connection.usable


@pytest.mark.parametrize("turns", range(6))
async def test_who_is_cancelled_ends(turns: int) -> None:
    """Even where the answer has come a few turns of the loop before."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    async with http.Stream(reader, writer, "web1") as stream:
        with theirs:
            theirs.setblocking(False)
            asking = asyncio.ensure_future(stream.request("GET", "/"))
            await asyncio.get_running_loop().sock_recv(theirs, 4096)
            reader.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            for _ in range(turns):
                await asyncio.sleep(0)
            heard = asking.cancel()  # else it was over
            await asyncio.wait({asking})
            assert asking.cancelled() is heard


async def test_an_agent_that_stops_reading_ends_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it without end."""
    monkeypatch.setattr(http, "SEND", 0.2)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1024 * 1024)

    over = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        writer.transport.abort()

    async with talking(deaf, context=agents()) as port:
        address = Address("127.0.0.1", port)
        async with await Connection.dial(address, ours()) as connection:
            with pytest.raises(Unreachable, match="it took too long"):
                await connection.upload("/x", endless(), 10 * 2**30)
            assert not connection.usable
        over.set()


@pytest.mark.parametrize("status", [302, 307])
async def test_nobody_is_sent_elsewhere(status: int) -> None:
    """What is no success is an error, whatever comes with it."""

    async def elsewhere(_request: web.Request) -> web.Response:
        return web.json_response({"word": "ok"}, status=status, headers={"Location": "https://example.org/"})

    async with serving(elsewhere) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(Unreachable, match=f"status {status} and no reason"):
            await connection.call("GET", "/", Said)


async def test_what_is_wrong_is_said_in_few_words() -> None:
    """A problem goes to a terminal and to logs: not two million characters of it."""

    async def wordy(_request: web.Request) -> web.Response:
        long = "x" * 400_000
        problem = {"title": long, "status": 404, "code": "not-found", "detail": long, "hint": long, "reasons": [long]}
        return web.json_response(problem, status=404)

    async with serving(wordy) as address, await Connection.dial(address, ours()) as connection:
        with pytest.raises(NotFound) as told:
            await connection.call("GET", "/", Said)
        assert (len(told.value.message), len(told.value.hint)) == (2000, 2000)
