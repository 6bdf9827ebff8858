"""
A registrar's world that stands still, and an honest newcomer for every method.

Keys are fixed, so that whatever a test changes is the only difference. ``HONEST`` is what the contract
suite plays: a new introducer adds its line there.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from handfast import introducers
from handfast.core import csr, dn, keys, nonce
from handfast.core.flow import Channel, Evidence, Wish
from handfast.core.hostproof import HostKeys
from handfast.core.invitation import Address, InvitationLine, key_id
from handfast.core.names import IPNetwork, NamePattern, Names
from handfast.core.ports import Introducer
from handfast.core.records import CredentialRecord, Invitation
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.introducers import invitation, nifi, reintroduction, renewal, x5c
from handfast.newcomer.x5c import KeyFile
from tests.introducers import x5c_material

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PIN = hashlib.sha256(b"our root").digest()
SERVER_SPKI = hashlib.sha256(b"our TLS key").digest()
NONCE_KEY = Secret(hashlib.sha256(b"our nonce key").digest())
SERIAL = 0x0123456789ABCDEF0123456789ABCDEF
DOMAIN = "test.lan"


def p256(number: int) -> ec.EllipticCurvePrivateKey:
    """The P-256 key with this private number."""
    return ec.derive_private_key(number, ec.SECP256R1())


def ed25519(number: int) -> Ed25519PrivateKey:
    """The Ed25519 key whose seed is this byte, 32 times."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


OLD_KEY, NEW_KEY, OTHER_KEY = p256(1001), p256(1002), p256(1003)
RETURN_KEY, NEXT_RETURN_KEY = ed25519(5), ed25519(6)
LINE = InvitationLine(Secret(bytes([4]) * 32), PIN, NOW, NOW + timedelta(hours=1), (Address("registrar.lan", 7443),))
NAMES = Names.parse(["web1.lan", "10.0.0.7"])

CA_KEY = p256(2001)
MASTER, SALT = Secret(bytes([7]) * 32), bytes([8]) * 32
NODE_TOKEN = nifi.one_time_token(MASTER, SALT)
SHARED_TOKEN = Secret(b"a shared token of the stage")
NODE = "CN=node1.lan, OU=NIFI"
NODE_NAMES = Names.parse(["node1.lan", "lb.lan"])
SHARED = nifi.SharedToken(
    SHARED_TOKEN,
    subjects=(dn.SubjectPattern.parse("CN=*.lan, OU=NIFI"), dn.SubjectPattern.parse("CN=Kim Lee, OU=Admins")),
    names=(NamePattern.parse("*.lan"), NamePattern.parse("10.0.0.0/24")),
)
NIFI = nifi.NifiIntroducer(CA_KEY.public_key(), SHARED, MASTER)

THEIRS = x5c_material.site()
X5C_RULES = x5c.X5cRules(
    roots=(THEIRS.root.certificate,),
    roles=frozenset({Role.SERVER}),
    names=(NamePattern.parse("*.lan"), NamePattern.parse("10.0.0.0/24")),
)
X5C = x5c.X5cIntroducer(X5C_RULES)


def certificate(
    key: ec.EllipticCurvePublicKey | None = None, *, serial: int = SERIAL, end: datetime = NOW + DAY
) -> pyca.Certificate:
    """A certificate of the old key; introducers take nothing but the key and the serial from one."""
    name = pyca.Name([])
    return (
        pyca.CertificateBuilder(name, name, key or OLD_KEY.public_key(), serial)
        .not_valid_before(NOW - DAY)
        .not_valid_after(end)
        .sign(p256(7), hashes.SHA256(), ecdsa_deterministic=True)
    )


