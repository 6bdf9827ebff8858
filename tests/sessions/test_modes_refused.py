"""Who is kept out of a session, who is thrown out while it runs, and what each of them is told."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from handfast.adapters.clock import SystemClock
from handfast.core.invitation import Address
from handfast.errors import Fault, HandfastError, Refused, Revoked, Unreachable, Unsafe, UntrustedPeer
from handfast.server import session
from handfast.sessions import connect, control
from handfast.sessions.local import Endpoint
from handfast.sessions.trust import crl_path
from tests.sessions.conftest import Made
from tests.sessions.tunnels import (
    DOOR,
    HERE,
    SOON,
    Running,
    Stage,
    ask,
    broken,
    counted,
    free_port,
    listen,
    moved,
    nobody,
    open_,
    service,
    stage,
)

NOWHERE = Endpoint(HERE)


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a server that is gone every 50 ms."""
    monkeypatch.setattr(connect, "AGAIN", 0.05)


async def refused(run: Running, kind: type[HandfastError], text: str) -> HandfastError:
    """How a run ended, which has to be like this and before it was ready."""
    with pytest.raises(kind, match=text) as raised:
        await run.over()
    assert type(raised.value) is kind
    assert not run.place.done()
    return raised.value


# --- the file ---


async def test_a_file_of_the_wrong_role_is_refused(ours: Made, at: Stage) -> None:
    """The client's file does not make a server, nor the server's a client; nobody is dialled."""
    as_server = at.start(lambda told: control_serve(ours.file("client"), told))
    await refused(as_server, Refused, "is the file of the client 'client', and this is for the server")
    as_client = at.connect(ours.file("server"), Address("127.0.0.1", 1))
    await refused(as_client, Refused, "is the file of the server 'server', and this is for the client")


async def control_serve(file: Path, told: object) -> None:
    """A server with this file."""
    from handfast.sessions import run
    from handfast.sessions.engine import Limits

    await run.serve(file, HERE, NOWHERE, limits=Limits(), told=told)  # type: ignore[arg-type]


async def test_a_file_that_others_can_read_is_refused(own: Made, at: Stage) -> None:
    """Its key may be somebody else's by now."""
    own.file("client").chmod(0o640)
    error = await refused(at.connect(own.file("client"), Address("127.0.0.1", 1)), Unsafe, "can be read or written")
    assert "chmod 600" in error.hint


