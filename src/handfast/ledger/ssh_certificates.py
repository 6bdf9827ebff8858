"""SSH certificates before and after they are signed, each change as a function over the writer's transaction."""

from __future__ import annotations

import secrets
from datetime import datetime

from handfast.core.flow import Once, SshCredential, SshGrant, SshIntent
from handfast.core.hosts import Host
from handfast.core.records import SshRecord
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf
from handfast.errors import AlreadySpent, Malformed, Refused, Revoked, TooMuch
from handfast.ledger import alarms, entries, host_checks, hosts, ssh_entries, ssh_past, ssh_revocations
from handfast.ledger import ssh_statements as statements
from handfast.ledger.database import Row
from handfast.ledger.entries import micros
from handfast.ledger.writer import Transaction

_MOST, _PART = 10, 24  # certificates of one host key in a 24th of their life; so 240 that live
_LEAST = 2  # a certificate answers again while half of its life is left: later, hosts ask for the next one
_HINT = "ask again: what is known of the machine has changed meanwhile"


def intend(tx: Transaction, grant: SshGrant, once: Once | None, *, at: datetime) -> tuple[SshIntent, ...]:
    """
    Spend the marker against these keys, record the grant's host keys, and reserve a serial for each leaf.

    What is on record already, for the same, is the answer, and spends nothing.

    :raises AlreadySpent: no use is left for other keys. :raises Malformed: a grant that cannot be.
    :raises Refused: as ``host_checks.check``; or what a host's leaf says is not what the ledger knows; or the marker
        was closed. :raises Revoked: what these keys got for the marker was taken back, or a key is barred by that.
    :raises TooMuch: a host's key had ``_MOST`` in the last ``_PART`` of a certificate's life.
    """
    _check_grant(grant)
    keys = ssh_entries.keys_sha256(leaf.key for leaf in grant.leaves)
    before = () if once is None else _spent_before(tx, grant, once, keys, at=at)
    if grant.kind is Kind.HOST:
        foreseen = host_checks.read(tx, grant.holder)
        adds = None if before else grant.host  # what happened to the keys since the marker was spent stays
        if adds is not None:
            host_checks.check(tx, adds, at=at)
            foreseen = hosts.foreseen(tx, adds, at=at)
        for leaf in grant.leaves:
            _check_true(tx, grant.holder, leaf, foreseen)
            _check_past(tx, leaf, at=at)
        if adds is not None:
            hosts.record(tx, adds, at=at)
    marker = None if once is None else once.marker
    return tuple(_intent(tx, grant, leaf, marker, keys, before, at=at) for leaf in grant.leaves)


def _check_grant(grant: SshGrant) -> None:
    entitled = grant.host is None or (grant.kind is Kind.HOST and grant.host.machine == grant.holder)
    once_each = len({leaf.key for leaf in grant.leaves}) == len(grant.leaves) > 0
    if not once_each or not entitled or any(leaf.kind is not grant.kind for leaf in grant.leaves):
        raise Malformed(f"a grant of SSH certificates for {grant.holder!r} that contradicts itself")
    entries.check_line(grant.holder, what="a holder")


def _spent_before(tx: Transaction, grant: SshGrant, once: Once, keys: bytes, *, at: datetime) -> tuple[SshRecord, ...]:
    """Return what these very keys have spent the marker for. :raises AlreadySpent, Refused: for others."""
    values = {"p_marker": once.marker, "p_keys": keys}
    rows = tx.all(statements.SSH_OF_MARKER, values)
    if rows:
        return tuple(map(ssh_entries.record_from_row, rows))
    others, closed = tx.head(statements.SSH_SPENDING, values)
    if closed is not None:
        raise Refused(f"{once.marker!r} was closed: {closed}", hint="introduce yourself anew")
    if others >= once.uses:
        holder, method = grant.holder, grant.method
        second = entries.second_key(marker=once.marker, key_sha256=keys, method=method, machine=holder, at=at)
        alarms.alarm(tx, second)
        raise AlreadySpent(
            f"{once.marker.replace(':', ' ')} was already used, for other SSH keys than these",
            hint="if that was not you: tell the operator",
        )
    return ()


def _check_true(tx: Transaction, machine: str, leaf: SshLeaf, host: Host | None) -> None:
    """A host's certificate says what is known of the machine, in this transaction. :raises Refused: it would not."""
    shared = frozenset[str]() if host is None else host_checks.shared(tx, machine, host.place)
    untrue = ssh_revocations.against(host, machine, leaf, shared)
    if untrue is not None:
        raise Refused(untrue, hint=_HINT)


def _check_past(tx: Transaction, leaf: SshLeaf, *, at: datetime) -> None:
    """Whoever revoked a certificate did not mean that its key gets the next one. :raises Revoked: somebody did."""
    revoked = ssh_past.barred(tx, leaf.key, at=at)
    if revoked is not None:
        raise Revoked(
            f"the SSH certificate {revoked.serial} of {leaf.key.fingerprint} was revoked ({revoked.revoked_reason})",
            hint="make new host keys on the machine; or an operator retires this one, and enters it anew",
        )


