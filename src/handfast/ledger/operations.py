"""
The changes of the ledger, each as a function over the writer's transaction.

Each decides first, on what it reads inside the transaction, and writes after: see ``writer``.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from handfast.core import checkpoint as checkpoints
from handfast.core.flow import Credential, Grant, Intent, Once
from handfast.core.records import CredentialRecord, Event, Invitation, RevocationState
from handfast.errors import AlreadySpent, InvitationCancelled, Malformed, NotFound, Refused, Revoked
from handfast.ledger import alarms, entries, hosts, rows, ssh_revocations, statements
from handfast.ledger.entries import micros, serial_text
from handfast.ledger.writer import Transaction

SERIAL_BITS = 127  # positive and at most 16 bytes in DER; RFC 5280 §4.1.2.2 allows 20
MAX_REFUSALS = 10  # for one marker: nor for those who hold evidence that policy refuses
_INVITATION, _SUCCESSOR = "invitation:", "successor:"


def invite(tx: Transaction, invitation: Invitation) -> None:
    """Add an invitation. :raises Refused: its key id exists."""
    if tx.one(statements.INVITATION, {"p_key_id": invitation.key_id}) is not None:
        raise Refused(f"the invitation {invitation.key_id!r} exists already", hint="make another one")
    tx.run(statements.ADD_INVITATION, rows.invitation_to_row(invitation))
    tx.log(entries.invited(invitation))


def cancel(tx: Transaction, key_id: str, *, reason: str, at: datetime) -> None:
    """Close an invitation's marker. :raises NotFound: :raises InvitationCancelled: it was closed before."""
    row = tx.one(statements.INVITATION, {"p_key_id": key_id})
    if row is None:
        raise NotFound(f"no invitation {key_id!r}", hint="see the list of invitations")
    invitation = rows.invitation_from_row(row)
    if invitation.cancelled is not None:
        raise InvitationCancelled(f"the invitation {key_id!r} was cancelled before", hint="nothing is left to do")
    _close(tx, invitation.marker, reason=reason, at=at)
    tx.log(entries.cancelled(key_id, machine=invitation.machine, reason=reason, at=at))


def cancel_open(tx: Transaction, key_id: str, *, reason: str, at: datetime) -> None:
    """Close an invitation's marker if somebody could still use it; that none could is no mistake here."""
    row = tx.one(statements.INVITATION, {"p_key_id": key_id})
    if row is not None and rows.invitation_from_row(row).status(at) == "open":
        cancel(tx, key_id, reason=reason, at=at)


def intend(tx: Transaction, grant: Grant, grant_json: str, once: Once, *, at: datetime) -> Intent:
    """
    Spend the marker against the grant's key and reserve a serial; the same key gets the same again.

    Where its intent was abandoned meanwhile it gets another serial, as the old one is on the CRL for good: a machine
    that comes back late is no thief, and one key still gets one credential.

    :raises AlreadySpent: no use is left for another key.
    :raises InvitationCancelled: :raises Revoked: the marker was closed, or this key's credential revoked.
    """
    key_sha256 = hashlib.sha256(grant.public_key).digest()
    row = tx.head(statements.SPENDING, {"p_marker": once.marker, "p_key": key_sha256})
    others, closed, known, known_json, certificate, revoked = row
    if revoked is not None:
        raise Revoked(f"the credential {known} of this key was revoked ({revoked})", hint="introduce the machine again")
    if certificate is not None:
        # Delivered before, or lost on its way: closing the marker afterwards does not take it back, revoking does.
        return Intent(int(known, 16), _again(grant, known_json), certificate)
    if closed is not None:
        raise _closed(once.marker, closed)
    if known is not None:
        return Intent(int(known, 16), _again(grant, known_json))
    if others >= once.uses:
        second = entries.second_key(
            marker=once.marker, key_sha256=key_sha256, method=grant.method, machine=grant.machine, at=at
        )
        alarms.alarm(tx, second)
        raise _spent(once.marker)
    if grant.host is not None:
        hosts.register_with(tx, grant.host, once, at=at)
    return _reserve(tx, grant, grant_json, once.marker, key_sha256, at=at)


