"""
What became of a host key before now: its last certificate, and what speaks for it or against it since.

Policy reads this to decide, and the ledger again in its transaction: one rule, in one place.
"""

from __future__ import annotations

from datetime import datetime

from handfast.core.hosts import How
from handfast.core.records import SshPast, SshRecord
from handfast.core.sshkeys import SshKey
from handfast.ledger import entries, host_entries, host_statements, rows, ssh_entries, statements
from handfast.ledger import ssh_statements as ssh
from handfast.ledger.database import Row, Session
from handfast.ledger.entries import micros, time_of


def read(session: Session, key: SshKey, *, at: datetime) -> SshPast:
    """Return all of it."""
    last = session.one(ssh.SSH_LAST_OF_HOST_KEY, {"p_key": key.digest})
    return SshPast(_record(last), barred(session, key, at=at), _introduced_at(session, key))


def barred(session: Session, key: SshKey, *, at: datetime) -> SshRecord | None:
    """
    Return the certificate because of whose revocation the key gets no other; None where it may.

    Whoever has stolen a key can renew, vouch and answer with it, and can use an invitation that lies on the machine. So
    nothing lifts this but an operator who retires the key and enters it anew; and no word from a time to come, when our
    clock was wrong.
    """
    host = session.one(ssh.HOST_OF_KEY, {"p_digest": key.digest})
    ways = host_entries.host_from_json(host[0]).keys if host is not None else ()
    entered = (each.at for each in ways if each.key == key and each.how is How.OPERATOR and each.at <= at)
    since = max(entered, default=entries.EPOCH)
    return _record(session.one(ssh.SSH_DISTRUSTED_SINCE, {"p_key": key.digest, "p_since": micros(since)}))


def _introduced_at(session: Session, key: SshKey) -> datetime | None:
    """Return when the machine last got a credential for which this key signed too: a service's says nothing of it."""
    owner = session.one(host_statements.HOST_KEY_OWNER, {"p_digest": key.digest})
    held = session.all(statements.NEWEST_CREDENTIALS_OF, {"p_machine": owner[0]}) if owner is not None else []
    for _serial, _marker, _key, _machine, grant_json, intended_at, _issued_at, _certificate, revoked_at, *_ in held:
        host = rows.grant_from_json(grant_json).host if revoked_at is None else None
        if host is not None and key in host.keys:
            return time_of(intended_at)
    return None


def _record(row: Row | None) -> SshRecord | None:
    return None if row is None else ssh_entries.record_from_row(row)
