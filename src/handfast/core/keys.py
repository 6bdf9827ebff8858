"""
Public keys: which ones we certify, how they are named, and the pin.

A pin is the SHA-256 of a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), all 256 bits: it names the key
and not the certificate, so that a root may be re-issued over the same key without a new pin.
"""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from handfast.errors import Malformed

LeafPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
LeafPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# P-521 is left out because browsers do not negotiate it: such a credential would fail far from here.
CURVES = frozenset({"secp256r1", "secp384r1"})
RSA_BITS = range(2048, 8192 + 1)  # above, a stranger's one signature would cost us milliseconds
RSA_EXPONENT = 65537  # what every tool makes; a small one is weak, a long one slow for every verifier
MAX_SPKI = 2048  # an RSA 8192 key takes 1060 bytes
# What cryptography raises for X.509 bytes that it cannot read; these have no common base below Exception.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.ExtensionNotFound,
)
_HINT = "make a P-256 key (or P-384, or RSA with 2048 to 8192 bits)"
_PIN = re.compile(r"[0-9a-f]{64}")


def spki(public_key: PublicKeyTypes) -> bytes:
    """Return the DER SubjectPublicKeyInfo."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(public_key: PublicKeyTypes) -> bytes:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo: 32 bytes, a root's pin."""
    return hashlib.sha256(spki(public_key)).digest()


def check_strength(public_key: PublicKeyTypes) -> LeafPublicKey:
    """
    Return ``public_key`` if we certify such keys.

    An allow-list: P-256, P-384, and RSA of 2048 to 8192 bits with exponent 65537. Ed25519 is refused
    too, since common X.509 path verifiers (browsers, and the one we use) refuse it. *Not* checked:
    whether an RSA modulus is well made, or whether the key is known to others.

    :raises Malformed: any other key; names its type and size.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if public_key.curve.name in CURVES:
            return public_key
    elif isinstance(public_key, rsa.RSAPublicKey):
        if public_key.public_numbers().e != RSA_EXPONENT:
            # In hex: Python refuses to write very large numbers, such as a stranger's exponent, in decimal.
            exponent = f"{public_key.public_numbers().e:#x}"[:20]
            raise Malformed(f"RSA exponent {exponent!r} is not certified here, only {RSA_EXPONENT:#x}", hint=_HINT)
        if public_key.key_size in RSA_BITS:
            return public_key
    raise Malformed(f"key type {describe(public_key)!r} is not certified here", hint=_HINT)


def load_spki(der: bytes) -> LeafPublicKey:
    """
    Read a DER SubjectPublicKeyInfo strictly and check the key's strength.

    :raises Malformed: not DER, not in its one canonical form, or a key that is not certified.
    """
    if len(der) > MAX_SPKI:
        raise Malformed(f"a public key of {len(der)} bytes, at most {MAX_SPKI} are read", hint=_HINT)
    try:
        key = load_der_public_key(der)
    except UNREADABLE as error:
        raise Malformed(f"not a public key: {str(error)[:120]!r}", hint=_HINT) from None
    strong = check_strength(key)
    if spki(key) != der:
        # The certificate would carry other bytes than those that were hashed and agreed on.
        raise Malformed("the public key is not in canonical form", hint="use the uncompressed form with a named curve")
    return strong


def describe(public_key: PublicKeyTypes) -> str:
    """Return the key's type and size for people: ``P-256``, ``RSA 2048``, ``Ed25519``."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        known = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
        return known.get(public_key.curve.name, public_key.curve.name)
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA {public_key.key_size}"
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    return type(public_key).__name__.removesuffix("PublicKey")


def signature_hash(key: LeafPublicKey | LeafPrivateKey) -> SHA256 | SHA384:
    """Return the hash that fits the key: SHA-384 with P-384 (RFC 5758 §3.2), else SHA-256."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return SHA384()
    return SHA256()


def format_pin(pin: bytes) -> str:
    """Return a pin (32 bytes) as 64 lower-case hex digits."""
    return pin.hex()


def parse_pin(text: str) -> bytes:
    """
    Read a pin as people copy it: 64 hex digits in either case, colons allowed. Never a short form.

    :raises Malformed: anything else.
    """
    digits = text.strip().lower().replace(":", "")
    if not _PIN.fullmatch(digits):
        raise Malformed(f"not a pin: {text[:80]!r}", hint="give all 64 hex digits that `handfast ca show` prints")
    return bytes.fromhex(digits)
