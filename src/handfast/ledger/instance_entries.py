"""
The events of managed machines, and a machine as it follows from them.

Everything that is kept of one is text under a name. An event says which of it has changed; the row is what all of them
make, one after the other. So the audit makes the row again, and needs to know nothing about states.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

import msgspec

from handfast.core.instances import Instance, Mode, State, lasting
from handfast.core.records import Event
from handfast.errors import Malformed
from handfast.ledger.entries import canonical_json, rfc3339, serial_text

ADDED = "instance.added"
CHANGED = "instance.changed"
QUARANTINED = "instance.quarantined"
RELEASED = "instance.released"
REMOVED = "instance.removed"
ALARM = "alarm.quarantined"
OF_AN_INSTANCE = frozenset({ADDED, CHANGED, QUARANTINED, RELEASED, REMOVED})
WHY = "why"  # a person's words: in the event, and not in the row
_YES, _NO = "yes", "no"
_FAILED = frozenset({State.QUARANTINED, State.VERIFY_FAILED})


def texts(instance: Instance) -> dict[str, str]:
    """
    Return all that lasts of an instance; what it does not have is empty.

    :raises Malformed: text that could forge a line of `log show`.
    """
    kept = lasting(instance)
    found = {
        "name": kept.name,
        "instance_id": kept.instance_id,
        "invitation": kept.invitation,
        "deadline": rfc3339(kept.deadline),
        "since": "" if kept.since == kept.deadline else rfc3339(kept.since),  # as ``lasting`` has it
        "address": kept.address or "",
        "dials": _YES if kept.dials else _NO,
        "needs_key": _YES if kept.needs_key else _NO,
        "mode": kept.mode.value,
        "state": kept.state.value,
        "reason": kept.reason,
        "expected": _key(kept.expected),
        "serial": _serial(kept.serial),
        "issued_key": _key(kept.issued_key),
        "issued_serial": _serial(kept.issued_serial),
        "seen": _key(kept.seen),
        "rollbacks": str(kept.rollbacks),
    }
    if bad := next((text for text in found.values() if not text.isprintable()), None):
        raise Malformed(f"an instance with text that is not printable: {bad[:80]!r}")
    return found


def to_json(held: Mapping[str, str]) -> str:
    """Return the texts of an instance as its row keeps them."""
    return canonical_json(held)


@lru_cache(maxsize=4096)  # whoever watches looks at all of them each second, and hardly one has changed
def from_json(text: str) -> Instance:
    """Read a row. :raises ValueError, KeyError, TypeError: not one that the ledger wrote."""
    held = msgspec.json.decode(text, type=dict[str, str])
    deadline = datetime.fromisoformat(held["deadline"])
    return Instance(
        name=held["name"],
        instance_id=held["instance_id"],
        invitation=held["invitation"],
        deadline=deadline,
        since=datetime.fromisoformat(held["since"]) if held["since"] else deadline,
        address=held["address"] or None,
        dials=_is(held["dials"]),
        needs_key=_is(held["needs_key"]),
        mode=Mode(held["mode"]),
        state=State(held["state"]),
        reason=held["reason"],
        expected=bytes.fromhex(held["expected"]) or None,
        serial=_number(held["serial"]),
        issued_key=bytes.fromhex(held["issued_key"]) or None,
        issued_serial=_number(held["issued_serial"]),
        seen=bytes.fromhex(held["seen"]) or None,
        rollbacks=int(held["rollbacks"]),
    )


def added(instance: Instance, *, at: datetime) -> Event:
    """The event of a new row: what it does not have is left out."""
    return Event(ADDED, at, instance.name, {key: text for key, text in texts(instance).items() if text})


def changed(before: Instance, after: Instance, *, at: datetime, why: str) -> Event:
    """The event of a change, which says what is other than before."""
    old, new = texts(before), texts(after)
    fields = {key: text for key, text in new.items() if text != old[key]} | ({WHY: why} if why else {})
    return Event(_kind(before, after), at, after.name, fields)


def removed(name: str, *, why: str, at: datetime) -> Event:
    """The event of a row that is gone."""
    return Event(REMOVED, at, name, {WHY: why})


def alarm(after: Instance, *, at: datetime) -> Event:
    """The alarm that somebody else than the instance may be there; a person ends it, so they cannot be many."""
    fields = {"reason": after.reason, "seen": _key(after.seen), "expected": _key(after.expected)}
    return Event(ALARM, at, after.name, fields)


def applied(held: Mapping[str, str] | None, event: Event) -> dict[str, str] | None:
    """
    Return the texts of an instance after one of its events; None where it was removed.

    :raises ValueError: not an event that the ledger writes after those before it.
    """
    if (event.kind == ADDED) != (held is None):
        raise ValueError(f"{event.kind!r} of {event.subject!r}, which is {'no' if held is None else 'an'} instance")
    if event.kind == REMOVED:
        return None
    fields = {key: text for key, text in event.fields.items() if key != WHY}
    if unknown := fields.keys() - _KEYS:
        raise ValueError(f"{event.kind!r} of {event.subject!r} speaks of {min(unknown)!r}")
    return {**(held or dict.fromkeys(_KEYS, "")), **fields}


def _kind(before: Instance, after: Instance) -> str:
    if after.state is State.QUARANTINED and before.state is not State.QUARANTINED:
        return QUARANTINED
    return RELEASED if before.state in _FAILED and after.state not in _FAILED else CHANGED


def _is(text: str) -> bool:
    if text not in {_YES, _NO}:
        raise ValueError(f"neither yes nor no: {text!r}")
    return text == _YES


def _key(value: bytes | None) -> str:
    return "" if value is None else value.hex()


def _serial(value: int | None) -> str:
    return "" if value is None else serial_text(value)


def _number(text: str) -> int | None:
    return int(text, 16) if text else None


_KEYS = Instance.__dataclass_fields__.keys()
