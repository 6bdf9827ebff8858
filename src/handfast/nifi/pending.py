"""The key of an enrolment under way, as it is stored until the node has its certificate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.core import keys
from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.nifi import stores

_CURVES = {256: ec.SECP256R1, 384: ec.SECP384R1}


@dataclass(frozen=True, slots=True)
class Pending:
    """A key under way, and the passwords of the stores it is for: one document, so that no crash parts them."""

    key: keys.LeafPrivateKey
    key_store_password: Secret
    key_password: Secret
    trust_store_password: Secret

    def encode(self) -> bytes:
        """Return JSON with all of it in the clear: for a file with mode 0600 only."""
        pem = stores.key_pem(self.key).decode()
        secrets = [self.key_store_password, self.key_password, self.trust_store_password]
        return json.dumps({"privateKey": pem, "passwords": [each.reveal().decode() for each in secrets]}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """:raises ValueError, TypeError, KeyError, AttributeError: not what ``encode`` returns."""
        stored = json.loads(data)
        key = load_pem_private_key(stored["privateKey"].encode(), password=None)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise TypeError("not a key of ours")
        first, second, third = (Secret(text.encode()) for text in stored["passwords"])
        return cls(key, first, second, third)


def check_kind(algorithm: str, size: int) -> None:
    """:raises UsageError: neither RSA of 2048 to 8192 bits nor EC of 256 or 384."""
    sizes = {"RSA": keys.RSA_BITS, "EC": _CURVES}.get(algorithm.upper(), ())
    if size not in sizes:
        raise UsageError(
            f"no keys of kind {algorithm[:20]!r} with {size} bits are made here",
            hint="use RSA with 2048 to 8192 bits, or EC with 256 or 384",
        )


def new_key(algorithm: str, size: int) -> keys.LeafPrivateKey:
    """Return a new key. :raises UsageError: as ``check_kind``."""
    check_kind(algorithm, size)
    if algorithm.upper() == "RSA":
        return rsa.generate_private_key(keys.RSA_EXPONENT, size)
    return ec.generate_private_key(_CURVES[size]())


def kind_of(key: keys.LeafPrivateKey) -> tuple[str, int]:
    """Return algorithm and size as in the configuration."""
    return ("RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC"), key.key_size
