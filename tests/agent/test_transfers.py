"""Artifacts that come slowly, and servers that do not say whether they have one: a place for them is not held."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from handfast.agent import transfers
from handfast.agent.artifacts import Artifacts
from handfast.agent.transfers import pull, receive
from handfast.core.invitation import Address
from handfast.errors import NotAuthorized, Unreachable
from tests.agent.test_pull import certificate

PATIENCE = 30.0  # seconds
SECRET = "TOPSECRET"
Serve = Callable[[ssl.SSLSocket], None]


class Server:
    """A server of raw bytes: what it does with a connection stands in ``serve``, by the last part of the path."""

    def __init__(self, pem: Path) -> None:
        self.serve: dict[str, Serve] = {}
        self.over: dict[str, threading.Event] = {}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.place = f"https://{Address('localhost', self._listening.getsockname()[1])}/releases/"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, what: str, serve: Serve) -> str:
        """Return a URL, and what is answered there."""
        self.serve[what], self.over[what] = serve, threading.Event()
        return f"{self.place}{what}?signature={SECRET}"

    def close(self) -> None:
        """Be gone."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # who waits in accept would wait on
        self._listening.close()
        self._thread.join(PATIENCE)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=self._listening.accept()[:1], daemon=True).start()

    def _answer(self, connected: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(connected, server_side=True) as tls:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := tls.recv(4096)):
                    return
                head += piece
            what = head.split()[1].decode().rpartition("/")[2].partition("?")[0]
            try:
                self.serve[what](tls)
            finally:
                self.over[what].set()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A repository that we trust for its name."""
    (tmp_path / "repository").mkdir()
    pem = certificate(tmp_path / "repository")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    made = Server(pem)
    yield made
    made.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Where they go."""
    (tmp_path / "artifacts").mkdir()
    return Artifacts(tmp_path / "artifacts", most=10_000_000, total=100_000_000)


async def refused(artifacts: Artifacts, server: Server, url: str) -> str:
    """Pull, and return why it fails; nothing is kept, and nothing told of what is secret in the URL."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unreachable) as caught:
            await pull(artifacts, "a", url, sha256="0" * 64, places=(server.place,))
    assert list(artifacts.directory.iterdir()) == []
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # what is logged of it
    return caught.value.message


def endless(piece: bytes, before: bytes = b"") -> Serve:
    """Send something, and then something else until the other side is gone."""

    def serve(tls: ssl.SSLSocket) -> None:
        tls.sendall(before)
        while True:
            tls.sendall(piece)

    return serve


def sent(content: bytes) -> Serve:
    """Send something, and end the connection."""
    return lambda tls: tls.sendall(content)


@pytest.mark.parametrize(
    "piece",
    [b"HTTP/1.1 100 Continue\r\n\r\n" * 500, b"HTTP/1.1 103 Early Hints\r\n\r\n"],
    ids=["many", "one by one"],
)
async def test_interim_answers_without_end(
    piece: bytes, artifacts: Artifacts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, the true one has to come in time."""
    monkeypatch.setattr(transfers, "HEAD", 0.5)
    assert (await refused(artifacts, server, server.url("100", endless(piece)))).endswith(": it took too long")


async def test_a_head_that_drips(artifacts: Artifacts, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no answer."""
    monkeypatch.setattr(transfers, "HEAD", 0.5)
    gone = threading.Event()

    def drip(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not gone.wait(0.05):
            tls.sendall(b"a")

    assert (await refused(artifacts, server, server.url("drip", drip))).endswith(": it took too long")
    gone.set()


async def test_each_redirect_has_its_time(
    artifacts: Artifacts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it leads to has to answer as well, and what stands in a redirect's body is not waited for."""
    server.url("there", endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 500))
    head = f"HTTP/1.1 302 F\r\nLocation: there?signature={SECRET}\r\nContent-Length: 99999999999\r\n\r\n"

    def first(tls: ssl.SSLSocket) -> None:
        monkeypatch.setattr(transfers, "HEAD", 0.5)
        tls.sendall(head.encode() + b"x" * 100_000)

    reason = await refused(artifacts, server, server.url("first", first))
    assert reason == f"cannot fetch '{server.place}there': it took too long"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"garbage garbage\r\n\r\n", ": ClientResponseError"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", ": ClientResponseError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", ": ClientPayloadError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", ": ClientPayloadError"),
        (b"", ": ServerDisconnectedError"),
        (b"HTTP/1.1 302 F\r\nLocation: https://[::1/x\r\nContent-Length: 0\r\n\r\n", " leads to what is no URL"),
        (b"HTTP/1.1 403 F\r\nContent-Length: 0\r\n\r\n", " answered with status 403"),
    ],
    ids=["garbage", "long", "cut", "cut chunks", "nothing", "no URL", "forbidden"],
)
async def test_what_is_told_of_a_server(content: bytes, reason: str, artifacts: Artifacts, server: Server) -> None:
    """What is wrong, and the URL without its query, in which signed ones have their secret."""
    assert (await refused(artifacts, server, server.url("x", sent(content)))).endswith(reason)


