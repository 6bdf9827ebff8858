"""
A place where an authority is built before it appears, entirely or not at all.

Everything is written into a sibling directory, made durable, and then appears under its name in one rename. A crash
before that leaves a hidden directory of keys that never signed for anybody, which may be deleted.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from handfast.adapters import files
from handfast.authority.signers import Signer, pkcs8
from handfast.core.secret import Secret
from handfast.errors import Fault, Refused


class Room:
    """Writes keys and public files, all below ``directory`` but for an offline root key."""

    def __init__(self, directory: Path, passphrase: Secret | None) -> None:
        self.directory = directory
        self._passphrase = passphrase

    def key(self, path: Path, key: Signer | RSAPrivateKey) -> None:
        """Write a private key. :raises Fault: the path exists, the disk failed."""
        files.write_new(path, pkcs8.dump(key, self._passphrase))

    def public(self, name: str, content: bytes) -> None:
        """Write a file that everybody may read. :raises Fault: the path exists, the disk failed."""
        files.write_new(self.directory / name, content, mode=0o644)

    def appear(self, directory: Path) -> None:
        """Give the directory its name, when the names in it are durable. :raises OSError: the disk failed."""
        files.sync_directory(self.directory)
        self.directory.rename(directory)


@contextmanager
def building(directory: Path, passphrase: Secret | None) -> Iterator[Room]:
    """
    Provide a room for ``with``, whose body fills it and ends with ``appear``; if the body fails, it is removed.

    :raises Refused: the directory appeared meanwhile, or the passphrase is empty.
    :raises Fault: the disk failed; nothing is left behind then.
    """
    if passphrase is not None and not passphrase.reveal():
        raise Refused("the passphrase is empty", hint="give one, or none at all to rely on file permissions")
    require_new(directory)
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sibling = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".new", dir=directory.parent))
        try:
            yield Room(sibling, passphrase)
        except BaseException:
            shutil.rmtree(sibling, ignore_errors=True)
            raise
        files.sync_directory(directory.parent)
    except Fault as error:
        raise Fault(
            f"cannot make the authority in {str(directory)!r}: {error.message}", hint="nothing was made; try again"
        ) from error
    except OSError as error:
        raise _failed(error, directory) from error


def require_new(path: Path) -> None:
    """:raises Refused: something is there, be it a dangling link."""
    if os.path.lexists(path):
        raise _exists(path)


def _exists(path: Path) -> Refused:
    return Refused(f"{str(path)!r} exists", hint="no authority is ever overwritten: choose another place, or move it")


def _failed(error: OSError, directory: Path) -> Fault | Refused:
    if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:  # somebody else was quicker
        return _exists(Path(error.filename2 or error.filename or directory))
    return Fault(
        f"cannot make the authority in {str(directory)!r}: {(error.strerror or '').lower()}",
        hint="nothing was made; try again",
    )