def _again(grant: Grant, known_json: str) -> Grant:
    """Return what this key was granted. :raises Refused: it had no SSH host keys, or others, and nothing adds to it."""
    granted = rows.grant_from_json(known_json)
    if grant.host is not None and (granted.host is None or granted.host.keys != grant.host.keys):
        # To record them would let whoever finds an old key and its evidence speak for the machine; not to, and to
        # answer all the same, would let the machine believe that they are known.
        raise Refused(
            f"{grant.machine!r} has asked before, {'with other' if granted.host else 'without'} SSH host keys",
            hint="leave out --ssh here, and ask the operator for a new invitation to publish them with",
        )
    return granted


def _reserve(tx: Transaction, grant: Grant, grant_json: str, marker: str, key_sha256: bytes, *, at: datetime) -> Intent:
    serial = new_serial()
    tx.run(
        statements.ADD_INTENT,
        {
            "serial": serial_text(serial),
            "marker": marker,
            "key_sha256": key_sha256,
            "machine": grant.machine,
            "grant_json": grant_json,
            "intended_at": micros(at),
        },
    )
    tx.log(
        entries.intended(
            serial_text(serial),
            marker=marker,
            key_sha256=key_sha256,
            machine=grant.machine,
            grant_json=grant_json,
            method=grant.method,
            at=at,
        )
    )
    return Intent(serial, grant)


def new_serial() -> int:
    """Return a random serial, which is never zero."""
    return secrets.randbits(SERIAL_BITS) or new_serial()


def _spent(marker: str) -> AlreadySpent:
    """Return what the holder of the evidence is told; he may be the honest one, and the thief came first."""
    if marker.startswith(_INVITATION):
        return AlreadySpent(
            f"invitation {marker.removeprefix(_INVITATION)} was already used with another key",
            hint="if that was not you: tell the operator, somebody has read the invitation",
        )
    if marker.startswith(_SUCCESSOR):
        return AlreadySpent(
            f"credential {marker.removeprefix(_SUCCESSOR)} already has a successor with another key",
            hint="a restored backup or a clone of the machine? if not, somebody has copied its key: tell the operator",
        )
    return AlreadySpent(f"{marker!r} was already used with another key", hint="tell the operator")


def _closed(marker: str, reason: str) -> Refused:
    if marker.startswith(_INVITATION):
        return InvitationCancelled(f"the invitation was cancelled: {reason}", hint="ask for another invitation")
    return Revoked(f"{marker!r} was closed: {reason}", hint="introduce the machine again")


def issued(tx: Transaction, credential: Credential, *, at: datetime) -> bytes:
    """
    Keep the certificate unless the serial has one already, and return the one that is kept.

    Two callers may have signed for the same intent: only what is returned may be delivered.

    :raises NotFound: the serial was never intended.
    :raises Revoked: it was revoked or abandoned in the meantime.
    """
    serial, grant = serial_text(credential.serial), credential.grant
    changed = tx.one(
        statements.SET_CERTIFICATE,
        {"p_serial": serial, "certificate": credential.certificate, "issued_at": micros(at)},
    )
    if changed is None:
        return _issued_before(tx, serial)
    _introduced(tx, grant, at=at)
    tx.log(entries.issued(serial, certificate=credential.certificate, grant=grant, at=at))
    return credential.certificate


def _issued_before(tx: Transaction, serial: str) -> bytes:
    record = _credential(tx, serial)
    if record.revoked_at is not None or record.certificate is None:
        reason = f"the credential {serial} was revoked ({record.revoked_reason})"
        raise Revoked(reason, hint="introduce the machine again")
    return record.certificate


def _introduced(tx: Transaction, grant: Grant, *, at: datetime) -> None:
    known = tx.one(statements.MACHINE, {"p_name": grant.machine})
    if known is None:
        row = {"name": grant.machine, "role": grant.role.value, "introduced_at": micros(at)}
        tx.run(statements.ADD_MACHINE, row)
    elif known[1] != grant.role.value:
        tx.run(statements.SET_ROLE, {"p_name": grant.machine, "role": grant.role.value})


