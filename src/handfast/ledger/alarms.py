"""Alarms, which strangers can cause: bounded, as the log is not a disk for them to fill."""

from __future__ import annotations

from handfast.core.records import Event
from handfast.ledger import entries, statements
from handfast.ledger.writer import Transaction

MAX_ALARMS = 10  # for one marker, one for each key


def alarm(tx: Transaction, event: Event) -> None:
    """Log an alarm once for each key, and at most ``MAX_ALARMS`` for a marker."""
    before = same(tx, event, MAX_ALARMS)
    if len(before) < MAX_ALARMS and all(other.fields["key"] != event.fields["key"] for other in before):
        tx.log(event)


def same(tx: Transaction, event: Event, most: int) -> list[Event]:
    """Return the events of this kind and marker: at most ``most`` from the log, and those of this transaction."""
    marker = entries.marker_of(event)
    logged = tx.all(statements.FIRST_OF_MARKER, {"p_marker": marker, "p_kind": event.kind, "p_most": most})
    pending = [other for other in tx.pending if other.kind == event.kind and entries.marker_of(other) == marker]
    return [*(entries.decode(entry) for (entry,) in logged), *pending]
