"""
The events of SSH host keys, and a machine as it follows from them.

Unlike other rows, a machine's changes. So the audit does not look for one event that fits the row: it reads all of
the machine's events in their order and expects the row that they make. The row is written by the same functions.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec

from handfast.core import hosts, sshkeys
from handfast.core.flow import HostGrant
from handfast.core.hostjson import host_from, place_from
from handfast.core.hosts import Host, HostKey, How, Place, RetiredKey
from handfast.core.records import Event
from handfast.core.sshkeys import SshKey
from handfast.ledger.entries import FOREIGN_HOST_KEY, RETIRED_HOST_KEY, SAME_HOST_KEY, canonical_json, rfc3339

DESCRIBED = "host.described"
REGISTERED = "host.registered"
KEY_ADDED = "hostkey.added"
KEY_RETIRED = "hostkey.retired"
OF_A_MACHINE = frozenset({DESCRIBED, KEY_ADDED, KEY_RETIRED})


def described(machine: str, place: Place, *, at: datetime) -> Event:
    """The event that a machine is reached there."""
    return Event(DESCRIBED, at, machine, {"place": canonical_json(place_to(place))})


def key_added(machine: str, key: HostKey) -> Event:
    """The event that a key became known, or became known in another way."""
    return Event(KEY_ADDED, key.at, machine, {"key": str(key.key), "how": key.how.value, "detail": key.detail})


def key_retired(machine: str, key: RetiredKey) -> Event:
    """The event that a key is not the machine's any more."""
    return Event(KEY_RETIRED, key.at, machine, {"key": str(key.key), "reason": key.reason})


def registered(marker: str, keys_sha256: bytes, *, machine: str, at: datetime) -> Event:
    """The event of a row of ``host_registrations``."""
    return Event(REGISTERED, at, machine, {"marker": marker, "keys": keys_sha256.hex()})


def same_key(key: SshKey, *, machine: str, owner: str, at: datetime) -> Event:
    """The alarm that two machines claim one key."""
    fields = {"marker": f"hostkey:{key.fingerprint}", "key": key.fingerprint, "machine": machine, "owner": owner}
    return Event(SAME_HOST_KEY, at, machine, fields)


def foreign_key(key: SshKey, *, machine: str, at: datetime) -> Event:
    """The alarm that a credential was used to make host keys known which rest upon none of the machine's."""
    fields = {"marker": f"host:{machine}", "key": key.fingerprint, "machine": machine}
    return Event(FOREIGN_HOST_KEY, at, machine, fields)


def retired_key(key: SshKey, *, machine: str, owner: str, at: datetime) -> Event:
    """The alarm that somebody came with a key which an operator has taken back."""
    fields = {"marker": f"hostkey:{key.fingerprint}", "key": key.fingerprint, "machine": machine, "owner": owner}
    return Event(RETIRED_HOST_KEY, at, machine, fields)


def applied(host: Host | None, event: Event) -> Host:
    """
    Return the machine after one of its events.

    :raises ValueError, KeyError, HandfastError: not an event that the ledger writes.
    """
    if event.kind == DESCRIBED:
        return hosts.described(host, event.subject, place_from(msgspec.json.decode(event.fields["place"])))
    key = sshkeys.parse(event.fields["key"])
    if event.kind == KEY_ADDED:
        added = HostKey(key, How(event.fields["how"]), event.fields["detail"], event.at)
        return hosts.with_key(host, event.subject, added)
    if event.kind == KEY_RETIRED and host is not None:
        return hosts.without_key(host, RetiredKey(key, event.at, event.fields["reason"]))
    raise ValueError(f"{event.kind!r} changes no machine")


def keys_sha256(grant: HostGrant) -> bytes:
    """Return what a marker is spent against where there are host keys only: these keys, in any order."""
    return hashlib.sha256(b"".join(sorted(key.digest for key in grant.keys))).digest()


def words(host: Host) -> str:
    """Return what a machine is searched by: everything it is called, and its keys' fingerprints."""
    fingerprints = sorted({each.key.fingerprint for each in host.keys})
    return "\n".join((host.machine, *host.place.hosts(), *fingerprints)).lower()


# --- as JSON ---


def host_to_json(host: Host) -> str:
    """Return the whole machine as text, so that ``host_from_json`` gives an equal one."""
    return canonical_json(
        {
            "machine": host.machine,
            "place": place_to(host.place),
            "keys": [[str(each.key), each.how.value, each.detail, rfc3339(each.at)] for each in host.keys],
            "retired": [[str(each.key), rfc3339(each.at), each.reason] for each in host.retired],
        }
    )


def host_from_json(text: str) -> Host:
    """Read what ``host_to_json`` wrote. :raises ValueError, KeyError, TypeError, HandfastError: something else."""
    return host_from(msgspec.json.decode(text))


def place_to(place: Place) -> dict[str, list[str] | list[int]]:
    """Return a place as plain JSON values."""
    return {
        "names": list(place.names),
        "addresses": [str(address) for address in place.addresses],
        "aliases": list(place.aliases),
        "ports": list(place.ports),
    }


def grant_to(grant: HostGrant) -> dict[str, object]:
    """Return a grant as plain JSON values, for the grant of the credential it comes with."""
    return {
        "machine": grant.machine,
        "keys": [str(key) for key in grant.keys],
        "how": grant.how.value,
        "detail": grant.detail,
        "place": None if grant.place is None else place_to(grant.place),
        "complete": grant.complete,
        "basis": [str(key) for key in grant.basis],
    }


def grant_from(value: dict[str, object]) -> HostGrant:
    """Read what ``grant_to`` gave."""
    read = msgspec.convert(value, _Grant)
    return HostGrant(
        machine=read.machine,
        keys=tuple(sshkeys.parse(key) for key in read.keys),
        how=How(read.how),
        detail=read.detail,
        place=None if read.place is None else place_from(read.place),
        complete=read.complete,
        basis=tuple(sshkeys.parse(key) for key in read.basis),
    )


class _Grant(msgspec.Struct):
    machine: str
    keys: list[str]
    how: str
    detail: str
    place: dict[str, list[str | int]] | None
    complete: bool
    basis: list[str]
