"""
What is looked at before a machine's SSH host keys or its place change, inside the writer's transaction.

Policy has decided on what it read before; here nobody else writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

import msgspec

from handfast.core.flow import HostGrant
from handfast.core.hosts import (
    MAX_PLACES,
    MAX_RETIRED,
    MAX_VOUCHED,
    SSH_PORT,
    Grade,
    Host,
    How,
    Place,
    placed,
    shared_hosts,
    spelling,
    superseded,
    unspelled,
)
from handfast.core.sshkeys import SshKey
from handfast.errors import Refused, TooMuch
from handfast.ledger import alarms, host_entries
from handfast.ledger import host_statements as statements
from handfast.ledger.database import Session
from handfast.ledger.entries import time_of
from handfast.ledger.writer import Transaction

_DAY = timedelta(days=1)
_NEW_KEYS = "make new host keys on the machine: rm /etc/ssh/ssh_host_*; ssh-keygen -A"  # it makes only missing ones


def read(session: Session, machine: str) -> Host | None:
    """Return the machine as this transaction sees it."""
    row = session.one(statements.HOST, {"p_machine": machine})
    return None if row is None else host_entries.host_from_json(row[0])


def place_after(before: Host | None, grant: HostGrant) -> Place | None:
    """
    Return where the machine will be reached.

    What answers on the network adds to what better evidence has said of a machine, and leaves nothing of it out.
    """
    if grant.place is None:
        return None
    said = placed(before, grant.place, grant.how)
    if grant.how is not How.SSH_HOSTKEY or before is None or (before.grade or Grade.SEEN) <= grant.how.grade:
        return said
    known = before.place
    places = (*known.names, *map(str, known.addresses), *said.names, *map(str, said.addresses))
    # And no port: what is reached at another one besides is still reached at 22, where else nobody would be.
    ports = (*known.ports, *said.ports)
    return Place.parse(places, aliases=(*known.aliases, *said.aliases), ports=ports)


def reached(session: Session, hosts: Iterable[str]) -> list[tuple[str, str]]:
    """Return who is reached at these, at whatever port: spelling, and machine."""
    found = (session.all(statements.HOSTS_REACHED, {"p_host": host}) for host in dict.fromkeys(hosts))
    return [(spelling, machine) for rows in found for spelling, machine in rows]


def shared(session: Session, machine: str, place: Place) -> frozenset[str]:
    """Return those of a machine's hosts that it must not be called in a certificate; see ``core.hosts``."""
    return frozenset() if SSH_PORT in place.ports else shared_hosts(machine, place, reached(session, place.hosts()))


def check(tx: Transaction, grant: HostGrant, *, at: datetime) -> None:
    """
    Refuse what must not be recorded, before anything is written.

    :raises Refused: a key is another machine's now, which is an alarm: two machines with one key can each pose as the
        other. Or it was retired, and this is not an operator's word. Or one of the names is another machine's own. Or
        better evidence came since it was decided.
    """
    before = read(tx, grant.machine)
    _check_grade(grant, before)
    check_possible(tx, grant, at=at)
    _check_quiet(grant, before)
    _check_rejected(tx, grant, before)
    _check_vouched(grant, before)
    _check_untaken(tx, grant, before)
    _check_ports(tx, grant)


def check_possible(tx: Transaction, grant: HostGrant, *, at: datetime) -> None:
    """
    Refuse what not even a person makes possible who accepts it: see ``approvals``.

    :raises Refused: as ``check``, but of evidence and places.
    """
    before = read(tx, grant.machine)
    for key in grant.keys:
        _check_owner(tx, grant, key, at=at)
        if grant.how is not How.OPERATOR:
            _check_retired(tx, grant.machine, key, before)
            _check_distrusted(tx, grant.machine, key, before, at=at)
    _check_foundation(tx, grant, before, at=at)
    _check_retiring(grant, before, at=at)
    place = place_after(before, grant)
    if place is not None and len(place.hosts()) > MAX_PLACES:
        raise Refused(f"{grant.machine!r} would have over {MAX_PLACES} names", hint="see `handfast host show`")
    for name in () if grant.place is None else (*grant.place.names, *grant.place.aliases):
        other = read(tx, name) if name != grant.machine else None
        if other is not None and other.lives:
            raise Refused(
                f"{name!r} is itself a machine with host keys, and cannot be a name of {grant.machine!r}",
                hint=f"remove it first, if it is gone: handfast host remove {name}",
            )


