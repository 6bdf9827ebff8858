"""The changes of machines' SSH host keys and places, each as a function over the writer's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from handfast.core import sshkeys
from handfast.core.flow import HostGrant, Once
from handfast.core.hosts import (
    MAX_PLACES,
    SSH_PORT,
    Grade,
    Host,
    HostKey,
    How,
    Place,
    RetiredKey,
    placed,
    spelling,
    superseded,
    without_hosts,
)
from handfast.core.records import Event
from handfast.core.sshkeys import SshKey
from handfast.errors import AlreadySpent, InvitationCancelled, NotFound, Refused
from handfast.ledger import alarms, entries, host_entries
from handfast.ledger import host_statements as statements
from handfast.ledger.entries import micros
from handfast.ledger.writer import Transaction

SUPERSEDED = "superseded"
_NEW_KEYS = "make new host keys on the machine: rm /etc/ssh/ssh_host_*; ssh-keygen -A"  # it makes only missing ones


def register(tx: Transaction, grant: HostGrant, once: Once | None, *, at: datetime) -> Host:
    """
    Spend the marker against these keys, and record them; the same keys get the same answer.

    :raises AlreadySpent: no use is left for other keys. :raises Refused: as ``check``, or the marker was closed.
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

    :raises AlreadySpent: other host keys came by it. :raises Refused: as ``check``.
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


def check(tx: Transaction, grant: HostGrant, *, at: datetime) -> None:
    """
    Refuse what must not be recorded, before anything is written.

    :raises Refused: a key is another machine's now, which is an alarm: two machines with one key can each pose as the
        other. Or it was retired, and this is not an operator's word. Or one of the names is another machine's own. Or
        better evidence came since it was decided.
    """
    before = read(tx, grant.machine)
    _check_grade(grant, before)
    for key in grant.keys:
        _check_owner(tx, grant, key, at=at)
        if grant.how is not How.OPERATOR:
            _check_retired(tx, grant.machine, key, before)
    _check_foundation(tx, grant, before, at=at)
    _check_ports(tx, grant)
    if grant.place is not None and len(placed(before, grant.place, grant.how).hosts()) > MAX_PLACES:
        raise Refused(f"{grant.machine!r} would have over {MAX_PLACES} names", hint="see `handfast host show`")
    for name in () if grant.place is None else (*grant.place.names, *grant.place.aliases):
        other = read(tx, name) if name != grant.machine else None
        if other is not None and other.lives:
            raise Refused(
                f"{name!r} is itself a machine with host keys, and cannot be a name of {grant.machine!r}",
                hint=f"remove it first, if it is gone: handfast host remove {name}",
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


def record(tx: Transaction, grant: HostGrant, *, at: datetime) -> Host:
    """Record what was decided and checked; nothing is written where all of it is known already."""
    for key in grant.keys:
        owner = tx.one(statements.HOST_KEY_OWNER, {"p_digest": key.digest})
        if owner is not None and owner[0] != grant.machine:  # which had it without proof
            gone = RetiredKey(key, at, f"{grant.machine} has proved to have it")
            _apply(tx, read(tx, owner[0]), [host_entries.key_retired(owner[0], gone)], owner[0])
    before = read(tx, grant.machine)
    return _apply(tx, before, list(_changes(before, grant, at=at)), grant.machine)


def _changes(before: Host | None, grant: HostGrant, *, at: datetime) -> Iterable[Event]:
    place = None if grant.place is None else placed(before, grant.place, grant.how)
    if place is not None and (before is None or before.place != place):
        yield host_entries.described(grant.machine, place, at=at)
    known = before.keys if before is not None else ()
    for key in sorted(set(grant.keys)):
        if not any(each.key == key and each.how is grant.how for each in known):
            yield host_entries.key_added(grant.machine, HostKey(key, grant.how, grant.detail, at))
    if grant.complete:
        for key in superseded(before, grant.keys, grant.how):
            yield host_entries.key_retired(grant.machine, RetiredKey(key, at, SUPERSEDED))


def retire(tx: Transaction, machine: str, key: SshKey, *, reason: str, at: datetime) -> Host:
    """
    Take a key back, and with it those that nothing but a connection under some key of the machine vouched for.

    Whoever stole the key could have had others proved over it (hostkeys-prove), which would outlive it.

    :raises NotFound: it is not the machine's now.
    """
    before = read(tx, machine)
    if before is None or key not in before.current:
        raise NotFound(f"{machine!r} has no host key {key.fingerprint}", hint=f"see `handfast host show {machine}`")
    founded = {each.key for each in before.keys if each.how is not How.HOSTKEYS_PROVE}
    gone = [key, *sorted(before.current - founded - {key})]
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


def read(tx: Transaction, machine: str) -> Host | None:
    """Return the machine as this transaction sees it."""
    row = tx.one(statements.HOST, {"p_machine": machine})
    return None if row is None else host_entries.host_from_json(row[0])


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
    return after


def _count_retired(tx: Transaction, event: Event) -> None:
    """Keep which keys are retired: a machine's own row has only the newest of them."""
    if event.kind not in {host_entries.KEY_ADDED, host_entries.KEY_RETIRED}:
        return
    digest = sshkeys.parse(event.fields["key"]).digest
    tx.run(statements.REMOVE_HOST_RETIRED_KEY, {"p_machine": event.subject, "p_digest": digest})
    if event.kind == host_entries.KEY_RETIRED:
        tx.run(statements.ADD_HOST_RETIRED_KEY, {"machine": event.subject, "digest": digest})


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
        tx.run(statements.ADD_HOST_PLACE, {"spelling": each, "machine": host.machine})


def _move_out(tx: Transaction, machine: str, taken: frozenset[str], *, at: datetime) -> None:
    before = read(tx, machine)
    if before is not None:
        place = without_hosts(before.place, taken)
        _apply(tx, before, [host_entries.described(machine, place, at=at)], machine)
