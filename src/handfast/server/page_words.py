"""What the pages say of a machine, as values without markup: rows, keys with their evidence, the log in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from handfast.core import knownhosts, randomart, sshkeys
from handfast.core.hostjson import place_from
from handfast.core.hosts import SSH_PORT, Grade, Host, HostKey, How, Place
from handfast.core.records import CredentialRecord, Event, SshRecord
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError
from handfast.ledger import entries, host_entries, ssh_entries

# What the JSON API gives to whoever may read machines; the rest of the log is for operators.
FOR_READERS = frozenset(
    {
        *(host_entries.DESCRIBED, host_entries.KEY_ADDED, host_entries.KEY_RETIRED),
        *(ssh_entries.INTENDED, ssh_entries.ISSUED, ssh_entries.REVOKED, ssh_entries.WITHDRAWN),
    }
)
MEANING = {
    Grade.PROVED: "The key itself signed: nobody but its holder can have made it known.",
    Grade.REPORTED: "A source that speaks for the machine said so; the key signed nothing.",
    Grade.CHALLENGED: "The key answered at its addresses twice, and signed: who sits before the machine can do that.",
    Grade.SEEN: "Whoever sat between the machine and the observer may have put a key of their own here.",
}
_HASH = 64  # characters of a SHA-256 in hex: for programs
_SHORT = 12  # characters of a fingerprint in a sentence, behind SHA256:
_Sentence = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A machine in the list; ``kinds`` are its keys as ``ssh-keygen -l`` calls them."""

    machine: str
    hosts: tuple[str, ...]
    more: int
    kinds: tuple[str, ...]
    grade: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Reason:
    """One way in which a key became known."""

    grade: str
    words: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Card:
    """A host key; ``believed`` is whether ssh is told of it."""

    kind: str
    algorithm: str
    fingerprint: str
    picture: str
    believed: bool
    grade: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log: what happened, and what else there is to say."""

    at: datetime
    said: str
    detail: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A credential, as an operator is shown it."""

    serial: str
    role: str
    status: str
    method: str
    not_after: datetime
    revoked: str


@dataclass(frozen=True, slots=True)
class Certified:
    """An SSH certificate; ``revoked`` is why, if it is."""

    serial: str
    status: str
    fingerprint: str
    names: tuple[str, ...]
    until: datetime
    revoked: str


MOST_HOSTS = 4  # of a machine in the list


def row(host: Host) -> Row:
    """Return a machine's row of the list."""
    hosts = host.place.hosts()
    best = host.grade
    since = max((each.at for each in host.keys if each.how.grade is best), default=None)
    kinds = dict.fromkeys(randomart.kind(key)[0] for key in sorted(host.current))
    return Row(host.machine, hosts[:MOST_HOSTS], len(hosts[MOST_HOSTS:]), tuple(kinds), _word(best), since)


def cards(host: Host, accept: Grade) -> tuple[Card, ...]:
    """Return a machine's keys: what is believed first, and of a key the best reason first."""
    believed = set(host.believed(accept))
    keys = sorted(host.current, key=lambda key: (key not in believed, _preference(key), key))
    return tuple(_card(key, [each for each in host.keys if each.key == key], believed=key in believed) for key in keys)


def _card(key: SshKey, known: Sequence[HostKey], *, believed: bool) -> Card:
    best_first = sorted(known, key=lambda each: (-each.how.grade, each.at))
    reasons = tuple(Reason(_word(each.how.grade), each.how.words, each.detail, each.at) for each in best_first)
    name = kind_of(key)
    return Card(name, key.algorithm, key.fingerprint, randomart.picture(key), believed, reasons[0].grade, reasons)


def meanings(host: Host) -> tuple[tuple[str, str], ...]:
    """Return what the grades mean that stand on a machine's page, the best first."""
    grades = {each.how.grade for each in host.keys}
    return tuple((_word(grade), words) for grade, words in MEANING.items() if grade in grades)


def kind_of(key: SshKey) -> str:
    """Return how a key is called: ``ED25519``, ``RSA 3072``."""
    name, bits = randomart.kind(key)
    return f"{name} {bits}" if bits and name in {"RSA", "ECDSA", "DSA"} else name


def known_hosts(host: Host, accept: Grade) -> tuple[str, ...]:
    """Return the machine's lines for a known_hosts file: believed keys only, the one that is preferred first."""
    keys = sorted(host.believed(accept), key=lambda key: (_preference(key), key))
    return tuple(knownhosts.lines(host.place.spellings(host.machine), keys))


def credential(record: CredentialRecord, now: datetime) -> Held:
    """Return a credential as it is seen at ``now``."""
    serial, status = entries.serial_text(record.serial), record.status(now)
    role, revoked = record.role.value, record.revoked_reason or ""
    return Held(serial, role, status, record.method, record.not_after, revoked)


def certificate(record: SshRecord, now: datetime) -> Certified:
    """Return an SSH certificate as it is seen at ``now``."""
    leaf, why = record.leaf, record.revoked_reason or ""
    fingerprint, names = leaf.key.fingerprint, leaf.principals
    return Certified(str(record.serial), record.status(now), fingerprint, names, leaf.valid_before, why)


