"""Streams through two real engines on loopback: whole, in both directions, and never more in memory than agreed."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from contextlib import AsyncExitStack

import pytest
import uvloop

from handfast.errors import Revoked, Unreachable
from handfast.sessions import hello
from handfast.sessions.channel import prepare
from handfast.sessions.engine import Limits, Link
from handfast.sessions.hello import Answer
from handfast.sessions.relay import BUFFER
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made
from tests.sessions.streams import ANSWER, HELLO, dial, drain, engine, listen, pour, serving, stream

MEGABYTE = 1 << 20
RESET = struct.pack("ii", 1, 0)


async def both_ways(made: Made) -> None:
    """Send 48 MB each way at once and compare."""
    async with stream(engine(made, "client"), engine(made, "server")) as opened:
        sent = asyncio.gather(pour(opened.near, 48 * MEGABYTE), pour(opened.far, 48 * MEGABYTE + 1))
        there, back = await asyncio.gather(drain(opened.far), drain(opened.near))
        assert [there, back] == list(await sent)
        ended = await opened.client
        assert (ended.sent, ended.received, ended.error) == (48 * MEGABYTE, 48 * MEGABYTE + 1, None)
        assert (await opened.server).error is None


async def test_every_byte_arrives_in_both_directions_at_once(ours: Made) -> None:
    """What goes in at one end comes out at the other, both ways at once, and both sides end in order."""
    await both_ways(ours)


def test_it_runs_on_uvloop_as_on_asyncio(ours: Made) -> None:
    """The loop of the server and of the command line carries streams as the standard one does."""
    uvloop.run(both_ways(ours))


async def test_the_client_may_end_its_direction_and_still_read(ours: Made) -> None:
    """After the near side's end, the far side reads it, and its answer still arrives whole."""
    async with stream(engine(ours, "client"), engine(ours, "server")) as opened:
        asked = await pour(opened.near, 3 * MEGABYTE)
        assert await drain(opened.far) == asked
        answered, got = await asyncio.gather(pour(opened.far, 5 * MEGABYTE), drain(opened.near))
        assert got == answered
        assert (await opened.client).error is None


async def test_the_service_may_end_its_direction_and_still_read(ours: Made) -> None:
    """After the far side's end, the near side reads it, and what it says then still arrives whole."""
    async with stream(engine(ours, "client"), engine(ours, "server")) as opened:
        told = await pour(opened.far, 3 * MEGABYTE)
        assert await drain(opened.near) == told
        answered, got = await asyncio.gather(pour(opened.near, 5 * MEGABYTE), drain(opened.far))
        assert got == answered
        assert (await opened.server).error is None


async def test_an_end_without_a_byte_passes_through(ours: Made) -> None:
    """Two ends that say nothing close both sides in order."""
    async with stream(engine(ours, "client"), engine(ours, "server")) as opened:
        opened.near.shutdown(socket.SHUT_WR)
        opened.far.shutdown(socket.SHUT_WR)
        assert (await opened.client).error is None
        assert (await opened.server).error is None


async def test_bytes_in_the_packet_of_the_first_frame_are_the_streams(ours: Made) -> None:
    """What a client sends right behind its hello reaches the service from its first byte on."""
    far, service = socket.socketpair()
    far.setblocking(False)

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        await link.relay(service)

    async with (
        serving(engine(ours, "server"), handle) as listening,
        engine(ours, "client").link(await dial(listening)) as link,
    ):
        await link.send(HELLO + b"early")
        assert await asyncio.get_running_loop().sock_recv(far, 100) == b"early"
    far.close()


@pytest.mark.parametrize("reader", ["near", "far"])
async def test_a_slow_reader_stops_the_sender_and_memory_is_bounded(ours: Made, reader: str) -> None:
    """When nobody reads, each relay holds one buffer at most and the sender is stopped; then all of it arrives."""
    async with stream(engine(ours, "client"), engine(ours, "server")) as opened:
        slow, writer = (opened.near, opened.far) if reader == "near" else (opened.far, opened.near)
        pouring = asyncio.create_task(pour(writer, 64 * MEGABYTE))
        relays = [opened.link._relay, opened.links[0]._relay]
        before = -1
        while (counted := sum(each.up.count + each.down.count for each in relays if each)) != before:
            before = counted
            await settle()
        assert not pouring.done(), "64 MB went somewhere"
        held = [each.held for each in relays if each]
        assert all(each <= BUFFER for each in held), held
        assert any(held)
        got = await drain(slow)
        assert got == await pouring


