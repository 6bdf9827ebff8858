"""After the handshake: frames, and peers that are authenticated and misbehave all the same."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from handfast.errors import HandfastError, Malformed, Unreachable
from handfast.sessions.engine import Limits, Link
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made
from tests.sessions.streams import ANSWER, HELLO, dial, engine, serving

QUICK = Limits(frame=0.2)


async def test_silence_after_the_handshake_ends_too(ours: Made) -> None:
    """Who was authenticated and then says nothing is let go when the time of a frame is over."""
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(link: Link[Peer]) -> None:
        try:
            await link.receive()
        except Unreachable as error:
            failed.set_result(error.message)
            raise

    server = engine(ours, "server", limits=QUICK)
    async with serving(server, handle) as listening, engine(ours, "client").link(await dial(listening)) as link:
        assert "say what it wants within 0.2 s" in await failed
        with pytest.raises(Unreachable):
            await link.receive()
    assert server.open == 0


async def outcome(made: Made, misbehave: Callable[[Link[Peer]], object], limits: Limits | None = None) -> HandfastError:
    """What a server's ``receive`` says when an authenticated client misbehaves."""
    failed: asyncio.Future[HandfastError] = asyncio.get_running_loop().create_future()

    async def handle(link: Link[Peer]) -> None:
        try:
            await link.receive()
        except HandfastError as error:
            failed.set_result(error)
            raise

    server = engine(made, "server", limits=limits)
    async with serving(server, handle) as listening, engine(made, "client").link(await dial(listening)) as link:
        result = misbehave(link)
        if asyncio.iscoroutine(result):
            await result
        return await failed


async def test_garbage_after_the_handshake_is_malformed(ours: Made) -> None:
    """Bytes put into the TCP connection by somebody in between end it."""
    error = await outcome(ours, lambda link: link._channel._socket.send(b"\x17\x03\x03\x00\x20" + bytes(32)))
    assert isinstance(error, Malformed)


async def test_an_empty_frame_is_malformed(ours: Made) -> None:
    """A length of zero is nobody's frame."""
    assert isinstance(await outcome(ours, lambda link: link.send(b"\0\0")), Malformed)


async def test_half_a_frame_is_waited_for_no_longer_than_a_frame(ours: Made) -> None:
    """A length of 64 KiB of which a part comes takes the time of one frame."""
    assert isinstance(await outcome(ours, lambda link: link.send(b"\xff\xff" + bytes(100)), QUICK), Unreachable)


async def test_a_killed_peer_is_noticed(ours: Made) -> None:
    """A reset in the middle of a frame is an error with words."""

    def kill(link: Link[Peer]) -> None:
        link._channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link._channel.abort(Unreachable("killed"))

    error = await outcome(ours, kill)
    assert isinstance(error, Unreachable)
    assert "broke off" in error.message


async def test_a_frame_of_full_length_arrives_whole(ours: Made) -> None:
    """65,535 bytes are the most, and come through, with the next frame behind them."""
    got: list[bytes] = []

    async def handle(link: Link[Peer]) -> None:
        got.append(await link.receive())
        got.append(await link.receive())
        await link.dismiss(ANSWER)

    async with (
        serving(engine(ours, "server"), handle) as listening,
        engine(ours, "client").link(await dial(listening)) as link,
    ):
        await link.send(b"\xff\xff" + b"x" * 0xFFFF + HELLO)
        assert await link.receive() == b"ok"
    assert got == [b"x" * 0xFFFF, b"{}"]


async def test_frames_go_both_ways_while_somebody_waits(ours: Made) -> None:
    """On a control connection one task waits for a frame while others send."""

    async def handle(link: Link[Peer]) -> None:
        while True:
            await link.send(b"\0\x01" + (await link.receive())[:1])

    async with (
        serving(engine(ours, "server"), handle) as listening,
        engine(ours, "client").link(await dial(listening)) as link,
    ):
        waiting = asyncio.create_task(link.receive())
        await asyncio.sleep(0)
        await asyncio.gather(*(link.send(b"\0\2ab") for _ in range(50)))
        assert [await waiting, *[await link.receive() for _ in range(49)]] == [b"a"] * 50
