"""The keys of a request under way, as they are stored until it is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


@dataclass(frozen=True, slots=True)
class Pending:
    """
    The keys made for one purpose: an invitation's key id, or the serial of the credential being renewed.

    They are encoded as one document, so that no crash can part a key from what it is for.
    """

    purpose_id: str
    private_key: ec.EllipticCurvePrivateKey
    reintroduction_key: ed25519.Ed25519PrivateKey

    @classmethod
    def generate(cls, purpose_id: str) -> Self:
        """Make new keys: P-256 for the certificate, Ed25519 to come back with."""
        return cls(purpose_id, ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate())

    def encode(self) -> bytes:
        """Return JSON with both keys in the clear: for a file with mode 0600 only."""
        return json.dumps(
            {
                "purpose_id": self.purpose_id,
                "private_key": key_pem(self.private_key).decode(),
                "reintroduction_key": key_pem(self.reintroduction_key).decode(),
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """:raises ValueError, TypeError, KeyError, AttributeError: not what ``encode`` returns."""
        stored = json.loads(data)
        return cls(
            stored["purpose_id"],
            load_private_key(stored["private_key"].encode()),
            load_reintroduction_key(stored["reintroduction_key"].encode()),
        )


def key_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """Return an unencrypted PKCS #8 key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """:raises ValueError: not a key. :raises TypeError: a key of another kind."""
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic-curve key")
    return key


def load_reintroduction_key(pem: bytes) -> ed25519.Ed25519PrivateKey:
    """:raises ValueError: not a key. :raises TypeError: a key of another kind."""
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise TypeError("not an Ed25519 key")
    return key