async def settle() -> None:
    """Let the loop run until its kernel buffers are full: a few hundred turns in which nothing may be left to do."""
    for _ in range(300):
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)  # TCP's window probes: there is no event for "nothing more will come"


async def test_a_service_that_resets_is_not_an_orderly_end(ours: Made) -> None:
    """When the far application's connection breaks, the near one gets an error, not an end of file."""
    listening = socket.create_server(("127.0.0.1", 0))
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        plain = await dial(listening)
        await link.send(ANSWER)
        ended = await link.relay(plain)
        assert isinstance(ended.error, Unreachable)
        broken.set_result(None)

    near, local = await pair_of_tcp()
    async with serving(engine(ours, "server"), handle) as ear, engine(ours, "client").link(await dial(ear)) as link:
        await link.send(HELLO)
        await link.receive()
        relaying = asyncio.create_task(link.relay(local))
        far, _ = listening.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        far.close()
        await broken
        assert isinstance((await relaying).error, Unreachable)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(near, 1)
    near.close()
    listening.close()


async def pair_of_tcp() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection: unlike a socket pair it can be reset."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = await dial(listening)
        local, _ = listening.accept()
    return near, local


async def test_a_connection_cut_off_by_the_network_is_not_an_orderly_end(ours: Made) -> None:
    """A TCP end without TLS's own word for it, which anybody in between can make, is an error on both sides."""
    near, local = await pair_of_tcp()
    ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    far, service = socket.socketpair()

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        await link.send(ANSWER)
        ended.set_result((await link.relay(service)).error)

    async with (
        serving(engine(ours, "server"), handle) as listening,
        engine(ours, "client").link(await dial(listening)) as link,
    ):
        await link.send(HELLO)
        await link.receive()
        relaying = asyncio.create_task(link.relay(local))
        await asyncio.sleep(0)  # the relay has begun
        link._channel._socket.shutdown(socket.SHUT_WR)
        assert isinstance(await ended, Unreachable)
        assert isinstance((await relaying).error, Unreachable)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(near, 1)
    near.close()
    far.close()


async def test_cut_ends_a_transfer_at_once(ours: Made) -> None:
    """Cutting a serial resets its transfer on both sides, and says why on ours."""
    server = engine(ours, "server")
    async with stream(engine(ours, "client"), server) as opened:
        pouring = asyncio.create_task(pour(opened.near, 1 << 40))
        draining = asyncio.create_task(drain(opened.far))
        while opened.links[0]._relay is None or opened.links[0]._relay.up.count < MEGABYTE:  # noqa: ASYNC110  bytes are counted without an event
            await asyncio.sleep(0)
        assert server.cut([opened.links[0].peer.serial + 1]) == 0
        assert server.cut(frozenset([opened.links[0].peer.serial])) == 1
        async with asyncio.timeout(30):
            assert isinstance((await opened.server).error, Revoked)
            assert isinstance((await opened.client).error, Unreachable)
            await draining
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await pouring


async def test_cut_reaches_a_peer_that_has_not_asked_yet(ours: Made) -> None:
    """Somebody authenticated who waits before the first frame is cut as well."""
    arrived: asyncio.Future[Link[Peer]] = asyncio.get_running_loop().create_future()
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def handle(link: Link[Peer]) -> None:
        arrived.set_result(link)
        try:
            await link.receive()
        except Revoked as error:
            failed.set_result(error)
            raise

    server = engine(ours, "server")
    async with serving(server, handle) as listening, engine(ours, "client").link(await dial(listening)) as link:
        server.cut([(await arrived).peer.serial])
        assert "was cut" in str(await failed)
        with pytest.raises(Unreachable):
            await link.receive()


async def test_a_stream_without_a_byte_ends_when_it_was_asked_for(ours: Made) -> None:
    """With an idle limit a silent stream ends, and says so."""
    server = engine(ours, "server", limits=Limits(idle=0.05))
    async with stream(engine(ours, "client"), server) as opened:
        error = (await opened.server).error
        assert error is not None
        assert "no byte" in error.message


