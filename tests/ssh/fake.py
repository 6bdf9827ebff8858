"""A server's half of SSH's key exchange, written from the RFCs, which also does what no server should."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import sshkeys
from handfast.core.sshkeys import SshKey

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
HASHES: dict[str, HashAlgorithm] = {
    "ecdsa-sha2-nistp256": SHA256(),
    "ecdsa-sha2-nistp384": SHA384(),
    "ecdsa-sha2-nistp521": SHA512(),
    "rsa-sha2-512": SHA512(),
    "rsa-sha2-256": SHA256(),
    "ssh-rsa": SHA1(),
}
KEYS: dict[str, PrivateKey] = {
    "ssh-ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-sha2-nistp384": ec.generate_private_key(ec.SECP384R1()),
    "ecdsa-sha2-nistp521": ec.generate_private_key(ec.SECP521R1()),
    "rsa-sha2-512": rsa.generate_private_key(65537, 2048),
}
KEYS["rsa-sha2-256"] = KEYS["rsa-sha2-512"]
EXCHANGES = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "mlkem768x25519-sha256")
CERTIFIED = "-cert-v01@openssh.com"


def string(data: bytes) -> bytes:
    """RFC 4251 §5."""
    return struct.pack(">I", len(data)) + data


def mpint(value: int) -> bytes:
    """RFC 4251 §5, of a positive number."""
    return string(value.to_bytes(value.bit_length() // 8 + 1))


def packet(payload: bytes, *, filler: bytes = b"\xa5") -> bytes:
    """RFC 4253 §6."""
    pad = 16 - (len(payload) + 5) % 8  # more than the least: any that fits is allowed
    return struct.pack(">IB", 1 + len(payload) + pad, pad) + payload + filler * pad


def public(private: PrivateKey) -> SshKey:
    """The public half."""
    return sshkeys.parse(private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def sign(private: PrivateKey, message: bytes, algorithm: str) -> bytes:
    """A signature as the RFCs have it."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        raw = private.sign(message)
    elif isinstance(private, rsa.RSAPrivateKey):
        raw = private.sign(message, padding.PKCS1v15(), HASHES[algorithm])
    else:
        raw = b"".join(map(mpint, decode_dss_signature(private.sign(message, ec.ECDSA(HASHES[algorithm])))))
    return string(algorithm.encode()) + string(raw)


def certificate(private: PrivateKey, *, kind: int = 2) -> bytes:
    """A certificate over the key by nobody in particular, which is all that a scan looks at (PROTOCOL.certkeys)."""
    key, ca = public(private), KEYS["ssh-ed25519"]
    head = string((key.algorithm + CERTIFIED).encode()) + string(b"nonce" * 4)
    fields = key.blob[4 + len(key.algorithm) :]
    times = struct.pack(">QQ", 0, 2**64 - 1)
    rest = string(b"id") + string(string(b"web1.lan")) + times + 3 * string(b"") + string(public(ca).blob)
    signature = string(b"ssh-ed25519") + string(bytes(64))
    return head + fields + struct.pack(">QI", 7, kind) + rest + string(signature)


