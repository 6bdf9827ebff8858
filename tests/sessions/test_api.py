"""Streams for programs, against a real server in a process of its own."""

# ruff: noqa: PT012, SIM117  what is raised by a block as a whole is the point

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import pytest
from OpenSSL import SSL

from handfast import sessions
from handfast.errors import HandfastError, Malformed, NotFound, Refused, Revoked, Unreachable, UntrustedPeer
from handfast.server import session
from handfast.sessions import api
from handfast.sessions.control import Side
from tests.sessions.conftest import Made
from tests.sessions.services import digest, echo, free_address, half, service, serving
from tests.sessions.streams import context
from tests.sessions.tunnels import SOON


def _descriptors() -> set[str]:
    found = set()
    for each in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{each} {os.readlink(f'/proc/self/fd/{each}')}")
        except OSError:  # of listing them
            continue
    return {each for each in found if "socket:" in each or "eventpoll" in each}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever a test does, no thread and no descriptor of ours outlives it."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    left = [each.name for each in threading.enumerate() if each not in threads and "asyncio" not in each.name]
    open_ = _descriptors() - descriptors
    assert (left, len(open_) <= 3) == ([], True), sorted(open_)  # three of the test's own loop, which is closed later


async def test_three_lines_of_asyncio(ours: Made) -> None:
    """The lines of the package's description work."""
    with service(echo) as to, serving(ours, to) as server:
        async with sessions.open_stream(ours.file("client"), server) as (reader, writer):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"


def test_three_lines_without(ours: Made) -> None:
    """And so do those of a program without asyncio; a path may be text."""
    with service(echo) as to, serving(ours, to) as server:
        with sessions.open_socket(str(ours.file("client")), server) as connected:
            connected.sendall(b"hello")
            assert connected.recv(100) == b"hello"


async def test_a_direction_ends_alone(ours: Made) -> None:
    """Of megabytes that are ended with ``write_eof`` all arrive, and the answer comes after that."""
    content = os.urandom(3 << 20)
    with service(digest) as to, serving(ours, to) as server:
        async with sessions.open_stream(ours.file("client"), server) as (reader, writer):
            writer.write(content)
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(content).digest()
        with sessions.open_socket(ours.file("client"), server) as connected:
            connected.sendall(content)
            connected.shutdown(socket.SHUT_WR)
            assert connected.makefile("rb").read() == hashlib.sha256(content).digest()


async def test_a_stream_that_breaks_never_looks_complete(ours: Made) -> None:
    """What came can be read; then there is an error and no end, which leaves the block as one of ours."""
    got = b""
    with service(half) as to, serving(ours, to) as server:
        with pytest.raises(Unreachable, match="broke off") as caught:
            async with sessions.open_stream(ours.file("client"), server) as (reader, writer):
                got = await reader.readexactly(4)
                writer.write(b"!")
                await reader.read()
        assert (got, type(caught.value.__cause__)) == (b"half", ConnectionResetError)
        with pytest.raises(Unreachable, match="broke off"), sessions.open_socket(ours.file("client"), server) as end:
            got = end.recv(4)
            end.sendall(b"!")
            end.recv(1)
    assert got == b"half"


async def test_a_stream_that_broke_unnoticed_is_told_at_the_end(ours: Made) -> None:
    """A block that did not look learns it when it is left."""
    with service(half) as to, serving(ours, to) as server, pytest.raises(Unreachable, match="broke off"):
        async with sessions.open_stream(ours.file("client"), server) as (reader, writer):
            assert await reader.readexactly(4) == b"half"
            writer.write(b"!")
            while reader.exception() is None:  # noqa: ASYNC110  nothing but reading tells it
                await asyncio.sleep(0.01)


def test_a_stranger_is_not_shown_who_we_are(ours: Made, theirs: Made) -> None:
    """Who poses as the server asks for our certificate and gets none: it has not proved itself."""
    shown: list[object] = []

    def ask(accepted: socket.socket) -> None:
        stranger = context(theirs.party("server")).context

        def judge(_connection: SSL.Connection, certificate: object, _error: int, _depth: int, _fine: int) -> bool:
            shown.append(certificate)
            return False

        stranger.set_verify(SSL.VERIFY_PEER, judge)
        connection = SSL.Connection(stranger, accepted)
        connection.set_accept_state()
        with suppress(SSL.Error):
            connection.do_handshake()

    with service(ask) as server:
        with pytest.raises(UntrustedPeer), sessions.open_socket(ours.file("client"), server):
            pytest.fail("it began")
        with pytest.raises(HandfastError), sessions.open_socket(theirs.file("client"), server):
            pytest.fail("it began")
        assert len(shown) == 1  # the second, which trusts that server: so it does ask


