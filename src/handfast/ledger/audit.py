"""
Whether the ledger proves itself: its log against its own hashes, signed checkpoints, and its tables.

Three things are shown, each by making it again. The *log*: every leaf from its entry, and the root.
The *past*: every checkpoint kept beside the log and the one kept elsewhere, against the root the log had
at that size. The *tables*: each row makes the very entries that were logged when it was written, and
every such entry has its row.

What it cannot show: entries written since the newest checkpoint that lies out of the reach of whoever
can write the store. Keep one elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from handfast.core import checkpoint as checkpoints
from handfast.core.checkpoint import Checkpoint
from handfast.core.merkle import Frontier, leaf_hash
from handfast.errors import Fault, HandfastError, Malformed
from handfast.ledger import (
    approvals,
    audit_instances,
    audit_ssh,
    entries,
    host_entries,
    host_statements,
    instance_entries,
    operations,
    rows,
    ssh_entries,
    statements,
)
from handfast.ledger.audit_facts import UNREADABLE, Facts, tampered
from handfast.ledger.database import Row, Session
from handfast.ledger.entries import serial_text, time_of
from handfast.ledger.store import SqlLedger

Progress = Callable[[int, int], None]
_PAGE = 1000
_OF_ROWS = entries.OF_TABLES | {host_entries.REGISTERED} | ssh_entries.OF_TABLES | approvals.OF_TABLES


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was verified. ``external_size`` is the size of the checkpoint kept elsewhere, if one was given."""

    size: int
    root: bytes
    checkpoints: int
    credentials: int
    invitations: int
    external_size: int | None = None


def verify(
    ledger: SqlLedger,
    log_key: Ed25519PublicKey,
    origin: str,
    external: str | None = None,
    *,
    progress: Progress | None = None,
) -> AuditReport:
    """
    Verify everything against the log's key, and against a checkpoint kept elsewhere.

    ``progress`` is called with the number of entries done and their total.

    :raises LogTampered: says which entry, checkpoint or row is not what it was.
    :raises Malformed: ``external`` is no checkpoint.
    :raises Fault: the store cannot be read.
    """
    elsewhere = None if external is None else checkpoints.verify(external, origin, log_key)
    with ledger.snapshot() as session:
        try:
            return _verify(session, log_key, origin, elsewhere, progress)
        except UNREADABLE as error:
            raise tampered(f"the store holds a value that the ledger never writes: {error}") from error


def _verify(
    session: Session, key: Ed25519PublicKey, origin: str, elsewhere: Checkpoint | None, progress: Progress | None
) -> AuditReport:
    stored = _stored_checkpoints(session, key, origin)
    head, facts = _log(session, stored if elsewhere is None else [*stored, elsewhere], progress)
    tables = _Tables(session, facts)
    invitations = tables.invitations()
    credentials = tables.credentials()
    tables.hosts()
    audit_ssh.verify(session, facts)
    audit_instances.verify(session, facts)
    tables.nothing_left()
    return AuditReport(
        size=head.size,
        root=head.root(),
        checkpoints=len(stored),
        credentials=credentials,
        invitations=invitations,
        external_size=None if elsewhere is None else elsewhere.size,
    )


def _stored_checkpoints(session: Session, key: Ed25519PublicKey, origin: str) -> list[Checkpoint]:
    found = []
    for size, note in session.all(statements.ALL_CHECKPOINTS):
        try:
            checkpoint = checkpoints.verify(note, origin, key)
        except HandfastError as error:
            raise tampered(f"the checkpoint stored for size {size} does not verify: {error.message}") from error
        if checkpoint.size != size:
            raise tampered(f"the checkpoint stored for size {size} is one of size {checkpoint.size}")
        found.append(checkpoint)
    return found