def _check_often(tx: Transaction, leaf: SshLeaf, *, at: datetime) -> None:
    """
    Refuse a host's key its next certificate where it had many.

    By asking for some of its names, then for others, it would have as many as it likes, and all of them would be on the
    list of revoked keys for as long as they live, which everybody fetches.

    :raises TooMuch: so it is.
    """
    span = (leaf.valid_before - leaf.valid_after) / _PART
    had: int = tx.all(statements.SSH_INTENTS_SINCE, {"p_key": leaf.key.digest, "p_since": micros(at - span)})[0][0]
    if leaf.kind is Kind.HOST and had >= _MOST:
        raise TooMuch(
            f"the host key {leaf.key.fingerprint} had {had} certificates of late",
            hint="ask for the same names each time",
            after=int(span.total_seconds()),
        )


def _intent(
    tx: Transaction,
    grant: SshGrant,
    leaf: SshLeaf,
    marker: str | None,
    keys: bytes,
    before: tuple[SshRecord, ...],
    *,
    at: datetime,
) -> SshIntent:
    known = _known(tx, grant, leaf, before, at=at)
    if known is not None:
        return SshIntent(known.serial, known.leaf, known.certificate)
    _check_often(tx, leaf, at=at)
    serial = _new_serial(tx)
    grant_json = ssh_entries.grant_to_json(grant, leaf)
    tx.run(
        statements.ADD_SSH_INTENT,
        {
            "serial": serial,
            "marker": marker,
            "keys_sha256": keys,
            "key_sha256": leaf.key.digest,
            "kind": leaf.kind.value,
            "holder": grant.holder,
            "valid_before": micros(leaf.valid_before),
            "grant_json": grant_json,
            "intended_at": micros(at),
        },
    )
    made = SshRecord(serial, grant.holder, leaf, grant.method, at, grant.why)
    tx.log(ssh_entries.intended(made, marker=marker, keys_sha256=keys, grant_json=grant_json))
    return SshIntent(serial, leaf)


def _known(
    tx: Transaction, grant: SshGrant, leaf: SshLeaf, before: tuple[SshRecord, ...], *, at: datetime
) -> SshRecord | None:
    """
    Return the certificate on record that is the answer.

    A machine's evidence may come again and again: any that holds the same. What a person spends gives one certificate.
    """
    if leaf.kind is Kind.HOST:
        values = {"p_key": leaf.key.digest, "p_at": micros(at)}
        standing = map(ssh_entries.record_from_row, tx.all(statements.SSH_STANDING, values))
        answers = (each for each in standing if each.holder == grant.holder and _answers(each.leaf, leaf, at=at))
        return max(answers, key=lambda each: each.leaf.valid_before, default=None)
    return _spent_for(before, leaf, at=at)


def _answers(known: SshLeaf, leaf: SshLeaf, *, at: datetime) -> bool:
    """Whether it holds the same, for a while to come, and for no longer than was decided now."""
    left, life = known.valid_before - at, known.valid_before - known.valid_after
    same = set(known.principals) == set(leaf.principals)
    return same and left * _LEAST > life and known.valid_before <= leaf.valid_before


def _spent_for(before: tuple[SshRecord, ...], leaf: SshLeaf, *, at: datetime) -> SshRecord | None:
    """Return what this key got for the marker. :raises Revoked, AlreadySpent: that is no use any more."""
    for each in before:
        if each.leaf.key != leaf.key:
            continue
        if each.revoked_at is not None:
            raise Revoked(f"the SSH certificate {each.serial} of this key was revoked", hint="introduce yourself anew")
        if at >= each.leaf.valid_before:
            raise AlreadySpent(f"the SSH certificate {each.serial} of this key is over", hint="introduce yourself anew")
        return each
    return None


def _new_serial(tx: Transaction) -> int:
    """Return a random serial that no certificate has: two with one serial could only be revoked together."""
    while True:
        serial = secrets.randbits(ssh_revocations.SERIAL_BITS)
        if serial and tx.one(statements.SSH_CERTIFICATE, {"p_serial": serial}) is None:
            return serial


def issued(tx: Transaction, credentials: tuple[SshCredential, ...], *, at: datetime) -> tuple[bytes, ...]:
    """
    Keep the certificates of which none is on record, and return those that are kept.

    :raises NotFound: a serial was never intended. :raises Revoked: one was revoked or abandoned: deliver none.
    """
    rows = [ssh_revocations.find(tx, statements.SSH_ISSUING, each.serial) for each in credentials]
    for credential, (*_, reason) in zip(credentials, rows, strict=True):
        if reason is not None:
            raise Revoked(f"the SSH certificate {credential.serial} was revoked ({reason})", hint="introduce it again")
    return tuple(_keep(tx, credential, row, at=at) for credential, row in zip(credentials, rows, strict=True))


def _keep(tx: Transaction, credential: SshCredential, row: Row, *, at: datetime) -> bytes:
    kind, holder, valid_before, kept, _reason = row
    if kept is not None:
        return bytes(kept)
    serial, certificate = credential.serial, credential.certificate
    values = {"p_serial": serial, "certificate": certificate, "issued_at": micros(at)}
    tx.run(statements.SET_SSH_CERTIFICATE, values)
    tx.log(
        ssh_entries.issued(serial, kind=kind, holder=holder, valid_before=valid_before, certificate=certificate, at=at)
    )
    return certificate
