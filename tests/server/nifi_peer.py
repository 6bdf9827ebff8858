"""A NiFi node written by hand, and a registrar that serves it: an elliptic curve, for RSA keys take seconds to make."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import dn
from handfast.core.invitation import Address
from handfast.core.names import IPAddress, Names
from handfast.core.secret import Secret
from handfast.server.limits import Limits
from handfast.wiring import Overrides
from tests.server.running import LOOPBACK, Client, Running, running

TOKEN = "correct horse battery staple"
CA = "ca.lan"
NODE = "CN=node1.lan, OU=NIFI"
EMPTY: dict[str, Any] = {"hmac": None, "pemEncodedCertificate": None}


def new_key() -> ec.EllipticCurvePrivateKey:
    """A node's key."""
    return ec.generate_private_key(ec.SECP256R1())


def tag(token: str, key: ec.EllipticCurvePublicKey) -> bytes:
    """What proves the token, spelled from the specification."""
    bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hmac.digest(token.encode(), hashlib.sha1(bits).digest(), "sha256")


def csr(
    key: ec.EllipticCurvePrivateKey,
    subject: str | x509.Name = NODE,
    names: Sequence[x509.GeneralName] | None = None,
) -> str:
    """A request in PEM, its subject in the order of a request; ``names`` None is the subject's common name."""
    name = dn.parse(subject) if isinstance(subject, str) else subject
    builder = x509.CertificateSigningRequestBuilder(dn.reverse(name))
    if names is None:
        names = [x509.DNSName(dn.common_name(name) or "")]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def message(token: str, key: ec.EllipticCurvePrivateKey, request: str) -> bytes:
    """The JSON of a request, as the original writes it."""
    proof = base64.b64encode(tag(token, key.public_key())).decode()
    return json.dumps({"hmac": proof, "csr": request}, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def error(self) -> str:
        """Why not; nothing else may be in a refusal."""
        assert self.content == EMPTY | {"error": self.content["error"]}
        assert self.headers["Content-Type"] == "application/json; charset=utf-8"
        return str(self.content["error"])

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf, and nothing else beside the proof."""
        assert self.status == 200, self.content
        assert self.content["error"] is None
        pem = self.content["pemEncodedCertificate"]
        assert pem.count("-----BEGIN") == 1
        return x509.load_pem_x509_certificate(pem.encode())

    @property
    def names(self) -> list[str]:
        """The leaf's DNS names and addresses, in their order."""
        found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(each.value) for each in found if not isinstance(each, x509.UniformResourceIdentifier)]


class Node(Client):
    """One connection of a node, which verifies nothing, and says what it likes."""

    def post(
        self, body: bytes | None, method: str = "POST", path: str = "/", headers: Mapping[str, str] = {}
    ) -> Answer:
        """Send a body as it is, without a content type as the original."""
        self.http.request(method, path, body, dict(headers))
        return self.answer()

    def answer(self) -> Answer:
        """Read the next answer."""
        response = self.http.getresponse()
        content = response.read()
        return Answer(response.status, json.loads(content), dict(response.headers))

    def enrol(
        self,
        token: str = TOKEN,
        subject: str = NODE,
        names: Sequence[x509.GeneralName] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Answer:
        """Ask as a node does."""
        key = key or new_key()
        return self.post(message(token, key, csr(key, subject, names)))


def context(
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """A client's context that verifies nothing, for these versions of TLS."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version, made.maximum_version = oldest, newest
    return made


@dataclass
class NameService:
    """Which names lead where, and what was asked of it."""

    places: dict[str, str] = field(default_factory=lambda: {"node1.lan": "127.0.0.1", "node2.lan": "10.0.0.2"})
    asked: list[str] = field(default_factory=list)

    async def locate(self, names: Names, source: IPAddress | None) -> Names:
        """Return those of the names that lead to the source."""
        self.asked += names.texts()
        return Names(
            tuple(name for name in names.dns if self.places.get(name) == str(source)),
            tuple(address for address in names.ips if address == source),
        )


@dataclass
class Served:
    """A registrar that serves NiFi's protocol."""

    registrar: Running
    names: NameService

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens for NiFi."""
        place = Address.parse(self.registrar.ready.nifi or "")
        return place.host, place.port

    @property
    def root(self) -> x509.Certificate:
        """The authority's certificate."""
        assert self.registrar.service.nifi is not None
        return self.registrar.service.nifi.authority.root

    def connect(self, made: ssl.SSLContext | None = None) -> Node:
        """Connect as a node."""
        return Node(self.address, made or context())

    def enrol(self, *arguments: Any, **more: Any) -> Answer:
        """Ask over a connection of its own, see ``Node.enrol``."""
        with self.connect() as node:
            return node.enrol(*arguments, **more)

    def invite(self, name: str = "node1.lan", **more: Any) -> tuple[str, str]:
        """Return a one-time token and its key id."""
        more.setdefault("lasting", timedelta(hours=1))
        token, invitation = self.registrar.service.administration.invite_nifi(name, **more)
        return token.reveal().decode(), invitation.key_id


@contextmanager
def serving(
    data: Path,
    *,
    token: str | None = TOKEN,
    limits: Limits | None = None,
    passphrase: Secret | None = None,
    clients: str = "clients",
    **settings: Any,
) -> Iterator[Served]:
    """Run a registrar with NiFi's protocol in ``data``; ``settings`` are fields of ``NifiSettings``."""
    nifi = {"listen": Address("127.0.0.1", 0), "hostname": CA, "key_algorithm": "EC", "key_size": 256, **settings}
    overrides = Overrides(
        listen=LOOPBACK.listen,
        crl_listen=LOOPBACK.crl_listen,
        nifi=nifi,
        token=None if token is None else Secret(token.encode()),
    )
    names = NameService()
    with running(
        data, limits=limits, clients=clients, overrides=overrides, passphrase=passphrase, locate=names.locate
    ) as registrar:
        yield Served(registrar, names)
