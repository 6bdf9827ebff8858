"""Peers that speak this protocol well, and too much, or of themselves."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Revoked, Unreachable
from handfast.server import session
from handfast.sessions import hello, serve
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Answer, Pong
from handfast.sessions.trust import Peer, Trust
from tests.sessions.conftest import Made, now
from tests.sessions.streams import serving
from tests.sessions.test_modes_attacks import over, reach


async def test_a_peer_that_never_pauses_stops_nobody(ours: Made) -> None:
    """What has come already is dealt with a message at a time: others go on, and so does the look for revocations."""
    side = Side.open(ours.file("server"), Role.SERVER)
    rest = iter([hello.encode(Pong())] * 1000)
    turns = 0

    class Flood:
        """A link on which the next frame is always there."""

        async def send(self, frame: bytes) -> None:
            """Take it."""

        async def receive(self, *, within: float | None = None, to: str = "") -> bytes:
            """Return at once; at the end of the flood it is over."""
            if (one := next(rest, None)) is None:
                raise Unreachable("the flood is over")
            return one[2:]

        def leave(self) -> None:
            """Say nothing."""

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going = asyncio.create_task(others())
    with pytest.raises(Unreachable, match="the flood is over"):
        await side.converse(Flood(), serve._refuse_all)  # type: ignore[arg-type]
    going.cancel()
    assert turns >= 1000


async def test_a_list_that_takes_its_bringer_back_ends_the_stream_before_it_begins(
    own: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dialler looks at its peer again after the list that came with the answer: its connection is closed by then."""
    server = Side.open(own.file("server"), Role.SERVER)

    async def handle(link: Link[Peer]) -> None:
        await server.heard(link)
        session.revoke(own.directory, "server")
        told = Answer(ok=True, crl=9, time=int(now().timestamp()), crl_der=own.publish())
        await link.send(hello.encode(told))
        await over(link)

    monkeypatch.setattr(Trust, "refresh", lambda *_: None)
    client = Side.open(own.file("client"), Role.CLIENT)
    async with serving(server.engine, handle) as listening, client.running(lambda _: None):
        place = Address(*listening.getsockname())
        async with client.engine.link(await reach(place)) as link:
            with pytest.raises(Revoked):
                await client.greet(link, "stream")


async def test_a_stream_that_was_cut_before_it_began_touches_nobodys_descriptor(ours: Made) -> None:
    """OpenSSL knows a socket by its number only, which is somebody else's as soon as it is closed."""
    server = Side.open(ours.file("server"), Role.SERVER)
    client = Side.open(ours.file("client"), Role.CLIENT)

    async def handle(link: Link[Peer]) -> None:
        await over(link)

    async with serving(server.engine, handle) as listening:
        connected = await reach(Address(*listening.getsockname()))
        number = connected.fileno()
        async with client.engine.link(connected) as link:
            here, there = socket.socketpair()
            plain, program = socket.socketpair()
            with here, there, plain, program:
                link.abort(Revoked("it was cut"))
                os.dup2(here.fileno(), number)  # whoever opened something since
                there.send(b"not for a session")
                ended = await link.relay(plain)
                assert (ended.received, ended.sent, str(ended.error)) == (0, 0, "it was cut")
                assert program.recv(1) == b""
                assert here.recv(100) == b"not for a session"
                os.close(number)