def test_what_was_written_arrives_after_the_block(ours: Made) -> None:
    """Leaving a block in order is no loss."""
    arrived: list[bytes] = []
    done = threading.Event()

    def keep(accepted: socket.socket) -> None:
        arrived.append(accepted.makefile("rb").read())
        done.set()

    content = os.urandom(2 << 20)
    with service(keep) as to, serving(ours, to) as server:
        with sessions.open_socket(ours.file("client"), server) as connected:
            connected.sendall(content)
        assert done.wait(10)
    assert arrived == [content]


async def test_an_exception_of_the_block_resets_the_stream(ours: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not take what it got for complete; the exception is the program's own, untouched."""
    ended: list[str] = []
    guard = Side.guard

    async def until_the_service_knows(self: Side) -> NoReturn:
        """Keep our side of the stream until the service saw how the block's end of it was closed."""
        try:
            await guard(self)
        finally:
            async with asyncio.timeout(10):
                while not ended:  # noqa: ASYNC110  filled by a thread
                    await asyncio.sleep(0.01)

    def watch(accepted: socket.socket) -> None:
        accepted.sendall(b"go")
        try:
            while accepted.recv(1 << 16):
                pass
            ended.append("complete")
        except ConnectionResetError:
            ended.append("reset")

    with service(watch) as to, serving(ours, to) as server:
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(Side, "guard", until_the_service_knows)
            async with sessions.open_stream(ours.file("client"), server) as (reader, writer):
                writer.write(b"the first half")
                assert await reader.readexactly(2) == b"go"
                raise ZeroDivisionError
        with (
            pytest.raises(FileNotFoundError, match="mine"),
            sessions.open_socket(ours.file("client"), server) as connected,
        ):
            connected.sendall(b"the first half")
            assert connected.recv(2) == b"go"
            raise FileNotFoundError("mine")
    assert ended == ["reset", "reset"]


async def test_a_service_that_is_not_there(ours: Made) -> None:
    """The block does not begin, and the server's words say why."""
    with serving(ours, free_address()) as server:
        with pytest.raises(Unreachable, match="the peer says: cannot reach"):
            async with sessions.open_stream(ours.file("client"), server):
                pytest.fail("it began")
        with pytest.raises(HandfastError, match="cannot reach"), sessions.open_socket(ours.file("client"), server):
            pytest.fail("it began")


async def test_refusals(ours: Made, theirs: Made, tmp_path: Path) -> None:
    """Wrong files, addresses and servers are errors of ours, with both kinds of streams."""
    with service(echo) as to, serving(theirs, to) as server:
        for path, where, kind, words in (
            (tmp_path / "none.pem", server, NotFound, "none.pem"),
            (ours.file("server"), server, Refused, "is the file of the server"),
            (ours.file("client"), "cluster", Malformed, "not an address"),
            (ours.file("client"), free_address(), Unreachable, "cannot reach"),
            (ours.file("client"), server, UntrustedPeer, "not issued in this session"),
        ):
            with pytest.raises(kind, match=words):
                async with sessions.open_stream(path, where):
                    pytest.fail("it began")
            with pytest.raises(kind, match=words), sessions.open_socket(path, where):
                pytest.fail("it began")


async def test_a_cancellation_leaves_nothing(ours: Made) -> None:
    """Neither while a silent peer is waited for nor in the middle of a stream."""

    async def use(where: str) -> None:
        async with sessions.open_stream(ours.file("client"), where) as (reader, _):
            began.set()
            await reader.read()

    before = asyncio.all_tasks()
    with service(echo) as to, serving(ours, to) as server, service(digest) as silent:
        for where, wait in ((silent, 0.2), (server, 10)):
            began = asyncio.Event()
            task = asyncio.create_task(use(where))
            with pytest.raises(TimeoutError) if where is silent else nullcontext():
                async with asyncio.timeout(wait):
                    await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == before


def test_an_interrupt_leaves_nothing(ours: Made) -> None:
    """Ctrl-C in a blocking block is passed on, when the thread has ended."""
    with service(echo) as to, serving(ours, to) as server:
        with pytest.raises(KeyboardInterrupt), sessions.open_socket(ours.file("client"), server):
            raise KeyboardInterrupt
        assert not [each for each in threading.enumerate() if each.name == "handfast-session"]


async def test_revoked_in_the_middle(own: Made) -> None:
    """A stream of a client that is taken back breaks, whichever side knows first; no other begins."""
    with service(echo) as to, serving(own, to) as server:
        with pytest.raises((Revoked, Unreachable)):
            async with sessions.open_stream(own.file("client"), server) as (reader, _):
                await asyncio.to_thread(session.revoke, own.directory, "client")
                async with asyncio.timeout(SOON):
                    await reader.read()
        with pytest.raises(Revoked, match="'client'"), sessions.open_socket(own.file("client"), server):
            pytest.fail("it began")


async def test_the_server_calls(ours: Made) -> None:
    """The same streams where the server dials, with both kinds of programs."""
    listen = free_address()
    with service(digest) as to, serving(ours, to, "--dial", listen, "--every", "1s"):
        async with sessions.wait_stream(ours.file("client"), listen, within=20) as (reader, writer):
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(b"hello").digest()
        with sessions.wait_socket(ours.file("client"), listen, within=20) as connected:
            connected.sendall(b"hello")
            connected.shutdown(socket.SHUT_WR)
            assert connected.makefile("rb").read() == hashlib.sha256(b"hello").digest()


async def test_the_server_calls_without_a_service(ours: Made) -> None:
    """Then reading raises, and the block says what the server said."""
    listen = free_address()
    with serving(ours, free_address(), "--dial", listen, "--every", "1s"):
        with pytest.raises(Unreachable, match="the server says: cannot reach"):
            async with sessions.wait_stream(ours.file("client"), listen, within=20) as (reader, _):
                await reader.read()
        with pytest.raises(Unreachable, match="the server says"):
            with sessions.wait_socket(ours.file("client"), listen, within=20) as connected:
                connected.recv(1)


async def test_the_server_never_calls(ours: Made) -> None:
    """Waiting has an end, if one was given."""
    with pytest.raises(Unreachable, match=r"did not call .* within 0\.1 s"):
        async with sessions.wait_stream(ours.file("client"), free_address(), within=0.1):
            pytest.fail("it began")
    with pytest.raises(Unreachable, match="did not call"):
        with sessions.wait_socket(ours.file("client"), free_address(), within=0.1):
            pytest.fail("it began")


async def test_a_blocking_stream_inside_a_running_loop(ours: Made) -> None:
    """Its own loop is in its own thread, whoever calls."""
    with service(echo) as to, serving(ours, to) as server:
        with sessions.open_socket(ours.file("client"), server) as connected:
            connected.sendall(b"hello")
            assert connected.recv(100) == b"hello"


async def test_many_at_once(ours: Made) -> None:
    """Streams do not mix."""
    with service(echo) as to, serving(ours, to) as server:

        async def one(number: int) -> bytes:
            async with sessions.open_stream(ours.file("client"), server) as (reader, writer):
                writer.write(str(number).encode() * 1000)
                writer.write_eof()
                return await reader.read()

        assert await asyncio.gather(*map(one, range(20))) == [str(each).encode() * 1000 for each in range(20)]


def test_a_stranger_on_loopback_gets_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is quicker to connect to the port of the bridge than we are is closed, and we get ours."""
    strangers: list[socket.socket] = []
    real = socket.create_server

    def raced(place: tuple[str, int]) -> socket.socket:
        listening = real(place)
        strangers.append(socket.create_connection(listening.getsockname()))
        return listening

    monkeypatch.setattr(socket, "create_server", raced)
    near, plain = api._pair()
    with near, plain, strangers[0]:
        near.sendall(b"ours")
        assert (plain.recv(10), strangers[0].recv(10)) == (b"ours", b"")


def test_the_package_is_quick_to_import_and_quiet(ours: Made) -> None:
    """The import of the package takes no library with it; a program's standard output stays its own."""
    code = "import sys, handfast.sessions; print('handfast.sessions.api' in sys.modules, 'OpenSSL' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False False\n"
    code = f"""
from handfast import errors, sessions
try:
    with sessions.wait_socket({str(ours.file("client"))!r}, {free_address()!r}, within=1): pass
except errors.Unreachable:
    print("ended")
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "ended\n"
    with pytest.raises(AttributeError, match="no attribute 'connect_'"):
        _ = sessions.connect_
