"""
A registrar that does as it is told, over real TLS on loopback: it can lie, hang, drip and hang up.

Its time stands still at NOW. ``seen`` is every byte that it was sent in clear text inside TLS.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.tls import server_context
from handfast.core import csr, keys, wire
from handfast.core.invitation import Address, InvitationLine
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.core.transcript import answer as answer_transcript
from handfast.introducers import invitation, reintroduction, renewal
from tests.authority.helpers import DAY, HOUR, NOW, Pki, grant, new_key

Requests: TypeAlias = invitation.InvitationRequest | renewal.RenewalRequest | reintroduction.ReintroductionRequest
KINDS: dict[str, tuple[Any, Any]] = {
    "invitation": (invitation.InvitationRequest, invitation.transcript),
    "renewal": (renewal.RenewalRequest, renewal.transcript),
    "reintroduction": (reintroduction.ReintroductionRequest, reintroduction.transcript),
}


def http(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def der(*certificates: x509.Certificate) -> list[bytes]:
    """DER of each."""
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


def a_line(pki: Pki, *addresses: Address, seed: bytes = b"s" * 32, pin: bytes | None = None) -> InvitationLine:
    """An invitation of this authority, good for an hour from NOW."""
    return InvitationLine(Secret(seed), pin or pki.pin, NOW, NOW + HOUR, addresses)


class Fake:
    """A registrar whose every word can be replaced: ``hello`` and ``answer`` return raw bytes, None hangs up."""

    def __init__(
        self,
        pki: Pki,
        *,
        role: Role = Role.REGISTRAR,
        chain: list[x509.Certificate] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        self.pki = pki
        self.key = key or new_key()
        own = grant(pki.domain, role, machine="registrar", names=("registrar.lan",), public_key=self.key.public_key())
        self.chain = chain or [pki.leaf(own), pki.issuing]
        self.time = NOW
        self.role, self.names = Role.SERVER, ("web1.home.lan",)
        self.hello: Callable[[], bytes | None] = lambda: http(msgspec.json.encode(self.greeting()))
        self.answer: Callable[[Requests, bytes], bytes | None] = lambda request, digest: http(
            msgspec.json.encode(self.answering(request, digest))
        )
        self.seen = bytearray()
        self.requests: list[str] = []
        self.client: x509.Certificate | None = None
        self._context = server_context(self.chain, self.key, [pki.root])
        # OpenSSL's X509_V_FLAG_NO_CHECK_TIME: client certificates are of NOW, whenever the test runs.
        self._context.verify_flags = ssl.VerifyFlags(self._context.verify_flags | 0x200000)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listening.getsockname()[1])
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)

    def hang(self) -> None:
        """Say nothing until the end of the test."""
        self._stopping.wait(30)

    def greeting(self, **changes: Any) -> wire.Hello:
        """An honest hello."""
        trust, chain = der(self.pki.root), der(self.pki.issuing)
        return msgspec.structs.replace(wire.Hello(bytes(56), self.time.isoformat(), trust, chain), **changes)

    def leaf_for(self, request: Requests, **changes: Any) -> x509.Certificate:
        """An honest leaf for the key of the request."""
        options: dict[str, Any] = {
            "names": self.names,
            "public_key": csr.read(request.csr),
            "not_before": self.time - HOUR,
            "not_after": self.time + DAY,
        }
        return self.pki.leaf(grant(self.pki.domain, changes.pop("role", self.role), **(options | changes)))

    def answering(
        self,
        request: Requests,
        digest: bytes,
        *,
        leaf: x509.Certificate | None = None,
        trust: list[bytes] | None = None,
        chain: list[bytes] | None = None,
        time: datetime | None = None,
        **changes: Any,
    ) -> wire.IntroductionAnswer:
        """An answer, honest but for what is given, and truly signed; ``changes`` are made after signing."""
        certificate = (leaf or self.leaf_for(request)).public_bytes(Encoding.DER)
        roots = der(self.pki.root) if trust is None else trust
        said = (time or self.time).isoformat()
        signature = self.key.sign(answer_transcript(digest, certificate, tuple(roots), said), ec.ECDSA(hashes.SHA256()))
        sent = der(self.pki.issuing) if chain is None else chain
        return msgspec.structs.replace(wire.IntroductionAnswer(certificate, sent, roots, said, signature), **changes)

    def lie(self, **what: Any) -> None:
        """Answer truly but for this."""
        self.answer = lambda request, digest: http(
            msgspec.json.encode(
                self.answering(request, digest, **{k: v(request) if callable(v) else v for k, v in what.items()})
            )
        )

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            raw.settimeout(30)
            self._threads.append(threading.Thread(target=self._serve, args=(raw,)))
            self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        with raw, contextlib.suppress(OSError):
            first = raw.recv(1, socket.MSG_PEEK)
            if first != b"\x16":  # no TLS handshake: somebody speaks in the clear
                self.requests.append("PLAIN")
                self.seen += raw.recv(65536)
                return
            with self._context.wrap_socket(raw, server_side=True) as tls:
                shown = tls.getpeercert(binary_form=True)
                self.client = x509.load_der_x509_certificate(shown) if shown else None
                while (response := self._respond(*self._read(tls))) is not None:
                    tls.sendall(response)

    def _read(self, tls: ssl.SSLSocket) -> tuple[str, bytes]:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._receive(tls)
        head, _, body = head.partition(b"\r\n\r\n")
        length = next(
            (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0
        )
        while len(body) < length:
            body += self._receive(tls)
        return head.split(b"\r\n", 1)[0].decode(), body

    def _receive(self, tls: ssl.SSLSocket) -> bytes:
        data = tls.recv(65536)
        if not data:
            raise OSError("gone")
        self.seen += data
        return data

    def _respond(self, line: str, body: bytes) -> bytes | None:
        self.requests.append(line.removesuffix(" HTTP/1.1"))
        if line.startswith("GET /v1/hello "):
            return self.hello()
        if line.startswith("POST /v1/ssh/certificates/"):  # a registrar of before there were any
            return http(b'{"title":"no such route","status":404,"code":"not-found"}', status="404 Not Found")
        kind, transcript = KINDS[line.split(" ")[1].rsplit("/", 1)[1]]
        request = wire.decode(body, kind)
        spki = keys.spki_sha256(self.key.public_key())
        return self.answer(request, transcript(request, pin=self.pki.pin, server_spki=spki))


def elsewhere(line: InvitationLine, *addresses: Address) -> InvitationLine:
    """The same invitation, with the newcomer's traffic led to somebody else."""
    return replace(line, addresses=addresses)


LATER = NOW + timedelta(minutes=1)
