"""
SSH public keys, as OpenSSH writes them: ``ssh-ed25519 AAAA… comment`` (RFC 4253 §6.6, sshd(8)).

A key of a type that we do not know is kept and printed like any other: OpenSSH adds types, and what is not shown would
be asked about at the terminal. Only what we verify with is looked into (``core.sshsig``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass

from handfast.errors import Malformed

MAX_BLOB = 16 * 1024  # bytes; RSA of 16,384 bits needs 2,100, ML-DSA-87 with ed25519 2,700
MAX_KEYS = 32  # of one machine; sshd has three by default
# Types that can sign for themselves here: see ``core.sshsig``.
PROVABLE = frozenset({"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"})
# Of signatures by ssh-rsa keys (RFC 8332 §3). OpenSSH takes a key that is called so for the same RSA key.
_SIGNATURE_NAMES = frozenset({"rsa-sha2-256", "rsa-sha2-512"})
CERTIFICATE_SUFFIX = "-cert-v01@openssh.com"
_ALGORITHM = re.compile(r"[a-z0-9][a-z0-9.@_+-]{2,63}", re.ASCII)
_HINT = "it looks like `ssh-ed25519 AAAAC3Nz...`, as in /etc/ssh/ssh_host_ed25519_key.pub"


@dataclass(frozen=True, slots=True, order=True)
class SshKey:
    """A public key in its wire form, ``blob``, whose first string names its algorithm. Make one with a function."""

    algorithm: str
    blob: bytes

    @property
    def base64(self) -> str:
        """The wire form in base64, as it stands in files."""
        return base64.b64encode(self.blob).decode("ascii")

    @property
    def digest(self) -> bytes:
        """SHA-256 of the wire form: what a fingerprint shows."""
        return hashlib.sha256(self.blob).digest()

    @property
    def fingerprint(self) -> str:
        """``SHA256:…`` in unpadded base64, as ssh and ssh-keygen show it."""
        return "SHA256:" + base64.b64encode(self.digest).decode("ascii").rstrip("=")

    def __str__(self) -> str:
        return f"{self.algorithm} {self.base64}"


def from_blob(blob: bytes) -> SshKey:
    """
    Return the key with this wire form.

    *Not* checked: what follows the algorithm's name, which only that algorithm can say.

    :raises Malformed: no algorithm's name at its beginning, nothing behind it, a certificate, or too long.
    """
    try:
        (length,) = struct.unpack_from(">I", blob)
        algorithm = blob[4 : 4 + length].decode("ascii")
    except (struct.error, UnicodeDecodeError):
        raise Malformed(f"not an SSH public key: {blob[:24].hex()!r}", hint=_HINT) from None
    if len(blob) > MAX_BLOB:
        raise Malformed(f"an SSH public key of {len(blob)} bytes, at most {MAX_BLOB} are allowed", hint=_HINT)
    if not _ALGORITHM.fullmatch(algorithm) or len(blob) <= 4 + length or algorithm in _SIGNATURE_NAMES:
        raise Malformed(f"not an SSH public key: its algorithm reads {algorithm[:64]!r}", hint=_HINT)
    if algorithm.endswith(CERTIFICATE_SUFFIX):
        raise Malformed(f"a certificate ({algorithm}) where a plain SSH public key belongs", hint=_HINT)
    return SshKey(algorithm, blob)


def parse(line: str) -> SshKey:
    """
    Read a line such as ``ssh-ed25519 AAAA… comment``; the comment is dropped.

    :raises Malformed: not such a line, or its two names of the algorithm differ.
    """
    parts = line.split(None, 2)
    if len(parts) < 2:
        raise Malformed(f"not an SSH public key: {line[:60]!r}", hint=_HINT)
    try:
        key = from_blob(base64.b64decode(parts[1], validate=True))
    except (binascii.Error, ValueError):
        raise Malformed(f"not an SSH public key: {line[:60]!r} is not base64", hint=_HINT) from None
    if key.algorithm != parts[0]:
        raise Malformed(f"the line says {parts[0][:64]!r}, the key in it {key.algorithm!r}", hint=_HINT)
    return key
