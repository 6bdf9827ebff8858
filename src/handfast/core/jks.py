"""
Java's old key store format, JKS version 2, for software that reads nothing newer.

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
import hmac
import struct
from collections.abc import Callable, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat import asn1

from handfast.core.javaentry import (
    Entry,
    KeyEntry,
    TrustedEntry,
    checked,
    unique,
    utf16,
    wrong_key_password,
    wrong_password,
)
from handfast.core.secret import Secret
from handfast.errors import Malformed

MAGIC = bytes.fromhex("feedfeed")
_VERSION = 2
_KEY, _TRUSTED = 1, 2
_WHITENER = b"Mighty Aphrodite"
_DIGEST = hashlib.sha1().digest_size
_SUN_KEY_PROTECTOR = x509.ObjectIdentifier("1.3.6.1.4.1.42.2.17.1.1")


@asn1.sequence
class _Algorithm:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null


@asn1.sequence
class _EncryptedPrivateKeyInfo:
    algorithm: _Algorithm
    data: bytes


def write_jks(
    entries: Sequence[Entry], *, password: Secret, created_at: datetime, random_bytes: Callable[[int], bytes]
) -> bytes:
    """
    Return a JKS store. Passwords are UTF-8; aliases are folded to lower case, as Java does.

    ``random_bytes`` gives so many fresh random bytes. *Not* checked: that a key belongs to its chain.

    :raises UsageError: an entry that ``javaentry.checked`` refuses, or a password that is not UTF-8.
    """
    millis = int(created_at.timestamp() * 1000)
    body = MAGIC + struct.pack(">II", _VERSION, len(entries))
    for alias, entry in checked(entries):
        head = _string(alias) + struct.pack(">Q", millis)
        if isinstance(entry, KeyEntry):
            body += struct.pack(">I", _KEY) + head
            body += _block(_protect(entry.private_key, entry.password, salt=random_bytes(_DIGEST)))
            body += struct.pack(">I", len(entry.chain)) + b"".join(map(_certificate, entry.chain))
        else:
            body += struct.pack(">I", _TRUSTED) + head + _certificate(entry.certificate)
    return body + _digest(body, password)


def read_jks(data: bytes, *, password: Secret, key_password: Secret | None = None) -> tuple[Entry, ...]:
    """
    Return the entries of a JKS store, in the order of the file.

    Nothing is looked at before the digest fits. ``key_password`` None means the store's own.
    *Not* checked: that certificates are certificates, or that a key belongs to its chain.

    :raises Refused: the store or the key password is wrong, or the store was changed.
    :raises Malformed: the digest fits, but what it covers is not JKS version 2.
    :raises UsageError: a password that is not UTF-8.
    """
    if data[:4] != MAGIC:
        raise Malformed("not a JKS store: it does not begin with FEEDFEED", hint="check which file this is")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if not hmac.compare_digest(digest, _digest(body, password)):
        raise wrong_password()
    reader = _Reader(body[4:])
    version, count = reader.number(4), reader.number(4)
    if version != _VERSION:
        raise Malformed(f"JKS version {version} is not supported", hint="make the store again with a current Java")
    # a count beyond the content ends at its first missing entry: nothing is allocated for it
    entries = unique([_entry(reader, key_password or password) for _ in range(count)])
    if reader.rest:
        raise _malformed(f"{len(reader.rest)} bytes after the last entry")
    return entries


def _entry(reader: _Reader, key_password: Secret) -> Entry:
    tag, alias = reader.number(4), _modified_utf8(reader.string()).lower()
    reader.number(8)  # when it was made, says whoever made it
    if tag == _TRUSTED:
        return TrustedEntry(alias, reader.certificate())
    if tag != _KEY:
        raise _malformed(f"the entry {alias!r} is of kind {tag}")
    key = _recover(reader.block(), key_password, alias)
    return KeyEntry(alias, key, tuple(reader.certificate() for _ in range(reader.number(4))), key_password)


class _Reader:
    """Takes values from the front of ``rest``. :raises Malformed: there is less than was announced."""

    def __init__(self, data: bytes) -> None:
        self.rest = memoryview(data)

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise _malformed(f"{size} bytes announced, {len(self.rest)} there")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return bytes(taken)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def string(self) -> bytes:
        return self.take(self.number(2))

    def block(self) -> bytes:
        return self.take(self.number(4))

    def certificate(self) -> bytes:
        kind = self.string()
        if kind != b"X.509":
            raise _malformed(f"a certificate of kind {kind[:20]!r}")
        return self.block()


def _protect(private_key: Secret, password: Secret, *, salt: bytes) -> bytes:
    """Return the EncryptedPrivateKeyInfo (DER) of Sun's key protector."""
    key, passphrase = private_key.reveal(), utf16(password)
    hidden = salt + _whiten(key, passphrase, salt) + hashlib.sha1(passphrase + key).digest()
    algorithm = _Algorithm(algorithm=_SUN_KEY_PROTECTOR, parameters=asn1.Null())
    return asn1.encode_der(_EncryptedPrivateKeyInfo(algorithm=algorithm, data=hidden))


def _recover(der: bytes, password: Secret, alias: str) -> Secret:
    """Return what ``_protect`` hid."""
    try:
        info = asn1.decode_der(_EncryptedPrivateKeyInfo, der)
    except ValueError:
        raise _malformed(f"the key of {alias!r} is not an EncryptedPrivateKeyInfo") from None
    if info.algorithm.algorithm != _SUN_KEY_PROTECTOR or len(info.data) < 2 * _DIGEST:
        raise _malformed(f"the key of {alias!r} is not protected the way of JKS")
    salt, hidden, digest = info.data[:_DIGEST], info.data[_DIGEST:-_DIGEST], info.data[-_DIGEST:]
    passphrase = utf16(password)
    key = _whiten(hidden, passphrase, salt)
    if not hmac.compare_digest(digest, hashlib.sha1(passphrase + key).digest()):
        raise wrong_key_password(alias)
    return Secret(key)


def _whiten(text: bytes, passphrase: bytes, salt: bytes) -> bytes:
    """XOR with the stream; the same in both directions."""
    stream, digest = bytearray(), salt  # bytes would be copied each time: minutes for a few megabytes
    while len(stream) < len(text):
        digest = hashlib.sha1(passphrase + digest).digest()
        stream += digest
    return bytes(a ^ b for a, b in zip(text, stream, strict=False))


def _digest(body: bytes, password: Secret) -> bytes:
    return hashlib.sha1(utf16(password) + _WHITENER + body).digest()


def _modified_utf8(data: bytes) -> str:
    """Decode what Java's ``writeUTF`` makes: NUL in two bytes, characters beyond the BMP as two surrogates."""
    try:
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    except UnicodeDecodeError:
        raise _malformed(f"the alias {data[:80]!r} is not text") from None


def _malformed(what: str) -> Malformed:
    return Malformed(f"not a well-formed JKS store: {what}", hint="make the store again; its writer is at fault")


def _string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("ascii")


def _block(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _certificate(der: bytes) -> bytes:
    return _string("X.509") + _block(der)
