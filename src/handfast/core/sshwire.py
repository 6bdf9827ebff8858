"""
The beginning of an SSH connection, up to the server's proof of its host key (RFC 4253, 5656, 8332, 8731).

The key exchange is signed with the host key, over what both sides said and this client's fresh values: whoever answers
has the private key, or reaches somebody who has. That is all we come for, so nothing is ever encrypted, and a key
exchange is chosen for being quick, not for what it would keep secret.

No I/O: ``converse`` is a generator that is sent what came, and yields what to send. All that comes is a stranger's.
Errors read as what the peer does ("closes the connection"), for the caller to put its name before.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import sshcert
from handfast.core.sshcert import Kind
from handfast.core.sshdata import Reader, mpint, string, strings
from handfast.core.sshkeys import CERTIFICATE_SUFFIX, SshKey, from_blob
from handfast.core.sshsig import fits, load_public
from handfast.errors import Malformed, Unreachable, UntrustedPeer

VERSION = b"SSH-2.0-handfast"
MAX_GREETING = 16 * 1024  # bytes up to the end of the version line; RFC 4253 §4.2 has no limit for the lines before it
MAX_VERSION = 255  # RFC 4253 §4.2, with CR LF
MAX_PACKET = 35_000  # RFC 4253 §6.1
MAX_RECEIVED = MAX_GREETING + 4 * MAX_PACKET  # on one connection, with what may be said in between
_MAX_NAME = 64  # RFC 4251 §6

_RSA = ("rsa-sha2-512", "rsa-sha2-256")  # RFC 8332; `ssh-rsa`, which signs with SHA-1, proves nothing any more
_PLAIN = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256",),
    ("ecdsa-sha2-nistp384",),
    ("ecdsa-sha2-nistp521",),
    _RSA,
)
# What one connection each can show: a server has at most one key of a family, and one certificate.
FAMILIES = (*_PLAIN, *(tuple(name + CERTIFICATE_SUFFIX for name in family) for family in _PLAIN))
ALGORITHMS = tuple(name for family in FAMILIES for name in family)

_REPLIED, _SIGNATURE = "its reply", "its signature"

# Never used, and yet both sides have to have one in common (RFC 4253 §7.1): so what any server still has.
_CIPHERS = (
    "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,"
    "aes128-ctr,aes192-ctr,aes256-ctr,aes128-cbc,aes256-cbc,3des-cbc"
)
_MACS = (
    "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,umac-128-etm@openssh.com,"
    "hmac-sha2-256,hmac-sha2-512,umac-128@openssh.com,hmac-sha1"
)

_DISCONNECT, _IGNORE, _UNIMPLEMENTED, _DEBUG, _KEXINIT, _INIT, _REPLY = 1, 2, 3, 4, 20, 30, 31
_IDENTIFICATION = re.compile(rb"SSH-(?:2\.0|1\.99)-[!-~][ -~]*")  # printable: it goes to terminals
_NAME = re.compile(r"[!-+\--~]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What one connection showed. ``key`` signed this key exchange; ``certificate`` is what it was shown in, or empty.

    ``key`` is None where the server has none of the algorithms asked for; ``algorithm`` is then empty.
    """

    banner: str
    offered: tuple[str, ...]
    algorithm: str = ""
    key: SshKey | None = None
    certificate: bytes = b""


# Yields what to send, is sent what came (empty: the peer has closed), returns what was shown.
Conversation = Generator[bytes, bytes, Shown]


def converse(algorithms: Sequence[str] = ALGORITHMS) -> Conversation:
    """
    Speak with a server until it has proved a host key of the first of ``algorithms`` that it has.

    Nothing is sent to a peer that has not said that it speaks SSH: another protocol gets no byte from us.
    *Not* checked: who the key belongs to, and of a certificate anything but its key and that it is a host's.

    :raises Malformed: what came breaks the protocol, or is more than ``MAX_RECEIVED`` bytes.
    :raises Unreachable: the peer closed the connection, or has no key exchange that we have.
    :raises UntrustedPeer: the peer does not have the private key of what it shows.
    """
    wire = _Wire()
    version = yield from wire.version()
    ours = _offer(algorithms)
    wire.send(VERSION + b"\r\n" + packet(ours))
    init = yield from wire.message(_KEXINIT, "its algorithms")
    theirs = _Offer.parse(init)
    algorithm = next((name for name in algorithms if name in theirs.host_key), None)
    if algorithm is None:
        return Shown(version.decode("ascii"), theirs.host_key)
    exchange = next((name for name in _EXCHANGES if name in theirs.exchange), None)
    if exchange is None:
        raise Unreachable(
            f"has no key exchange in common with us, only {', '.join(theirs.exchange)[:200]!r}",
            hint=f"allow it one of {', '.join(_EXCHANGES)}",
        )
    if theirs.guessed and (theirs.exchange[0], theirs.host_key[0]) != (next(iter(_EXCHANGES)), algorithms[0]):
        yield from wire.payload("its key")  # RFC 4253 §7: sent after a wrong guess, to be ignored
    half = _EXCHANGES[exchange]()
    wire.send(packet(bytes([_INIT]) + string(half.public)))
    reply = strings((yield from wire.message(_REPLY, "the proof of its key")), what=_REPLIED)
    if len(reply) != 3:
        raise Malformed(f"{_REPLIED} has {len(reply)} fields, not a key, a value and a signature")
    shown, public, signature = reply
    said = (VERSION, version, ours, init, shown, half.public, public)
    digest = hashlib.sha256(b"".join(map(string, said)) + half.secret(public)).digest()
    key = _key(shown, algorithm)
    verify(key, signature, digest, algorithm=algorithm.removesuffix(CERTIFICATE_SUFFIX))
    certificate = shown if algorithm.endswith(CERTIFICATE_SUFFIX) else b""
    return Shown(version.decode("ascii"), theirs.host_key, algorithm, key, certificate)


