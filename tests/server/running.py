"""A real registrar on loopback, in a thread, with real TLS, ledger and authority; and a newcomer written by hand."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.adapters import tls
from handfast.core import csr, wire
from handfast.core.flow import Wish
from handfast.core.invitation import Address, InvitationLine
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.core.transcript import answer as answer_transcript
from handfast.introducers import invitation
from handfast.registrar.introduce import Locate
from handfast.server.limits import Limits
from handfast.server.run import Ready, run
from handfast.wiring import Overrides, Service, open_service

LOOPBACK = Overrides(listen=Address("127.0.0.1", 0), crl_listen=Address("127.0.0.1", 0))


@dataclass
class Hand:
    """A clock that a test can move."""

    offset: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass
class Running:
    """A registrar that serves, as a test sees it."""

    service: Service
    clock: Hand
    ready: Ready
    loop: asyncio.AbstractEventLoop
    asked: asyncio.Queue[signal.Signals]
    directory: Path
    count: int = 0

    @property
    def address(self) -> tuple[str, int]:
        place = Address.parse(self.ready.listen or "")
        return place.host, place.port

    def ask(self, number: signal.Signals) -> None:
        """Do what the signal would."""
        self.loop.call_soon_threadsafe(self.asked.put_nowait, number)

    def invite(self, name: str = "web1.lan", *, role: Role = Role.SERVER, **more: Any) -> InvitationLine:
        administration = replace(self.service.administration, addresses=self.ready.addresses)
        line, _ = administration.invite(name, role=role, lasting=timedelta(hours=1), **more)
        return line

    def connect(self, context: ssl.SSLContext | None = None) -> Client:
        return Client(self.address, context or tls.newcomer_context())

    def credential(self, name: str, role: Role) -> Joined:
        """Join a machine and return what it got."""
        with self.connect() as client:
            return client.join(self.invite(name, role=role))

    def context_with(self, joined: Joined) -> ssl.SSLContext:
        """Return a client context that presents a credential."""
        self.count += 1
        certificate, key = (self.directory / f"{self.count}.{suffix}" for suffix in ("crt", "key"))
        certificate.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in (joined.certificate, *joined.chain)))
        key.write_bytes(joined.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        root = self.service.authority.root.public_bytes(Encoding.PEM).decode()
        return tls.pinned_client_context(root, (certificate, key))


@dataclass
class Joined:
    """What a newcomer holds."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    chain: list[x509.Certificate] = field(default_factory=list)


class Client:
    """One TLS connection and HTTP over it; what the registrar presented is kept from the handshake."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        raw = socket.create_connection(address, timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw)
        self.leaf = self.socket.getpeercert(binary_form=True) or b""
        self.http = http.client.HTTPConnection(*address)
        self.http.sock = self.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        self.http.request(method, path, body, headers)
        response = self.http.getresponse()
        self.headers = response.headers
        return response.status, response.read()

    def problem(self, method: str, path: str, body: bytes | None = None) -> wire.Problem:
        """Call, and return the problem that must come."""
        status, answer = self.call(method, path, body)
        problem = msgspec.json.decode(answer, type=wire.Problem)
        assert self.headers["Content-Type"] == "application/problem+json"
        assert problem.status == status
        return problem

    def evidence(self, line: InvitationLine, key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
        """Return an invitation's request and its digest for this very connection."""
        hello = msgspec.json.decode(self.call("GET", "/v1/hello")[1], type=wire.Hello)
        return invitation.present(
            line,
            csr_der=csr.build(key),
            reintroduction_key=os.urandom(32),
            wish=Wish(),
            nonce=hello.nonce,
            server_spki=tls.leaf_spki_sha256(self.leaf),
        )

    def join(self, line: InvitationLine, key: ec.EllipticCurvePrivateKey | None = None) -> Joined:
        """Be introduced, and check the registrar's proof."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        body, digest = self.evidence(line, key)
        status, content = self.call("POST", "/v1/introductions/invitation", body)
        assert status == 200, content
        answer = msgspec.json.decode(content, type=wire.IntroductionAnswer)
        signed = answer_transcript(digest, answer.certificate, tuple(answer.trust), answer.time)
        shown = x509.load_der_x509_certificate(self.leaf).public_key()
        assert isinstance(shown, ec.EllipticCurvePublicKey)
        shown.verify(answer.signature, signed, ec.ECDSA(hashes.SHA256()))
        chain = [x509.load_der_x509_certificate(der) for der in answer.chain]
        return Joined(key, x509.load_der_x509_certificate(answer.certificate), chain)


@contextmanager
def running(
    data: Path,
    *,
    limits: Limits | None = None,
    clients: str = "clients",
    overrides: Overrides = LOOPBACK,
    passphrase: Secret | None = None,
    locate: Locate | None = None,
) -> Iterator[Running]:
    """
    Run a registrar in ``data`` until the block ends; an error of its own is raised at the end.

    ``locate`` is asked instead of the resolver, where NiFi's protocol is served.
    """
    directory = data.parent / f"{data.name}-{clients}"
    directory.mkdir()
    clock = Hand()
    service = _ours(open_service(data, overrides, passphrase=passphrase), clock, locate)
    try:
        with _in_thread(service, limits or Limits()) as (loop, asked, place):
            yield Running(service, clock, place, loop, asked, directory)
    finally:
        service.ledger.close()


@contextmanager
def _in_thread(
    service: Service, limits: Limits
) -> Iterator[tuple[asyncio.AbstractEventLoop, asyncio.Queue[signal.Signals], Ready]]:
    """Serve until the block ends: give the loop, what it may be asked, and where it is."""
    started = threading.Event()
    found: list[Any] = []
    failure: list[BaseException] = []

    async def main() -> None:
        asked = asyncio.Queue[signal.Signals]()
        found.extend((asyncio.get_running_loop(), asked))

        def ready(place: Ready) -> None:
            found.append(place)
            started.set()

        await run(service, asked, ready=ready, limits=limits)

    def thread() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001  raised again in the test
            failure.append(error)
            started.set()

    worker = threading.Thread(target=thread)
    worker.start()
    assert started.wait(20)
    if failure:
        raise failure[0]
    loop, asked, place = found
    try:
        yield loop, asked, place
    finally:
        if worker.is_alive():
            loop.call_soon_threadsafe(asked.put_nowait, signal.SIGTERM)
        worker.join(20)
    assert not worker.is_alive(), "the registrar did not end"
    if failure:
        raise failure[0]


def _ours(service: Service, clock: Hand, locate: Locate | None) -> Service:
    """The service by our clock and our name service, after a reload too."""
    nifi = service.nifi
    if nifi is not None:
        foreign = replace(
            nifi.registrar,
            context=replace(nifi.registrar.context, clock=clock),
            locate=locate or nifi.registrar.locate,
        )
        nifi = replace(nifi, registrar=foreign)
    context = replace(service.registrar.context, clock=clock)
    return replace(
        service,
        clock=clock,
        administration=replace(service.administration, clock=clock),
        registrar=replace(service.registrar, context=context),
        certifier=replace(service.certifier, context=context),
        challenger=replace(service.challenger, context=context),
        nifi=nifi,
        reload=lambda: _ours(service.reload(), clock, locate),
    )
