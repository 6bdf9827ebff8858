"""SSH certificates for tests: those that we issue, and others put together field by field, sound or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1

from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshdata import string
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf, issue
from handfast.core.sshsig import Signer
from tests.core.sshmaterial import signer

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CA, OTHER_CA = signer("ed25519"), signer("p256")
KEY = signer("p384").public
GRANT = SshLeaf(
    kind=Kind.HOST,
    key=KEY,
    key_id="web1",
    principals=("web1.example", "10.0.0.7"),
    valid_after=NOW - timedelta(minutes=1),
    valid_before=NOW + timedelta(days=1),
)
USER = replace(GRANT, kind=Kind.USER, key_id="alice", principals=("alice", "deploy"))


def issued(grant: SshLeaf = GRANT, *, ca: Signer = CA, serial: int = 5, **changes: Any) -> SshCertificate:
    """A certificate of ours."""
    return issue(replace(grant, **changes), ca, serial=serial)


def options(*pairs: tuple[bytes, bytes]) -> bytes:
    """Options as they stand in a certificate: the second of a pair as it is."""
    return b"".join(string(name) + string(data) for name, data in pairs)


def crafted(
    *,
    algorithm: bytes = b"ecdsa-sha2-nistp384-cert-v01@openssh.com",
    nonce: bytes = b"n" * 32,
    key: SshKey = KEY,
    serial: int = 5,
    kind: int = 2,
    key_id: bytes = b"web1",
    principals: Sequence[bytes] = (b"web1.example",),
    after: int = 0,
    before: int = 2**64 - 1,
    critical: bytes = b"",
    extensions: bytes = b"",
    reserved: bytes = b"",
    authority: bytes | None = None,
    ca: Signer = CA,
    sha1: bool = False,
    behind: bytes = b"",
) -> bytes:
    """A certificate with these fields, its signature sound."""
    named = string(key.algorithm.encode())
    body = (
        string(algorithm)
        + string(nonce)
        + key.blob.removeprefix(named)
        + serial.to_bytes(8)
        + kind.to_bytes(4)
        + string(key_id)
        + string(b"".join(map(string, principals)))
        + after.to_bytes(8)
        + before.to_bytes(8)
        + string(critical)
        + string(extensions)
        + string(reserved)
        + string(ca.public.blob if authority is None else authority)
    )
    return body + string(_signature(body, ca, sha1=sha1)) + behind


def _signature(body: bytes, ca: Signer, *, sha1: bool) -> bytes:
    if sha1:
        assert isinstance(ca.private, rsa.RSAPrivateKey)
        return string(b"ssh-rsa") + string(ca.private.sign(body, padding.PKCS1v15(), SHA1()))
    assert isinstance(ca.private, ed25519.Ed25519PrivateKey)
    return string(b"ssh-ed25519") + string(ca.private.sign(body))


def written(directory: Path, certificate: SshCertificate) -> Path:
    """A file that ssh-keygen reads."""
    path = directory / "x-cert.pub"
    path.write_text(f"{certificate} root@host\n")
    return path
