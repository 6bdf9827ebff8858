"""Certificates on the toolkit's wire for tests: a root of ours, the real toolkit's, and leaves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.core import dn, javastore, keys, nifi_x509, x509
from handfast.core.flow import Grant
from handfast.core.javaentry import KeyEntry
from handfast.core.roles import Role
from handfast.core.secret import Secret
from tests.authority.helpers import DAY, NOW, SERIAL, grant
from tests.core.stores import DATA, PASSWORDS

RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PUBLIC = RSA_KEY.public_key()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = dn.parse("CN=ca.lan, OU=NIFI")
NODE = dn.parse("CN=web1.home.lan, OU=NIFI")
CLIENT_AUTH, SERVER_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
NAMES = ("10.0.0.7", "a.lan", "fd00::7", "web1.home.lan")


def root(
    subject: pyca.Name = SUBJECT,
    key: keys.LeafPrivateKey = RSA_KEY,
    *,
    days: int = 825,
    now: datetime = NOW,
) -> pyca.Certificate:
    """A root."""
    return nifi_x509.root(key, subject=subject, days=days, now=now)


ROOT = root()
DOMAIN = x509.trust_domain(keys.spki_sha256(RSA_KEY.public_key()))


def node(
    role: Role = Role.PEER,
    *,
    subject: pyca.Name | None = NODE,
    names: tuple[str, ...] = NAMES,
    public_key: keys.LeafPublicKey = RSA_PUBLIC,
    machine: str = "web1.home.lan",
) -> Grant:
    """What a node is granted."""
    plain = grant(DOMAIN, role, names=names, public_key=public_key, machine=machine)
    return replace(plain, subject=None if subject is None else subject.public_bytes())


def leaf(granted: Grant, issuer: pyca.Certificate = ROOT, key: keys.LeafPrivateKey = RSA_KEY) -> pyca.Certificate:
    """A leaf of a root."""
    return nifi_x509.LeafProfile(issuer).builder(granted, SERIAL).sign(key, keys.signature_hash(key))


def toolkit_root() -> tuple[pyca.Certificate, Secret]:
    """The root that the real toolkit made, and its key."""
    name = "nifi-ca-keystore.jks"
    (entry,) = javastore.read((DATA / name).read_bytes(), password=Secret(PASSWORDS[name][0].encode()))
    assert isinstance(entry, KeyEntry)
    return pyca.load_der_x509_certificate(entry.chain[0]), entry.private_key


def forged(
    *extensions: tuple[pyca.ExtensionType, bool], key: keys.LeafPrivateKey = RSA_KEY, issuer: pyca.Name = SUBJECT
) -> pyca.Certificate:
    """A self-signed certificate of somebody else's making."""
    builder = pyca.CertificateBuilder(issuer, SUBJECT, key.public_key(), 1, NOW, NOW + 400 * DAY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, SHA256())


def oids(certificate: pyca.Certificate) -> list[tuple[pyca.ObjectIdentifier, bool]]:
    """Its extensions in order, and whether they are critical."""
    return [(extension.oid, extension.critical) for extension in certificate.extensions]


def general_names(certificate: pyca.Certificate) -> list[str]:
    """Its alternative names as text, in order, addresses in brackets."""
    names = certificate.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    return [f"[{name.value}]" if isinstance(name, pyca.IPAddress) else str(name.value) for name in names]


def usages(certificate: pyca.Certificate) -> list[pyca.ObjectIdentifier]:
    """Its extended key usages in order."""
    return list(certificate.extensions.get_extension_for_class(pyca.ExtendedKeyUsage).value)
