"""Where revocation lists lie on this machine, and what becomes of those that cannot be read or kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from handfast.adapters import files
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError, Malformed, Revoked, Unsafe, UntrustedPeer
from handfast.server import session
from handfast.sessions import hello, lists
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Crl, Ping, Pong
from handfast.sessions.lists import Lists, crl_path
from handfast.sessions.local import Endpoint
from handfast.sessions.serve import Server
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made, now
from tests.sessions.streams import serving
from tests.sessions.test_modes_attacks import answer, peer, said
from tests.sessions.test_trust import believe, listed, shown, unexpected
from tests.sessions.tunnels import SOON


def test_a_home_behind_a_closed_door_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's directory may lie where this user, or a unit with ProtectHome, cannot look: that is no fault."""

    def closed(_path: Path) -> bool:
        raise PermissionError(13, "permission denied")

    monkeypatch.setattr(Path, "exists", closed)
    assert lists._exists(Path("/home/ann/paper")) is False


async def test_what_is_wrong_at_the_start_is_told(own: Made) -> None:
    """Whoever runs a side, the commands or the library, hears why the session's directory is not looked at."""
    own.directory.chmod(0o777)
    told: list[HandfastError] = []
    side = Side.open(own.file("server"), Role.SERVER)
    async with side.running(told.append):
        pass
    assert len(told) == 1
    assert "is not used: " in told[0].message
    assert "mode 0777" in told[0].message


