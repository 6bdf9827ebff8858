"""
Signing keys in files: PKCS#8 PEM, for the owner alone, encrypted when a passphrase is given.

*Not* protected against: root, a backup of an unencrypted file, and whoever reads this process's memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.utils import Buffer

from handfast.adapters import files
from handfast.core.secret import Secret
from handfast.errors import Fault, Malformed, NotFound, Refused

MAX_KEY_FILE = 64 * 1024  # bytes


class _Sealed:
    """What no signer does: give its key away. Code that works with a file then works with a token as well."""

    def private_bytes(self, *_args: Any, **_options: Any) -> NoReturn:
        raise TypeError("a signer signs; its private key is not exported")

    private_bytes_raw = private_numbers = exchange = private_bytes
    __copy__ = __deepcopy__ = __reduce__ = private_bytes

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class FileSigner(_Sealed, ec.EllipticCurvePrivateKey):
    """An ECDSA key from a file, for X.509."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = key.public_key()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._key.curve

    @property
    def key_size(self) -> int:
        return self._key.key_size

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        return self._key.sign(data, signature_algorithm)


class Ed25519FileSigner(_Sealed, ed25519.Ed25519PrivateKey):
    """An Ed25519 key from a file, for the log and for SSH."""

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()

    def public_key(self) -> ed25519.Ed25519PublicKey:
        return self._public

    def sign(self, data: Buffer) -> bytes:
        return self._key.sign(data)


def load(path: Path, passphrase: Secret | None = None) -> FileSigner | Ed25519FileSigner:
    """
    Read a signing key.

    :raises Malformed: of a kind that does not sign here. All else as ``read``.
    """
    key = read(path, passphrase)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return FileSigner(key)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Ed25519FileSigner(key)
    raise Malformed(f"{str(path)!r} holds a {type(key).__name__}", hint="an authority signs with ECDSA or Ed25519 keys")


def read(path: Path, passphrase: Secret | None = None) -> PrivateKeyTypes:
    """
    Read a key as it is, for what has to have the key itself.

    :raises Unsafe: the group or others may read or write the file, or somebody else than us or root owns it.
    :raises Refused: it is encrypted and the passphrase is missing or wrong, or it is plain and a passphrase was given.
    :raises Malformed: not a private key. :raises TooMuch: no key is so long. :raises Fault: it cannot be read.
    """
    try:
        pem = files.read_private(path, owner=0, limit=MAX_KEY_FILE)  # root may own what a service reads
    except NotFound:
        raise Fault(f"cannot read {str(path)!r}: no such file", hint="restore it from its backup") from None
    if passphrase is not None and b"ENCRYPTED" not in pem:
        # Whoever configures a passphrase believes that the key is encrypted.
        raise Refused(
            f"a passphrase was given, but {str(path)!r} is not encrypted", hint="remove one or encrypt the other"
        )
    try:
        return load_pem_private_key(pem, passphrase.reveal() if passphrase else None)
    except TypeError:
        raise Refused(f"{str(path)!r} is encrypted", hint="give the passphrase it was made with") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise Refused(f"the passphrase does not open {str(path)!r}", hint="give the one it was made with") from None
        raise Malformed(f"{str(path)!r} is not a private key in PKCS#8 PEM: {str(error)[:80]}") from None