def _check_retiring(grant: HostGrant, before: Host | None, *, at: datetime) -> None:
    """
    A machine brings new keys, and the old ones are on the list of revoked keys for good, which everybody fetches.

    :raises TooMuch: it would have retired more than ``MAX_RETIRED`` within a day.
    """
    if before is None or not grant.complete or grant.how is How.OPERATOR:
        return
    gone = superseded(before, grant.keys, grant.how)
    if gone and len(gone) + sum(at - each.at < _DAY for each in before.retired) > MAX_RETIRED:
        raise TooMuch(
            f"{grant.machine!r} would have retired over {MAX_RETIRED} host keys within a day",
            hint="let it keep its host keys",
            after=int(_DAY.total_seconds()),
        )


def _check_grade(grant: HostGrant, before: Host | None) -> None:
    # Policy has decided on what it read before this transaction. Operators have the last word there, and so here.
    best = None if before is None else before.grade
    if before is None or best is None or grant.how is How.OPERATOR or grant.how.grade >= best:
        return
    known = before.current
    if set(grant.keys) - known or (grant.complete and known - set(grant.keys)):
        raise Refused(
            f"the host keys of {grant.machine!r} became known better than by {grant.how.value} meanwhile",
            hint=f"see `handfast host show {grant.machine}`",
        )


def _check_quiet(grant: HostGrant, before: Host | None) -> None:
    """Of two who come at the same moment as one new machine, the second is one that a person has to look at."""
    known = before.current if before is not None else frozenset()
    if not grant.quiet or before is None or (grant.basis and known >= set(grant.basis)):
        return
    if before.bereft:
        raise Refused(
            f"the host keys of {grant.machine!r} were retired meanwhile",
            hint="run the same command again: a person has to approve these now",
        )
    if known and (set(grant.keys) - known or (grant.complete and known - set(grant.keys))):
        raise Refused(
            f"other host keys of {grant.machine!r} became known meanwhile",
            hint="run the same command again: a person has to approve these now",
        )


def _check_untaken(tx: Transaction, grant: HostGrant, before: Host | None) -> None:
    """
    What answers on the network takes no place that is another machine's: see ``approvals``.

    At no port: on a machine, whoever may log in has a port to answer at, and certificates know none.
    """
    place = place_after(before, grant)
    if place is None or not (grant.quiet or grant.how is How.SSH_HOSTKEY):
        return
    had = before.place.spellings(grant.machine) if before is not None else ()
    claimed = (unspelled(each) for each in place.spellings(grant.machine) if each not in had)
    for each, owner in reached(tx, claimed):
        if owner != grant.machine:
            raise Refused(
                f"{each!r} is where {owner!r} is reached",
                hint=f"an operator has to accept it; or remove {owner}, if it is gone: handfast host remove",
            )


def _check_rejected(tx: Transaction, grant: HostGrant, before: Host | None) -> None:
    """What a person has rejected is asked no more where the machine has lost its other keys meanwhile."""
    if grant.how is not How.OPERATOR:
        known = before.current if before is not None else frozenset()
        check_rejected(tx, grant.machine, set(grant.keys) - known)


def _check_vouched(grant: HostGrant, before: Host | None) -> None:
    if grant.how is not How.HOSTKEYS_PROVE or before is None:
        return
    new = set(grant.keys) - before.current
    if new and len(before.vouched | new) > MAX_VOUCHED:
        raise Refused(
            f"over {MAX_VOUCHED} host keys of {grant.machine!r} would rest upon its others alone",
            hint=f"see `handfast host show {grant.machine}`; an operator retires those that are gone",
        )


def approved(tx: Transaction, machine: str) -> frozenset[SshKey]:
    """Return the keys that a person has accepted as a machine's, at any time."""
    return frozenset(key for keys, *_ in _decided(tx, machine, "accepted") for key in keys)


def check_rejected(tx: Transaction, machine: str, keys: AbstractSet[SshKey]) -> None:
    """
    Refuse keys that a person has rejected as this machine's, wherever it was to be reached.

    :raises Refused: one was, and no operator has entered it since.
    """
    host = read(tx, machine)
    ways = host.keys if host is not None else ()
    entered = {each.key: each.at for each in ways if each.how is How.OPERATOR}
    for refused, at, by, reason in _decided(tx, machine, "rejected"):
        if any(key in keys and (key not in entered or entered[key] <= at) for key in refused):
            raise Refused(
                f"these host keys for {machine!r} were rejected on {at:%Y-%m-%d %H:%M} UTC by {by}: {reason}",
                hint="if they are right: an operator enters them, handfast host add",
            )


def _decided(tx: Transaction, machine: str, decision: str) -> list[tuple[tuple[SshKey, ...], datetime, str, str]]:
    """Return what was decided: the keys, when, by whom, and why."""
    rows = tx.all(statements.HOST_DECISIONS, {"p_machine": machine, "p_decision": decision})
    return [
        (host_entries.grant_from(msgspec.json.decode(grant)).keys, time_of(at), by, why) for grant, at, by, why in rows
    ]


