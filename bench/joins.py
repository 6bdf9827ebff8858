"""
What a join costs the registrar, in CPU time, against the limit that nobody can beat.

    kept alive       joins on open connections     limit: one CSR check and one ECDSA signature
    fresh            connect, hello, join, close   limit: that, and one TLS 1.3 handshake of the standard library

CPU time of the registrar's process divided by joins is the steadiest figure on a shared machine. Every join
is complete (invitation, transcript, two durable commits, signed answer) and every answer is checked for its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast import wiring
from handfast.adapters.tls import leaf_spki_sha256, newcomer_context, server_context
from handfast.core import csr, wire
from handfast.core.flow import Wish
from handfast.core.invitation import Address, InvitationLine
from handfast.core.roles import Role
from handfast.introducers import invitation
from handfast.server.limits import Limits
from handfast.server.run import Ready, serve

ROUNDS = 5
JOINS = 400  # of each kind, in each round
CONNECTIONS = 8
UNLIMITED = Limits(introductions=1e6, introductions_burst=10**6, connections=10**5, connections_per_source=10**5)


def main() -> None:
    """Run all rounds and print medians and ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "registrar"
        place, process = start(registrar, data)
        administration = wiring.open_administration(data)
        address = Address.parse(place["address"])
        handshakes, bare_process = start(bare_tls, data)
        rows: list[tuple[float, float, float, float]] = []
        for _ in range(ROUNDS):
            crypto = bare_crypto()
            tls = cpu_of(bare_process.pid, lambda: asyncio.run(bare_handshakes(Address.parse(handshakes["address"]))))
            lines = [invite(administration) for _ in range(2 * JOINS)]
            kept = cpu_of(process.pid, partial(run, address, lines[:JOINS], fresh=False))
            fresh = cpu_of(process.pid, partial(run, address, lines[JOINS:], fresh=True))
            rows.append((crypto, tls / JOINS, kept / JOINS, fresh / JOINS))
        for each in (process, bare_process):
            each.terminate()
            each.join()
    report(rows)


def report(rows: list[tuple[float, float, float, float]]) -> None:
    """Print the medians in microseconds of CPU time, and the ratios."""
    crypto, tls, kept, fresh = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [(k / c, f / (c + t)) for c, t, k, f in rows]
    print(f"bare cryptography (CSR check, one signature)  {crypto * 1e6:7.0f} µs")
    print(f"bare TLS 1.3 handshake                        {tls * 1e6:7.0f} µs")
    print(f"join on a kept-alive connection               {kept * 1e6:7.0f} µs   {med(ratios, 0)}")
    print(f"join on a fresh connection                    {fresh * 1e6:7.0f} µs   {med(ratios, 1)}")


def med(ratios: list[tuple[float, float]], column: int) -> str:
    """Return the median ratio with its range."""
    values = [row[column] for row in ratios]
    return f"{statistics.median(values):.2f} x the limit ({min(values):.2f}-{max(values):.2f})"


def bare_crypto() -> float:
    """Return seconds of CPU time for parsing and verifying one CSR and making one ECDSA signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = csr.build(key)
    begun = time.process_time()
    for _ in range(JOINS):
        request = x509.load_der_x509_csr(der)
        assert request.is_signature_valid
        key.sign(der, ec.ECDSA(hashes.SHA256()))
    return (time.process_time() - begun) / JOINS


def invite(administration: wiring.Administration) -> tuple[InvitationLine, bytes, bytes]:
    """Return an invitation, and what its newcomer prepares before connecting."""
    line, _ = administration.invite("bench.internal", role=Role.SERVER, lasting=timedelta(hours=1))
    request = csr.build(ec.generate_private_key(ec.SECP256R1()))
    return line, request, Ed25519PrivateKey.generate().public_key().public_bytes_raw()


def run(address: Address, lines: list[tuple[InvitationLine, bytes, bytes]], *, fresh: bool) -> None:
    """Run one load to its end."""
    asyncio.run(load(address, lines, fresh=fresh))


async def load(address: Address, lines: list[tuple[InvitationLine, bytes, bytes]], *, fresh: bool) -> None:
    """Join with every line, over ``CONNECTIONS`` at once."""
    queue = list(lines)

    async def worker() -> None:
        peer: Peer | None = None
        while queue:
            line, request, reintroduction = queue.pop()
            if peer is None or fresh:
                peer = await Peer.connect(address)
            await peer.join(line, request, reintroduction)
            if fresh:
                await peer.close()
        if peer is not None and not fresh:
            await peer.close()

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))


class Peer:
    """A newcomer that is as cheap as possible, so that the registrar is what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, nonce: bytes) -> None:
        self._reader, self._writer, self._nonce = reader, writer, nonce
        self._spki = leaf_spki_sha256(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))

    @classmethod
    async def connect(cls, address: Address) -> Peer:
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=newcomer_context())
        peer = cls(reader, writer, b"")
        hello = wire.decode(await peer.request("GET", "/v1/hello"), wire.Hello)
        peer._nonce = hello.nonce
        return peer

    async def join(self, line: InvitationLine, request: bytes, reintroduction: bytes) -> None:
        body, _ = invitation.present(
            line,
            csr_der=request,
            reintroduction_key=reintroduction,
            wish=Wish(),
            nonce=self._nonce,
            server_spki=self._spki,
        )
        await self.request("POST", "/v1/introductions/invitation", body)

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


async def bare_handshakes(address: Address) -> None:
    """Make ``JOINS`` connections, one after another on each of ``CONNECTIONS`` workers."""

    async def worker() -> None:
        for _ in range(JOINS // CONNECTIONS):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=newcomer_context())
            await reader.read(1)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))


def bare_tls(pipe: multiprocessing.connection.Connection, data: Path) -> None:
    """Serve nothing but TLS 1.3 handshakes with a P-256 chain, in a plain loop."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = server_context([leaf, leaf], key, [leaf])
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    pipe.send({"address": f"127.0.0.1:{listening.getsockname()[1]}"})
    while True:
        raw, _ = listening.accept()
        with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(raw, server_side=True) as tls:
            tls.sendall(b".")


def registrar(pipe: multiprocessing.connection.Connection, data: Path) -> None:
    """Serve a real registrar without rate limits, for all load comes from one address."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for the life of the process
    overrides = wiring.Overrides(listen=Address("127.0.0.1", 0))
    service = wiring.open_service(data, overrides, passphrase=None)

    def ready(place: Ready) -> None:
        addresses = [str(address) for address in place.addresses]
        wiring.remember_place(data, wiring.Place(addresses, place.url, place.crl_url))
        pipe.send({"address": place.listen})

    serve(service, ready=ready, limits=UNLIMITED)


def start(
    target: Callable[[multiprocessing.connection.Connection, Path], None], data: Path
) -> tuple[dict[str, str], multiprocessing.Process]:
    """Start ``target`` in a process of its own and return what it says when it is ready."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(there, data))
    process.start()
    return here.recv(), process  # type: ignore[return-value]


def cpu_of(pid: int | None, work: Callable[[], object]) -> float:
    """Return the CPU seconds that process ``pid`` spends while ``work`` runs."""
    before = cpu(pid)
    work()
    return cpu(pid) - before


def cpu(pid: int | None) -> float:
    """Return user and system seconds of a process so far; the kernel counts in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