def _log(session: Session, wanted: list[Checkpoint], progress: Progress | None) -> tuple[Frontier, Facts]:
    """Make the tree again; compare it with its head and, on the way, with every checkpoint."""
    head = _head(session)
    for checkpoint in wanted:
        if checkpoint.size > head.size:
            raise tampered(
                f"the log was truncated: it has {head.size} entries, a checkpoint of {checkpoint.size} was signed"
            )
    at_size: dict[int, list[Checkpoint]] = {}
    for checkpoint in wanted:
        at_size.setdefault(checkpoint.size, []).append(checkpoint)
    tree, facts = Frontier(), Facts()
    _compare(tree, at_size.get(0, []))
    for low in range(0, head.size, _PAGE):
        high = min(low + _PAGE, head.size)
        page = session.all(statements.ENTRIES, {"p_start": low, "p_end": high})
        for expected, row in zip(range(low, high), page, strict=False):
            tree = tree.append(_leaf(expected, row, facts))
            if tree.size in at_size:
                _compare(tree, at_size[tree.size])
        if len(page) != high - low:
            raise tampered(f"entry {low + len(page)} of {head.size} is missing")
        if progress is not None:
            progress(high, head.size)
    if tree.peaks != head.peaks:
        raise tampered(f"the head of the log at size {head.size} does not fit its entries")
    count, lowest, highest = session.all(statements.COUNT_EVENTS)[0]
    if count != head.size:
        raise tampered(f"the log of size {head.size} has entries beyond its ends ({lowest} to {highest})")
    return head, facts


def _head(session: Session) -> Frontier:
    try:
        return Frontier.decode(*session.head(statements.HEAD))
    except (Malformed, Fault, *UNREADABLE) as error:
        raise tampered(f"the head of the log is damaged: {error}") from error


def _compare(tree: Frontier, signed: list[Checkpoint]) -> None:
    for checkpoint in signed:
        if checkpoint.root != tree.root():
            raise tampered(
                f"the first {tree.size} entries have the root {tree.root().hex()[:16]}…, "
                f"not {checkpoint.root.hex()[:16]}… as was signed: one of them was changed"
            )


def _leaf(expected: int, row: Row, facts: Facts) -> bytes:
    index, kind, subject, entry, stored, marker = row
    if index != expected:
        raise tampered(f"entry {expected} is missing")
    leaf = leaf_hash(entry) if isinstance(entry, bytes) else None
    if leaf is None or leaf != stored:
        raise tampered(f"entry {index} was changed: it does not have the hash that was stored with it")
    try:
        event = entries.decode(entry)
    except Malformed as error:
        raise tampered(f"entry {index} cannot be read: {error.message}") from error
    if (event.kind, event.subject) != (kind, subject):
        said = f"{event.kind!r} of {event.subject!r}"
        raise tampered(f"entry {index} is filed as {kind!r} of {subject!r}, and says {said}")
    if marker != entries.marker_of(event):
        raise tampered(f"entry {index} is filed under the marker {marker!r}, and says {entries.marker_of(event)!r}")
    facts.latest = max(facts.latest, event.at)
    if event.kind in host_entries.OF_A_MACHINE:
        facts.change(event)
    elif event.kind in instance_entries.OF_AN_INSTANCE:
        facts.change_instance(event)
    elif event.kind in _OF_ROWS:
        facts.add(leaf, index, event)
    return leaf


