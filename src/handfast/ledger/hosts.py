"""The changes of machines' SSH host keys and places, each as a function over the writer's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from handfast.core import sshkeys
from handfast.core.flow import HostGrant, Once
from handfast.core.hosts import (
    Host,
    HostKey,
    How,
    Place,
    RetiredKey,
    placed,
    superseded,
    unspelled,
    without_hosts,
)
from handfast.core.records import Event
from handfast.core.sshkeys import SshKey
from handfast.errors import AlreadySpent, InvitationCancelled, NotFound, Refused
from handfast.ledger import alarms, entries, host_entries, ssh_revocations
from handfast.ledger import host_statements as statements
from handfast.ledger.entries import micros
from handfast.ledger.host_checks import approved, check, place_after, reached, read, shared
from handfast.ledger.writer import Transaction

_REPEATED = timedelta(days=1)


def register(tx: Transaction, grant: HostGrant, once: Once | None, *, at: datetime) -> Host:
    """
    Spend the marker against these keys, and record them; the same keys get the same answer.

    :raises AlreadySpent: no use is left for other keys.
    :raises Refused: as ``host_checks.check``, or the marker was closed.
    """
    keys = host_entries.keys_sha256(grant)
    if once is not None and _spent_before(tx, grant, once, keys, at=at):
        known = read(tx, grant.machine)
        if known is not None:
            return known  # asked again, after a lost answer: what happened to the keys since then stays
    check(tx, grant, at=at)
    if once is not None:
        row = {"marker": once.marker, "keys_sha256": keys, "machine": grant.machine, "registered_at": micros(at)}
        tx.run(statements.ADD_HOST_REGISTRATION, row)
        tx.log(host_entries.registered(once.marker, keys, machine=grant.machine, at=at))
    return record(tx, grant, at=at)


def register_with(tx: Transaction, grant: HostGrant, once: Once, *, at: datetime) -> None:
    """
    Record the host keys of a credential that is about to be intended under ``once``, if they are its first ones.

    An invitation may be for several keys of one machine, and yet its SSH host keys come by it once.

    :raises AlreadySpent: other host keys came by it. :raises Refused: as ``host_checks.check``.
    """
    if grant.how is How.INVITATION:
        register(tx, grant, Once(f"{once.marker}:ssh"), at=at)
    else:
        check(tx, grant, at=at)
        record(tx, grant, at=at)


def _spent_before(tx: Transaction, grant: HostGrant, once: Once, keys: bytes, *, at: datetime) -> bool:
    """Return whether these very keys have spent the marker. :raises AlreadySpent, InvitationCancelled: for others."""
    others, closed, known = tx.head(statements.HOST_SPENDING, {"p_marker": once.marker, "p_keys": keys})
    if known:
        return True
    if closed is not None:
        raise InvitationCancelled(f"the invitation was cancelled: {closed}", hint="ask for another one")
    if others >= once.uses:
        how, machine = grant.how.value, grant.machine
        second = entries.second_key(marker=once.marker, key_sha256=keys, method=how, machine=machine, at=at)
        alarms.alarm(tx, second)
        raise AlreadySpent(
            f"{once.marker.replace(':', ' ')} was already used, for other host keys than these",
            hint="if that was not you: tell the operator, somebody has read the machine's user-data",
        )
    return False


def foreseen(tx: Transaction, grant: HostGrant, *, at: datetime) -> Host | None:
    """Return the machine as ``record`` will leave it."""
    after = before = read(tx, grant.machine)
    for event in _changes(before, grant, place_after(before, grant), at=at):
        after = host_entries.applied(after, event)
    return after


def record(tx: Transaction, grant: HostGrant, *, at: datetime) -> Host:
    """Record what was decided and checked; nothing is written where all of it is known already."""
    return _record(tx, grant, place_after(read(tx, grant.machine), grant), at=at)


def accept(tx: Transaction, grant: HostGrant, *, at: datetime) -> Host:
    """Record what a person has accepted, after ``check_possible``: the place is the machine's, whosever it was."""
    place = None if grant.place is None else placed(read(tx, grant.machine), grant.place, grant.how)
    return _record(tx, grant, place, at=at)


def _record(tx: Transaction, grant: HostGrant, place: Place | None, *, at: datetime) -> Host:
    for key in grant.keys:
        owner = tx.one(statements.HOST_KEY_OWNER, {"p_digest": key.digest})
        if owner is not None and owner[0] != grant.machine:  # which had it without proof
            gone = RetiredKey(key, at, f"{grant.machine} has proved to have it")
            _apply(tx, read(tx, owner[0]), [host_entries.key_retired(owner[0], gone)], owner[0])
    before = read(tx, grant.machine)
    return _apply(tx, before, list(_changes(before, grant, place, at=at)), grant.machine)


def _changes(before: Host | None, grant: HostGrant, place: Place | None, *, at: datetime) -> Iterable[Event]:
    if place is not None and (before is None or before.place != place):
        yield host_entries.described(grant.machine, place, at=at)
    known = before.keys if before is not None else ()
    for key in sorted(set(grant.keys)):
        since = max((each.at for each in known if each.key == key and each.how is grant.how), default=None)
        # What shows a moment counts from the last time, see policy; in days, or whoever repeats it fills the log.
        if since is None or (grant.how.momentary and not timedelta(0) <= at - since < _REPEATED):
            yield host_entries.key_added(grant.machine, HostKey(key, grant.how, grant.detail, at))
    if grant.complete:
        for key in superseded(before, grant.keys, grant.how):
            yield host_entries.key_retired(grant.machine, RetiredKey(key, at, entries.SUPERSEDED))