def _check_foundation(tx: Transaction, grant: HostGrant, before: Host | None, *, at: datetime) -> None:
    """
    Refuse what has to rest upon a key of the machine that counts, and does not.

    A credential alone makes no host key known: it is often a service's, and the host keys are root's. Whoever renews
    proves at least one of those that are known, or has an operator's new word.
    """
    known = {each.key for each in before.keys if each.how is not How.SCAN} if before is not None else set()
    if grant.how in {How.RENEWAL, How.REINTRODUCTION} and not known & set(grant.keys):
        alarms.alarm(tx, host_entries.foreign_key(min(grant.keys), machine=grant.machine, at=at))
        raise Refused(
            f"none of these host keys is known as one of {grant.machine!r}, and its credential does not vouch for them",
            hint="an operator invites the machine anew, or enters a key: handfast host add",
        )
    proved = {each.key for each in before.keys if each.how.grade is Grade.PROVED} if before is not None else set()
    if grant.how is How.HOSTKEYS_PROVE and not (grant.basis and proved >= set(grant.basis)):
        raise Refused(
            f"the connection to {grant.machine!r} was authenticated with a host key that does not count any more",
            hint="connect again: handfast ssh",
        )
    if not known >= set(grant.basis):
        raise Refused(
            f"these host keys of {grant.machine!r} rest upon one that does not count any more",
            hint=f"see `handfast host show {grant.machine}`",
        )


def _check_ports(tx: Transaction, grant: HostGrant) -> None:
    """A port is the machine's own claim, not an operator's: it takes no place that another has there."""
    if grant.place is None or grant.how is How.OPERATOR:
        return
    for port in grant.place.ports:
        for host in grant.place.hosts() if port != SSH_PORT else ():
            owner = tx.one(statements.HOST_PLACE, {"p_spelling": spelling(host, port)})
            if owner is not None and owner[0] != grant.machine:
                raise Refused(
                    f"{spelling(host, port)!r} is where {owner[0]!r} is reached",
                    hint=f"leave out the port; or remove {owner[0]}, if it is gone: handfast host remove {owner[0]}",
                )


def _check_retired(tx: Transaction, machine: str, key: SshKey, host: Host | None) -> None:
    if tx.one(statements.HOST_RETIRED_KEY, {"p_machine": machine, "p_digest": key.digest}) is None:
        return
    known = next((each for each in host.retired if each.key == key), None) if host is not None else None
    when = f" on {known.at:%Y-%m-%d} ({known.reason})" if known is not None else ""
    raise Refused(
        f"the host key {key.fingerprint} of {machine!r} was retired{when}",
        hint=f"{_NEW_KEYS}; an operator may bring it back with `handfast host add`",
    )


def _check_distrusted(tx: Transaction, machine: str, key: SshKey, host: Host | None, *, at: datetime) -> None:
    """
    A key that an operator took back, of whatever machine, is nobody's by less than an operator's word.

    Else its thief would register it as a machine of his own, and it would leave the list of revoked keys.
    """
    if host is not None and key in host.current:
        return
    found = tx.one(statements.HOST_DISTRUSTED_KEY, {"p_digest": key.digest})
    if found is None:
        return
    alarms.alarm(tx, host_entries.retired_key(key, machine=machine, owner=found[0], at=at))
    raise Refused(
        f"the host key {key.fingerprint} was retired as one of {found[0]!r} ({found[1]})",
        hint=f"{_NEW_KEYS}; an operator may enter it all the same: handfast host add",
    )


def _check_owner(tx: Transaction, grant: HostGrant, key: SshKey, *, at: datetime) -> None:
    machine, owner = grant.machine, tx.one(statements.HOST_KEY_OWNER, {"p_digest": key.digest})
    if owner is not None and owner[0] != machine:
        alarms.alarm(tx, host_entries.same_key(key, machine=machine, owner=owner[0], at=at))
        if grant.how.possession and not _proved(read(tx, owner[0]), key):
            return  # or whoever reports somebody's public key as his own could keep the owner out; see ``record``
        raise Refused(
            f"the host key {key.fingerprint} is {owner[0]!r}'s: with one key each could pose as the other",
            hint=f"a cloned image? {_NEW_KEYS}; or remove {owner[0]}, if it is gone: handfast host remove {owner[0]}",
        )


def _proved(host: Host | None, key: SshKey) -> bool:
    return host is not None and any(each.key == key and each.how.possession for each in host.keys)
