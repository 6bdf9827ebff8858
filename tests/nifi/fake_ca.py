"""A NiFi CA of nothing but cryptography and sockets, which misbehaves as a test asks; and what calls it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

TOKEN = "7vTc0qJmR2kXwZ8yLbN4"
HOST = "localhost"
DAY = timedelta(days=1)


def tag(key: Any, token: str = TOKEN) -> str:
    """Return the MAC over a key as the toolkit writes it, from the specification and not from our code."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key).digest
    return base64.b64encode(hmac.digest(token.encode(), identifier, hashlib.sha256)).decode()


def name(common: str, unit: str = "NIFI") -> x509.Name:
    """Return the subject that a toolkit's certificate has for ``CN=common, OU=NIFI``."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def certificate(
    subject: x509.Name,
    public_key: Any,
    issuer: x509.Name,
    signer: Any,
    *,
    ca: bool | None,
    names: Sequence[x509.GeneralName] | None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> x509.Certificate:
    """Return a certificate; None leaves an extension out."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer,
        subject,
        public_key,
        7,
        start or now - DAY,
        end or now + 825 * DAY,
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=False)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


@dataclass
class Identity:
    """A CA's key and what it presents."""

    common: str = HOST
    names: Sequence[x509.GeneralName] | None = (x509.DNSName(HOST),)
    ca: bool | None = True
    start: datetime | None = None
    end: datetime | None = None
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    _made: x509.Certificate | None = None

    @property
    def subject(self) -> x509.Name:
        """Its name."""
        return name(self.common)

    def certificate(self) -> x509.Certificate:
        """Its one certificate, signed by itself."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> x509.Certificate:
        return certificate(
            self.subject, self.key.public_key(), self.subject, self.key,
            ca=self.ca, names=self.names, start=self.start, end=self.end,
        )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    head: str
    hmac: str
    csr: x509.CertificateSigningRequest


def http(body: bytes | str, status: str = "200 OK", *headers: str) -> bytes:
    """Return an answer with its length."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


class FakeCa:
    """One CA on a port of loopback; ``answer`` makes the bytes that go back, the toolkit's own unless replaced."""

    def __init__(self, identity: Identity, *, token: str = TOKEN) -> None:
        self.identity, self.token = identity, token
        self.certificate = identity.certificate()
        self.chain = [self.certificate]
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], bytes] = lambda asked: http(self.body(self.leaf(asked)))
        self.newest = ssl.TLSVersion.TLSv1_3
        self.days: tuple[datetime | None, datetime | None] = (None, None)
        self.port = 0

    def leaf(self, asked: Asked, **changes: object) -> x509.Certificate:
        """Return what the toolkit would issue, but for ``changes``."""
        names = asked.csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        fields: dict[str, Any] = {
            "subject": x509.Name(list(asked.csr.subject.rdns)[::-1]),
            "public_key": asked.csr.public_key(),
            "issuer": self.certificate.subject,
            "signer": self.identity.key,
            "ca": False,
            "names": list(names),
            "start": self.days[0],
            "end": self.days[1],
        }
        return certificate(**{**fields, **changes})

    def body(self, leaf: x509.Certificate, mac: str | None = None) -> str:
        """Return the JSON of success."""
        pem = leaf.public_bytes(Encoding.PEM).decode()
        mac = tag(self.certificate.public_key(), self.token) if mac is None else mac
        return json.dumps({"hmac": mac, "pemEncodedCertificate": pem, "error": None})

    def context(self) -> ssl.SSLContext:
        """Return the server's half of TLS: the chain is whatever the test wants to be seen."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.maximum_version = self.newest
        key = self.identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.NamedTemporaryFile() as file:
            file.write(key + b"".join(each.public_bytes(Encoding.PEM) for each in self.chain))
            file.flush()
            made.load_cert_chain(file.name)
        return made

    @contextlib.contextmanager
    def serving(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[FakeCa]:
        """Answer until the test is done."""
        with _listening(host, port, self._serve) as self.port:
            yield self

    def _serve(self, raw: socket.socket) -> None:
        with self.context().wrap_socket(raw, server_side=True) as connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536) or _gone()
            head, _, body = data.partition(b"\r\n\r\n")
            (length,) = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
            while len(body) < length:
                body += connection.recv(65536) or _gone()
            content = json.loads(body)
            asked = Asked(head.decode(), content["hmac"], x509.load_pem_x509_csr(content["csr"].encode()))
            assert set(content) == {"hmac", "csr"}
            self.asked.append(asked)
            connection.sendall(self.answer(asked))


@contextlib.contextmanager
def raw(serve: Callable[[socket.socket], object], port: int = 0) -> Iterator[int]:
    """A TCP server that does as the test says; yields its port."""
    with _listening("127.0.0.1", port, serve) as listening:
        yield listening


@contextlib.contextmanager
def _listening(host: str, port: int, serve: Callable[[socket.socket], object]) -> Iterator[int]:
    with socket.create_server((host, port)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # closed: the test is done
                connection.settimeout(30)
                with connection, contextlib.suppress(OSError):
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def _gone() -> bytes:
    raise ConnectionResetError


def ip(text: str) -> x509.IPAddress:
    """Return an address as an alternative name."""
    return x509.IPAddress(ipaddress.ip_address(text))