class _Tables:
    """The rows, each against the entries it makes. What is left in the end was removed or put in."""

    def __init__(self, session: Session, facts: Facts) -> None:
        self._session = session
        self._facts = facts
        closed = session.all(statements.ALL_CLOSED_MARKERS)
        self._closed = {marker: (time_of(at), reason) for marker, at, reason in closed}
        self._first: dict[str, tuple[int, datetime]] = {}  # the first certificate of each machine, by log index
        self._newest: dict[str, tuple[int, str]] = {}  # the role in the newest one

    def invitations(self) -> int:
        found = self._session.all(statements.ALL_INVITATIONS)
        for row in found:
            what = f"the invitation {row[0]!r}"
            try:
                invitation = rows.invitation_from_row(row)
            except UNREADABLE as error:
                raise tampered(f"{what} cannot be read: {error}") from error
            self._facts.claim(what, entries.invited(invitation))
            if invitation.marker in self._closed:
                at, reason = self._closed.pop(invitation.marker)
                machine = invitation.machine
                self._facts.claim(what, entries.cancelled(invitation.key_id, machine=machine, reason=reason, at=at))
        return len(found)

    def credentials(self) -> int:
        count: int = self._session.all(statements.COUNT_CREDENTIALS)[0][0]
        # Serials are random: equal ranges of them are pages of about one size, in any dialect.
        pages, seen = count // _PAGE + 1, 0
        bounds = [serial_text((i << operations.SERIAL_BITS) // pages) for i in range(pages + 1)]
        for low, high in pairwise(bounds):
            for row in self._session.all(statements.CREDENTIALS_BETWEEN, {"p_low": low, "p_high": high}):
                seen += 1
                try:
                    self._credential(row)
                except UNREADABLE as error:
                    raise tampered(f"the credential {row[0]!r} cannot be read: {error}") from error
        if seen != count:
            raise tampered(f"{count - seen} credentials have serials that the ledger never makes")
        return count

    def _credential(self, row: Row) -> None:
        serial, marker, key_sha256, machine, grant_json, _at, _at, certificate, _at, reason, kind = row
        what, record, grant = (
            f"the credential {serial!r}",
            rows.credential_from_row(row),
            rows.grant_from_json(grant_json),
        )
        self._facts.claim(
            what,
            entries.intended(
                serial,
                marker=marker,
                key_sha256=key_sha256,
                machine=machine,
                grant_json=grant_json,
                method=grant.method,
                at=record.intended_at,
            ),
        )
        if record.issued_at is not None and certificate is not None:
            issued = entries.issued(serial, certificate=certificate, grant=grant, at=record.issued_at)
            index = self._facts.claim(what, issued)
            self._first[machine] = min(self._first.get(machine, (index, issued.at)), (index, issued.at))
            self._newest[machine] = max(self._newest.get(machine, (index, grant.role)), (index, grant.role))
        if record.revoked_at is not None:
            at = record.revoked_at
            self._facts.claim(what, entries.taken_back(kind, serial, machine=machine, reason=reason, at=at))
            if self._closed.pop(record.successor_marker, None) != (at, reason):
                raise tampered(f"{what} was revoked and could still introduce a successor")

    def hosts(self) -> None:
        """Every machine with host keys, its places and keys, against what its events make."""
        for marker, keys, machine, at in self._session.all(host_statements.ALL_HOST_REGISTRATIONS):
            event = host_entries.registered(marker, keys, machine=machine, at=time_of(at))
            self._facts.claim(f"the registration of {machine!r}", event)
        made = self._facts.hosts
        kept = {name: row for name, *row in self._session.all(host_statements.ALL_HOSTS)}
        for name in sorted(made.keys() | kept.keys()):
            host, revision = made.get(name), self._facts.revisions.get(name)
            if host is None or kept.get(name) != [host_entries.host_to_json(host), host_entries.words(host), revision]:
                raise tampered(f"the host keys or the place of {name!r} are not what the log makes them")
        if self._session.all(host_statements.COUNT_HOST_WORDS)[0][0] != len(made):
            raise tampered("the index of what machines are searched by is not what the log makes it")
        keys = {each.key.digest: host.machine for host in made.values() for each in host.keys}
        if dict(self._session.all(host_statements.ALL_HOST_KEYS)) != keys:
            raise tampered("the index of host keys is not what the log makes it")
        places = {(each, host, machine) for host, found in self._facts.reached().items() for each, machine in found}
        if set(self._session.all(host_statements.ALL_HOST_PLACES)) != places:
            raise tampered("the index of names of machines is not what the log makes it")
        retired = {(*whose, *why) for whose, why in self._facts.retired.items()}
        if set(self._session.all(host_statements.ALL_HOST_RETIRED_KEYS)) != retired:
            raise tampered("the list of retired host keys is not what the log makes it")

    def nothing_left(self) -> None:
        for marker in self._closed:
            raise tampered(f"the marker {marker!r} was closed by nothing in the log")
        if self._facts.leaves:
            index = min(self._facts.leaves.values())
            raise tampered(f"entry {index} speaks of a row that is not in the store, or was changed")
        made = {name: (self._newest[name][1], self._first[name][1]) for name in self._first}
        kept = {name: (role, time_of(at)) for name, role, at in self._session.all(statements.ALL_MACHINES)}
        for name in sorted(made.keys() | kept.keys()):
            if made.get(name) != kept.get(name):
                raise tampered(f"the machine {name!r} is not what its credentials in the log make it")
