"""What the tests of the ledger are about: times, invitations, grants, and places to keep them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast import ledger
from handfast.core import checkpoint
from handfast.core.checkpoint import Checkpoint
from handfast.core.flow import Credential, Grant, HostGrant, Intent, Once
from handfast.core.hosts import How
from handfast.core.hosts import Place as Reached
from handfast.core.merkle import Frontier
from handfast.core.names import Names
from handfast.core.records import Invitation
from handfast.core.roles import Role
from handfast.core.sshkeys import SshKey, from_blob
from handfast.ledger import statements
from handfast.ledger.database import Session
from handfast.ledger.store import SqlLedger

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ORIGIN = "handfast/test.lan"
LOG_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ledger is kept; can be carried to another process."""

    kind: str
    where: str

    def open(self) -> SqlLedger:
        """Open it."""
        return ledger.open_sqlite(Path(self.where)) if self.kind == "sqlite" else ledger.open_postgres(self.where)


def public_key(number: int) -> bytes:
    """Some bytes in the place of a SubjectPublicKeyInfo: the ledger only hashes them."""
    return b"key" + number.to_bytes(8, "big") * 11


def invitation(number: int = 1, *, machine: str = "web1.lan", uses: int = 1) -> Invitation:
    """An invitation that was just made."""
    return Invitation(
        key_id=f"{number:016x}",
        public_half=hashlib.sha256(f"invitation {number}".encode()).digest(),
        machine=machine,
        role=Role.SERVER,
        names=Names.parse([machine, "10.0.0.1", "fd00::1"]),
        uses=uses,
        created_at=NOW,
        expires_at=LATER,
    )


def grant(key: int = 1, *, machine: str = "web1.lan", role: Role = Role.SERVER) -> Grant:
    """A grant for this key."""
    return Grant(
        machine=machine,
        role=role,
        spiffe_id=f"spiffe://test.lan/{role}/{machine}",
        names=Names.parse([machine, "10.0.0.1", "fd00::1"]),
        public_key=public_key(key),
        not_before=NOW - timedelta(hours=1),
        not_after=NOW + timedelta(hours=23, microseconds=1),
        method="invitation",
        why=("it signed with the invitation's key", "rule 1: \N{LATIN SMALL LETTER E WITH ACUTE}"),
        reintroduction_key=bytes(range(32)),
    )


def join(store: SqlLedger, number: int, *, machine: str = "web1.lan", key: int | None = None) -> Intent:
    """Invite and introduce a machine; return the intent with its certificate."""
    invited = invitation(number, machine=machine)
    store.invite(invited).result()
    wanted = grant(number if key is None else key, machine=machine)
    intent = store.intend(wanted, Once(invited.marker), at=NOW).result()
    certificate = store.issued(Credential(intent.serial, intent.grant, b"certificate %d" % number), at=NOW).result()
    return Intent(intent.serial, intent.grant, certificate)


def ssh_key(number: int) -> SshKey:
    """A well-formed key that nobody holds."""
    return from_blob(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + number.to_bytes(32, "big"))


def host_grant(
    *keys: int,
    machine: str = "web1.lan",
    how: How = How.INVITATION,
    places: tuple[str, ...] | None = ("web1.lan", "10.0.0.1"),
    aliases: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    complete: bool = True,
    basis: tuple[int, ...] = (),
) -> HostGrant:
    """What policy would allow: these keys, reached there."""
    place = None if places is None else Reached.parse(places, aliases=aliases, ports=ports)
    return HostGrant(machine, tuple(map(ssh_key, keys)), how, "a test", place, complete, tuple(map(ssh_key, basis)))


def signed_head(store: SqlLedger, key: Ed25519PrivateKey = LOG_KEY, *, origin: str = ORIGIN) -> str:
    """A checkpoint of the log as it is."""
    head = store.head()
    return checkpoint.sign(Checkpoint(origin, head.size, head.root()), key)


def tamper(store: SqlLedger, *changes: str) -> None:
    """Change the store behind the ledger's back, in plain SQL; no constraint stands in the way."""
    connection = store._database.connect()
    if store._database.engine.dialect.name == "sqlite":
        connection.execute("PRAGMA foreign_keys=OFF")
    for change in changes:
        connection.execute(change)
    connection.close()


def set_head(store: SqlLedger, head: Frontier) -> None:
    """Make the store say that this is the head of its log."""
    session = Session(store._database)
    session.run(statements.SET_HEAD, {"size": head.size, "frontier": head.encode()})
    session.close()
