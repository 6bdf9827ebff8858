"""PostgreSQL, for several nodes (the ``postgres`` extra: psycopg 3)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from handfast.errors import ConfigError, Fault
from handfast.ledger import schema
from handfast.ledger.database import Database
from handfast.ledger.store import SqlLedger

_CONNECT_TIMEOUT = 10  # seconds
_LOCK_TIMEOUT = 10  # seconds to wait for another node's transaction
_SETTINGS = (
    "SET synchronous_commit = on",  # a commit that was answered survives a power cut, whatever the server's default
    f"SET lock_timeout = '{_LOCK_TIMEOUT}s'",
    "SET idle_in_transaction_session_timeout = '60s'",  # a node that hangs must not hold the log for good
)


def open_ledger(url: str) -> SqlLedger:
    """See ``handfast.ledger.open_postgres``."""
    try:
        import psycopg
    except ModuleNotFoundError:
        raise Fault("PostgreSQL needs psycopg, which is not installed", hint="install handfast[postgres]") from None
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        # The URL itself may hold a password: it is not repeated.
        raise ConfigError("not a PostgreSQL URL", hint="write it as postgresql://user@host/database")
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": _CONNECT_TIMEOUT},
    )
    event.listen(engine, "connect", _configure)
    database = Database(
        engine=engine,
        name=parsed.render_as_string(hide_password=True),
        begin="BEGIN ISOLATION LEVEL READ COMMITTED",  # whatever the default: the lock on the head orders the writers
        snapshot="BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        driver_errors=(psycopg.Error,),
        hint=_hint,
        busy=lambda error: getattr(error, "sqlstate", None) == "55P03",
        patience=_LOCK_TIMEOUT,
        no_wait=None,
    )
    schema.ensure(database)
    return SqlLedger(database)


def _configure(connection: Any, _record: object) -> None:
    connection.autocommit = True
    for setting in _SETTINGS:
        connection.execute(setting)


def _hint(error: Exception) -> str:
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith("53"):
        return "the server is out of disk, memory or connections: nothing was lost"
    if state == "55P03":
        return "another node has been writing for too long; see pg_stat_activity"
    return "check that the server runs and lets us in" if state in {"", "57P01", "08006"} else ""
