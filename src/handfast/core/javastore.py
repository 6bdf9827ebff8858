"""Java key stores of either format as bytes. Reading finds the format by itself; writing is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum

from handfast.core import jks
from handfast.core.javaentry import Entry, KeyEntry, TrustedEntry
from handfast.core.jks import read_jks, write_jks
from handfast.core.pfx import read_pfx, write_pfx
from handfast.core.secret import Secret
from handfast.errors import Malformed, UsageError

__all__ = ["Entry", "KeyEntry", "StoreType", "TrustedEntry", "read", "write"]

_JCEKS_MAGIC = bytes.fromhex("cececece")
_SEQUENCE = b"\x30"


class StoreType(StrEnum):
    """A format by Java's own name."""

    JKS = "JKS"
    PKCS12 = "PKCS12"

    @classmethod
    def parse(cls, text: str) -> StoreType:
        """
        Return the type that ``text`` names, in upper or lower case as Java takes it.

        :raises UsageError: another one.
        """
        if text.isascii() and text.upper() in cls.__members__:
            return cls[text.upper()]
        if text.upper() == "BCFKS":
            raise UsageError(f"the store type {text!r} needs BouncyCastle", hint="use PKCS12")
        raise UsageError(f"unknown store type {text!r}", hint=f"known types: {', '.join(cls)}")

    @property
    def suffix(self) -> str:
        """The end of a file name, without a dot."""
        return self.value.lower()


def write(
    entries: Sequence[Entry],
    store_type: StoreType,
    *,
    password: Secret,
    created_at: datetime,
    random_bytes: Callable[[int], bytes],
) -> bytes:
    """
    Return a store. ``random_bytes`` gives so many fresh random bytes (``os.urandom``).

    :raises UsageError: an alias or a password that Java could not use.
    """
    writer = write_jks if store_type is StoreType.JKS else write_pfx
    return writer(entries, password=password, created_at=created_at, random_bytes=random_bytes)


def read(data: bytes, *, password: Secret, key_password: Secret | None = None) -> tuple[Entry, ...]:
    """
    Return the entries of a store whose format its first bytes tell.

    As Java since version 9, whatever a configuration calls the file. ``key_password`` None means the store's own.

    :raises Refused: the store or the key password is wrong, or the store was changed.
    :raises Malformed: it is no store, one of another kind, or not well-formed.
    :raises UsageError: a password that is not UTF-8.
    """
    if data.startswith(jks.MAGIC):
        return read_jks(data, password=password, key_password=key_password)
    if data.startswith(_SEQUENCE):
        return read_pfx(data, password=password, key_password=key_password)
    if data.startswith(_JCEKS_MAGIC):
        raise Malformed("a JCEKS store, which is not read here", hint="convert it: keytool -importkeystore")
    raise Malformed("neither a JKS nor a PKCS #12 store", hint="check which file this is")
