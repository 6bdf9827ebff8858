"""
Java's old key store format, JKS version 2, for software that reads nothing newer. Write only.

It is weak, and nothing here makes it better. Keys are "protected" by XOR with a chain of SHA-1
hashes of the password, so a guess costs two hashes; the integrity check is one SHA-1 over the
password and the content; certificates are in the clear. Whoever can read the file can search for the
password at full speed. Protect the file by its mode, use a random password, prefer PKCS #12.

The format has no specification; these are its facts. Numbers are big-endian, a string is a
two-byte length and bytes, the password is taken as UTF-16BE:

    store     FEEDFEED, u4 version 2, u4 entries, entry*, SHA-1(password || "Mighty Aphrodite" || all before)
    key       u4 1, string alias, u8 ms since 1970, u4 length, EncryptedPrivateKeyInfo, u4 certificates, certificate*
    trusted   u4 2, string alias, u8 ms since 1970, certificate
    certificate   string "X.509", u4 length, DER

The EncryptedPrivateKeyInfo (RFC 5208 §6) has Sun's algorithm 1.3.6.1.4.1.42.2.17.1.1 and holds
salt (20) || key XOR stream || SHA-1(password || key), where stream is d1 || d2 || … with
d1 = SHA-1(password || salt) and d(n+1) = SHA-1(password || d(n)).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from handfast.core.secret import Secret
from handfast.errors import UsageError

_MAGIC = 0xFEEDFEED
_VERSION = 2
_KEY, _TRUSTED = 1, 2
_WHITENER = b"Mighty Aphrodite"
# SEQUENCE { OBJECT IDENTIFIER 1.3.6.1.4.1.42.2.17.1.1, NULL }
_SUN_KEY_PROTECTOR = bytes.fromhex("300e 060a 2b06010401 2a021101 01 0500")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """
    A private key and its chain.

    ``private_key`` is a PKCS #8 PrivateKeyInfo (DER); ``chain`` is DER, the key's own certificate
    first. ``password`` protects the key and is the store's own unless the reader is told otherwise.
    """

    alias: str
    private_key: Secret
    chain: tuple[bytes, ...]
    password: Secret


@dataclass(frozen=True, slots=True)
class TrustedEntry:
    """A certificate (DER) that is trusted by itself."""

    alias: str
    certificate: bytes


def write_jks(entries: Sequence[KeyEntry | TrustedEntry], *, password: Secret, created_at: datetime) -> bytes:
    """
    Return a JKS store. Passwords are UTF-8; aliases are folded to lower case, as Java does.

    *Not* checked: that a key belongs to its chain.

    :raises UsageError: an alias that is empty, not printable ASCII or there twice.
    """
    aliases = [_alias(entry.alias) for entry in entries]
    for alias in aliases:
        if aliases.count(alias) > 1:
            raise UsageError(f"the alias {alias!r} is there twice", hint="give every entry its own")
    millis = int(created_at.timestamp() * 1000)
    body = struct.pack(">III", _MAGIC, _VERSION, len(entries))
    for alias, entry in zip(aliases, entries, strict=True):
        if isinstance(entry, KeyEntry):
            body += struct.pack(">I", _KEY) + _string(alias) + struct.pack(">Q", millis)
            body += _block(_protect(entry.private_key, entry.password, salt=os.urandom(20)))
            body += struct.pack(">I", len(entry.chain)) + b"".join(map(_certificate, entry.chain))
        else:
            body += struct.pack(">I", _TRUSTED) + _string(alias) + struct.pack(">Q", millis)
            body += _certificate(entry.certificate)
    return body + hashlib.sha1(_utf16(password) + _WHITENER + body).digest()


def _protect(private_key: Secret, password: Secret, *, salt: bytes) -> bytes:
    """Return the EncryptedPrivateKeyInfo (DER) of Sun's key protector."""
    key, passphrase = private_key.reveal(), _utf16(password)
    stream, digest = b"", salt
    while len(stream) < len(key):
        digest = hashlib.sha1(passphrase + digest).digest()
        stream += digest
    hidden = bytes(a ^ b for a, b in zip(key, stream, strict=False))
    return _der(0x30, _SUN_KEY_PROTECTOR + _der(0x04, salt + hidden + hashlib.sha1(passphrase + key).digest()))


def _alias(text: str) -> str:
    if not (0 < len(text) < 256 and text.isascii() and text.isprintable()):
        raise UsageError(f"not an alias: {text[:80]!r}", hint="use 1 to 255 printable ASCII characters")
    return text.lower()


def _utf16(password: Secret) -> bytes:
    return password.reveal().decode().encode("utf-16-be")


def _string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("ascii")


def _block(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _certificate(der: bytes) -> bytes:
    return _string("X.509") + _block(der)


def _der(tag: int, content: bytes) -> bytes:
    """Return one DER element (X.690 §8.1.3)."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content
