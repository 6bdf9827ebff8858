"""
Signing keys in files: PKCS#8 PEM, for the owner alone, encrypted when a passphrase is given.

*Not* protected against: root, a backup of an unencrypted file, and whoever reads this process's memory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.utils import Buffer

from handfast.core.secret import Secret
from handfast.errors import Fault, Malformed, Refused, Unsafe

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

    :raises Unsafe: the group or others may read or write the file, or somebody else than us or root owns it.
    :raises Refused: it is encrypted and the passphrase is missing or wrong, or it is plain and a passphrase was given.
    :raises Malformed: not a private key, or of a kind that does not sign here.
    :raises Fault: it cannot be read.
    """
    pem = read_private(path)
    if passphrase is not None and b"ENCRYPTED" not in pem:
        # Whoever configures a passphrase believes that the key is encrypted.
        raise Refused(
            f"a passphrase was given, but {str(path)!r} is not encrypted", hint="remove one or encrypt the other"
        )
    try:
        key = load_pem_private_key(pem, passphrase.reveal() if passphrase else None)
    except TypeError:
        raise Refused(f"{str(path)!r} is encrypted", hint="give the passphrase it was made with") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise Refused(f"the passphrase does not open {str(path)!r}", hint="give the one it was made with") from None
        raise Malformed(f"{str(path)!r} is not a private key in PKCS#8 PEM: {str(error)[:80]}") from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return FileSigner(key)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Ed25519FileSigner(key)
    raise Malformed(f"{str(path)!r} holds a {type(key).__name__}", hint="an authority signs with ECDSA or Ed25519 keys")


def read_private(path: Path) -> bytes:
    """
    Return a small file that only its owner can read; see ``load`` for the errors.

    The checks are made on the open file and not on its name, which could be exchanged in between.
    """
    try:
        # Not blocking: a pipe put in place of the file must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Fault(f"cannot read {str(path)!r}: {error.strerror}") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise Unsafe(f"{str(path)!r} is not a regular file", hint="put the key itself there")
        check_private(facts, path)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_KEY_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_KEY_FILE:
        raise Malformed(f"{str(path)!r} is larger than {MAX_KEY_FILE} bytes")
    return content


def check_private(facts: os.stat_result, path: Path) -> None:
    """
    Check that only we (or root) can read and write what ``facts`` describe. *Not* checked: the directories above.

    :raises Unsafe: with the mode or the owner found, and the command that mends it.
    """
    mode = stat.S_IMODE(facts.st_mode)
    wanted = "0700" if stat.S_ISDIR(facts.st_mode) else "0600"
    if mode & 0o077:
        raise Unsafe(f"{str(path)!r} has mode {mode:04o}, others can get at it", hint=f"chmod {wanted} '{path}'")
    if facts.st_uid not in {os.geteuid(), 0}:
        raise Unsafe(
            f"{str(path)!r} belongs to user {facts.st_uid}, and we are {os.geteuid()}",
            hint=f"chown {os.geteuid()} '{path}'",
        )
