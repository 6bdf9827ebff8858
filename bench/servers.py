"""What the load is sent to, each in a process of its own: a real registrar, and the limits of its parts."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast import wiring
from handfast.adapters.tls import server_context
from handfast.core.invitation import Address
from handfast.server.limits import Limits
from handfast.server.run import Ready, serve

UNLIMITED = Limits(
    introductions=1e6,
    introductions_burst=10**6,
    failures=1e6,
    failures_burst=10**6,
    connections=10**5,
    connections_per_source=10**5,
)
HELLO_SIZE, ANSWER_SIZE = 1_700, 2_600  # bytes, as the registrar's


@dataclass
class Server:
    """A process that serves, and where."""

    process: Any
    address: Address

    def cpu(self) -> float:
        """Return the CPU seconds (user and system, all threads) that the process has used, to the nanosecond."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # clock_getcpuclockid(3), which Python lacks

    def close(self) -> None:
        self.process.terminate()
        self.process.join()


def start(target: Callable[[Connection, Path], None], data: Path) -> Server:
    """Start ``target`` and return when it is ready."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(there, data))
    process.start()
    return Server(process, Address.parse(here.recv()))


def registrar(pipe: Connection, data: Path) -> None:
    """Serve a real registrar without rate limits, for all load comes from one address."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for the life of the process
    overrides = wiring.Overrides(listen=Address("127.0.0.1", 0), crl_listen=Address("127.0.0.1", 0))
    service = wiring.open_service(data, overrides, passphrase=None)

    def ready(place: Ready) -> None:
        addresses = [str(address) for address in place.addresses]
        wiring.remember_place(data, wiring.Place(addresses, place.url, place.crl_url))
        pipe.send(place.listen)

    serve(service, ready=ready, limits=UNLIMITED)


def bare_tls(pipe: Connection, data: Path) -> None:
    """Serve nothing but TLS 1.3 handshakes, in a plain loop."""
    context = _context()
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    pipe.send(f"127.0.0.1:{listening.getsockname()[1]}")
    while True:
        raw, _ = listening.accept()
        with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(raw, server_side=True) as tls:
            tls.recv(1)  # until the client closes


def bare_http(pipe: Connection, data: Path) -> None:
    """Serve aiohttp on uvloop with TLS: read the body, answer as many bytes as the registrar does."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(body=b"." * HELLO_SIZE)

    async def join(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"." * ANSWER_SIZE)

    app = web.Application()
    app.router.add_get("/v1/hello", hello)
    app.router.add_post("/v1/introductions/{method}", join)

    async def main() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        await web.SockSite(runner, listening, ssl_context=_context()).start()
        pipe.send(f"127.0.0.1:{listening.getsockname()[1]}")
        await asyncio.Event().wait()

    uvloop.run(main())


def _context() -> ssl.SSLContext:
    """Return a server's context with a P-256 leaf and one more certificate to send, as the registrar's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return server_context([leaf, leaf], key, [leaf])