async def test_a_redirect_elsewhere_tells_no_secret(artifacts: Artifacts, server: Server) -> None:
    """A place that the policy does not name, with a query."""
    content = f"HTTP/1.1 302 F\r\nLocation: /else?x={SECRET}\r\nContent-Length: 0\r\n\r\n".encode()
    with pytest.raises(NotAuthorized) as caught:
        await pull(artifacts, "a", server.url("x", sent(content)), sha256="0" * 64, places=(server.place,))
    assert SECRET not in str(caught.value)


async def test_what_nobody_wants_any_more_ends(artifacts: Artifacts, server: Server) -> None:
    """It is looked at whenever something comes."""
    wanted = itertools.chain([True] * 3, itertools.repeat(False))
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    url = server.url("endless", endless(b"x" * 1000, before=head))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unreachable):
            await pull(artifacts, "a", url, sha256="0" * 64, places=(server.place,), wanted=lambda: next(wanted))
    assert await asyncio.to_thread(server.over["endless"].wait, PATIENCE)
    assert list(artifacts.directory.iterdir()) == []


async def test_a_redirect_that_nobody_wants_any_more(artifacts: Artifacts, server: Server) -> None:
    """It is not followed."""
    wanted = iter([True, False])
    url = server.url("first", sent(b"HTTP/1.1 302 F\r\nLocation: there\r\nContent-Length: 0\r\n\r\n"))
    server.url("there", endless(b"x"))
    with pytest.raises(Unreachable, match=r"nobody waits for '.*/there' any more"):
        await pull(artifacts, "a", url, sha256="0" * 64, places=(server.place,), wanted=lambda: next(wanted))
    assert not server.over["there"].is_set()


async def test_it_is_fetched(artifacts: Artifacts, server: Server) -> None:
    """A server that says something before, and then has it."""
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    digest = hashlib.sha256(b"whole").hexdigest()
    url = server.url("good", sent(head + b"whole"))
    came = await pull(artifacts, "a", url, sha256=digest, places=(server.place,))
    assert (came.size, (artifacts.directory / "a").read_bytes()) == (5, b"whole")


async def test_on_average_it_comes_fast_enough(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends each piece in time, but no faster, does not have a place for hours."""
    monkeypatch.setattr(transfers, "PIECE", 10)
    monkeypatch.setattr(transfers, "RATE", 1)
    loop = asyncio.get_running_loop()
    clock, passed, came = loop.time, 0.0, 0
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)

    async def content() -> bytes:
        nonlocal passed, came
        passed += 40.0  # of the 60 s for a piece; the second one is due 70 s after the begin, and would come after 80
        for _ in range(3):  # the loop looks at its clock
            await asyncio.sleep(0)
        came += 1
        return b"0123456789" if came < 50 else b""

    with pytest.raises(TimeoutError):
        await receive(artifacts, "a", content)
    assert came == 1
    assert list(artifacts.directory.iterdir()) == []


async def test_nothing_is_saved_up(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has sent much at once cannot rest on it: a piece has its time."""
    monkeypatch.setattr(transfers, "PIECE", 10)
    monkeypatch.setattr(transfers, "SLOWEST", 0.2)
    monkeypatch.setattr(transfers, "RATE", 1)
    pieces = iter([b"0123456789"] * 100)

    async def content() -> bytes:
        if (piece := next(pieces, None)) is None:
            await asyncio.Event().wait()
        return piece or b""

    with pytest.raises(TimeoutError):
        await receive(artifacts, "a", content)
    assert list(artifacts.directory.iterdir()) == []
