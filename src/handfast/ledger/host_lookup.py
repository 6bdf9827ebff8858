"""
One machine's SSH host keys, read from an SQLite ledger without anything that a ledger otherwise needs.

``handfast ssh`` asks this each time somebody connects: SQLAlchemy alone would take longer to load than ssh to log in.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from handfast.adapters.files import check_directory
from handfast.core.hostjson import host_from
from handfast.core.hosts import Host
from handfast.errors import Fault, HandfastError

_AT = """SELECT state FROM hosts
    WHERE machine = coalesce((SELECT machine FROM host_places WHERE spelling = ?1), ?1)"""
_HINT = "an older Handfast may have written it: `handfast list --data DIRECTORY` brings it up to date"


def host_at(ledger: Path, spelling: str) -> Host | None:
    """
    Return the machine that is reached so, as ``Ledger.host_at``; nothing is written.

    :raises Unsafe: others can read or write the ledger's directory. :raises Fault: it cannot be read.
    """
    check_directory(ledger.parent)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(ledger))}?mode=ro", uri=True, timeout=10)) as connection:
            connection.execute("PRAGMA trusted_schema=OFF")
            row = connection.execute(_AT, (spelling,)).fetchone()
            return None if row is None else host_from(json.loads(row[0]))
    except (sqlite3.Error, ValueError, KeyError, TypeError, HandfastError) as error:
        raise Fault(f"cannot read host keys from the ledger {str(ledger)!r}: {error}", hint=_HINT) from error
