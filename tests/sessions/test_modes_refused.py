"""Who is kept out of a session, who is thrown out while it runs, and what each of them is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from handfast.adapters.clock import SystemClock
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import (
    Fault,
    HandfastError,
    Malformed,
    Refused,
    Revoked,
    TooMuch,
    Unreachable,
    Unsafe,
    UntrustedPeer,
)
from handfast.sessions import connect, control, hello
from handfast.sessions.control import Side
from handfast.sessions.engine import Limits, Link
from handfast.sessions.hello import Answer
from handfast.sessions.local import Endpoint
from handfast.sessions.trust import Peer
from tests.ports import free_port
from tests.sessions.conftest import Made, now
from tests.sessions.streams import engine, serving
from tests.sessions.test_modes_attacks import answer, peer, reach, said
from tests.sessions.tunnels import (
    DOOR,
    HERE,
    Running,
    Stage,
    ask,
    broken,
    counted,
    listen,
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


async def test_no_place_left_is_said_at_the_start(ours: Made, at: Stage) -> None:
    """A client ends with what the server says: there is no place, and not that the server is gone."""
    async with counted() as (where, counts):
        server = await at.serve(ours.file("server"), where, limits=Limits(connections=1, handshake=60.0, frame=60.0))
        async with peer(ours, "bob", listen(server)) as link:
            await link.send(said())
            assert (await answer(link)).ok
            client = at.connect(ours.file("client"), server)
            with pytest.raises(TooMuch, match="the peer says: 0 connections of this credential are open, and 0 places"):
                await client.over()
        assert counts.accepted == 0


REFUSED = {
    "revoked": Revoked,
    "untrusted-peer": UntrustedPeer,
    "refused": Refused,
    "too-much": TooMuch,
    "malformed": Malformed,
    "unreachable": Unreachable,
    "service-unreachable": Unreachable,
    "of a later version": Refused,
}


@pytest.mark.parametrize("code", REFUSED)
async def test_a_refusal_arrives_as_what_it_was(ours: Made, code: str) -> None:
    """Its code decides which error is raised, and so the exit code; an unknown one is a refusal."""

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        await link.send(hello.encode(Answer(ok=False, crl=0, time=int(now().timestamp()), error=code, message="no")))
        await link.receive()

    client = Side.open(ours.file("client"), Role.CLIENT)
    async with (
        serving(engine(ours, "server"), handle) as listening,
        client.engine.link(await reach(Address(*listening.getsockname()))) as link,
    ):
        with pytest.raises(HandfastError, match="the peer says: no") as raised:
            await client.greet(link, "stream")
    assert type(raised.value) is REFUSED[code]


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