def verify(key: SshKey, signature: bytes, message: bytes, *, algorithm: str) -> None:
    """
    Check a signature as SSH writes it (RFC 4253 §6.6, 5656 §3.1.2, 8332 §3, 8709 §6): exactly ``algorithm``'s.

    :raises Malformed: the key or the signature cannot be read, is not ``algorithm``'s, or the key is too weak.
    :raises UntrustedPeer: it is not the signature of ``key`` over ``message``.
    """
    fields = strings(signature, what=_SIGNATURE)
    if len(fields) != 2 or fields[0] != algorithm.encode():
        raise Malformed(f"{_SIGNATURE} begins with {signature[4:40]!r}, where {algorithm!r} was agreed")
    if key.algorithm != _type(algorithm):
        raise Malformed(f"shows a key of type {key.algorithm!r}, where {algorithm!r} was agreed")
    if not fits(load_public(key), algorithm, fields[1], message, what=_SIGNATURE):
        raise UntrustedPeer(
            f"does not have the private key of {key.fingerprint} that it shows",
            hint="somebody poses as that host, or its sshd is broken",
        )


def _type(algorithm: str) -> str:
    """Return how a key names itself that signs with this algorithm (RFC 8332 §3)."""
    plain = algorithm.removesuffix(CERTIFICATE_SUFFIX)
    return ("ssh-rsa" if plain in _RSA else plain) + algorithm[len(plain) :]


def _key(shown: bytes, algorithm: str) -> SshKey:
    """Return the key that has to sign for what was shown, which has to be of the type that was agreed."""
    if not shown.startswith(string(_type(algorithm).encode())):
        raise Malformed(f"shows a key of type {shown[4:40]!r}, where {algorithm!r} was agreed")
    if not algorithm.endswith(CERTIFICATE_SUFFIX):
        return from_blob(shown)
    certificate = sshcert.read(shown)
    if certificate.kind is not Kind.HOST:
        raise Malformed(f"shows a {certificate.kind} certificate, which is not a host's")
    return certificate.key


# --- messages ---


def packet(payload: bytes) -> bytes:
    """Return a packet (RFC 4253 §6) without encryption, and so without random padding: it would hide nothing."""
    padding_length = 4 + (-len(payload) - 9) % 8
    return struct.pack(">IB", len(payload) + padding_length + 1, padding_length) + payload + bytes(padding_length)


@dataclass(frozen=True, slots=True)
class _Offer:
    """What counts of a KEXINIT (RFC 4253 §7.1)."""

    exchange: tuple[str, ...]
    host_key: tuple[str, ...]
    guessed: bool

    @classmethod
    def parse(cls, payload: bytes) -> _Offer:
        fields = Reader(payload, what="its list of algorithms")
        fields.take(1 + 16)  # the message's number, and a cookie
        exchange, host_key = _names(fields.string()), _names(fields.string())
        for _ in range(8):
            fields.string()
        guessed = fields.take(1) != b"\0"
        fields.take(4)  # reserved, and by §7.1 to be ignored
        fields.end()
        return cls(exchange, host_key, guessed)


def _names(text: bytes) -> tuple[str, ...]:
    """Return a ``name-list`` (RFC 4251 §5)."""
    names = tuple(text.decode("ascii", "replace").split(",")) if text else ()
    for name in names:
        if not _NAME.fullmatch(name):
            raise Malformed(f"names an algorithm {name[:_MAX_NAME]!r}")
    return names


def _offer(algorithms: Sequence[str]) -> bytes:
    lists = (",".join(_EXCHANGES), ",".join(algorithms), _CIPHERS, _CIPHERS, _MACS, _MACS, "none", "none", "", "")
    body = b"".join(string(each.encode("ascii")) for each in lists)
    return bytes([_KEXINIT]) + secrets.token_bytes(16) + body + bytes(5)


# --- key exchanges ---


class _Half(Protocol):
    """Our half of one key exchange; all of these hash with SHA-256."""

    public: bytes

    def secret(self, public: bytes) -> bytes:
        """Return the shared secret as it is hashed. :raises Malformed: not the other half."""


