"""
Signatures by SSH keys, as ``ssh-keygen -Y sign`` makes them (OpenSSH's PROTOCOL.sshsig).

A host signs with the key that sshd has, and whoever knows that key knows who spoke. What is signed begins with
``SSHSIG``, so it cannot be part of an SSH handshake; the namespace keeps one purpose from serving as another. Nothing
in it says when: against replay the *message* has to carry a nonce, or what else it was made for.

We are stricter than OpenSSH where one signature could be read in two ways: numbers and keys have one form, the field
that is reserved is empty, and nothing follows. Keys in hardware tokens (``sk-…``) sign something else, and no sshd
has one as host key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from handfast.core import sshkeys
from handfast.core.keys import RSA_BITS, RSA_EXPONENT, UNREADABLE
from handfast.core.sshdata import Reader, mpint, positive, string, strings
from handfast.core.sshkeys import SshKey
from handfast.errors import EvidenceRejected, Malformed, UsageError

MAX_SIGNATURE = 2 * sshkeys.MAX_BLOB  # bytes; the key is in it
MAX_PRIVATE = 64 * 1024  # bytes of PEM; RSA of 16,384 bits needs 13,000

SshPrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
SshPublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR = re.compile(rf"{_BEGIN}\r?\n([A-Za-z0-9+/=\r\n]+)\n{_END}\s*", re.ASCII)
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_HASH = "sha512"  # what ssh-keygen takes; the reader takes either
_RSA = {"rsa-sha2-256": SHA256(), "rsa-sha2-512": SHA512()}  # RFC 8332; ``ssh-rsa`` is SHA-1
_RSA_ALGORITHM = "rsa-sha2-512"
_ECDSA: dict[str, HashAlgorithm] = {  # RFC 5656 §6.2.1
    "ecdsa-sha2-nistp256": SHA256(),
    "ecdsa-sha2-nistp384": SHA384(),
    "ecdsa-sha2-nistp521": SHA512(),
}
ALGORITHMS = sshkeys.PROVABLE  # of keys
_CONTAINER = b"openssh-key-v1\0"
_OPENSSH = re.compile(rb"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", re.DOTALL)
_FILE_HINT = "give a file such as /etc/ssh/ssh_host_ed25519_key"
_WHAT = "the SSH signature"
_HINT = "make it with `ssh-keygen -Y sign`"
_KEY_HINT = "sign with an ed25519, ecdsa or rsa key (2048 bits or more) of /etc/ssh/ssh_host_*_key"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with its public one. Make one with ``load_private``."""

    public: SshKey
    private: SshPrivateKey = field(repr=False)

    def sign(self, message: bytes, namespace: str) -> bytes:
        """
        Return a signature as ``verify`` and, after ``armor``, ``ssh-keygen -Y verify`` take it.

        :raises UsageError: no namespace.
        """
        return made_by(self.public, self.signature, message, namespace)

    def signature(self, signed: bytes) -> bytes:
        """
        Return the algorithm and what it makes of exactly these bytes (RFC 4253 §6.6, 5656 §3.1.2, 8332 §3, 8709 §6).

        They have to begin with what no other use of the key begins with.
        """
        algorithm = self.public.algorithm
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            raw = self.private.sign(signed)
        elif isinstance(self.private, rsa.RSAPrivateKey):
            algorithm = _RSA_ALGORITHM
            raw = self.private.sign(signed, padding.PKCS1v15(), _RSA[algorithm])
        else:
            numbers = decode_dss_signature(self.private.sign(signed, ec.ECDSA(_ECDSA[algorithm])))
            raw = b"".join(map(mpint, numbers))
        return string(algorithm.encode()) + string(raw)


def made_by(public: SshKey, signature: Callable[[bytes], bytes], message: bytes, namespace: str) -> bytes:
    """
    Return a signature as ``Signer.sign`` does, by whatever ``signature`` has the private key: an ssh-agent, too.

    :raises UsageError: no namespace.
    """
    if not namespace:
        raise UsageError("an SSH signature without a namespace", hint="name what it is for")
    made = signature(_signed(namespace, _HASH, message))
    fields = (public.blob, namespace.encode(), b"", _HASH.encode(), made)
    return _MAGIC + struct.pack(">I", _VERSION) + b"".join(map(string, fields))


