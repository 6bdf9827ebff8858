"""
A small agent, honest or not, behind real TLS on loopback; the real one has tests of its own.

It is built of what agents and newcomers share: the introducers' newcomer halves, and ``check_answer``. What an attacker
does differently is a method that a test replaces.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from handfast.adapters.tls import agent_context
from handfast.core import csr, wire
from handfast.core.chain import Identity, load_certificate, verify_chain
from handfast.core.flow import Opening, Wish
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from handfast.core.keys import spki_sha256
from handfast.core.ports import Way
from handfast.core.records import INSTANCE
from handfast.core.roles import Role
from handfast.core.wire import Hello, IntroductionAnswer, Problem
from handfast.errors import HandfastError
from handfast.introducers.invitation import Invited
from handfast.introducers.reintroduction import Returning
from handfast.introducers.renewal import Renewing
from handfast.newcomer.check import check_answer
from handfast.newcomer.connection import parse_time
from tests.ports import free_port
from tests.standin import answering


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate that shows a key and says nothing else."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    start = datetime(2020, 1, 1)  # noqa: DTZ001  the library's own kind; nobody looks at it
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return made.not_valid_before(start).not_valid_after(start + timedelta(days=36500)).sign(key, hashes.SHA256())


@dataclass
class Keys:
    """A key, with its way back, and what was certified of it."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    way_back: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    chain: list[x509.Certificate] = field(default_factory=list)

    @property
    def spki(self) -> bytes:
        """What a controller sees."""
        return spki_sha256(self.key.public_key())


class Agent:
    """An honest one; attackers are made of it."""

    def __init__(self, data: InstanceData, *, keys: Keys | None = None) -> None:
        self.data, self.now = data, keys or Keys()
        self.next: Keys | None = None
        self.asked: tuple[x509.Certificate, Hello, bytes, Keys, Wish] | None = None
        self.heard: list[bytes] = []  # every body that a controller has sent
        self.calls: list[str] = []
        self.connections = 0
        self.port = 0
        self.show(self.now)

    # --- what it shows ---

    def show(self, keys: Keys) -> None:
        """Show this key from now on, with its certificate, if it has one."""
        self.now = keys
        chain = keys.chain or [self_signed(keys.key)]
        self.context = agent_context(chain, keys.key, self.data.root, clock=False)

    def door(self) -> ssl.SSLContext:
        """The context of the port: each handshake gets what is shown by then."""
        door = agent_context([self_signed(self.now.key)], self.now.key, self.data.root, clock=False)

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            self.connections += 1
            connection.context = self.context

        door.sni_callback = choose
        return door

    # --- what it answers ---

    async def introduce(self, hello: Hello, controller: x509.Certificate) -> bytes:
        """Ask for a certificate: with its secret, its key, or its way back."""
        way = self.way()
        keys = self.now if isinstance(way, Invited) else self.next or Keys()
        self.next = keys
        opening = Opening(
            csr=csr.build(keys.key),
            next_key=keys.way_back.public_key().public_bytes_raw(),
            nonce=hello.nonce,
            server_spki=spki_sha256(controller.public_key()),
        )
        message, digest = way.present(opening)
        self.asked = (controller, hello, digest, keys, way.wish)
        return message

    def way(self) -> Way:
        """By what it can prove who it is now."""
        if not self.now.chain:
            return Invited(self.data.line, Wish(Role.AGENT), INSTANCE)
        leaf, pin = self.now.chain[0], self.data.line.pin
        if self.expired(leaf):
            return Returning(self.now.way_back, leaf.serial_number, pin, Wish(Role.AGENT))
        return Renewing(self.now.key, leaf.serial_number, pin, Wish(Role.AGENT))

    def expired(self, leaf: x509.Certificate) -> bool:
        """Whether its certificate is over, by the controller's clock, which said so in its hello."""
        return self.time >= leaf.not_valid_after_utc

    async def take(self, answer: IntroductionAnswer) -> None:
        """Check the answer as every newcomer does, and show what is in it."""
        assert self.asked is not None
        controller, hello, digest, keys, wish = self.asked
        checked = check_answer(
            answer,
            signed_time=parse_time(answer.time),
            request=digest,
            registrar_leaf=controller,
            hello_time=parse_time(hello.time),
            public_key=keys.key.public_key(),
            pin=self.data.line.pin,
            trust_domain=self.recognize(controller, hello).trust_domain,
            wish=wish,
        )
        keys.chain = [x509.load_der_x509_certificate(der) for der in (checked.leaf, *checked.chain)]
        self.next = None
        self.show(keys)

    def recognize(self, controller: x509.Certificate, hello: Hello) -> Identity:
        """Say who dialled. :raises UntrustedPeer: no controller of ours."""
        chain, roots = ([load_certificate(der) for der in each] for each in (hello.chain, hello.trust))
        self.time = parse_time(hello.time)
        pin = self.data.line.pin
        return verify_chain(controller, chain, roots, pin=pin, role=Role.CONTROLLER, at=self.time)

    # --- HTTP ---

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a call, or say what is wrong with it."""
        self.calls.append(f"{request.method} {request.path}")
        body = await request.read()
        self.heard.append(body)
        try:
            return await self.answer(request, body)
        except HandfastError as error:
            problem = Problem("refused", 403, error.code, detail=error.message)
            return web.Response(status=403, body=msgspec.json.encode(problem))

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        """Answer a call."""
        match request.path:
            case "/v1/agent":
                who = {"instance": self.data.instance, "instance_id": "i", "spki": self.now.spki.hex()}
                about = {"version": "0", "stage": "held", **who}
                return web.json_response(about)
            case "/v1/introduction":
                hello, controller = wire.decode(body, Hello), proved(request)
                self.recognize(controller, hello)
                return web.Response(body=await self.introduce(hello, controller))
            case "/v1/introduction/answer":
                await self.take(wire.decode(body, IntroductionAnswer))
                return web.Response(status=204)
            case _:
                raise web.HTTPNotFound

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[Address]:
        """Serve; the port stays the agent's own, for it to come back to."""
        self.port = port or self.port or free_port()
        async with answering(self.handle, self.door(), port=self.port):
            yield Address("127.0.0.1", self.port)


def proved(request: web.Request) -> x509.Certificate:
    """Return the certificate whose key the other side has proved by TLS."""
    assert request.transport is not None
    tls = request.transport.get_extra_info("ssl_object")
    return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