async def test_an_expired_file_is_refused(ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the session's end its files are of no use, and say when that was."""
    skew(monkeypatch, timedelta(days=31))
    await refused(
        at.connect(ours.file("client"), Address("127.0.0.1", 1)),
        Refused,
        r"is valid from .* to .*Z, and it is .*Z here",
    )


def skew(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let the clock of whoever starts from now on be wrong."""
    real = SystemClock().now

    class Wrong:
        def now(self) -> datetime:
            return real() + by

    monkeypatch.setattr(control, "SystemClock", Wrong)


# --- the peer, at the first contact ---


async def test_nobody_there_is_said_at_once(ours: Made, at: Stage) -> None:
    """A wrong address ends the command; it does not try for ever."""
    port = free_port()
    client = at.connect(ours.file("client"), Address("127.0.0.1", port))
    await refused(client, Unreachable, f"cannot reach 127.0.0.1:{port}: Connection refused")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_another_session_does_not_get_near_the_service(
    ours: Made, theirs: Made, at: Stage, reverse: bool
) -> None:
    """A client of another session of the same name is refused, its port never opens, the service is not touched."""
    async with counted() as (where, counts):
        if reverse:
            client, address = await at.wait(theirs.file("client"))
            server = at.call(ours.file("server"), address, where)
            await server.heard(f"{address}: ")
            assert not client.place.done()
            assert not client.task.done(), "the right server may still come"
        else:
            server = await at.serve(ours.file("server"), where)
            client = at.connect(theirs.file("client"), server)
            await refused(client, UntrustedPeer, "not issued in this session")
        assert counts.accepted == 0


async def test_two_clients_or_two_servers_are_no_session(ours: Made, at: Stage) -> None:
    """A client that reaches a waiting client is refused, for both are the same side of TLS."""
    waiting, address = await at.wait(ours.file("bob"))
    client = at.connect(ours.file("client"), address)
    with pytest.raises(HandfastError):
        await client.over()
    assert not waiting.place.done()


async def test_the_local_port_opens_only_when_the_server_has_proved_itself(ours: Made, at: Stage) -> None:
    """While nobody has come, and after somebody else has, a program finds the port closed."""
    port = free_port()
    door = Endpoint(Address("127.0.0.1", port))
    client, address = await at.wait(ours.file("client"), door=door)
    reader, writer = await open_((address.host, address.port))
    writer.write(b"I am the server, really\r\n")
    await broken(reader)
    writer.close()
    assert await nobody(("127.0.0.1", port))
    async with service() as where:
        at.call(ours.file("server"), address, where)
        await client.ready()
        assert await ask(("127.0.0.1", port)) == b"HELLO"


async def test_a_local_port_in_use_is_said(ours: Made, at: Stage) -> None:
    """The client ends with what is wrong, and not with a port that leads elsewhere."""
    async with service() as where:
        client = at.connect(ours.file("client"), await at.serve(ours.file("server"), where), where)
        await refused(client, Fault, "Address already in use")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("who", ["server", "client"])
async def test_clocks_two_days_apart_are_both_named(
    ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch, who: str, reverse: bool
) -> None:
    """Whichever side's clock is ahead, whoever dialled: who can read it learns both times, and no stream is made."""
    async with counted() as (where, counts):
        both = r"the two clocks are .* apart: \d+-\d+-\d+ \d+:\d+Z here, \d+-\d+-\d+ \d+:\d+Z at the peer"
        days = {each: timedelta(days=2 if each == who else 0) for each in ("server", "client")}
        if reverse:
            skew(monkeypatch, days["client"])
            client, address = await at.wait(ours.file("client"))
            skew(monkeypatch, days["server"])
            server = at.call(ours.file("server"), address, where)
            await server.heard("the two clocks are")
            assert not client.place.done()
        else:
            skew(monkeypatch, days["server"])
            server = await at.serve(ours.file("server"), where)
            skew(monkeypatch, days["client"])
            await refused(at.connect(ours.file("client"), server), Refused, both)
        assert counts.accepted == 0


async def test_a_file_from_the_future_names_the_clock(ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two days behind, our own file is not valid yet, which is said with the time that we believe it is."""
    skew(monkeypatch, timedelta(days=-2))
    client = at.connect(ours.file("client"), Address("127.0.0.1", 1))
    await refused(client, Refused, r"is valid from .* to .*Z, and it is .*Z here")


# --- taken back ---


@pytest.fixture
def programs() -> Iterator[list[socket.socket]]:
    """Programs of this machine which use a local port."""
    made: list[socket.socket] = []
    yield made
    for each in made:
        each.close()


async def transferring(
    at: Stage, file: Path, server: Running, programs: list[socket.socket]
) -> tuple[Running, socket.socket]:
    """A client, and the program at its port, to which bytes flow."""
    client = at.connect(file, server)
    await client.ready()
    program = socket.create_connection(client.door)
    program.setblocking(False)
    programs.append(program)
    await flows(program)
    return client, program


async def flows(program: socket.socket) -> None:
    """Read a megabyte."""
    count = 0
    async with asyncio.timeout(SOON):
        while count < 1 << 20:
            piece = await asyncio.get_running_loop().sock_recv(program, 1 << 18)
            assert piece
            count += len(piece)


async def breaks(program: socket.socket) -> None:
    """Read until it breaks off, which is no end."""
    async with asyncio.timeout(SOON):
        with pytest.raises(ConnectionResetError):  # noqa: PT012  until it does
            while await asyncio.get_running_loop().sock_recv(program, 1 << 18):
                pass


@pytest.mark.parametrize("learns", ["from the directory", "from a peer"])
async def test_a_revoked_friend_is_cut_off_in_mid_transfer(
    own: Made, at: Stage, tmp_path: Path, learns: str, programs: list[socket.socket]
) -> None:
    """Within a second of `revoke` the stream breaks, the friend's command ends with why, and the client's goes on."""
    async with service("pour") as where:
        away = learns == "from a peer"
        server = await at.serve(moved(own, "server", tmp_path / "away") if away else own.file("server"), where)
        client, reading = await transferring(at, own.file("client"), server, programs)
        friend, cut = await transferring(at, moved(own, "bob", tmp_path / "friend"), server, programs)
        await asyncio.to_thread(session.revoke, own.directory, "bob")
        began = asyncio.get_running_loop().time()
        await breaks(cut)
        assert asyncio.get_running_loop().time() - began < 1
        with pytest.raises(Revoked, match="our own credential, of 'bob', was revoked"):
            await friend.over()
        assert await nobody(friend.door)
        await flows(reading)
        assert not client.task.done()
        again = at.connect(moved(own, "bob", tmp_path / "friend"), server)
        await refused(again, Revoked, "our own credential")
        assert crl_path(tmp_path / "friend" / own.file("bob").name).exists(), "it has the owner's word for it"


async def test_a_revoked_friend_who_waits_is_told(own: Made, at: Stage, tmp_path: Path) -> None:
    """In the reverse mode the server dials, refuses, and the friend's command ends with why."""
    async with counted() as (where, counts):
        session.revoke(own.directory, "bob")
        friend, address = await at.wait(moved(own, "bob", tmp_path / "friend"))
        server = at.call(own.file("server"), address, where)
        await server.heard("was revoked")
        await refused(friend, Revoked, "our own credential, of 'bob', was revoked")
        assert counts.accepted == 0


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
async def test_a_revoked_server_ends(own: Made, at: Stage, tmp_path: Path, reverse: bool) -> None:
    """A server that was taken back learns it from the client who refuses it, and ends with that."""
    async with counted() as (where, counts):
        file = moved(own, "server", tmp_path / "cluster")
        session.revoke(own.directory, "server")
        if reverse:
            client, address = await at.wait(own.file("client"))
            server = at.call(file, address, where)
        else:
            server = await at.serve(file, where)
            client = at.connect(own.file("client"), server)
            await refused(client, Revoked, "of 'server' was revoked")
        with pytest.raises(Revoked, match="our own credential, of 'server', was revoked"):
            await server.over()
        assert counts.accepted == 0


async def test_a_client_outlives_a_revoked_server_and_takes_its_successor(own: Made, at: Stage, tmp_path: Path) -> None:
    """The owner may give the server a new credential: the client waits for it, at the same port."""
    async with service() as where:
        server = await at.serve(moved(own, "server", tmp_path / "old"), where)
        place = listen(server)
        client = at.connect(own.file("client"), server)
        await client.ready()
        await asyncio.to_thread(session.revoke, own.directory, "server")
        with pytest.raises(Revoked):
            await server.over()
        own.file("server").unlink()
        await asyncio.to_thread(own.export, "server")
        await at.serve(own.file("server"), where, place)
        await client.heard("here again")
        assert await ask(client.door) == b"HELLO"


async def test_our_own_revocation_ends_a_client_that_still_waits(own: Made, at: Stage) -> None:
    """Also before any server has come."""
    client, _ = await at.wait(own.file("bob"))
    await asyncio.to_thread(session.revoke, own.directory, "bob")
    await refused(client, Revoked, "our own credential")


async def test_an_older_revocation_list_takes_nothing_back(own: Made, at: Stage, tmp_path: Path) -> None:
    """A list from before the revocation, put back beside the file by whoever can, lets nobody in again."""
    async with service() as where:
        old = own.publish()
        file = moved(own, "server", tmp_path / "away")
        server = await at.serve(file, where)
        session.revoke(own.directory, "bob")
        client = at.connect(own.file("client"), server)
        await client.ready()
        await refused(at.connect(moved(own, "bob", tmp_path / "friend"), server), Revoked, "revoked")
        kept = crl_path(file)
        replay = tmp_path / "replay"
        replay.write_bytes(old)
        replay.chmod(0o600)
        shutil.move(replay, kept)
        await asyncio.sleep(0.6)  # two looks
        await refused(at.connect(moved(own, "bob", tmp_path / "friend"), server), Revoked, "revoked")


async def test_a_session_that_ends_ends_what_runs(
    ours: Made, at: Stage, monkeypatch: pytest.MonkeyPatch, programs: list[socket.socket]
) -> None:
    """At the time in the certificate the server and the client stop, streams too: nobody has to be asked."""
    passed = [timedelta()]
    real = SystemClock().now

    class Passing:
        def now(self) -> datetime:
            return real() + passed[0]

    monkeypatch.setattr(control, "SystemClock", Passing)
    async with service("pour") as where:
        server = await at.serve(ours.file("server"), where)
        client, program = await transferring(at, ours.file("client"), server, programs)
        passed[0] = timedelta(days=30)
        for each in (server, client):
            with pytest.raises(Refused, match="the session 'paper' was over for"):
                await each.over()
        await breaks(program)


async def test_a_port_of_the_session_in_use_is_said(ours: Made, at: Stage) -> None:
    """For a server and a waiting client alike."""
    async with service() as where:
        assert where.address is not None
        with pytest.raises(Fault, match="Address already in use"):
            await at.serve(ours.file("server"), where, where.address)
        with pytest.raises(Fault, match="Address already in use"):
            await at.start(lambda told: waiting(ours.file("client"), where.address, told)).over()


async def waiting(file: Path, place: Address | None, told: object) -> None:
    """A client that waits there."""
    from handfast.sessions import run
    from handfast.sessions.engine import Limits

    await run.wait(file, place, DOOR, limits=Limits(), told=told)  # type: ignore[arg-type]