def an_invitation(**changes: object) -> Invitation:
    """The record of ``LINE``, open, for one use."""
    record = Invitation(
        key_id=LINE.key_id,
        public_half=LINE.public_key(),
        machine="web1.lan",
        role=Role.SERVER,
        names=NAMES,
        uses=1,
        created_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def a_credential(role: Role = Role.SERVER, **changes: object) -> CredentialRecord:
    """The record of the credential of ``OLD_KEY``: issued, and valid for another day."""
    record = CredentialRecord(
        serial=SERIAL,
        machine="web1.lan",
        role=role,
        method="invitation",
        trust_domain=DOMAIN,
        marker="invitation:0000000000000000",
        not_before=NOW - DAY,
        not_after=NOW + DAY,
        names=NAMES,
        intended_at=NOW - DAY,
        why=("a test",),
        certificate=certificate().public_bytes(Encoding.DER),
        issued_at=NOW - DAY,
        reintroduction_key=RETURN_KEY.public_key().public_bytes_raw(),
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


@dataclass
class Stage:
    """A ``core.ports.Context`` that answers from what a test has put there."""

    pin: bytes = PIN
    time: datetime = NOW
    nonce_key: Secret = field(default_factory=lambda: NONCE_KEY)
    invitations: dict[str, Invitation] = field(default_factory=dict)
    credentials: dict[int, CredentialRecord] = field(default_factory=dict)

    def now(self) -> datetime:
        """The time of the stage."""
        return self.time

    def nonce_is_ours(self, value: bytes) -> bool:
        """As the registrar decides it."""
        return nonce.is_fresh(self.nonce_key, value, self.time)

    def nonce(self) -> bytes:
        """A nonce made now."""
        return nonce.make(self.nonce_key, self.time, bytes(16))

    def invitation(self, key_id: str) -> Invitation | None:
        """What is on stage."""
        return self.invitations.get(key_id)

    def public_halves(self, method: str) -> list[tuple[str, bytes]]:
        """What is on stage, as the ledger chooses."""
        found = [one for one in self.invitations.values() if one.method == method and self.time < one.expires_at]
        return [(one.key_id, one.public_half) for one in found]

    def credential(self, serial: int) -> CredentialRecord | None:
        """What is on stage."""
        return self.credentials.get(serial)

    def renewals_since(self, record: CredentialRecord, since: datetime) -> int:
        """As the ledger counts them."""
        others = [one for one in self.credentials.values() if one.machine == record.machine]
        return sum(one.intended_at > since and one.predecessor not in (None, record.serial) for one in others)


@dataclass(frozen=True)
class Honest:
    """An honest attempt: who verifies, what was sent, and the digest that its sender expects in the answer."""

    stage: Stage
    evidence: Evidence
    signed: bytes


def by_invitation(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    wish: Wish = Wish(),  # noqa: B008  a frozen value
    record: Invitation | None = None,
    csr_der: bytes | None = None,
    sources: tuple[IPNetwork, ...] | None = None,
) -> Honest:
    """A newcomer with ``LINE``; each argument is what *it* saw or wishes."""
    stage = Stage(invitations={LINE.key_id: record or an_invitation(sources=sources)})
    line = dataclasses.replace(LINE, pin=pin)
    body, signed = invitation.present(
        line,
        csr_der=csr.build(NEW_KEY) if csr_der is None else csr_der,
        reintroduction_key=NEXT_RETURN_KEY.public_key().public_bytes_raw(),
        wish=wish,
        nonce=stage.nonce() if nonce_ is None else nonce_,
        server_spki=spki,
    )
    return Honest(stage, Evidence("invitation", body, Channel(SERVER_SPKI)), signed)


def by_renewal(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    record: CredentialRecord | None = None,
    client: pyca.Certificate | None = None,
    key: ec.EllipticCurvePrivateKey = OLD_KEY,
    csr_der: bytes | None = None,
) -> Honest:
    """A server whose credential is valid for another day."""
    stage = Stage(credentials={SERIAL: record or a_credential()})
    body, signed = renewal.present(
        key,
        serial=SERIAL,
        pin=pin,
        csr_der=csr.build(NEW_KEY) if csr_der is None else csr_der,
        next_key=NEXT_RETURN_KEY.public_key().public_bytes_raw(),
        nonce=stage.nonce() if nonce_ is None else nonce_,
        server_spki=spki,
    )
    return Honest(stage, Evidence("renewal", body, Channel(SERVER_SPKI, client)), signed)


def by_reintroduction(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    record: CredentialRecord | None = None,
    key: Ed25519PrivateKey = RETURN_KEY,
    csr_der: bytes | None = None,
) -> Honest:
    """A server whose credential ended a day ago."""
    stage = Stage(credentials={SERIAL: record or a_credential(not_after=NOW - DAY)})
    body, signed = reintroduction.present(
        key,
        serial=SERIAL,
        pin=pin,
        csr_der=csr.build(NEW_KEY) if csr_der is None else csr_der,
        next_key=NEXT_RETURN_KEY.public_key().public_bytes_raw(),
        nonce=stage.nonce() if nonce_ is None else nonce_,
        server_spki=spki,
    )
    return Honest(stage, Evidence("reintroduction", body, Channel(SERVER_SPKI)), signed)


def node_request(
    key: CertificateIssuerPrivateKeyTypes = NEW_KEY,
    subject: str | pyca.Name = NODE,
    names: tuple[str, ...] = ("node1.lan",),
    *,
    extensions: tuple[pyca.ExtensionType, ...] = (),
) -> pyca.CertificateSigningRequest:
    """A request as NiFi's toolkit makes it: the subject in the order it is typed, the names as they were given."""
    name = dn.reverse(dn.parse(subject)) if isinstance(subject, str) else subject
    builder = pyca.CertificateSigningRequestBuilder(name)
    if names:
        listed = (*Names.parse(names).dns, *Names.parse(names).ips)
        both = [pyca.DNSName(one) if isinstance(one, str) else pyca.IPAddress(one) for one in listed]
        builder = builder.add_extension(pyca.SubjectAlternativeName(both), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    deterministic = True if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=deterministic)


def pem(der: bytes) -> str:
    """Any bytes as a PEM certificate request."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(("-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""))


def a_node(**changes: object) -> Invitation:
    """The record of ``NODE_TOKEN``, open, for one use."""
    record = an_invitation(
        key_id=key_id(SALT),
        method="nifi",
        public_half=SALT,
        machine="node1",
        role=Role.PEER,
        names=NODE_NAMES,
        subject=dn.parse(NODE).public_bytes(),
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def by_nifi(
    *,
    token: Secret = NODE_TOKEN,
    record: Invitation | None = None,
    request: pyca.CertificateSigningRequest | None = None,
    csr_der: bytes | None = None,
) -> Honest:
    """A node with a one-time token; ``csr_der`` is sent in the place of its request, with the tag of its key."""
    known = record or a_node()
    asked = request or node_request()
    body = nifi.encode_request(token, asked)
    if csr_der is not None:
        body = msgspec.json.encode(nifi.NifiRequest(hmac=nifi.tag(token, asked.public_key()), csr=pem(csr_der)))
    signed = nifi.tag(token, CA_KEY.public_key())
    return Honest(Stage(invitations={known.key_id: known}), Evidence("nifi", body, Channel(SERVER_SPKI)), signed)


def by_x5c(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    site: x5c_material.Site = THEIRS,
    chain: tuple[pyca.Certificate, ...] | None = None,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    csr_der: bytes | None = None,
    role: Role | None = None,
    host: HostKeys | None = None,
) -> Honest:
    """A server with a certificate of another authority; ``key`` is what signs, if not the leaf's own."""
    stage = Stage()
    body, signed = x5c.present(
        site.chain if chain is None else chain,
        KeyFile(site.key if key is None else key),
        pin=pin,
        csr_der=csr.build(NEW_KEY) if csr_der is None else csr_der,
        next_key=NEXT_RETURN_KEY.public_key().public_bytes_raw(),
        wish=Wish(role),
        nonce=stage.nonce() if nonce_ is None else nonce_,
        server_spki=spki,
        host=host,
    )
    return Honest(stage, Evidence("x5c", body, Channel(SERVER_SPKI)), signed)


# As ``introducers.known``, with what a registrar's configuration adds.
VERIFIERS: dict[str, Introducer] = introducers.known() | {"nifi": NIFI, "x5c": X5C}
HONEST: dict[str, Callable[..., Honest]] = {
    "invitation": by_invitation,
    "renewal": by_renewal,
    "reintroduction": by_reintroduction,
    "nifi": by_nifi,
    "x5c": by_x5c,
}
NEW_SPKI = keys.spki(NEW_KEY.public_key())
