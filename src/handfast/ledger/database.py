"""
One database of either dialect: connections, compiled statements, and its errors as ours.

Statements are SQLAlchemy Core, compiled once to the dialect's text; they run on the driver's own
connection: a read takes a fifth of what it takes through ``Connection.execute`` (docs/performance.md).
Connections are in autocommit mode and transactions are begun and ended in so many words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from sqlalchemy import ClauseElement, Engine
from sqlalchemy.exc import DBAPIError

from handfast.errors import Fault

Statement = ClauseElement
Params = Mapping[str, object]
Row = tuple[Any, ...]


class Cursor(Protocol):
    """The part of a DB-API cursor (PEP 249) in use."""

    rowcount: int

    def executemany(self, sql: str, params: Sequence[Params], /) -> object: ...

    def fetchone(self) -> Row | None: ...

    def fetchall(self) -> list[Row]: ...


class Connection(Protocol):
    """What ``sqlite3.Connection`` and ``psycopg.Connection`` have in common."""

    def execute(self, sql: str, params: Params = ..., /) -> Cursor: ...

    def cursor(self) -> Cursor: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Database:
    """
    How to reach one database.

    ``name`` is the path or the URL without its password, for messages. ``begin`` starts a transaction
    that writes, ``snapshot`` one that reads one state throughout. ``driver_errors`` are what the driver
    raises; ``hint`` says what to do about one, ``busy`` whether it only means that another process writes: a
    connection waits ``patience`` seconds for that, and not at all after ``no_wait``, which is None where every
    statement waits for a server anyway.
    """

    engine: Engine
    name: str
    begin: str
    snapshot: str
    driver_errors: tuple[type[Exception], ...]
    hint: Callable[[Exception], str]
    busy: Callable[[Exception], bool]
    patience: float
    no_wait: str | None
    _texts: dict[Statement, str] = field(default_factory=dict)

    def connect(self) -> Connection:
        """
        Return a new connection of the driver, usable from any one thread at a time.

        :raises Fault: the database cannot be opened.
        """
        try:
            pooled = self.engine.raw_connection()
            connection = pooled.driver_connection
            pooled.detach()
        except (*self.driver_errors, DBAPIError) as error:  # type: ignore[misc]  # mypy knows no unpacked tuple here
            raise self.fault(error) from error
        return cast(Connection, connection)

    def sql(self, statement: Statement) -> str:
        """Return the statement's text in this dialect."""
        try:
            return self._texts[statement]
        except KeyError:
            compiled = statement.compile(dialect=self.engine.dialect)
            return self._texts.setdefault(statement, str(compiled))

    def fault(self, error: Exception) -> Fault:
        """Return an error of the driver as a ``Fault`` that names the database and says what to do."""
        if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
            error = error.orig  # SQLAlchemy wraps what the driver raised
        reason = " ".join(str(error).split()) or type(error).__name__
        return Fault(f"the ledger {self.name!r} failed: {reason}", hint=self.hint(error))


class Session:
    """A connection of one thread with the database's statements."""

    __slots__ = ("_database", "connection")

    def __init__(self, database: Database) -> None:
        self._database = database
        self.connection = database.connect()

    @property
    def lost(self) -> bool:
        """Whether the server dropped the connection; an embedded one is never lost."""
        return bool(getattr(self.connection, "closed", False))

    def one(self, statement: Statement, params: Params = {}) -> Row | None:  # noqa: B006  # never changed
        """Return the first row, or None."""
        return self.connection.execute(self._database.sql(statement), params).fetchone()

    def head(self, statement: Statement, params: Params = {}) -> Row:  # noqa: B006  # never changed
        """Return the row of a statement that reads the one row of the log's head. :raises Fault: it is lost."""
        row = self.one(statement, params)
        if row is None:
            raise Fault(f"the ledger {self._database.name!r} has lost the head of its log", hint="restore a backup")
        return row

    def all(self, statement: Statement, params: Params = {}) -> list[Row]:  # noqa: B006  # never changed
        """Return all rows."""
        return self.connection.execute(self._database.sql(statement), params).fetchall()

    def run(self, statement: Statement, params: Params) -> int:
        """Run a change; return how many rows it changed."""
        return self.connection.execute(self._database.sql(statement), params).rowcount

    def run_many(self, statement: Statement, params: Sequence[Params]) -> None:
        """Run a change once for each set of parameters."""
        self.connection.cursor().executemany(self._database.sql(statement), params)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state of the database."""
        self.connection.execute(self._database.snapshot)
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        self.connection.close()
