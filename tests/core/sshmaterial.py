"""SSH keys for tests, and the real ssh-keygen."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import sshkeys, sshsig
from handfast.core.sshdata import mpint, string
from handfast.core.sshkeys import SshKey

DATA = Path(__file__).parent / "data"
# What ssh-keygen is asked for, by our name of it.
KINDS: dict[str, tuple[str, ...]] = {
    "ed25519": ("-t", "ed25519"),
    "p256": ("-t", "ecdsa", "-b", "256"),
    "p384": ("-t", "ecdsa", "-b", "384"),
    "p521": ("-t", "ecdsa", "-b", "521"),
    "rsa": ("-t", "rsa", "-b", "2048"),
}
_CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def keygen(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the real one; the caller looks at how it ended."""
    return subprocess.run(["ssh-keygen", *map(str, arguments)], input=stdin, capture_output=True, check=False)


def new_key(directory: Path, kind: str, *more: str) -> Path:
    """Have ssh-keygen make a key; its public half is beside it."""
    path = directory / kind
    made = keygen("-q", *KINDS[kind], "-N", "", "-C", "root@host", "-f", path, *more)
    assert made.returncode == 0, made.stderr
    return path


def public(path: Path) -> SshKey:
    """The public half of a key that ``new_key`` made."""
    return sshkeys.parse(path.with_name(path.name + ".pub").read_text())


@cache
def signer(kind: str = "ed25519") -> sshsig.Signer:
    """A host key of this kind, made without ssh-keygen: the same in every run, but for RSA."""
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    elif kind in _CURVES:
        key = ec.derive_private_key(2**200 + 1, _CURVES[kind])
    else:
        key = rsa.generate_private_key(65537, int(kind.removeprefix("rsa") or 2048))
    return sshsig.load_private(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def key(algorithm: str, *fields: bytes) -> SshKey:
    """A public key of any type, with these strings behind its name. It need not be one that works."""
    return sshkeys.from_blob(b"".join(map(string, [algorithm.encode(), *fields])))


def rsa_key(bits: int, *, exponent: int = 65537) -> SshKey:
    """An RSA key of this size which nobody has the private half of."""
    modulus = (1 << bits) - 12345
    return key("ssh-rsa", mpint(exponent)[4:], mpint(modulus)[4:])


def ed25519_key(number: int) -> SshKey:
    """A key of 32 bytes, for where only its looks count."""
    return key("ssh-ed25519", number.to_bytes(32))


def pub_file(path: Path, keys: Sequence[SshKey]) -> Path:
    """A file of public keys."""
    path.write_text("".join(f"{each} root@host\n" for each in keys))
    return path
