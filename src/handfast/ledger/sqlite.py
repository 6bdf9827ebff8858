"""SQLite, embedded: one file (with its -wal and -shm beside it), readable by its owner alone."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from pathlib import Path

from sqlalchemy import URL, create_engine, event
from sqlalchemy.pool import NullPool

from handfast.errors import Fault, Unsafe
from handfast.ledger import schema
from handfast.ledger.database import Database
from handfast.ledger.store import SqlLedger

_BUSY_TIMEOUT = 10.0  # seconds to wait for another process's transaction
_PRAGMAS = (
    "PRAGMA synchronous=FULL",  # a commit that was answered survives a power cut
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",  # a doctored file runs no functions
)


def open_ledger(path: Path) -> SqlLedger:
    """See ``handfast.ledger.open_sqlite``."""
    _create(path)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        paramstyle="named",
        # Each connection serves one thread at a time; another one may close it at the end.
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": _BUSY_TIMEOUT},
    )
    event.listen(engine, "connect", _configure)
    database = Database(
        engine=engine,
        name=str(path),
        begin="BEGIN IMMEDIATE",
        snapshot="BEGIN",
        driver_errors=(sqlite3.Error,),
        hint=_hint,
        busy=_busy,
        patience=_BUSY_TIMEOUT,
        no_wait="PRAGMA busy_timeout=0",
    )
    schema.ensure(database)
    return SqlLedger(database)


def _create(path: Path) -> None:
    """
    Make an empty file that is ours alone, or check the one that is there.

    A file that exists is not opened here: closing it would drop the locks that SQLite holds on it for
    another connection of this process (POSIX advisory locks).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise Unsafe(f"not a regular file: {str(path)!r}", hint="the ledger follows no links") from None
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise Unsafe(
                f"others may open the ledger {str(path)!r} (mode {stat.S_IMODE(info.st_mode):04o})",
                hint=f"see who changed it, then: chmod 600 {path}",
            ) from None
    except OSError as error:
        raise Fault(f"cannot make the ledger {str(path)!r}: {error.strerror}", hint=_os_hint(error)) from error


def _os_hint(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "make the directory first"
    return "check who owns the directory" if error.errno == errno.EACCES else "check the disk"


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    _turn_on_wal(connection)
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _turn_on_wal(connection: sqlite3.Connection) -> None:
    """Wait for another process that makes the ledger at this moment: this one pragma ignores SQLite's own timeout."""
    end = time.monotonic() + _BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _busy(error) or time.monotonic() >= end:
                raise
        time.sleep(0.02)


def _busy(error: Exception) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def _code(error: Exception) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF  # without what SQLite's extended codes add


def _hint(error: Exception) -> str:
    return {
        sqlite3.SQLITE_FULL: "make room on the disk, then try again: nothing was lost",
        sqlite3.SQLITE_BUSY: "another process has been writing for too long; see which has the file open",
        sqlite3.SQLITE_READONLY: "check who owns the file and its directory",
        sqlite3.SQLITE_CANTOPEN: "check that the directory exists and is ours",
        sqlite3.SQLITE_NOTADB: "the file is not a ledger: restore a backup",
        sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup and verify its log",
        sqlite3.SQLITE_IOERR: "check the disk",
    }.get(_code(error), "")
