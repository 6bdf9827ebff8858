"""A stream through two real engines and loopback, with an application's socket at each end."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from handfast.adapters.tls import SessionContext, session_client_context, session_server_context
from handfast.core.roles import Role
from handfast.sessions import hello
from handfast.sessions.engine import Engine, Limits, Link
from handfast.sessions.party import Party
from handfast.sessions.relay import Ended
from handfast.sessions.trust import Peer, Trust
from tests.sessions.conftest import Made, now

HELLO, ANSWER = b"\0\2{}", b"\0\x02ok"


def context(party: Party, *, alpn: str = hello.ALPN) -> SessionContext:
    """A party's TLS context."""
    make = session_server_context if party.role is Role.SERVER else session_client_context
    return make([party.leaf, party.issuing], party.key, party.root, alpn=alpn)


def engine(made: Made, who: str, *, limits: Limits | None = None, trust: Trust | None = None) -> Engine[Peer]:
    """A party's engine, with the real judge."""
    believed = trust or made.trust(who)
    return Engine(context(made.party(who)), lambda der: believed.verify(der, now()), limits=limits)


def listen() -> socket.socket:
    """A listening socket on loopback."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


async def dial(listening: socket.socket) -> socket.socket:
    """A connection to it."""
    connected = socket.socket()
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, listening.getsockname())
    return connected


@asynccontextmanager
async def serving(
    server: Engine[Peer], handle: Callable[[Link[Peer]], Awaitable[object]]
) -> AsyncIterator[socket.socket]:
    """Serve while the block runs; gives the listening socket."""
    with listen() as listening:
        task = asyncio.create_task(server.serve(listening, handle))
        try:
            yield listening
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass
class Stream:
    """One stream: the application's ends, both blocking no one, and what became of each side of it."""

    near: socket.socket  # beside the session's client
    far: socket.socket  # beside its server
    client: asyncio.Task[Ended]
    server: asyncio.Future[Ended]
    link: Link[Peer]
    links: list[Link[Peer]] = field(default_factory=list)  # the server's


@asynccontextmanager
async def stream(client: Engine[Peer], server: Engine[Peer]) -> AsyncIterator[Stream]:
    """Open a stream; everything is closed after the block, whatever happened in it."""
    loop = asyncio.get_running_loop()
    (near, local), (far, service) = socket.socketpair(), socket.socketpair()
    for each in (near, far):
        each.setblocking(False)
    ended: asyncio.Future[Ended] = loop.create_future()
    links: list[Link[Peer]] = []

    async def handle(link: Link[Peer]) -> None:
        links.append(link)
        await link.receive()
        await link.send(ANSWER)
        ended.set_result(await link.relay(service))

    async with serving(server, handle) as listening, client.link(await dial(listening)) as link:
        await link.send(HELLO)
        await link.receive()
        relaying = asyncio.create_task(link.relay(local))
        try:
            yield Stream(near, far, relaying, ended, link, links)
        finally:
            near.close()
            far.close()
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)


async def pour(into: socket.socket, count: int) -> str:
    """Send ``count`` bytes that are all different places of a pattern, end, and return their SHA-256."""
    loop, digest, block = asyncio.get_running_loop(), hashlib.sha256(), bytes(range(251)) * 1000
    while count:
        piece = block[: min(count, len(block))]
        digest.update(piece)
        await loop.sock_sendall(into, piece)
        count -= len(piece)
    into.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


async def drain(from_: socket.socket) -> str:
    """Read to the end and return the SHA-256 of it all."""
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    while piece := await loop.sock_recv(from_, 1 << 18):
        digest.update(piece)
    return digest.hexdigest()