@dataclass
class FakeServer:
    """What it says, each step of which a test may change; ``seen`` is what the client said."""

    algorithms: tuple[str, ...] = ("ssh-ed25519",)
    exchanges: tuple[str, ...] = EXCHANGES
    before: bytes = b""
    version: bytes = b"SSH-2.0-fake"
    line_end: bytes = b"\r\n"
    interjected: bytes = b""  # packets before each of its own
    guess: bytes = b""  # packet sent with the KEXINIT, on a guess
    host_key: Callable[[bytes], bytes] = lambda blob: blob
    signature: Callable[[bytes], bytes] = lambda signature: signature
    signer: PrivateKey | None = None
    value: Callable[[bytes], bytes] = lambda value: value
    seen: bytearray = field(default_factory=bytearray)
    signed: list[bytes] = field(default_factory=list)  # its signatures

    def conversation(self) -> Generator[bytes, bytes, None]:
        """Yields what to send, is sent what came."""
        to_send = self.before + self.version + self.line_end
        while b"\n" not in self.seen:
            self.seen += yield to_send
            to_send = b""
        client = bytes(self.seen[: self.seen.index(b"\n")]).rstrip(b"\r")
        at = len(client) + 2
        ours = self.kexinit()
        to_send = self.interjected + packet(ours) + self.guess
        while (theirs := self.payload(at)) is None:
            self.seen += yield to_send
            to_send = b""
        if not (algorithm := self.chosen(theirs)):
            yield to_send
            return
        at += 4 + int.from_bytes(self.seen[at : at + 4])
        while (init := self.payload(at)) is None:
            self.seen += yield to_send
            to_send = b""
        yield to_send + self.interjected + self.reply(client, theirs, ours, init, algorithm)

    def kexinit(self) -> bytes:
        """Its algorithms."""
        ciphers, macs = b"chacha20-poly1305@openssh.com,aes128-ctr", b"hmac-sha2-256"
        lists = (",".join(self.exchanges).encode(), ",".join(self.algorithms).encode(), ciphers, ciphers, macs, macs)
        return b"\x14" + bytes(16) + b"".join(map(string, (*lists, b"none", b"none", b"", b""))) + (
            b"\1" if self.guess else b"\0"
        ) + bytes(4)  # fmt: skip

    def payload(self, at: int) -> bytes | None:
        """The packet that begins there, when it is whole."""
        if len(self.seen) < at + 5 or len(self.seen) < (end := at + 4 + int.from_bytes(self.seen[at : at + 4])):
            return None
        return bytes(self.seen[at + 5 : end - self.seen[at + 4]])

    @staticmethod
    def lists(kexinit: bytes) -> list[tuple[str, ...]]:
        """The name-lists of a KEXINIT."""
        at, found = 17, []
        for _ in range(10):
            length = int.from_bytes(kexinit[at : at + 4])
            found.append(tuple(kexinit[at + 4 : at + 4 + length].decode().split(",")))
            at += 4 + length
        return found

    def chosen(self, theirs: bytes) -> str:
        """The host key algorithm, by the client's preference."""
        return next((name for name in self.lists(theirs)[1] if name in self.algorithms), "")

    def reply(self, client: bytes, theirs: bytes, ours: bytes, init: bytes, algorithm: str) -> bytes:
        """The key, the value and the signature."""
        exchange = next(name for name in self.lists(theirs)[0] if name in self.exchanges)
        assert init[0] == 30
        sent = init[5:]
        value, secret = agree(exchange, sent)
        value = self.value(value)
        plain = algorithm.removesuffix(CERTIFIED)
        private = KEYS[plain]
        blob = self.host_key(certificate(private) if plain != algorithm else public(private).blob)
        said = (client, self.version, theirs, ours, blob, sent, value)
        digest = hashlib.sha256(b"".join(map(string, said)) + secret).digest()
        self.signed.append(sign(self.signer or private, digest, plain))
        signature = self.signature(self.signed[-1])
        return packet(b"\x1f" + string(blob) + string(value) + string(signature))


def agree(exchange: str, sent: bytes) -> tuple[bytes, bytes]:
    """The server's value and the secret as it is hashed, of RFC 8731, RFC 5656 or the draft for ML-KEM."""
    if exchange == "ecdh-sha2-nistp256":
        key = ec.generate_private_key(ec.SECP256R1())
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sent)
        value = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return value, mpint(int.from_bytes(key.exchange(ec.ECDH(), point)))
    ours = X25519PrivateKey.generate()
    classic = ours.exchange(X25519PublicKey.from_public_bytes(sent[-32:]))
    value = ours.public_key().public_bytes_raw()
    if exchange != "mlkem768x25519-sha256":
        return value, mpint(int.from_bytes(classic))
    quantum, ciphertext = MLKEM768PublicKey.from_public_bytes(sent[:-32]).encapsulate()
    return ciphertext + value, string(hashlib.sha256(quantum + classic).digest())