class _X25519:
    """RFC 8731."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def raw(self, public: bytes) -> bytes:
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:  # not 32 bytes, or a point of small order
            raise Malformed("sends a value for curve25519 that is none") from None

    def secret(self, public: bytes) -> bytes:
        return mpint(int.from_bytes(self.raw(public)))


class _P256:
    """RFC 5656 §4."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def secret(self, public: bytes) -> bytes:
        try:
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
        except ValueError:
            raise Malformed("sends a value for P-256 that is none") from None
        return mpint(int.from_bytes(self._key.exchange(ec.ECDH(), point)))


class _MlKem:
    """draft-ietf-sshm-mlkem-hybrid-kex, for servers that allow nothing else."""

    _CIPHERTEXT = 1088  # bytes; FIPS 203 §8

    def __init__(self) -> None:
        self._key, self._classic = MLKEM768PrivateKey.generate(), _X25519()
        self.public = self._key.public_key().public_bytes_raw() + self._classic.public

    def secret(self, public: bytes) -> bytes:
        classic = self._classic.raw(public[self._CIPHERTEXT :])
        try:
            quantum = self._key.decapsulate(public[: self._CIPHERTEXT])
        except ValueError:
            raise Malformed("sends a value for ML-KEM that is none") from None
        return string(hashlib.sha256(quantum + classic).digest())


_EXCHANGES: dict[str, type[_Half]] = {  # the quickest first
    "curve25519-sha256": _X25519,
    "curve25519-sha256@libssh.org": _X25519,
    "ecdh-sha2-nistp256": _P256,
    "mlkem768x25519-sha256": _MlKem,
}


# --- what comes ---


class _Wire:
    """What came and was not read yet, what is to be sent, and the bounds of both."""

    def __init__(self) -> None:
        self._come, self._total, self._out, self._said = bytearray(), 0, b"", ""

    def send(self, data: bytes) -> None:
        self._out += data

    def _more(self, awaited: str) -> Generator[bytes, bytes, None]:
        came = yield self._out
        self._out = b""
        if not came:
            said = f", saying {self._said!r}" if self._said else ""
            raise Unreachable(f"closes the connection before it sends {awaited}{said}", hint="its own log may say why")
        self._total += len(came)
        if self._total > MAX_RECEIVED:
            raise Malformed(f"sends over {MAX_RECEIVED} bytes and has not proved its key")
        self._come += came

    def version(self) -> Generator[bytes, bytes, bytes]:
        """Read lines until the one with the version (RFC 4253 §4.2); return it without its end."""
        read = 0
        while True:
            line = yield from self._line(MAX_GREETING - read)
            read += len(line) + 1
            line = line.removesuffix(b"\r")
            if line.startswith(b"SSH-"):
                if len(line) > MAX_VERSION - 2 or not _IDENTIFICATION.fullmatch(line):
                    raise Malformed(f"says that it is {line[:80]!r}", hint="only SSH 2.0 is spoken here")
                return line
            # sshd says here why it does not want us: `Not allowed at this time`, `Exceeded MaxStartups`.
            self._said = line[:80].decode("ascii", "replace")

    def _line(self, most: int) -> Generator[bytes, bytes, bytes]:
        searched = 0
        while (end := self._come.find(b"\n", searched, most)) < 0:
            if len(self._come) >= most:
                raise Malformed(f"sends over {MAX_GREETING} bytes without an SSH version", hint="is this sshd's port?")
            searched = len(self._come)
            yield from self._more("its version")
        line = bytes(self._come[:end])
        del self._come[: end + 1]
        return line

    def message(self, number: int, awaited: str) -> Generator[bytes, bytes, bytes]:
        """Read the message with this number, past those that may always come (RFC 4253 §11)."""
        while True:
            payload = yield from self.payload(awaited)
            if payload[0] == number:
                return payload if number == _KEXINIT else payload[1:]
            if payload[0] == _DISCONNECT:
                fields = Reader(payload[1:], what="its goodbye")
                fields.uint32()
                why = fields.string()[:120].decode("utf-8", "replace")
                raise Unreachable(f"ends the connection: {why!r}", hint="its own log may say more")
            if payload[0] not in {_IGNORE, _UNIMPLEMENTED, _DEBUG}:
                raise Malformed(f"sends message {payload[0]} where {number} belongs, {awaited}")

    def payload(self, awaited: str) -> Generator[bytes, bytes, bytes]:
        """Read what is in the next packet (RFC 4253 §6)."""
        while len(self._come) < 5:
            yield from self._more(awaited)
        length, padded = struct.unpack_from(">IB", self._come)
        if length > MAX_PACKET or (length + 4) % 8 or not 4 <= padded < length - 1:
            raise Malformed(f"sends a packet of {length} bytes, {padded} of them padding")
        while len(self._come) < 4 + length:
            yield from self._more(awaited)
        payload = bytes(self._come[5 : 4 + length - padded])
        del self._come[: 4 + length]
        return payload
