"""
SSH certificates that are taken back: by somebody, or by a change of the machine that they speak of.

A host's certificate says what is known of the machine: its key is one of the machine's, and its principals are the
machine's names. Whatever ends that revokes it in the same transaction, so that no list of revoked keys is made between.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from handfast.core.hosts import REMOVED, Host
from handfast.core.records import DISTRUST, KrlState, SshRecord
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf
from handfast.errors import NotFound, Revoked
from handfast.ledger import entries, ssh_entries, statements
from handfast.ledger import ssh_statements as ssh
from handfast.ledger.database import Row, Statement
from handfast.ledger.entries import micros
from handfast.ledger.writer import Transaction

_BEHIND = timedelta(days=1)  # a certificate that is over by our clock is good by that of a host which is behind
SERIAL_BITS = 63  # of a column for integers; OpenSSH has one bit more, and takes 0 for none


def find(tx: Transaction, statement: Statement, serial: int) -> Row:
    """Return what a statement says of a certificate or an intent. :raises NotFound: there is none."""
    row = tx.one(statement, {"p_serial": serial}) if 0 < serial < 1 << SERIAL_BITS else None
    if row is None:
        raise NotFound(f"no SSH certificate {serial}", hint="`handfast list --ssh` shows them")
    return row


def revoke(tx: Transaction, serial: int, *, reason: str, at: datetime) -> None:
    """
    Take a certificate back, also one that was intended only.

    :raises Malformed: not a reason of RFC 5280. :raises NotFound: :raises Revoked: it was revoked before.
    """
    entries.check_reason(reason)
    known = ssh_entries.record_from_row(find(tx, ssh.SSH_CERTIFICATE, serial))
    if known.revoked_at is not None:
        # A thief may have been first, with a reason by which the key stays sound.
        sound = known.kind is Kind.HOST and reason in DISTRUST and known.revoked_reason not in DISTRUST
        retire = f"its key is certified still: handfast host retire {known.holder} {known.leaf.key.fingerprint}"
        raise Revoked(
            f"the SSH certificate {serial} was revoked before, on {known.revoked_at:%Y-%m-%d %H:%M} UTC"
            f" ({known.revoked_reason})",
            hint=retire if sound else "nothing is left to do",
        )
    _take_back(tx, known, kind=ssh_entries.REVOKED, reason=reason, at=at)


def abandon(tx: Transaction, *, before: datetime, at: datetime) -> int:
    """Revoke the intents from before a time that were never issued; return how many."""
    stale = [ssh_entries.record_from_row(row) for row in tx.all(ssh.STALE_SSH_INTENTS, {"p_before": micros(before)})]
    for each in stale:
        _take_back(tx, each, kind=ssh_entries.ABANDONED, reason=entries.ABANDONED_REASON, at=at)
    return len(stale)


def keep_true(tx: Transaction, host: Host, shared: frozenset[str], *, at: datetime) -> None:
    """Revoke the machine's certificates of which its keys or its names are not the machine's alone any more."""
    for row in tx.all(ssh.SSH_LIVE_OF_HOST, {"p_holder": host.machine, "p_at": micros(at)}):
        live = ssh_entries.record_from_row(row)
        if against(host, live.holder, live.leaf, shared) is not None:
            _take_back(tx, live, kind=ssh_entries.WITHDRAWN, reason=entries.SUPERSEDED, at=at)


def revoke_host(tx: Transaction, machine: str, *, reason: str, at: datetime) -> None:
    """Revoke every certificate of a machine that is gone."""
    for row in tx.all(ssh.SSH_LIVE_OF_HOST, {"p_holder": machine, "p_at": micros(at)}):
        _take_back(tx, ssh_entries.record_from_row(row), kind=ssh_entries.REVOKED, reason=reason, at=at)


def against(host: Host | None, machine: str, leaf: SshLeaf, shared: frozenset[str]) -> str | None:
    """Return what a host's certificate says that is not so; None where all of it is."""
    key = leaf.key
    if host is None or key not in host.current:
        gone = next((each for each in host.retired if each.key == key), None) if host is not None else None
        return f"{key.fingerprint} is no host key of {machine!r}" + (f": {gone.reason}" if gone is not None else "")
    missing = sorted(set(leaf.principals) - {machine, *host.place.hosts()})
    if missing:
        return f"{machine!r} is not reached as {missing[0]!r}"
    others = sorted(set(leaf.principals) & shared)
    return f"{others[0]!r} leads to other machines than {machine!r}, too" if others else None


def _take_back(tx: Transaction, known: SshRecord, *, kind: str, reason: str, at: datetime) -> None:
    row = {
        "serial": known.serial,
        "valid_before": micros(known.leaf.valid_before),
        "revoked_at": micros(at),
        "reason": reason,
        "kind": kind,
    }
    tx.run(ssh.ADD_SSH_REVOCATION, row)
    tx.log(ssh_entries.taken_back(kind, known.serial, holder=known.holder, reason=reason, at=at))


def publish(tx: Transaction, by: str, *, at: datetime) -> KrlState:
    """
    Log that ``by`` publishes a list of revoked keys now, and return what belongs into it.

    As with certificates' own list, version and content come from one transaction: a higher one never knows less.
    """
    revoked = tx.all(ssh.SSH_REVOKED, {"p_at": micros(at - _BEHIND)})
    hosts = tuple(sorted(serial for serial, kind in revoked if kind == Kind.HOST))
    users = tuple(sorted(serial for serial, kind in revoked if kind == Kind.USER))
    retired = [(bytes(digest), reason) for digest, reason, _at in tx.all(ssh.ALL_SSH_REVOKED_KEYS)]
    bad = {digest for digest, reason in retired if reason not in {entries.SUPERSEDED, REMOVED}}
    sound = dict.fromkeys(digest for digest, _reason in retired if digest not in bad)
    tx.log(ssh_entries.krl_published(by, hosts=len(hosts), users=len(users), keys=len(bad) + len(sound), at=at))
    size: int = tx.head(statements.HEAD)[0]
    return KrlState(size + len(tx.pending), hosts, users, frozenset(bad | {*sound}), tuple(sound))