def history(events: Sequence[Event]) -> tuple[Entry, ...]:
    """Return the log in sentences, the newest first."""
    return tuple(_entry(event) for event in reversed(events))


def when(at: datetime) -> str:
    """Return a time for people: ``2026-11-22 04:59 UTC``."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _preference(key: SshKey) -> int:
    """As people meet them: what OpenSSH prefers, in short."""
    order = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
    return order.index(key.algorithm) if key.algorithm in order else len(order)


def _word(grade: Grade | None) -> str:
    return "removed" if grade is None else grade.name.lower()


def _entry(event: Event) -> Entry:
    said, detail = _sentence(event)
    return Entry(event.at, said, detail, event.kind.startswith("alarm."))


def _sentence(event: Event) -> _Sentence:
    speaking = _SENTENCES.get(event.kind)
    if speaking is not None:
        try:
            return speaking(event.fields)
        except (KeyError, ValueError, TypeError, HandfastError):
            pass  # an older version's entry, or a tampered one: `handfast log verify` tells them apart
    return event.kind, ", ".join(_pairs(event.fields))


def _pairs(fields: Mapping[str, str]) -> Iterator[str]:
    return (f"{name} {value}" for name, value in sorted(fields.items()) if value and len(value) < _HASH)


def _described(fields: Mapping[str, str]) -> _Sentence:
    place = place_from(msgspec.json.decode(fields["place"]))
    if place == Place():
        return "Not reached anywhere any more", ""
    ports = "" if place.ports == (SSH_PORT,) else f" at port {', '.join(map(str, place.ports))}"
    return "Where it is reached was set", (", ".join(place.hosts()) or "under its own name only") + ports


def _added(fields: Mapping[str, str]) -> _Sentence:
    how, detail = How(fields["how"]), fields["detail"]
    return f"{_key(fields)} became known ({how.grade.name.lower()})", how.words + (f": {detail}" if detail else "")


def _key(fields: Mapping[str, str]) -> str:
    key = sshkeys.parse(fields["key"])
    return f"{kind_of(key)} key {key.fingerprint[: len('SHA256:') + _SHORT]}…"


def _issued(fields: Mapping[str, str]) -> _Sentence:
    until = when(datetime.fromisoformat(fields["not_after"]))
    return f"Credential issued: {fields['role']}, until {until}", f"{fields['method']}, serial {fields['serial']}"


def _invited(fields: Mapping[str, str]) -> _Sentence:
    until = when(datetime.fromisoformat(fields["expires_at"]))
    return f"Invited as {fields['role']}, until {until}", f"invitation {fields['invitation']}, for {fields['names']}"


def _to_certify(fields: Mapping[str, str]) -> _Sentence:
    names = fields["principals"].replace(",", ", ")
    return f"An SSH certificate was decided for {names}", f"{fields['method']}, serial {fields['serial']}"


def _certified(fields: Mapping[str, str]) -> _Sentence:
    until = when(datetime.fromisoformat(fields["valid_before"]))
    return f"SSH certificate issued, until {until}", f"serial {fields['serial']}"


_SENTENCES: dict[str, Callable[[Mapping[str, str]], _Sentence]] = {
    host_entries.DESCRIBED: _described,
    host_entries.KEY_ADDED: _added,
    host_entries.KEY_RETIRED: lambda of: (f"{_key(of)} retired", of["reason"]),
    host_entries.REGISTERED: lambda of: ("A one-time way to publish host keys was used", of["marker"]),
    entries.INVITED: _invited,
    entries.CANCELLED: lambda of: (f"Invitation {of['invitation']} closed", of["reason"]),
    entries.INTENDED: lambda of: ("Introduced: a credential was decided", f"{of['method']}, serial {of['serial']}"),
    entries.ISSUED: _issued,
    entries.REVOKED: lambda of: ("Credential revoked", f"{of['reason']}, serial {of['serial']}"),
    entries.ABANDONED: lambda of: ("Credential abandoned before it was issued", f"serial {of['serial']}"),
    ssh_entries.INTENDED: _to_certify,
    ssh_entries.ISSUED: _certified,
    ssh_entries.REVOKED: lambda of: ("SSH certificate revoked", f"{of['reason']}, serial {of['serial']}"),
    ssh_entries.WITHDRAWN: lambda of: (
        "SSH certificate revoked, as what it says is so no more",
        f"{of['reason']}, serial {of['serial']}",
    ),
    ssh_entries.ABANDONED: lambda of: ("SSH certificate abandoned before it was issued", f"serial {of['serial']}"),
    entries.SECOND_KEY: lambda of: (
        "Another key asked for what was used already: somebody else may hold the secret",
        of["marker"],
    ),
    entries.REFUSED: lambda of: (f"Refused by {of['method']}: {of['reason']}", of["marker"]),
    entries.FOREIGN_HOST_KEY: lambda of: (
        f"Its credential was used to make host keys known of which none is {of['machine']}'s: it may be stolen",
        of["key"],
    ),
    entries.SAME_HOST_KEY: lambda of: (
        f"The host key of {of['owner']} was claimed by {of['machine']}: with one key each could pose as the other",
        of["key"],
    ),
    entries.RETIRED_HOST_KEY: lambda of: (
        f"A host key that was taken back from {of['owner']} was claimed by {of['machine']}: its thief may have come",
        of["key"],
    ),
}
