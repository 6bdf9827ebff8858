"""What is kept of an instance beside the ledger: the password of an agent without TLS, and a key to be delivered."""

from __future__ import annotations

import shutil
from pathlib import Path

from handfast.adapters import files
from handfast.adapters.files import private_directory
from handfast.controller.credential import DIRECTORY
from handfast.core.secret import Secret
from handfast.errors import NotFound

DELIVERED = "delivered"
PASSWORDS = "passwords"


def password_of(data: Path, name: str) -> Secret | None:
    """Return the password of an agent without TLS, if it was added with one. :raises Fault: :raises Unsafe:"""
    try:
        return Secret(files.read_private(data / DIRECTORY / PASSWORDS / name))
    except NotFound:
        return None


def keep_password(data: Path, name: str, password: Secret) -> None:
    """Keep the password of an agent without TLS. :raises Fault: the disk."""
    private_directory(data / DIRECTORY)
    private_directory(data / DIRECTORY / PASSWORDS)
    files.write_atomic(data / DIRECTORY / PASSWORDS / name, password.reveal())


def forget_key(data: Path, name: str) -> None:
    """Remove the key that was made for an instance, if there is one."""
    shutil.rmtree(data / DIRECTORY / DELIVERED / name, ignore_errors=True)


def forget(data: Path, name: str) -> None:
    """Remove all that is kept of an instance beside the ledger. :raises Fault: the disk."""
    forget_key(data, name)
    with files.faults("remove", data / DIRECTORY / PASSWORDS / name):
        (data / DIRECTORY / PASSWORDS / name).unlink(missing_ok=True)
