"""A PKI in memory, and the grants and certificates that the tests of keys, chains and authorities share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import keys, x509
from handfast.core.flow import Grant
from handfast.core.names import Names
from handfast.core.roles import Role, spiffe_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SERIAL = 0xFEDCBA98765432100123456789ABCDEF  # 128 bits, the highest set


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


LEAF_KEY = new_key()


def grant(
    trust_domain: str,
    role: Role = Role.SERVER,
    *,
    machine: str = "web1.home.lan",
    names: tuple[str, ...] = ("web1.home.lan", "10.0.0.7", "fd00::7"),
    public_key: keys.LeafPublicKey | None = None,
    not_before: datetime = NOW - HOUR,
    not_after: datetime = NOW + DAY,
) -> Grant:
    """A grant as policy would make it."""
    return Grant(
        machine=machine,
        role=role,
        spiffe_id=spiffe_id(trust_domain, role, machine),
        names=Names.parse(names),
        public_key=keys.spki(public_key or LEAF_KEY.public_key()),
        not_before=not_before,
        not_after=not_after,
        method="invitation",
        why=("a test",),
    )


@dataclass(frozen=True, slots=True)
class Pki:
    """A root and an issuing CA with their keys."""

    root_key: ec.EllipticCurvePrivateKey
    root: pyca.Certificate
    issuing_key: ec.EllipticCurvePrivateKey
    issuing: pyca.Certificate

    @classmethod
    def make(cls, constraints: pyca.NameConstraints | None = None, *, now: datetime = NOW, name: str = "home") -> Pki:
        """A new one, made at ``now``."""
        root_key, issuing_key = new_key(), new_key()
        root = x509.root(root_key, name=name, now=now)
        issuing = x509.issuing(
            root, root_key, issuing_key.public_key(), name=name, generation=1, now=now, constraints=constraints
        )
        return cls(root_key, root, issuing_key, issuing)

    @property
    def pin(self) -> bytes:
        """The pin of the root."""
        return keys.spki_sha256(self.root.public_key())

    @property
    def domain(self) -> str:
        """The trust domain of the root."""
        return x509.spiffe_domain(self.root)

    def leaf(self, a_grant: Grant | None = None, *, crl_url: str | None = None) -> pyca.Certificate:
        """A leaf of our own profile."""
        builder = x509.LeafProfile(self.issuing, crl_url).builder(a_grant or grant(self.domain), SERIAL)
        return builder.sign(self.issuing_key, keys.signature_hash(self.issuing_key))

    def forged(
        self,
        change: Callable[[pyca.CertificateBuilder], pyca.CertificateBuilder] = lambda builder: builder,
        *,
        replace: pyca.ExtensionType | None = None,
        add: pyca.ExtensionType | None = None,
        drop: type[pyca.ExtensionType] | None = None,
        role: Role = Role.SERVER,
    ) -> pyca.Certificate:
        """A leaf which our profile would not make, signed by the issuing CA all the same."""
        model = self.leaf(grant(self.domain, role))
        builder = (
            pyca.CertificateBuilder()
            .subject_name(model.subject)
            .issuer_name(model.issuer)
            .public_key(LEAF_KEY.public_key())
            .serial_number(SERIAL)
            .not_valid_before(model.not_valid_before_utc)
            .not_valid_after(model.not_valid_after_utc)
        )
        for extension in model.extensions:
            if replace is not None and extension.oid == replace.oid:
                builder = builder.add_extension(replace, extension.critical)
            elif drop is None or extension.oid != drop.oid:
                builder = builder.add_extension(extension.value, extension.critical)
        if add is not None:
            builder = builder.add_extension(add, critical=False)
        return change(builder).sign(self.issuing_key, keys.signature_hash(self.issuing_key))


def write_pem(path: Path, *certificates: pyca.Certificate) -> Path:
    """Write certificates as PEM and return the path."""
    path.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates))
    return path