async def test_idle_counts_from_the_last_byte(ours: Made) -> None:
    """A stream that says a byte in every span lives on; after a span without one it ends."""
    server = engine(ours, "server", limits=Limits(idle=3600.0))  # looked at here, and not by the clock
    async with stream(engine(ours, "client"), server) as opened:
        loop = asyncio.get_running_loop()
        relay = opened.links[0]._relay
        assert relay is not None
        count = relay.up.count + relay.down.count
        for _ in range(5):
            await loop.sock_sendall(opened.near, b".")
            assert await loop.sock_recv(opened.far, 1) == b"."
            relay._watch(count)
            count = relay.up.count + relay.down.count
            assert not relay.over
        relay._watch(count)
        error = (await opened.server).error
        assert error is not None
        assert error.message == "no byte came or went for 3600 s"


KEPT_ALIVE = {  # 15 s of silence, and then three questions 10 s apart: 45 s
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 10,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
}


async def test_a_peer_that_vanished_is_noticed_though_nobody_sends(ours: Made) -> None:
    """The kernel asks on both sides of a stream, and of a plain TCP connection: 45 s of silence are its end."""
    async with stream(engine(ours, "client"), engine(ours, "server")) as opened:
        await asyncio.get_running_loop().sock_sendall(opened.near, b".")
        assert await asyncio.get_running_loop().sock_recv(opened.far, 1) == b"."
        for link in (opened.link, *opened.links):
            inside = link._channel._socket
            assert {each: inside.getsockopt(*each) for each in KEPT_ALIVE} == KEPT_ALIVE
    with listen() as listening, await dial(listening) as plain:
        prepare(plain)
        assert {each: plain.getsockopt(*each) for each in KEPT_ALIVE} == KEPT_ALIVE


async def idle_streams(made: Made, count: int) -> None:
    """Open ``count`` streams, say one byte through each, and close."""
    server, client = engine(made, "server", limits=Limits(connections=2 * count)), engine(made, "client")
    far_ends: list[socket.socket] = []

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        far, service = socket.socketpair()
        far.setblocking(False)
        far_ends.append(far)
        await link.send(ANSWER)
        await link.relay(service)

    async with AsyncExitStack() as stack:
        listening = await stack.enter_async_context(serving(server, handle))
        near_ends, tasks = [], []
        for _ in range(count):
            link = await stack.enter_async_context(client.link(await dial(listening)))
            near, local = socket.socketpair()
            near.setblocking(False)
            await link.send(HELLO)
            await link.receive()
            near_ends.append(near)
            tasks.append(asyncio.create_task(link.relay(local)))
        assert server.open == client.open == count
        loop = asyncio.get_running_loop()
        for number, (near, far) in enumerate(zip(near_ends, far_ends, strict=True)):
            await loop.sock_sendall(near, number.to_bytes(2, "big"))
            assert await loop.sock_recv(far, 2) == number.to_bytes(2, "big")
        for each in (*near_ends, *far_ends):
            each.close()
        assert [each.error for each in await asyncio.gather(*tasks)] == [None] * count


@pytest.mark.timeout(300)
async def test_a_thousand_idle_streams_cost_no_buffers(ours: Made) -> None:
    """A thousand streams are open in one process, each carries its own bytes, and the loop has one buffer for all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8192:
        pytest.skip("8,192 descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8192), hard))
    await idle_streams(ours, 1000)


async def test_one_more_than_the_limit_is_refused_and_told(ours: Made) -> None:
    """The peer over the limit is turned away with the reason, and those who are in stay."""
    client, server = engine(ours, "client"), engine(ours, "server", limits=Limits(connections=1))
    server._refusal = lambda error: hello.encode(Answer(ok=False, crl=0, time=0, error=error.code, message=str(error)))
    async with stream(client, server) as opened:
        with socket.create_server(("127.0.0.1", 0)) as another:
            task = asyncio.create_task(server.serve(another, unwanted))
            async with engine(ours, "client").link(await dial(another)) as link:
                told = hello.decode(await link.receive(), Answer)
                assert told.error == "too-much"
                assert told.message == "1 connections of this credential are open, and 0 places are left"
                with pytest.raises(Unreachable, match="the peer ended the connection"):
                    await link.receive()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert server.open == 1
        assert not opened.server.done()


async def unwanted(link: Link[Peer]) -> None:
    """A handler that must not run."""
    raise AssertionError(f"{link.peer} got in")