@pytest.mark.parametrize("full", [False, True], ids=["kept", "full"])
async def test_attack_a_list_that_a_peer_brings_does_not_make_the_streams_wait(
    own: Made, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """It holds at once and is written by a thread of its own; that the disk is full is told."""
    bob = own.party("bob").serial
    session.revoke(own.directory, "bob")
    newest = own.publish()
    shutil.rmtree(own.directory)
    kept, real = crl_path(own.file("server")), files.write_atomic

    def write(path: Path, content: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert (path, content) == (kept, newest)
        if full:
            raise Fault("cannot write: no space left on device")
        real(path, content)

    monkeypatch.setattr(files, "write_atomic", write)
    told: asyncio.Queue[HandfastError] = asyncio.Queue()
    side = Side.open(own.file("server"), Role.SERVER)
    server = Server(side, Endpoint(Address("127.0.0.1", 1)))
    async with (
        side.running(told.put_nowait),
        serving(side.engine, server.handle) as listening,
        peer(own, "client", Address(*listening.getsockname())) as link,
    ):
        await link.send(said())
        assert (await answer(link)).ok
        await link.send(hello.encode(Crl(crl_der=newest)))
        await link.send(hello.encode(Ping()))
        await until(link, Pong)
    assert side.trust.revoked(bob)
    assert kept.exists() is not full
    assert [each.message for each in told._queue] == ["cannot write: no space left on device"] * full  # type: ignore[attr-defined]


async def until(link: Link[Peer], kind: type[object]) -> None:
    """Read until a message of this kind comes: what was said before it has been dealt with."""
    while not isinstance(hello.decode_control(await link.receive(within=SOON)), kind):
        pass


def test_an_older_list_never_replaces_a_newer_one(own: Made) -> None:
    """Threads that write may finish in any order."""
    made = Lists(own.party("server"), own.file("server"))
    made.keep(b"newer", 2)
    made.keep(b"older", 1)
    assert crl_path(own.file("server")).read_bytes() == b"newer"
    Lists(own.party("server"), None).keep(b"nowhere", 3)


class TestKept:
    """What is on disk, and what changes there."""

    def test_what_was_adopted_holds_after_a_restart(self, own: Made) -> None:
        """It is in FILE.crl, for the owner alone."""
        trust, client = own.trust("server", kept=True), own.party("client")
        session.revoke(own.directory, "client")
        assert trust.adopt(own.publish())
        trust.keep()
        kept = crl_path(own.file("server"))
        assert kept.stat().st_mode & 0o777 == 0o600
        shutil.rmtree(own.directory)
        with pytest.raises(Revoked):
            own.trust("server", kept=True).verify(shown(client), now())

    def test_a_kept_list_of_something_else_stops_us(self, own: Made, theirs: Made) -> None:
        """Going on without it could admit somebody who was revoked: a person decides."""
        kept = crl_path(own.file("server"))
        kept.write_bytes(theirs.publish())
        kept.chmod(0o600)
        with pytest.raises(Malformed, match=r"server\.pem\.crl' cannot be used: .* not signed by"):
            own.trust("server", kept=True)
        kept.chmod(0o644)
        with pytest.raises(Unsafe, match="0644"):
            own.trust("server", kept=True)

    def test_a_full_disk_revokes_all_the_same(self, own: Made) -> None:
        """The list holds in memory, and its connections are cut, though it cannot be written."""
        cut: list[frozenset[int]] = []
        session.revoke(own.directory, "client")
        newest = own.publish()
        shutil.rmtree(own.directory)  # or the list would be there from the start
        nowhere = own.file("server").parent / "gone" / "server.pem"
        trust = believe(own.party("server"), nowhere, on_revoked=cut.append)
        assert trust.adopt(newest)
        with pytest.raises(Fault, match="cannot write"):
            trust.keep()
        assert cut == [frozenset({own.party("client").serial})]
        with pytest.raises(Revoked):
            trust.verify(shown(own.party("client")), now())

    def test_the_sessions_directory_is_asked_at_the_start(self, own: Made) -> None:
        """On the owner's machine a program knows what was revoked before it began."""
        session.revoke(own.directory, "client")
        trust = own.trust("server")
        assert trust.problems == ()
        assert trust.revoked(own.party("client").serial)

    def test_another_sessions_directory_is_not_asked(self, own: Made, theirs: Made, tmp_path: Path) -> None:
        """Whoever put his session where ours was does not speak for it, and we are told."""
        shutil.rmtree(own.directory)
        shutil.copytree(theirs.directory, own.directory)
        [problem] = own.trust("server").problems
        assert "is another session's" in problem.message

    def test_a_directory_that_others_can_write_is_not_asked(self, own: Made) -> None:
        """It could be led anywhere."""
        own.directory.chmod(0o777)
        [problem] = own.trust("server").problems
        assert "mode 0777" in problem.message

    def test_no_directory_is_no_problem(self, own: Made) -> None:
        """On every other machine there is none."""
        shutil.rmtree(own.directory)
        assert own.trust("server").problems == ()

    async def test_a_revocation_is_seen_by_what_runs(self, own: Made) -> None:
        """The owner revokes in another process; the running one cuts the client."""
        cut: asyncio.Queue[frozenset[int]] = asyncio.Queue()
        trust = believe(own.party("server"), own.file("server"), on_revoked=cut.put_nowait)
        watching = asyncio.create_task(trust.watch(unexpected))
        command = [sys.executable, "-m", "handfast", "session", "revoke", "client", "--dir", str(own.directory)]
        owner = await asyncio.create_subprocess_exec(
            *command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=asyncio.subprocess.DEVNULL
        )
        assert await owner.wait() == 0
        async with asyncio.timeout(30):
            assert await cut.get() == {own.party("client").serial}
        watching.cancel()

    async def test_another_programs_list_is_seen(self, own: Made) -> None:
        """Two programs with one file share what either of them learned."""
        cut: asyncio.Queue[frozenset[int]] = asyncio.Queue()
        client = own.party("client")
        newest = listed(own, client.serial, number=1000)
        shutil.rmtree(own.directory)
        first, second = own.trust("server", kept=True), believe(own.party("server"), own.file("server"))
        second.on_revoked = cut.put_nowait
        watching = asyncio.create_task(second.watch(unexpected))
        first.adopt(newest)
        first.keep()
        async with asyncio.timeout(30):
            assert await cut.get() == {client.serial}
        watching.cancel()

    async def test_a_damaged_list_is_told_and_changes_nothing(self, own: Made) -> None:
        """Half a list in the session's directory is a problem to tell, not the end of the watch."""
        told: asyncio.Queue[HandfastError] = asyncio.Queue()
        cut: asyncio.Queue[frozenset[int]] = asyncio.Queue()
        trust = believe(own.party("server"), on_revoked=cut.put_nowait)
        known = trust.crl
        watching = asyncio.create_task(trust.watch(told.put_nowait))
        files.write_atomic(own.directory / "session.crl", own.publish()[:100])
        async with asyncio.timeout(30):
            assert isinstance(await told.get(), UntrustedPeer)
        assert trust.crl == known
        session.revoke(own.directory, "client")
        async with asyncio.timeout(30):
            assert await cut.get() == {own.party("client").serial}
        assert told.empty()
        watching.cancel()
