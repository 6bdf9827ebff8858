"""What the audit makes of the log, for its tables to be held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from handfast.core import sshkeys
from handfast.core.hosts import Host, Place, shared_hosts, unspelled
from handfast.core.merkle import leaf_hash
from handfast.core.records import Event
from handfast.errors import LogTampered
from handfast.ledger import entries, host_entries, instance_entries
from handfast.ledger.entries import EPOCH, micros

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
    retired: dict[tuple[str, bytes], tuple[str, int]] = field(default_factory=dict)
    _reached: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
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
            self.retired.pop(held, None)
            if event.kind == host_entries.KEY_RETIRED:
                self.retired[held] = (event.fields["reason"], micros(event.at))

    def reached(self) -> dict[str, list[tuple[str, str]]]:
        """Return who is reached at each host, at whatever port: spelling, and machine; once the log is read."""
        if not self._reached:
            for host in self.hosts.values():
                for each in host.place.spellings(host.machine) if host.lives else ():
                    self._reached.setdefault(unspelled(each), []).append((each, host.machine))
        return self._reached

    def shared(self, machine: str) -> frozenset[str]:
        """Return those of a machine's hosts that it must not be called in a certificate."""
        place = self.hosts[machine].place if machine in self.hosts else Place()
        found = [each for host in place.hosts() for each in self.reached().get(host, ())]
        return shared_hosts(machine, place, found)

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
