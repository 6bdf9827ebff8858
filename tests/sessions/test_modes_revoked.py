"""Who is thrown out while it runs: taken back, or at its end; and how soon."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from handfast.adapters.clock import SystemClock
from handfast.core.roles import Role
from handfast.errors import HandfastError, Refused, Revoked
from handfast.server import session
from handfast.sessions import connect, control
from handfast.sessions.control import Side
from handfast.sessions.engine import Engine
from handfast.sessions.lists import Lists, crl_path
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made
from tests.sessions.test_modes_refused import refused
from tests.sessions.tunnels import (
    SOON,
    Running,
    Stage,
    ask,
    counted,
    listen,
    moved,
    nobody,
    service,
    stage,
)


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a server that is gone every 50 ms."""
    monkeypatch.setattr(connect, "AGAIN", 0.05)


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


async def looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until everything that runs has looked for revocations, wholly, from now on."""
    real, looks, enough = Lists.look, Counter[int](), threading.Event()

    def look(lists: Lists) -> list[bytes | HandfastError]:
        looks[id(lists)] += 1
        if min(looks.values()) >= 3:  # the second has begun after this, and is over when the third begins
            enough.set()
        return real(lists)

    with monkeypatch.context() as patched:
        patched.setattr(Lists, "look", look)
        assert await asyncio.to_thread(enough.wait, SOON)


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
    """After `revoke` the stream breaks, the friend's command ends with why, and the client's goes on."""
    async with service("pour") as where:
        away = learns == "from a peer"
        server = await at.serve(moved(own, "server", tmp_path / "away") if away else own.file("server"), where)
        client, reading = await transferring(at, own.file("client"), server, programs)
        friend, cut = await transferring(at, moved(own, "bob", tmp_path / "friend"), server, programs)
        await asyncio.to_thread(session.revoke, own.directory, "bob")
        await breaks(cut)
        with pytest.raises(Revoked, match="our own credential, of 'bob', was revoked"):
            await friend.over()
        assert await nobody(friend.door)
        await flows(reading)
        assert not client.task.done()
        again = at.connect(moved(own, "bob", tmp_path / "friend"), server)
        await refused(again, Revoked, "our own credential")
        assert crl_path(tmp_path / "friend" / own.file("bob").name).exists(), "it has the owner's word for it"


async def test_the_looks_are_a_quarter_of_a_second_apart(own: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """For revocations, and for what the clock ends: our own certificate and the peers'."""
    side = Side.open(own.file("server"), Role.SERVER)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) % 3 == 0:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for looking in (side.trust.watch(lambda error: None), side.guard()):
        with pytest.raises(asyncio.CancelledError):
            await looking
    assert pauses == [0.25] * 6


async def test_whoever_is_revoked_is_cut_within_a_second(
    own: Made, at: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[socket.socket]
) -> None:
    """By the first look that begins after it: counted, not timed."""
    looks, real, cut = 0, Lists.look, Engine.cut
    seen: Lists | None = None  # of the server
    server_side: Engine[Peer] | None = None
    before, at_cut = -1, asyncio.get_running_loop().create_future()

    def look(lists: Lists) -> list[bytes | HandfastError]:
        nonlocal looks
        looks += lists is seen
        return real(lists)

    def cut_(engine: Engine[Peer], serials: Collection[int], *why: str) -> int:
        if serials and engine is server_side and not at_cut.done():
            at_cut.set_result(looks)
        return cut(engine, serials, *why)

    def revoke() -> None:
        nonlocal before
        session.revoke(own.directory, "bob")
        before = looks

    sides: list[Side] = []
    opened = Side.open

    def open_side(*given: Any, **more: Any) -> Side:
        sides.append(opened(*given, **more))
        return sides[-1]

    monkeypatch.setattr(Side, "open", open_side)
    monkeypatch.setattr(Lists, "look", look)
    monkeypatch.setattr(Engine, "cut", cut_)
    async with service("pour") as where:
        server = await at.serve(own.file("server"), where)
        server_side, seen = sides[0].engine, sides[0].trust._lists
        _, program = await transferring(at, moved(own, "bob", tmp_path / "friend"), server, programs)
        await asyncio.to_thread(revoke)
        await breaks(program)
        assert await at_cut <= before + 1


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


async def test_an_older_revocation_list_takes_nothing_back(
    own: Made, at: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        await looked(monkeypatch)
        again = moved(own, "bob", tmp_path / "again")  # which knows of no list: it is the server that refuses
        await refused(at.connect(again, server), Revoked, "of 'bob', was revoked")


async def test_nobody_is_let_in_while_nobody_looks_for_revocations(
    own: Made, at: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the look for revocations ever end, which is a bug of ours, the program ends with it."""
    async with service() as where:
        server = await at.serve(own.file("server"), where)

        def broken_look(_lists: Lists) -> NoReturn:
            raise RuntimeError("a bug")

        monkeypatch.setattr(Lists, "look", broken_look)
        with pytest.raises(RuntimeError, match="a bug"):
            await server.over()


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
