"""Load for the benchmarks: newcomers that are as cheap as possible, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.adapters.tls import leaf_spki_sha256, newcomer_context
from handfast.core import csr, wire
from handfast.core.flow import Wish
from handfast.core.invitation import Address, InvitationLine
from handfast.core.roles import Role
from handfast.introducers import invitation
from handfast.registrar.administer import Administration

JOIN = "/v1/introductions/invitation"
HELLO = "/v1/hello"
_CONTEXT = newcomer_context()


@dataclass
class Load:
    """What one run of joins took, seen from outside: wall seconds of all, and of each."""

    seconds: float = 0.0
    each: list[float] = field(default_factory=list)


class Peer:
    """One connection and as little HTTP as gets an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.spki = leaf_spki_sha256(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))

    @classmethod
    async def connect(cls, address: Address) -> Peer:
        return cls(*await asyncio.open_connection(address.host, address.port, ssl=_CONTEXT))

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
        kind = "Content-Type: application/json\r\n" if body else ""
        self._writer.write(f"{head}{kind}\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status, _, headers = answer.partition(b"\r\n")
        length = next(int(h.split(b":")[1]) for h in headers.lower().splitlines() if h.startswith(b"content-length"))
        content = await self._reader.readexactly(length)
        if b" 200 " not in status:
            raise SystemExit(f"{status!r} {content!r}")
        return content

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def invite(administration: Administration, count: int, *, first: int) -> list[InvitationLine]:
    """Return invitations for machines numbered from ``first``; threads share the ledger's commits."""

    def one(number: int) -> InvitationLine:
        name = f"m{number}.bench.internal"
        return administration.invite(name, role=Role.SERVER, lasting=timedelta(hours=1))[0]

    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(one, range(first, first + count)))


async def evidence(address: Address, lines: Sequence[InvitationLine]) -> list[bytes]:
    """Return a whole request for each invitation: made beforehand, for the newcomer's cost is not the question."""
    peer = await Peer.connect(address)
    nonce = wire.decode(await peer.request("GET", HELLO), wire.Hello).nonce
    await peer.close()
    return [
        invitation.present(
            line,
            csr_der=csr.build(ec.generate_private_key(ec.SECP256R1())),
            reintroduction_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
            wish=Wish(),
            nonce=nonce,
            server_spki=peer.spki,
        )[0]
        for line in lines
    ]


async def kept_alive(address: Address, bodies: Sequence[bytes], *, connections: int) -> Load:
    """Post each body to ``JOIN`` over connections that are open already."""
    queue, load = list(bodies), Load()
    peers = await asyncio.gather(*(Peer.connect(address) for _ in range(connections)))

    async def work(peer: Peer) -> None:
        while queue:
            body, begun = queue.pop(), time.perf_counter()
            await peer.request("POST", JOIN, body)
            load.each.append(time.perf_counter() - begun)

    await _timed(load, [work(peer) for peer in peers])
    await asyncio.gather(*(peer.close() for peer in peers))
    return load


async def fresh(address: Address, bodies: Sequence[bytes], *, connections: int) -> Load:
    """Connect, ask for the hello, post and close, for each body."""
    queue, load = list(bodies), Load()

    async def work() -> None:
        while queue:
            body, begun = queue.pop(), time.perf_counter()
            peer = await Peer.connect(address)
            await peer.request("GET", HELLO)
            await peer.request("POST", JOIN, body)
            await peer.close()
            load.each.append(time.perf_counter() - begun)

    await _timed(load, [work() for _ in range(connections)])
    return load


async def handshakes(address: Address, count: int, *, connections: int) -> Load:
    """Connect and close, ``count`` times."""
    load = Load()

    async def work(times: int) -> None:
        for _ in range(times):
            await (await Peer.connect(address)).close()

    await _timed(load, [work(count // connections) for _ in range(connections)])
    return load


async def _timed(load: Load, workers: list[Coroutine[None, None, None]]) -> None:
    begun = time.perf_counter()
    await asyncio.gather(*workers)
    load.seconds = time.perf_counter() - begun