def load_private(pem: bytes) -> Signer:
    """
    Read a host's private key, as it stands in ``/etc/ssh/ssh_host_*_key``: OpenSSH's format, or the PEM of old ones.

    :raises Malformed: not one, one with a passphrase (which sshd could not read), or of a type we do not sign with.
    """
    if len(pem) > MAX_PRIVATE:
        raise Malformed(f"a private key of {len(pem)} bytes, at most {MAX_PRIVATE} are read", hint=_FILE_HINT)
    body = _OPENSSH.search(pem)
    try:
        if body:
            _check_container(binascii.a2b_base64(body[1]))
        private = load_ssh_private_key(pem, None) if body else load_pem_private_key(pem, None)
        if isinstance(private, SshPrivateKey):
            line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            signer = Signer(sshkeys.parse(line.decode("ascii")), private)
            load_public(signer.public)  # what nobody would believe is not signed with
            return signer
    except TypeError:  # what the library raises for want of a passphrase
        raise _passphrase() from None
    except UNREADABLE as error:  # speaks of the format, and quotes nothing of the key
        raise Malformed(f"not an SSH private key: {str(error)[:120]!r}", hint=_FILE_HINT) from None
    raise Malformed(f"a {type(private).__name__} does not sign here", hint=_KEY_HINT)


def _check_container(data: bytes) -> None:
    """Look at what surrounds an OpenSSH private key (PROTOCOL.key); the library only warns of old types."""
    reader = Reader(data, what="the SSH private key")
    magic, cipher = reader.take(len(_CONTAINER)), reader.string()
    if magic == _CONTAINER and cipher != b"none":
        raise _passphrase()
    reader.string(), reader.string(), reader.uint32()  # of the cipher; and how many keys, which the library looks at
    algorithm = sshkeys.from_blob(reader.string()).algorithm
    if algorithm not in ALGORITHMS:
        raise Malformed(f"a private key of {algorithm!r} does not sign here", hint=_KEY_HINT)


def _passphrase() -> Malformed:
    return Malformed("the SSH private key has a passphrase", hint="a host key has none; " + _FILE_HINT)


@lru_cache(maxsize=1024)  # one request looks at its keys from several sides, and each time takes as long as to sign
def load_public(key: SshKey) -> SshPublicKey:
    """
    Return the key as something to verify with.

    *Not* checked: how it was made; a key may be known to others, or a degenerate one that everybody can sign with.

    :raises Malformed: of a type that we do not verify with, not in its one form, or RSA outside 2048 to 8192 bits.
    """
    if key.algorithm.startswith("sk-"):
        raise Malformed(f"keys in hardware tokens ({key.algorithm!r}) are not verified here", hint=_KEY_HINT)
    if key.algorithm not in ALGORITHMS:
        raise Malformed(f"signatures by {key.algorithm!r} are not verified here", hint=_KEY_HINT)
    line = str(key).encode("ascii")
    try:
        public = load_ssh_public_key(line)
    except (*UNREADABLE, NotImplementedError) as error:  # the latter: a compressed point
        raise Malformed(f"not a key of {key.algorithm!r}: {str(error)[:120]!r}", hint=_KEY_HINT) from None
    if isinstance(public, rsa.RSAPublicKey):
        _check_rsa(public)
    if not isinstance(public, SshPublicKey) or public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) != line:
        # Its fingerprint would be another than that of the same key written properly.
        raise Malformed(f"the key of {key.algorithm!r} is not in its one form", hint="its writer is at fault")
    return public


def _check_rsa(public: rsa.RSAPublicKey) -> None:
    if public.key_size not in RSA_BITS:
        raise Malformed(f"an RSA key of {public.key_size} bits, not {RSA_BITS[0]} to {RSA_BITS[-1]}", hint=_KEY_HINT)
    if public.public_numbers().e > RSA_EXPONENT:  # OpenSSH made smaller ones until 2010; a long one costs us time
        raise Malformed(f"an RSA key with an exponent over {RSA_EXPONENT}", hint=_KEY_HINT)