def retire(tx: Transaction, machine: str, key: SshKey, *, reason: str, at: datetime) -> Host:
    """
    Take a key back, and with it those that nothing but a connection under some key of the machine vouched for.

    Whoever stole the key could have had others proved over it (hostkeys-prove), which would outlive it.

    :raises NotFound: it is not the machine's now.
    """
    before = read(tx, machine)
    if before is None or key not in before.current:
        raise NotFound(f"{machine!r} has no host key {key.fingerprint}", hint=f"see `handfast host show {machine}`")
    gone = [key, *sorted(before.vouched - approved(tx, machine) - {key})]
    return _apply(
        tx, before, [host_entries.key_retired(machine, RetiredKey(each, at, reason)) for each in gone], machine
    )


def remove(tx: Transaction, machine: str, *, reason: str, at: datetime) -> Host:
    """Retire all keys of a machine, and leave its place to others. :raises NotFound: it has neither."""
    before = read(tx, machine)
    if before is None or not before.lives:
        raise NotFound(f"no host keys of {machine!r}", hint="`handfast host list` shows whose are known")
    gone = [RetiredKey(key, at, reason) for key in sorted(before.current)]
    changes = [host_entries.key_retired(machine, each) for each in gone]
    return _apply(tx, before, [*changes, host_entries.described(machine, Place(), at=at)], machine)


def _apply(tx: Transaction, before: Host | None, changes: list[Event], machine: str) -> Host:
    after = before
    for event in changes:
        after = host_entries.applied(after, event)
        tx.log(event)
        _count_retired(tx, event)
    if after is None:
        raise Refused(f"neither host keys nor a place for {machine!r}", hint="give at least one key")
    if changes:
        _write(tx, before, after, changes)
        if before is not None:
            _keep_true(tx, after, at=changes[0].at)
    return after


def _keep_true(tx: Transaction, host: Host, *, at: datetime) -> None:
    ssh_revocations.keep_true(tx, host, shared(tx, host.machine, host.place), at=at)


def _count_retired(tx: Transaction, event: Event) -> None:
    """Keep which keys are retired: a machine's own row has only the newest of them."""
    if event.kind not in {host_entries.KEY_ADDED, host_entries.KEY_RETIRED}:
        return
    digest = sshkeys.parse(event.fields["key"]).digest
    tx.run(statements.REMOVE_HOST_RETIRED_KEY, {"p_machine": event.subject, "p_digest": digest})
    if event.kind == host_entries.KEY_RETIRED:
        why = {"reason": event.fields["reason"], "retired_at": micros(event.at)}
        tx.run(statements.ADD_HOST_RETIRED_KEY, {"machine": event.subject, "digest": digest, **why})


def _write(tx: Transaction, before: Host | None, after: Host, changes: list[Event]) -> None:
    machine = after.machine
    # A count of all events that changed a machine, as the log has them: so the audit can make it again.
    revision = tx.head(statements.HOSTS_REVISION)[0] + len(changes)
    row = {"state": host_entries.host_to_json(after), "revision": revision}
    words = {"words": host_entries.words(after)}
    if before is None:
        tx.run(statements.ADD_HOST, {"machine": machine, **row})
        tx.run(statements.ADD_HOST_WORDS, {"machine": machine, **words})
    else:
        tx.run(statements.SET_HOST, {"p_machine": machine, **row})
        tx.run(statements.SET_HOST_WORDS, {"p_machine": machine, **words})
    tx.run(statements.REMOVE_HOST_KEYS, {"p_machine": machine})
    for digest in sorted({each.key.digest for each in after.keys}):
        tx.run(statements.ADD_HOST_KEY, {"digest": digest, "machine": machine})
    if before is None or (before.place, before.lives) != (after.place, after.lives):
        _move_in(tx, after, at=changes[0].at)


def _move_in(tx: Transaction, host: Host, *, at: datetime) -> None:
    """Give the machine its spellings, and take them from whoever had them: the newest word of an operator counts."""
    tx.run(statements.REMOVE_HOST_PLACES, {"p_machine": host.machine})
    wanted = host.place.spellings(host.machine) if host.lives else ()
    owners = (tx.one(statements.HOST_PLACE, {"p_spelling": each}) for each in wanted)
    for other in dict.fromkeys(owner[0] for owner in owners if owner is not None):
        _move_out(tx, other, frozenset({host.machine, *host.place.hosts()}), at=at)
    for each in wanted:
        tx.run(statements.ADD_HOST_PLACE, {"spelling": each, "host": unspelled(each), "machine": host.machine})
    # Who is reached there at another port keeps his place, and maybe not the right to be certified as that.
    for other in sorted({owner for _, owner in reached(tx, map(unspelled, wanted))} - {host.machine}):
        known = read(tx, other)
        if known is not None:
            _keep_true(tx, known, at=at)


def _move_out(tx: Transaction, machine: str, taken: frozenset[str], *, at: datetime) -> None:
    before = read(tx, machine)
    if before is not None:
        place = without_hosts(before.place, taken)
        _apply(tx, before, [host_entries.described(machine, place, at=at)], machine)
