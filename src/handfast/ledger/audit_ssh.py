"""
The tables of SSH certificates and approvals, against the log; see ``audit``.

Shown besides: a host's certificate that is not over and not taken back says what is known of its machine.
"""

from __future__ import annotations

from itertools import pairwise

from handfast.core.records import SshRecord
from handfast.core.sshcert import Kind
from handfast.errors import HandfastError, LogTampered
from handfast.ledger import approvals, ssh_entries
from handfast.ledger import ssh_statements as statements
from handfast.ledger.audit_facts import UNREADABLE, Facts, tampered
from handfast.ledger.database import Row, Session
from handfast.ledger.entries import micros
from handfast.ledger.ssh_revocations import SERIAL_BITS, against

_PAGE = 1000


def verify(session: Session, facts: Facts) -> None:
    """
    Take out of ``facts`` what the rows make.

    :raises LogTampered: a row is not what the log says, or a certificate is not what is known of its machine.
    """
    revoked = _certificates(session, facts)
    if session.all(statements.COUNT_SSH_REVOCATIONS)[0][0] != revoked:
        raise tampered("an SSH certificate was revoked that is not in the store")
    for row in session.all(statements.ALL_APPROVALS):
        try:
            _approval(row, facts)
        except (*UNREADABLE, HandfastError) as error:
            raise _unreadable(f"the approval {row[0]!r}", error) from error


def _unreadable(what: str, error: Exception) -> LogTampered:
    return error if isinstance(error, LogTampered) else tampered(f"{what} cannot be read: {error}")


def _certificates(session: Session, facts: Facts) -> int:
    """Return how many were taken back."""
    count: int = session.all(statements.COUNT_SSH_CERTIFICATES)[0][0]
    # Serials are random: equal ranges of them are pages of about one size, in any dialect.
    pages, seen, revoked = count // _PAGE + 1, 0, 0
    bounds = [(each << SERIAL_BITS) // pages for each in range(pages + 1)]
    for low, high in pairwise(bounds):
        for row in session.all(statements.SSH_CERTIFICATES_BETWEEN, {"p_low": low, "p_last": high - 1}):
            seen += 1
            try:
                revoked += _certificate(row, facts).revoked_at is not None
            except (*UNREADABLE, HandfastError) as error:
                raise _unreadable(f"the SSH certificate {row[0]!r}", error) from error
    if seen != count:
        raise tampered(f"{count - seen} SSH certificates have serials that the ledger never makes")
    return revoked


def _certificate(row: Row, facts: Facts) -> SshRecord:
    serial, marker, keys, key, kind, holder, before, grant_json, *_rest, back_before, _at, reason, back_kind = row
    what, record = f"the SSH certificate {serial!r}", ssh_entries.record_from_row(row)
    leaf = record.leaf
    said = (leaf.key.digest, leaf.kind, record.holder, micros(leaf.valid_before))
    if (key, kind, holder, before) != said:
        raise tampered(f"{what} is filed as something else than it says")
    facts.claim(what, ssh_entries.intended(record, marker=marker, keys_sha256=keys, grant_json=grant_json))
    if record.certificate is not None and record.issued_at is not None:
        certificate, at = record.certificate, record.issued_at
        issued = ssh_entries.issued(
            serial, kind=kind, holder=holder, valid_before=before, certificate=certificate, at=at
        )
        facts.claim(what, issued)
    elif record.certificate is not None or record.issued_at is not None:
        raise tampered(f"{what} was issued in part")
    if record.revoked_at is not None:
        at = record.revoked_at
        facts.claim(what, ssh_entries.taken_back(back_kind, serial, holder=holder, reason=reason, at=at))
        if back_before != before:
            raise tampered(f"{what} would leave the list of revoked keys at another time than its end")
    elif leaf.kind is Kind.HOST and leaf.valid_before > facts.latest:
        untrue = against(facts.hosts.get(holder), holder, leaf, facts.shared(holder))
        if untrue is not None:
            raise tampered(f"{what} is good, and yet {untrue}")
    return record


def _approval(row: Row, facts: Facts) -> None:
    approval_id, turn, machine, how, grant_json, owners, *_rest = row
    what, approval = f"the approval {approval_id!r}", approvals.from_row(row)
    grant, said = approval.grant, approvals.owners_to(approval.owners)
    known = (approvals.identity(grant, approval.owners), grant.machine, grant.how.value, said)
    if (approval_id, machine, how, owners) != known:
        raise tampered(f"{what} is about something else than it says")
    facts.claim(what, approvals.asked(approval, turn=turn, grant_json=grant_json))
    if row[-4:] != (None,) * 4:
        facts.claim(what, approvals.decided(approval, turn=turn))
