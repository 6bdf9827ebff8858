"""
The store and its log: invitations, intents, credentials, machines, revocations, host keys, SSH certificates, events.

Every write is one durable transaction that includes its log entry. The log is an RFC 6962 Merkle
tree; ``audit.verify`` proves it, and the tables, against signed checkpoints.

    statements, tables    what is stored and asked, in SQLAlchemy Core, once for both dialects
    database              a connection, the compiled statements, the driver's errors as ours
    operations            the changes: decide, write, log; for SSH: hosts, ssh_certificates, ssh_revocations, approvals
    writer                one thread, group commit
    connections           one to write, one for each thread that reads
    store, ssh_store      the ledger itself
    sqlite, postgres      what differs
    schema, migrations    how the tables come to be
    audit                 whether all of it still proves itself

Importing this package is cheap: SQLAlchemy is loaded when a ledger is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handfast.ledger.store import SqlLedger

__all__ = ["open_postgres", "open_sqlite"]


def open_sqlite(path: Path) -> SqlLedger:
    """
    Open the ledger in this file; make it, with mode 0600, when there is none.

    :raises Unsafe: others may read or write the file, or it is a link. *Not* checked: its directory.
    :raises Fault: it cannot be opened, is no ledger, or was written by a newer Handfast.
    """
    from handfast.ledger import sqlite

    return sqlite.open_ledger(path)


def open_postgres(url: str) -> SqlLedger:
    """
    Open the ledger in this PostgreSQL database; make its tables when there are none.

    ``url`` is ``postgresql://user@host/database``, with the parameters of libpq.

    :raises ConfigError: not such a URL.
    :raises Fault: psycopg is not installed, the server does not answer, or the tables are of a newer Handfast.
    """
    from handfast.ledger import postgres

    return postgres.open_ledger(url)
