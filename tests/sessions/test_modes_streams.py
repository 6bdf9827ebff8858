"""What flows through a session once two parties have met, to whatever kinds of places."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handfast.core.invitation import Address
from handfast.sessions import connect, local
from handfast.sessions.local import Endpoint
from tests.ports import free_port
from tests.sessions.conftest import Made
from tests.sessions.tunnels import (
    Running,
    Stage,
    ask,
    broken,
    counted,
    open_,
    service,
    stage,
)

MEGABYTE = 1 << 20


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a server that is gone every 50 ms."""
    monkeypatch.setattr(connect, "AGAIN", 0.05)
    monkeypatch.setattr(connect, "CALL_BACK", 60.0)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_a_side_may_end_its_half_and_still_read(ours: Made, at: Stage, reverse: bool) -> None:
    """The service answers after the end of the question, and all of both arrives."""
    async with service("count") as where:
        client = await met(ours, at, where, reverse=reverse)
        assert await ask(client.door, bytes(3 * MEGABYTE + 1)) == b"%d" % (3 * MEGABYTE + 1)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_many_streams_at_once_are_not_mixed_up(ours: Made, at: Stage, reverse: bool) -> None:
    """Forty connections through one local port each get what is theirs, and only as many reach the service."""
    async with counted() as (where, counts):
        client = await met(ours, at, where, reverse=reverse)
        asked = [b"%d " % each * 1000 for each in range(40)]
        assert await asyncio.gather(*(ask(client.door, each) for each in asked)) == asked
        assert counts.accepted == 40


async def test_unix_sockets_on_both_ends(ours: Made, at: Stage, tmp_path: Path) -> None:
    """The service and the local end may both be Unix sockets; ours is for its owner only and gone afterwards."""
    door = tmp_path / "door"
    async with service(path=tmp_path / "service") as where:
        server = await at.serve(ours.file("server"), where)
        client = at.connect(ours.file("client"), server, Endpoint(path=door))
        assert (await client.ready())["local"] == f"unix:{door}"
        assert door.stat().st_mode & 0o777 == 0o600
        reader, writer = await asyncio.open_unix_connection(door)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"HELLO"
        writer.close()
        await client.stop()
        assert not door.exists()


async def test_ipv6_everywhere(ours: Made, at: Stage) -> None:
    """The session, the local port and the service may all have IPv6 addresses."""
    async with service(host="::1") as where:
        server = await at.serve(ours.file("server"), where, Address("::1", 0))
        assert server.place.result()["listen"].startswith("[::1]:")
        client = at.connect(ours.file("client"), server, Endpoint(Address("::1", 0)))
        await client.ready()
        assert await ask(client.door) == b"HELLO"


async def test_a_name_that_moves_is_looked_up_each_time(ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server's name gets another address, the client finds it there without being restarted."""
    async with service() as where:
        port, loop = free_port(), asyncio.get_running_loop()
        places, resolve = {"cluster.example": "127.0.0.2"}, loop.getaddrinfo

        async def getaddrinfo(host: str, *arguments: object, **named: object) -> object:
            return await resolve(places.get(host, host), *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        server = await at.serve(ours.file("server"), where, Address("127.0.0.2", port))
        client = at.connect(ours.file("client"), Address("cluster.example", port))
        await client.ready()
        await server.stop()
        places["cluster.example"] = "127.0.0.3"
        await at.serve(ours.file("server"), where, Address("127.0.0.3", port))
        await client.heard("here again")
        assert await ask(client.door) == b"HELLO"


async def test_an_address_where_packets_vanish_does_not_use_up_the_others_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a name's addresses, one that is silent leaves time for the next."""
    async with service() as where:
        assert where.address is not None
        loop, connect_ = asyncio.get_running_loop(), local._connected
        good = await loop.getaddrinfo("127.0.0.1", where.address.port, type=1)
        silent = (good[0][0], good[0][1], 0, "", ("192.0.2.1", 9))

        async def getaddrinfo(*_arguments: object, **_named: object) -> object:
            return [silent, *good]

        async def connected(family: int, place: object) -> object:
            return await (asyncio.Event().wait() if place == ("192.0.2.1", 9) else connect_(family, place))

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(local, "_connected", connected)
        dialled = await local.dial(Endpoint(Address("both.example", where.address.port)), within=2.0)
        await loop.sock_sendall(dialled, b"hello")
        dialled.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(dialled, 10) == b"HELLO"
        dialled.close()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_a_service_that_is_down_is_said_and_the_connection_breaks(ours: Made, at: Stage, reverse: bool) -> None:
    """Both people learn that the service is down, and the program sees an error: not an end, not silence."""
    nowhere = Endpoint(Address("127.0.0.1", free_port()))
    client = await met(ours, at, nowhere, reverse=reverse)
    reader, writer = await open_(client.door)
    assert await broken(reader)
    writer.close()
    said = await client.heard("no stream: ")
    assert str(nowhere) in said
    assert "Connection refused" in said
    await at.running[1 if reverse else 0].heard(f"no stream for client: cannot reach {nowhere}")
    assert not client.task.done()


async def met(made: Made, at: Stage, where: Endpoint, *, reverse: bool) -> Running:
    """A client with its server, in one mode or the other."""
    if reverse:
        client, address = await at.wait(made.file("client"))
        at.call(made.file("server"), address, where)
    else:
        client = at.connect(made.file("client"), await at.serve(made.file("server"), where))
    await client.ready()
    return client
