"""Machines for tests of what ssh is told, and the user's directory as ssh finds it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import vouched
from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey
from handfast.core.knownhosts import Speaker
from handfast.core.records import KrlState
from handfast.core.roles import Role
from handfast.core.sshkeys import SshKey, from_blob
from handfast.core.vouched import Signature
from handfast.ssh import config, krl, snapshot
from handfast.ssh.snapshot import Kept
from tests.authority.helpers import NOW, Pki, grant, new_key

PKI = Pki.make()
KEY = new_key()
LEAF = PKI.leaf(grant(PKI.domain, Role.REGISTRAR, machine="registrar", public_key=KEY.public_key()))
MOST = int(config.MOST.total_seconds())


def key(name: str, algorithm: str = "ssh-ed25519") -> SshKey:
    """A key that nobody has, the same for the same name."""
    body = hashlib.sha256(name.encode()).digest()
    return from_blob(b"".join(struct.pack(">I", len(part)) + part for part in (algorithm.encode(), body)))


def known(key: SshKey, how: How = How.INVITATION, detail: str = "invitation 0123", at: datetime = NOW) -> HostKey:
    """A key that became known."""
    return HostKey(key, how, detail, at)


def host(
    machine: str,
    *keys: HostKey | SshKey,
    places: Sequence[str] = (),
    aliases: Sequence[str] = (),
    ports: tuple[int, ...] = (),
    retired: Iterable[SshKey] = (),
) -> Host:
    """A machine; plain keys were proved with an invitation."""
    return Host(
        machine,
        Place.parse(tuple(places), aliases=tuple(aliases), ports=ports),
        tuple(each if isinstance(each, HostKey) else known(each) for each in keys),
        tuple(RetiredKey(each, NOW, "superseded") for each in retired),
    )


def built(*hosts: Host, least: Grade = Grade.REPORTED, pin: bytes = PKI.pin, speaker: Speaker | None = None) -> bytes:
    """A snapshot of them."""
    return snapshot.build(hosts, least=least, registrar=PKI.domain, pin=pin, speaker=speaker)


def listed(
    version: int, *, hosts: Iterable[int] = (), keys: Iterable[SshKey] = (), at: datetime = NOW, pin: bytes = PKI.pin
) -> bytes:
    """A list of revoked SSH keys: serials of hosts' certificates, and keys."""
    state = KrlState(version, tuple(hosts), (), frozenset(each.digest for each in keys))
    return krl.build(state, host_ca=key("host-ca"), user_ca=key("user-ca"), pin=pin, at=at)


def signed(
    content: bytes,
    *,
    at: datetime = NOW,
    pki: Pki = PKI,
    leaf: x509.Certificate = LEAF,
    label: bytes = snapshot.LABEL,
) -> Signature:
    """The registrar's word for it."""
    return vouched.sign(
        label,
        hashlib.sha256(content).digest(),
        at=at,
        signer=lambda digest: KEY.sign(digest, ec.ECDSA(hashes.SHA256())),
        leaf=leaf.public_bytes(Encoding.DER),
        chain=[pki.issuing.public_bytes(Encoding.DER)],
        trust=[pki.root.public_bytes(Encoding.DER)],
    )


def put(state: Path, *hosts: Host, at: datetime, age: timedelta = timedelta(0), speaker: Speaker | None = None) -> Kept:
    """Leave a snapshot of these machines in the user's directory, heard of ``age`` before ``at``."""
    kept = Kept(built(*hosts, speaker=speaker), at - age, None)
    snapshot.keep(state, kept)
    return kept
