"""Connections of one process to its database: one to write, and one for each thread that reads."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from handfast.errors import Fault
from handfast.ledger.database import Database, Params, Row, Session, Statement
from handfast.ledger.loop import LoopWriter
from handfast.ledger.writer import Transaction, Writer

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Reader:
    """
    The connection of one thread. It is ``busy`` while it reads.

    SQLite crashes where another thread closes a connection that runs a statement, so whoever closes waits for that.
    """

    session: Session
    busy: threading.RLock


class Connections:
    """
    What the halves of the ledger read and write with.

    Reads run on a connection of the calling thread, writes in the writer's thread or, where ``in_loop`` was
    asked for, in the loop's. Not to be carried over a fork: a child opens its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = Writer(database)
        self._looped: LoopWriter | None = None
        self._local = threading.local()
        self._readers: list[_Reader] = []
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The path or the URL (without a password) of the database, for messages."""
        return self._database.name

    def close(self) -> None:
        """
        Finish the writes that were submitted and the reads under way, and close every connection. May be called twice.

        What a loop has begun to write is finished by the end of its ``in_loop``.
        """
        self._writer.close()
        with self._lock:
            self._closed = True
            readers, self._readers = self._readers, []
        for reader in readers:
            with reader.busy:
                reader.session.close()
        self._database.engine.dispose()

    def _submit(self, change: Callable[[Transaction], T]) -> Future[T]:
        looped = self._looped
        if looped is not None and looped.here and not self._closed:
            return looped.submit(change)
        return self._writer.submit(change)  # which refuses when the ledger is closed

    @asynccontextmanager
    async def in_loop(self) -> AsyncIterator[None]:
        """
        Have the running loop make the changes that are submitted in its thread, until the block ends.

        Only speed changes (see ``loop``): what other threads submit is written by the writer's thread as before.
        Where every statement waits for a server (PostgreSQL), that thread writes all of it.
        """
        no_wait = self._database.no_wait
        if no_wait is None:
            yield
            return
        self._looped = looped = LoopWriter(self._database, no_wait)
        try:
            yield
        finally:
            self._looped = None
            await looped.close()

    # --- connections ---

    def _one(self, statement: Statement, params: Params | None = None) -> Row | None:
        return self._read(lambda session: session.one(statement, params or {}))

    def _all(self, statement: Statement, params: Params | None = None) -> list[Row]:
        return self._read(lambda session: session.all(statement, params or {}))

    def _read(self, read: Callable[[Session], T]) -> T:
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is not None:
            with reader.busy:
                if not self._closed:
                    try:
                        return read(reader.session)
                    except self._database.driver_errors as error:
                        lost = reader.session.lost  # which a connection that we closed always is
                        self._drop(reader)
                        if not lost:
                            raise self._database.fault(error) from error
        reader = self._open()
        with reader.busy:
            if self._closed:
                raise Fault(f"the ledger {self.name!r} is closed")
            try:
                return read(reader.session)
            except self._database.driver_errors as error:
                self._drop(reader)
                raise self._database.fault(error) from error

    def _open(self) -> _Reader:
        reader = _Reader(Session(self._database), threading.RLock())
        with self._lock:
            if not self._closed:
                self._readers.append(reader)
                self._local.reader = reader
                return reader
        reader.session.close()
        raise Fault(f"the ledger {self.name!r} is closed")

    def _drop(self, reader: _Reader) -> None:
        self._local.reader = None
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
        reader.session.close()

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Give a session of its own in which every read sees one state, for the audit."""
        session = Session(self._database)
        try:
            with session.snapshot():
                yield session
        except self._database.driver_errors as error:
            raise self._database.fault(error) from error
        finally:
            session.close()