def revoke(tx: Transaction, serial: int, *, reason: str, at: datetime) -> None:
    """
    Take a credential back and close its succession.

    :raises Malformed: not a reason of RFC 5280. :raises NotFound: :raises Revoked: it was revoked before.
    """
    entries.check_reason(reason)
    record = _credential(tx, serial_text(serial))
    if record.revoked_at is not None:
        raise Revoked(
            f"the credential {serial_text(serial)} was revoked before, on {record.revoked_at:%Y-%m-%d %H:%M} UTC",
            hint="nothing is left to do",
        )
    _take_back(tx, record, kind=entries.REVOKED, reason=reason, at=at)


def abandon(tx: Transaction, *, before: datetime, at: datetime) -> int:
    """Revoke the intents from before a time that were never issued; return how many."""
    stale = tx.all(statements.STALE_INTENTS, {"p_before": micros(before)})
    for row in stale:
        record = rows.credential_from_row(row)
        _take_back(tx, record, kind=entries.ABANDONED, reason=entries.ABANDONED_REASON, at=at)
    return len(stale) + ssh_revocations.abandon(tx, before=before, at=at)


def _take_back(tx: Transaction, record: CredentialRecord, *, kind: str, reason: str, at: datetime) -> None:
    serial = serial_text(record.serial)
    row = {"serial": serial, "revoked_at": micros(at), "reason": reason, "kind": kind}
    tx.run(statements.ADD_REVOCATION, row)
    _close(tx, record.successor_marker, reason=reason, at=at)
    tx.log(entries.taken_back(kind, serial, machine=record.machine, reason=reason, at=at))


def _close(tx: Transaction, marker: str, *, reason: str, at: datetime) -> None:
    tx.run(statements.CLOSE_MARKER, {"marker": marker, "closed_at": micros(at), "reason": reason})


def _credential(tx: Transaction, serial: str) -> CredentialRecord:
    row = tx.one(statements.CREDENTIAL, {"p_serial": serial})
    if row is None:
        raise NotFound(f"no credential {serial}", hint="see the list of credentials")
    return rows.credential_from_row(row)


def note(tx: Transaction, event: Event) -> None:
    """
    Append an event that speaks of no row; of refusals for one marker, only the first ``MAX_REFUSALS``.

    :raises Malformed: its kind is the ledger's own, or a text has what is not printable.
    """
    if event.kind in entries.OF_TABLES or event.kind.startswith(entries.PREFIXES):
        raise Malformed(f"events of kind {event.kind!r} are written with their row", hint="use another kind")
    for text in (event.kind, event.subject, *event.fields, *event.fields.values()):
        if not text.isprintable():  # a line break would forge lines of `log show`, an escape drive a terminal
            raise Malformed(f"an event with text that is not printable: {text[:80]!r}")
    entries.decode(entries.encode(event))  # what cannot be read again would spoil the log for good
    if event.kind != entries.REFUSED or len(alarms.same(tx, event, MAX_REFUSALS)) < MAX_REFUSALS:
        tx.log(event)


def publish(tx: Transaction, by: str, *, at: datetime) -> RevocationState:
    """
    Log that ``by`` signs a revocation list now, and return what belongs into it.

    Number and content come from one transaction, so that no two lists share a number, in any process, and a higher
    one never knows less.
    """
    revocations = tuple(rows.revocation_from_row(row) for row in tx.all(statements.ALL_REVOCATIONS))
    tx.log(entries.crl_published(by, revocations=len(revocations), at=at))
    size: int = tx.head(statements.HEAD)[0]
    return RevocationState(size + len(tx.pending), revocations)


def save_checkpoint(tx: Transaction, text: str) -> None:
    """Keep a checkpoint; the first one of a size stays. *Not* checked here: its signature (see ``audit``)."""
    size = checkpoints.parse(text).size
    if tx.one(statements.CHECKPOINT, {"p_size": size}) is None:
        tx.run(statements.ADD_CHECKPOINT, {"size": size, "note": text})