def verify(signature: bytes | str, message: bytes, *, namespace: str) -> SshKey:
    """
    Return the key that signed ``message`` for ``namespace``; the caller asks whether it is the right one.

    Bytes are a signature as ``Signer.sign`` returns it, text an armored one.

    *Not* checked: when it was made, and that there is no other. Of each ECDSA signature anybody can make a second, so
    it is no name for anything.

    :raises Malformed: not a signature, or one of a kind that we do not verify.
    :raises EvidenceRejected: it is for another namespace, or does not fit.
    """
    blob = unarmor(signature) if isinstance(signature, str) else signature
    if len(blob) > MAX_SIGNATURE:
        raise Malformed(f"an SSH signature of {len(blob)} bytes, at most {MAX_SIGNATURE} are read", hint=_HINT)
    reader = Reader(blob, what=_WHAT)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise Malformed("not an SSH signature: it does not begin with SSHSIG", hint=_HINT)
    if (version := reader.uint32()) != _VERSION:
        raise Malformed(f"SSH signatures of version {version} are not verified here", hint=_HINT)
    key_blob, purpose, reserved, hash_name, made = (reader.string() for _ in range(5))
    reader.end()
    if not namespace or purpose != namespace.encode():
        raise EvidenceRejected(f"the SSH signature is for {purpose[:64]!r}, not for {namespace!r}", hint=_HINT)
    if reserved:
        raise Malformed("the SSH signature has something in its reserved field", hint=_HINT)
    known = {name.encode(): name for name in _HASHES}
    if hash_name not in known:
        raise Malformed(f"the SSH signature is over an unknown hash, {hash_name[:64]!r}", hint=_HINT)
    key = sshkeys.from_blob(key_blob)
    check(key, made, _signed(namespace, known[hash_name], message))
    return key


def armor(signature: bytes) -> str:
    """Return a signature as ``ssh-keygen`` writes it to a file."""
    text = base64.b64encode(signature).decode("ascii")
    return "\n".join([_BEGIN, *(text[at : at + 70] for at in range(0, len(text), 70)), _END, ""])


def unarmor(text: str) -> bytes:
    """
    Read what ``ssh-keygen`` wrote; only white space may follow it.

    :raises Malformed: anything else.
    """
    if len(text) > 2 * MAX_SIGNATURE:
        raise Malformed(f"an SSH signature of {len(text)} characters", hint=_HINT)
    found = _ARMOR.fullmatch(text)
    if not found:
        raise Malformed(f"not an SSH signature: {text[:40]!r}", hint=_HINT)
    try:
        return base64.b64decode("".join(found[1].split()), validate=True)
    except binascii.Error:
        raise Malformed(
            "not an SSH signature: what is between its first and its last line is no base64", hint=_HINT
        ) from None


def _signed(namespace: str, hash_name: str, message: bytes) -> bytes:
    """What goes through the key: PROTOCOL.sshsig, section 3."""
    fields = (namespace.encode(), b"", hash_name.encode(), _HASHES[hash_name](message).digest())
    return _MAGIC + b"".join(map(string, fields))


def check(key: SshKey, made: bytes, signed: bytes) -> None:
    """
    Check an algorithm's name and signature, as ``Signer.signature`` returns them, by this key over exactly these bytes.

    :raises Malformed: of a form or algorithm that we do not verify. :raises EvidenceRejected: it does not fit.
    """
    fields = strings(made, what=_WHAT)
    if len(fields) != 2:
        raise Malformed(f"the SSH signature has {len(fields)} fields, not an algorithm and a value", hint=_HINT)
    algorithm, raw = fields[0].decode("ascii", "replace"), fields[1]
    if key.algorithm == algorithm == "ssh-rsa":
        raise Malformed("the SSH signature is over SHA-1 ('ssh-rsa')", hint="sign with rsa-sha2-512")
    public = load_public(key)
    if algorithm not in (_RSA if isinstance(public, rsa.RSAPublicKey) else {key.algorithm}):
        raise Malformed(f"a signature of {algorithm[:64]!r} by a key of {key.algorithm!r}", hint=_HINT)
    if not fits(public, algorithm, raw, signed, what=_WHAT):
        raise EvidenceRejected(f"the signature by {key.fingerprint} does not fit", hint=_HINT)


def fits(public: SshPublicKey, algorithm: str, raw: bytes, signed: bytes, *, what: str) -> bool:
    """
    Whether this is the key's signature over ``signed``, by an algorithm that is one for such a key.

    ``raw`` is the value that stands behind the algorithm's name; ``what`` is what an error calls the signature.

    :raises Malformed: it is not even of the form that the algorithm's have.
    """
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(raw, signed)
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(raw, signed, padding.PKCS1v15(), _RSA[algorithm])
        else:
            public.verify(_dss(raw, what), signed, ec.ECDSA(_ECDSA[algorithm]))
    except InvalidSignature:
        return False
    return True


def _dss(raw: bytes, what: str) -> bytes:
    """Return the two numbers of an ECDSA signature (RFC 5656 §3.1.2) as the library takes them."""
    fields = strings(raw, what=what)
    if len(fields) != 2:
        raise Malformed(f"{what} has {len(fields)} numbers, not two", hint="whatever made it is at fault")
    return encode_dss_signature(*(positive(each, what=what) for each in fields))
