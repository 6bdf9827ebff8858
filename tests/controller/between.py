"""Somebody on the way to an agent: a cable that leads elsewhere from some moment on, and who sits at its other end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509

from handfast.adapters.tls import controller_context
from handfast.controller.http import Answer, Connection
from handfast.core.invitation import Address
from handfast.newcomer.keystore import Keystore
from tests.controller.agents import Keys, self_signed
from tests.standin import talking


class Cable:
    """A place that leads to ``behind``; what it has ``seen`` is kept. Led elsewhere, whatever goes over it is cut."""

    def __init__(self, behind: Address) -> None:
        self.behind, self.seen = behind, bytearray()
        self._ends: set[asyncio.StreamWriter] = set()

    def lead(self, elsewhere: Address) -> None:
        """Lead elsewhere from now on."""
        self.behind = elsewhere
        for end in list(self._ends):
            end.transport.abort()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Address]:
        """Be in the way."""
        async with talking(self._pass) as port:
            yield Address("127.0.0.1", port)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection(self.behind.host, self.behind.port)
            both = {writer, back}
            self._ends |= both
            try:
                await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
            finally:
                self._ends -= both
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                self.seen += piece
                writer.write(piece)
                await writer.drain()
        finally:
            writer.close()


def bare(*, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """The context of a client without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def agents_own(state: Path) -> ssl.SSLContext:
    """The context of a client with an agent's genuine certificate and key."""
    held = Keystore(state).load()
    chain = [x509.load_der_x509_certificate(der) for der in held.chain]
    return controller_context([held.certificate, *chain], held.private_key)


def stolen(state: Path) -> Keys:
    """An agent's genuine key and certificate, for somebody who shows them in another's place."""
    held = Keystore(state).load()
    return Keys(held.private_key, chain=[held.certificate, *map(x509.load_der_x509_certificate, held.chain)])


def made_up() -> ssl.SSLContext:
    """The context of a client with a certificate that it has signed itself."""
    keys = Keys()
    return controller_context([self_signed(keys.key)], keys.key)


def first_words(
    address: Address, context: ssl.SSLContext, request: bytes = b"GET /v1/agent HTTP/1.1\r\nHost: a\r\n\r\n"
) -> bytes:
    """Ask an agent for its first answer, and return all that comes."""
    with socket.create_connection((address.host, address.port), 20) as connected:
        try:
            with context.wrap_socket(connected) as tls:
                tls.sendall(request)
                return tls.recv(65536)
        except OSError:
            return b""


def shown(address: Address) -> x509.Certificate:
    """Return what an agent shows now: in TLS 1.3 everybody may see it, before he is refused."""
    with (
        socket.create_connection((address.host, address.port), 20) as connected,
        bare().wrap_socket(connected) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def after(
    path: str, then: Callable[[], Awaitable[None]], *, of: Address | None = None
) -> Callable[..., Awaitable[Answer]]:
    """
    Return a ``Connection.request`` which does something once, when an agent has agreed to a request for ``path``.

    :param of: the agent's address, where there are several: whose request comes first is nobody's to say.
    """
    ordinary, done = Connection.request, False

    async def request(self: Connection, method: str, wanted: str, body: bytes | None = None, **more: Any) -> Answer:
        nonlocal done
        answer = await ordinary(self, method, wanted, body, **more)
        if wanted == path and not done and (of is None or self.name == str(of)):
            assert answer.status < 300
            done = True
            await then()
        return answer

    return request
