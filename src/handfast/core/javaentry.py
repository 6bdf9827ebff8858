"""What a Java key store holds, whichever its format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused, UsageError


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """
    A private key and its chain: what Java calls a PrivateKeyEntry.

    ``private_key`` is a PKCS #8 PrivateKeyInfo (DER); ``chain`` is DER, the key's own certificate
    first. ``password`` protects the key and is the store's own unless the reader is told otherwise.
    """

    alias: str
    private_key: Secret
    chain: tuple[bytes, ...]
    password: Secret


@dataclass(frozen=True, slots=True)
class TrustedEntry:
    """A certificate (DER) that is trusted by itself: what Java calls a trustedCertEntry."""

    alias: str
    certificate: bytes


Entry = KeyEntry | TrustedEntry


def checked(entries: Iterable[Entry]) -> list[tuple[str, Entry]]:
    """
    Return the entries, each after its alias as it is stored: in lower case, as Java does it.

    :raises UsageError: an alias that is empty, not printable ASCII, over 255 characters or there
        twice, or a key without a certificate.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        alias = entry.alias.lower()
        if not (0 < len(alias) < 256 and alias.isascii() and alias.isprintable()):
            raise UsageError(f"not an alias: {entry.alias[:80]!r}", hint="use 1 to 255 printable ASCII characters")
        if alias in found:
            raise UsageError(f"the alias {alias!r} is there twice", hint="give every entry its own")
        if isinstance(entry, KeyEntry) and not entry.chain:
            raise UsageError(f"the key {alias!r} has no certificate", hint="Java keeps keys with their certificates")
        found[alias] = entry
    return list(found.items())


def unique(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """
    Return what was read, if no alias hides another.

    :raises Malformed: an alias that is there twice: programs would disagree on which entry it means.
    """
    found = tuple(entries)
    seen: set[str] = set()
    for entry in found:
        if entry.alias in seen:
            raise Malformed(f"the store has two entries {entry.alias!r}", hint="make it again with an alias for each")
        seen.add(entry.alias)
    return found


def utf16(password: Secret) -> bytes:
    """
    Return a password (UTF-8) as Java's characters, big-endian.

    :raises UsageError: it is not UTF-8.
    """
    try:
        return password.reveal().decode().encode("utf-16-be")
    except UnicodeDecodeError:
        raise UsageError("the password is not UTF-8", hint="Java's passwords are text: give it as UTF-8") from None


def wrong_password() -> Refused:
    """The store password did not fit. A changed byte looks the same: the check is over both at once."""
    return Refused(
        "the store password is wrong, or the store was changed or cut short",
        hint="give the password that the store was made with, or restore the file",
    )


def wrong_key_password(alias: str) -> Refused:
    """The store opened, and the password of the key did not fit."""
    return Refused(
        f"the key password does not open the entry {alias!r}",
        hint="give the password of the key: it differs from the store's in a store made with two passwords",
    )
