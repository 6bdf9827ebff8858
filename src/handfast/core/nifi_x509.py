"""
What certificates look like on the wire of NiFi's tls-toolkit (docs/protocols/nifi.md).

Its client takes a chain of exactly one from the TLS server, checks that it is the CA it was told to call, and trusts
it. So one self-signed certificate is the root, the issuer of every leaf and the server's own. Beyond ``core.x509``
it therefore has a subject that people type, a host name, and the usages of a TLS server.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handfast.core import dn, keys
from handfast.core.flow import Grant
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.x509 import (
    BACKDATE,
    MAX_COMMON_NAME,
    authority_key_identifier,
    key_identifier,
    usages,
    validity,
)
from handfast.errors import Malformed, Refused, UsageError

MAX_DAYS = 36525  # a hundred years; the dates of X.509 end with the year 9999
ENDS_SOON = timedelta(days=30)


def _usage(*, ca: bool = False, wide: bool = False, enciphers: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=wide,
        key_encipherment=enciphers,
        data_encipherment=enciphers,
        key_agreement=wide,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


# TLS 1.3, and 1.2 with ECDHE, ask the server's key for a signature and nothing more.
_ROOT_USAGE = _usage(ca=True)
# The original's, for whatever was built around it (RFC 3279 §2.3.1 has no keyAgreement with RSA, and nobody minds);
# with an elliptic curve there is no encipherment (RFC 8813 §3).
_LEAF_USAGES = {rsa: _usage(wide=True, enciphers=rsa) for rsa in (True, False)}


def root(key: keys.LeafPrivateKey, *, subject: x509.Name, days: int, now: datetime) -> x509.Certificate:
    """
    Return a self-signed certificate that is CA and TLS server at once, for ``days`` from ``now``.

    Clients compare the common name of ``subject`` with the name that they call, and Java the alternative names as
    well, where there are any. So the common name is one; a host whose name DNS does not know, such as ``nifi_ca``, has
    none, and Java goes by its common name.

    :raises Malformed: a subject without a common name, a key that is not certified.
    :raises UsageError: days beyond a hundred years, or none.
    """
    if not 0 < days <= MAX_DAYS:
        raise UsageError(f"a certificate for {days} days", hint=f"choose 1 to {MAX_DAYS}")
    common_name = dn.common_name(subject)
    if common_name is None:
        raise Malformed(
            f"the CA's subject {dn.written(subject)!r} has no common name",
            hint="clients compare it with the host name they call: CN=ca.lan, OU=NIFI",
        )
    public_key = keys.check_strength(key.public_key())
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ROOT_USAGE, critical=True)
        # SHA-1: a toolkit before 1.20 finds the CA by nothing else, and would leave it out of its PKCS #12 stores.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.ExtendedKeyUsage(_usages(Role.PEER)), critical=False)
    )
    if name := _as_name(common_name):
        general_names = _general_names(common_name, name)
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names), critical=False)
    return builder.sign(key, keys.signature_hash(key))


def check_root(certificate: x509.Certificate, *, now: datetime) -> tuple[str, ...]:
    """
    Check that leaves under a certificate which somebody else made will verify; return what its owner should know.

    *Not* checked: who made it, and whether its key was kept secret.

    :raises Malformed: a key that is not certified.
    :raises Refused: it cannot be such a root (see ``check_kind``), or is not valid now.
    """
    check_kind(certificate)
    subject = dn.written(certificate.subject)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= last:
        raise Refused(
            f"the certificate of {subject!r} expired at {last:%Y-%m-%d %H:%M} UTC",
            hint="what it would sign verifies nowhere: make a new CA, and give every node its certificate",
        )
    if now < first:
        raise Refused(
            f"the certificate of {subject!r} is valid from {first:%Y-%m-%d %H:%M} UTC only",
            hint="check the clock of this machine",
        )
    if last - now < ENDS_SOON:
        return (f"the certificate of {subject!r} expires at {last:%Y-%m-%d %H:%M} UTC, and all that it signs with it",)
    return ()


def check_kind(certificate: x509.Certificate) -> None:
    """
    Check that a certificate can be root and TLS server at once. *Not* checked: its dates.

    :raises Malformed: a key that is not certified.
    :raises Refused: it is not self-signed, not a CA's, or may not sign certificates or handshakes.
    """
    subject = dn.written(certificate.subject)
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *keys.UNREADABLE):
        raise Refused(
            f"the certificate of {subject!r} is not self-signed",
            hint="the toolkit's clients accept a chain of exactly one: there is no place for its issuer",
        ) from None
    keys.check_strength(certificate.public_key())
    if not _is_ca(certificate):
        raise Refused(f"the certificate of {subject!r} is not a CA's", hint="its leaves would verify nowhere")
    if not _signs(certificate):
        raise Refused(
            f"the key of {subject!r} may not sign both certificates and TLS handshakes",
            hint="on this wire the CA is the server: take a certificate with both key usages, or with none stated",
        )


class LeafProfile:
    """How such a root makes leaves: as the toolkit's own CA, and with the machine's SPIFFE ID as its last name."""

    def __init__(self, issuer: x509.Certificate) -> None:
        self._issuer = issuer
        self._identifier = authority_key_identifier(issuer)

    def builder(self, grant: Grant, serial: int) -> x509.CertificateBuilder:
        """
        Return a builder that lacks nothing but the signature.

        The extensions are in the original's order, and the common name is the first alternative name if it was
        granted, for NiFi's users have scripts that take the first. A certificate is for what its role does; the
        original's are all for both.

        :raises Malformed: a key that is not certified, or a subject that cannot be.
        :raises Refused: nothing is left of the lifetime.
        """
        public_key = keys.load_spki(grant.public_key)
        not_before, not_after = validity(grant, self._issuer)
        subject = _subject(grant)
        general_names: list[x509.GeneralName] = [
            *_general_names(dn.common_name(subject) or "", grant.names),
            x509.UniformResourceIdentifier(grant.spiffe_id),
        ]
        return (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._issuer.subject)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGES[isinstance(public_key, RSAPublicKey)], critical=True)
            .add_extension(key_identifier(grant.public_key), critical=False)
            .add_extension(self._identifier, critical=False)
            .add_extension(x509.ExtendedKeyUsage(_usages(grant.role)), critical=False)
            .add_extension(x509.SubjectAlternativeName(general_names), critical=False)
        )


def _usages(role: Role) -> list[x509.ObjectIdentifier]:
    """Return those of ``x509.usages``, clientAuth first as the original has them."""
    return sorted(usages(role), key=lambda usage: usage != ExtendedKeyUsageOID.CLIENT_AUTH)


def _subject(grant: Grant) -> x509.Name:
    if grant.subject is not None:
        return dn.from_der(grant.subject)
    if len(grant.machine) > MAX_COMMON_NAME:
        raise Malformed(
            f"the machine name {grant.machine!r} is longer than a common name",
            hint=f"NiFi knows a machine by its subject: use at most {MAX_COMMON_NAME} characters",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, grant.machine)])


def _general_names(common_name: str, names: Names) -> list[x509.GeneralName]:
    """Return ``names``, the common name first if it is among them."""
    first, texts = _as_name(common_name).texts(), names.texts()
    ordered = [*(text for text in first if text in texts), *(text for text in texts if text not in first)]
    addresses = {str(ip): ip for ip in names.ips}
    return [x509.IPAddress(addresses[text]) if text in addresses else x509.DNSName(text) for text in ordered]


def _as_name(text: str) -> Names:
    """Return ``text`` as a DNS name or an address; nothing if it is neither."""
    try:
        return Names.parse([text])
    except Malformed:
        return Names()


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except keys.UNREADABLE:
        return False


def _signs(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True  # RFC 5280 §4.2.1.3: then the key is for everything
    return usage.key_cert_sign and usage.digital_signature
