"""Another authority, made for a test: roots, CAs, leaves and lists, and everything that can be wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.fromisoformat("2026-11-22T12:00:00+00:00")
DAY = timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
Extension = tuple[pyca.ExtensionType, bool]


def p256(text: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of a word, the same each time."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(text.encode()).digest()[:31], "big"), ec.SECP256R1())


def named(text: str) -> pyca.Name:
    """A subject with this common name; none at all for nothing."""
    return pyca.Name([pyca.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def usage(*, sign: bool = True, ca: bool = False) -> pyca.KeyUsage:
    """A key usage."""
    return pyca.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def san(*names: str) -> pyca.SubjectAlternativeName:
    """Alternative names: addresses, or whatever is no address as a DNS name."""
    made: list[pyca.GeneralName] = []
    for name in names:
        try:
            made.append(pyca.IPAddress(ip_address(name)))
        except ValueError:
            made.append(pyca.DNSName(name))
    return pyca.SubjectAlternativeName(made)


@dataclass(frozen=True)
class Ca:
    """A CA that signs whatever it is told to."""

    certificate: pyca.Certificate
    key: CertificateIssuerPrivateKeyTypes

    def issue(
        self,
        key: CertificateIssuerPrivateKeyTypes,
        subject: str,
        *extensions: Extension,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        serial: int | None = None,
    ) -> pyca.Certificate:
        """A certificate with these extensions and the issuer's key identifier, and nothing else."""
        return _signed(self.certificate.subject, self.key, key, subject, extensions, begin, end, serial)

    def leaf(
        self,
        key: CertificateIssuerPrivateKeyTypes,
        *names: str,
        eku: Sequence[pyca.ObjectIdentifier] = (SERVER,),
        extra: Sequence[Extension] = (),
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        serial: int | None = None,
        sign: bool = True,
    ) -> pyca.Certificate:
        """A leaf as ACME authorities make them."""
        extensions: list[Extension] = [
            (pyca.BasicConstraints(ca=False, path_length=None), True),
            (usage(sign=sign), True),
        ]
        if names:
            extensions.append((san(*names), False))
        if eku:
            extensions.append((pyca.ExtendedKeyUsage(list(eku)), False))
        subject = names[0] if names else "web1.lan"
        return self.issue(key, subject, *extensions, *extra, begin=begin, end=end, serial=serial)

    def below(
        self,
        name: str,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        *extra: Extension,
        path_length: int | None = None,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
    ) -> Ca:
        """A CA below this one."""
        own = p256(name) if key is None else key
        basic = pyca.BasicConstraints(ca=True, path_length=path_length)
        extensions = ((basic, True), (usage(sign=False, ca=True), True), *extra)
        return Ca(self.issue(own, name, *extensions, begin=begin, end=end), own)

    def crl(
        self,
        *revoked: pyca.Certificate,
        begin: datetime = NOW - timedelta(hours=1),
        end: datetime | None = NOW + DAY,
        extra: Sequence[Extension] = (),
    ) -> pyca.CertificateRevocationList:
        """A list of this CA."""
        builder = pyca.CertificateRevocationListBuilder(self.certificate.subject, begin, end or NOW + DAY)
        for each in revoked:
            entry = pyca.RevokedCertificateBuilder(each.serial_number, NOW - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256(), ecdsa_deterministic=True)


def root(
    name: str = "their root", key: CertificateIssuerPrivateKeyTypes | None = None, *, begin: datetime = NOW - 10 * DAY
) -> Ca:
    """A self-signed CA, for ten years."""
    own = p256(name) if key is None else key
    basic = pyca.BasicConstraints(ca=True, path_length=None)
    extensions = ((basic, True), (usage(sign=False, ca=True), True))
    made = _signed(named(name), own, own, name, extensions, begin, begin + 3660 * DAY, None)
    return Ca(made, own)


def _signed(
    issuer: pyca.Name,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    key: CertificateIssuerPrivateKeyTypes,
    subject: str,
    extensions: Sequence[Extension],
    begin: datetime,
    end: datetime,
    serial: int | None,
) -> pyca.Certificate:
    number = serial or int.from_bytes(hashlib.sha256(f"{subject}{begin}{end}".encode()).digest()[:15], "big")
    identifier = pyca.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    own = pyca.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = pyca.CertificateBuilder(issuer, named(subject), key.public_key(), number, begin, end)
    for extension, critical in (*extensions, (identifier, False), (own, False)):
        builder = builder.add_extension(extension, critical)
    if isinstance(issuer_key, ed25519.Ed25519PrivateKey):
        return builder.sign(issuer_key, None)
    deterministic = True if isinstance(issuer_key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=deterministic)


@dataclass(frozen=True)
class Site:
    """A root, a CA below it, and a leaf with its key: what an honest newcomer has."""

    root: Ca
    ca: Ca
    key: CertificateIssuerPrivateKeyTypes
    leaf: pyca.Certificate

    @property
    def chain(self) -> tuple[pyca.Certificate, ...]:
        """What is presented."""
        return self.leaf, self.ca.certificate

    def having(self, leaf: pyca.Certificate, key: CertificateIssuerPrivateKeyTypes | None = None) -> Site:
        """The same with another leaf."""
        return dataclasses.replace(self, leaf=leaf, key=self.key if key is None else key)


def site(*names: str) -> Site:
    """A site whose leaf has these names."""
    above, key = root(), p256("their leaf")
    ca = above.below("their CA", path_length=0)
    return Site(above, ca, key, ca.leaf(key, *(names or ("web1.lan", "10.0.0.7"))))
