"""Certificates that OpenSSL shows and takes, and that cannot be read."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.controller.agents import self_signed


def of_version_4(der: bytes) -> bytes:
    """Return a certificate as one of a version that does not exist."""
    assert der.count(b"\xa0\x03\x02\x01\x02") == 1
    return der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03")


def by_nobody(der: bytes) -> bytes:
    """Return a certificate whose issuer and subject are no text in the encoding that they say."""
    assert der.count(b"\x0c\x05agent") == 2
    return der.replace(b"\x0c\x05agent", b"\x14\x05\xff\xfeent")


ODD = {"version 4": of_version_4, "no text": by_nobody}


def showing(kind: str, directory: Path) -> ssl.SSLContext:
    """Return a server's context that shows one of the odd kind."""
    key = ec.generate_private_key(ec.SECP256R1())
    shown = ODD[kind](self_signed(key).public_bytes(Encoding.DER))
    file = directory / "odd.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(pem + ssl.DER_cert_to_PEM_cert(shown).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    return context
