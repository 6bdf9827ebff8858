"""Throw-away credentials in the shape a newcomer receives them, made with nothing but cryptography."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from handfast.newcomer.layouts import Material

_START = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(
    subject: str,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    serial: int,
) -> x509.Certificate:
    """A certificate for a year; a CA if its name says so."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_START)
        .not_valid_after(_START + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca="CA" in subject, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


def material(serial: int) -> Material:
    """A leaf with this serial under an issuing CA under a root; the identity names the serial."""
    root_key, issuing_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("Root CA", root_key.public_key(), "Root CA", root_key, serial=1)
    issuing = certificate("Issuing CA", issuing_key.public_key(), "Root CA", root_key, serial=2)
    leaf = certificate("web1.lan", key.public_key(), "Issuing CA", issuing_key, serial=serial)
    der = [one.public_bytes(Encoding.DER) for one in (leaf, issuing, root)]
    return Material(
        leaf=der[0],
        chain=(der[1],),
        trust=(der[2],),
        private_key=key,
        reintroduction_key=ed25519.Ed25519PrivateKey.generate(),
        identity={"serial": serial},
    )
