"""Reading and writing TLS on our own memory does what pyOpenSSL's own methods do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from handfast.adapters import tls_direct
from handfast.adapters.tls import session_client_context, session_server_context
from handfast.core import x509 as profiles

Pair = tuple[SSL.Connection, SSL.Connection]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected ends, past the handshake."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = profiles.root(key, name="test", now=datetime.now(UTC))
    sockets = socket.socketpair()
    ends = []
    for make, each in zip((session_client_context, session_server_context), sockets, strict=True):
        context = make([root], key, root, alpn="test")
        context.context.set_verify(SSL.VERIFY_NONE)  # who they are is not the matter here
        each.setblocking(False)
        ends.append(context.connection(each))
    waiting = list(ends)
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except SSL.WantReadError:
                pass
    yield ends[0], ends[1]
    for plain in sockets:
        plain.close()


def test_what_is_written_directly_is_read_by_its_own_method_and_the_reverse(pair: Pair) -> None:
    """Both halves are compatible with ``send`` and ``recv_into``, at any offset."""
    client, server = pair
    buffer = memoryview(bytearray(20_000))
    assert tls_direct.write(client, memoryview(b"..hello"), 2) == 5
    assert server.recv_into(buffer, 16_384) == 5
    assert bytes(buffer[:5]) == b"hello"
    assert server.send(b"answer") == 6
    assert tls_direct.read_into(client, buffer, 100, 16_384) == 6
    assert bytes(buffer[:107]) == b"hello" + bytes(95) + b"answer" + b"\0"


def test_a_record_is_the_most_that_one_call_carries(pair: Pair) -> None:
    """More than 16 KiB go in pieces, each read whole."""
    client, server = pair
    buffer, content = memoryview(bytearray(40_000)), memoryview(bytes(range(256)) * 156)
    first = tls_direct.write(client, content, 0)
    second = tls_direct.write(client, content, first)
    assert (first, second) == (16_384, 16_384)
    assert tls_direct.read_into(server, buffer, 0, 16_384) == 16_384
    assert tls_direct.read_into(server, buffer, 16_384, 16_384) == 16_384
    assert buffer[:32_768] == content[:32_768]


def test_nothing_to_read_and_no_room_to_write_are_said_as_ever(pair: Pair) -> None:
    """WantRead, WantWrite and the peer's end come as pyOpenSSL's own exceptions."""
    client, server = pair
    buffer = memoryview(bytearray(16_384))
    with pytest.raises(SSL.WantReadError):
        tls_direct.read_into(server, buffer, 0, 16_384)
    with pytest.raises(SSL.WantWriteError):
        fill(client)
    server.shutdown()
    with pytest.raises(SSL.ZeroReturnError):
        drain(client, buffer)


def fill(connection: SSL.Connection) -> None:
    """Write until the socket takes no more."""
    while True:
        tls_direct.write(connection, memoryview(bytes(16_384)), 0)


def drain(connection: SSL.Connection, buffer: memoryview) -> None:
    """Read until something else than bytes comes."""
    while True:
        tls_direct.read_into(connection, buffer, 0, 16_384)


@pytest.mark.parametrize(("at", "most"), [(1, 100), (-1, 10), (100, 1), (0, -1), (101, 0)])
def test_nothing_is_written_outside_of_the_buffer(pair: Pair, at: int, most: int) -> None:
    """A place that is not in the buffer is refused before C gets to see it."""
    with pytest.raises(IndexError):
        tls_direct.read_into(pair[0], memoryview(bytearray(100)), at, most)


@pytest.mark.parametrize("at", [-1, 5, 6])
def test_nothing_is_sent_from_outside_of_the_content(pair: Pair, at: int) -> None:
    """What lies behind the content stays where it is."""
    with pytest.raises(IndexError):
        tls_direct.write(pair[0], memoryview(b"hello"), at)


def test_memory_that_is_not_ours_to_write_is_refused(pair: Pair) -> None:
    """Bytes do not change."""
    with pytest.raises(BufferError):
        tls_direct.read_into(pair[0], memoryview(bytes(100)), 0, 100)


def test_a_record_of_tls_itself_is_read_alone_if_that_was_asked_for(pair: Pair) -> None:
    """A server's tickets are no bytes, one at a time, and are told from an empty socket; otherwise OpenSSL reads on."""
    client, _ = pair
    buffer = memoryview(bytearray(20_000))
    tls_direct.one_record_a_read(client)
    read = []
    with pytest.raises(SSL.WantReadError):  # noqa: PT012  at the end of them
        while True:
            read.append(tls_direct.read_into(client, buffer, 0, 16_384))
    assert read == [0, 0]
