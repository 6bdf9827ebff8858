"""What the audit makes of the log, for its tables to be held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from handfast.core import sshkeys
from handfast.core.hosts import Host
from handfast.core.merkle import leaf_hash
from handfast.core.records import Event
from handfast.errors import LogTampered
from handfast.ledger import entries, host_entries, instance_entries
from handfast.ledger.entries import EPOCH

# What reading a value raises that the ledger never wrote; SQLite keeps text in a BLOB column if told to.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
_HINT = "keep this store for inquiry, and restore a backup that verifies"


def tampered(what: str) -> LogTampered:
    """Return what says so."""
    return LogTampered(what, hint=_HINT)


@dataclass(slots=True)
class Facts:
    """The logged entries that speak of rows, by leaf hash; each is taken out by the row that makes it."""

    leaves: dict[bytes, int] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    revision: int = 0
    retired: set[tuple[str, bytes]] = field(default_factory=set)
    instances: dict[str, dict[str, str]] = field(default_factory=dict)
    latest: datetime = EPOCH
    """Of all events: the clocks of those who write need not agree."""

    def change(self, event: Event) -> None:
        """Follow a machine's host keys and place."""
        self.hosts[event.subject] = host_entries.applied(self.hosts.get(event.subject), event)
        self.revision += 1
        self.revisions[event.subject] = self.revision
        if event.kind != host_entries.DESCRIBED:
            held = (event.subject, sshkeys.parse(event.fields["key"]).digest)
            (self.retired.add if event.kind == host_entries.KEY_RETIRED else self.retired.discard)(held)

    def change_instance(self, event: Event) -> None:
        """Follow a managed machine."""
        after = instance_entries.applied(self.instances.pop(event.subject, None), event)
        if after is not None:
            self.instances[event.subject] = after

    def add(self, leaf: bytes, index: int, event: Event) -> None:
        """Keep an entry for its row."""
        if leaf in self.leaves:
            raise tampered(f"entry {index} ({event.kind} of {event.subject!r}) repeats entry {self.leaves[leaf]}")
        self.leaves[leaf] = index

    def claim(self, what: str, event: Event) -> int:
        """Return the index of the entry that a row makes."""
        index = self.leaves.pop(leaf_hash(entries.encode(event)), None)
        if index is None:
            raise tampered(f"{what} is not what the log says: no entry {event.kind!r} fits its row")
        return index
