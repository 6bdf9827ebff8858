"""The events of SSH certificates, and the text that is kept of what one holds."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import datetime

import msgspec

from handfast.core import sshkeys
from handfast.core.flow import SshGrant
from handfast.core.records import Event, SshRecord
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf
from handfast.core.sshoptions import Critical, Permit
from handfast.ledger.database import Row
from handfast.ledger.entries import canonical_json, rfc3339, time_of

INTENDED = "sshcert.intended"
ISSUED = "sshcert.issued"
REVOKED = "sshcert.revoked"
WITHDRAWN = "sshcert.withdrawn"
ABANDONED = "sshcert.abandoned"
KRL_PUBLISHED = "krl.published"
OF_TABLES = frozenset({INTENDED, ISSUED, REVOKED, WITHDRAWN, ABANDONED})


def intended(record: SshRecord, *, marker: str | None, keys_sha256: bytes, grant_json: str) -> Event:
    """The event of a row of ``ssh_certificates``; the hash commits to all that the certificate holds."""
    fields = {
        "serial": str(record.serial),
        "kind": record.kind.value,
        "marker": marker or "",
        "keys": keys_sha256.hex(),
        "key": record.leaf.key.fingerprint,
        "principals": ",".join(record.leaf.principals),
        "method": record.method,
        "grant": hashlib.sha256(grant_json.encode()).hexdigest(),
    }
    return Event(INTENDED, record.intended_at, record.holder, fields)


def issued(serial: int, *, kind: str, holder: str, valid_before: int, certificate: bytes, at: datetime) -> Event:
    """The event of the certificate in a row of ``ssh_certificates``, of whose end we know the microseconds."""
    fields = {
        "serial": str(serial),
        "sha256": hashlib.sha256(certificate).hexdigest(),
        "kind": kind,
        "valid_before": rfc3339(time_of(valid_before)),
    }
    return Event(ISSUED, at, holder, fields)


def taken_back(kind: str, serial: int, *, holder: str, reason: str, at: datetime) -> Event:
    """
    The event of a row of ``ssh_revocations``.

    ``REVOKED`` by somebody, ``WITHDRAWN`` as the machine has changed, or ``ABANDONED``.
    """
    return Event(kind, at, holder, {"serial": str(serial), "reason": reason})


def krl_published(by: str, *, hosts: int, users: int, keys: int, at: datetime) -> Event:
    """The event of a new list of revoked SSH keys: its place in the log is the list's version."""
    return Event(KRL_PUBLISHED, at, by, {"hosts": str(hosts), "users": str(users), "keys": str(keys)})


def keys_sha256(keys: Iterable[SshKey]) -> bytes:
    """Return what a marker is spent against: these keys, in any order, each once."""
    return hashlib.sha256(b"".join(sorted({key.digest for key in keys}))).digest()


# --- as JSON ---


class _Leaf(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    key: str
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    force_command: str | None
    source_address: tuple[str, ...] | None
    verify_required: bool
    permits: tuple[str, ...]
    evidence: str


class _Grant(msgspec.Struct, forbid_unknown_fields=True):
    holder: str
    method: str
    why: tuple[str, ...]
    leaf: _Leaf


_read = msgspec.json.Decoder(_Grant).decode


def grant_to_json(grant: SshGrant, leaf: SshLeaf) -> str:
    """Return one certificate of a grant as text, so that ``record_from_row`` gives an equal leaf."""
    critical, sources = leaf.critical, leaf.critical.source_address
    return canonical_json(
        {
            "holder": grant.holder,
            "method": grant.method,
            "why": grant.why,
            "leaf": {
                "kind": leaf.kind.value,
                "key": str(leaf.key),
                "key_id": leaf.key_id,
                "principals": leaf.principals,
                "valid_after": rfc3339(leaf.valid_after),
                "valid_before": rfc3339(leaf.valid_before),
                "force_command": critical.force_command,
                "source_address": None if sources is None else [str(network) for network in sources],
                "verify_required": critical.verify_required,
                "permits": sorted(permit.value for permit in leaf.permits),
                "evidence": leaf.evidence,
            },
        }
    )


def _leaf_from(read: _Leaf) -> SshLeaf:
    sources = read.source_address
    networks = None if sources is None else tuple(ipaddress.ip_network(network) for network in sources)
    return SshLeaf(
        kind=Kind(read.kind),
        key=sshkeys.parse(read.key),
        key_id=read.key_id,
        principals=read.principals,
        valid_after=read.valid_after,
        valid_before=read.valid_before,
        critical=Critical(read.force_command, networks, read.verify_required),
        permits=frozenset(map(Permit, read.permits)),
        evidence=read.evidence,
    )


def record_from_row(row: Row) -> SshRecord:
    """Read a row of ``ssh_statements``. :raises ValueError, TypeError, HandfastError: the ledger did not write it."""
    serial, _marker, _keys, _key, _kind, _holder, _before, grant_json, intended_at, issued_at, certificate, *back = row
    _before, revoked_at, reason, _kind = back
    read = _read(grant_json)
    return SshRecord(
        serial=serial,
        holder=read.holder,
        leaf=_leaf_from(read.leaf),
        method=read.method,
        intended_at=time_of(intended_at),
        why=read.why,
        certificate=certificate,
        issued_at=None if issued_at is None else time_of(issued_at),
        revoked_at=None if revoked_at is None else time_of(revoked_at),
        revoked_reason=reason,
    )
