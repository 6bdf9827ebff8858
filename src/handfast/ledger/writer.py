"""
The writing half, with group commit: changes run in transactions, many in one.

A driver takes all changes that are waiting, runs them in one transaction, appends their events to the
log in that transaction, commits, and only then answers: what a Future says has happened is on disk.
Under load the cost of making it durable is shared by all who wait. ``Writer`` drives from a thread of
its own; ``loop.LoopWriter`` from an event loop.

A change decides before it writes. When it refuses (``Refused``) only its own caller learns so,
and what it wrote before that is kept: this is how a refusal leaves an alarm in the log. When it fails
in any other way the whole transaction is rolled back, and its neighbours are run again, each alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from handfast.core.merkle import Frontier, leaf_hash
from handfast.core.records import Event
from handfast.errors import Fault, Refused
from handfast.ledger import entries, statements
from handfast.ledger.database import Database, Session

T = TypeVar("T")
MAX_BATCH = 256  # changes in one transaction, so that none waits for an endless one


class Transaction(Session):
    """The session of the writer, with the events of the current transaction."""

    __slots__ = ("_events",)

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._events: list[tuple[Event, bytes]] = []

    def log(self, event: Event) -> None:
        """Append an event when the transaction commits."""
        self._events.append((event, entries.encode(event)))

    @property
    def pending(self) -> list[Event]:
        """The events of this transaction so far: no statement sees them yet."""
        return [event for event, _entry in self._events]

    def begin(self) -> Frontier:
        """Begin, and return the head of the log: from here to the commit nobody else writes."""
        self._events.clear()
        self.connection.execute(self._database.begin)
        return Frontier.decode(*self.head(statements.LOCK_HEAD))

    def append(self, head: Frontier) -> None:
        """Append the events to the log after ``head``."""
        if not self._events:
            return
        leaves = [leaf_hash(entry) for _event, entry in self._events]
        rows = [
            {
                "leaf_index": index,
                "kind": event.kind,
                "subject": event.subject,
                "entry": entry,
                "leaf_hash": leaf,
                "marker": entries.marker_of(event),
            }
            for index, ((event, entry), leaf) in enumerate(zip(self._events, leaves, strict=True), head.size)
        ]
        head = head.extend(leaves)
        self.run_many(statements.ADD_EVENT, rows)
        self.run(statements.SET_HEAD, {"size": head.size, "frontier": head.encode()})

    def commit(self) -> None:
        """Make everything durable."""
        self.connection.execute("COMMIT")


@dataclass(slots=True)
class Job(Generic[T]):
    """A change and the caller's Future."""

    change: Callable[[Transaction], T]
    future: Future[T]
    result: T | None = None
    refusal: Refused | None = None

    def wanted(self) -> bool:
        """Whether to run it: from here on the Future can no longer be cancelled; one that was is not run at all."""
        return self.future.set_running_or_notify_cancel()

    def attempt(self, transaction: Transaction) -> None:
        """Run the change inside the transaction; a refusal is a result too."""
        self.result, self.refusal = None, None
        try:
            self.result = self.change(transaction)
        except Refused as refusal:
            self.refusal = refusal

    def resolve(self) -> None:
        """Tell the caller, after the commit."""
        if self.refusal is not None:
            self.future.set_exception(self.refusal)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # None only if T allows it


class Transactions:
    """
    Runs jobs, one transaction at a time, on a connection that is made when it is needed.

    Coroutines, so that a driver may override ``begin`` and ``commit``, which wait: for other writers and for
    the disk. As they are here they wait in place, and nothing ever suspends.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transaction: Transaction | None = None

    async def begin(self, transaction: Transaction) -> Frontier:
        """Begin when no other process writes."""
        return transaction.begin()

    async def commit(self, transaction: Transaction) -> None:
        """Return when everything is on disk."""
        transaction.commit()

    def open(self) -> Transaction:
        """Return a new connection."""
        return Transaction(self._database)

    async def answer(self, jobs: list[Job[Any]]) -> None:
        """Run the jobs and resolve their Futures, whatever happens."""
        try:
            await self._run(jobs)
        except BaseException as error:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            if not isinstance(error, Exception):
                self.disconnect()  # or the next change would begin inside a transaction that nobody ends
                raise  # errors belong to the callers, and the driver has to live; an order to stop is its own

    async def _run(self, jobs: list[Job[Any]]) -> None:
        """Run the jobs in one transaction and resolve them. Whatever it raises, nothing was written by them."""
        try:
            transaction, head = await self._begin()
        except Exception as error:
            self.disconnect()
            raise self._translate(error) from error
        try:
            for job in jobs:
                job.attempt(transaction)
        except Exception as error:
            self.disconnect()
            if len(jobs) == 1:
                raise self._translate(error) from error
            for job in jobs:
                await self.answer([job])
            return
        try:
            transaction.append(head)
            await self.commit(transaction)
        except Exception as error:
            self.disconnect()
            raise self._translate(error) from error
        for job in jobs:
            job.resolve()

    def _translate(self, error: Exception) -> Exception:
        return self._database.fault(error) if isinstance(error, self._database.driver_errors) else error

    async def _begin(self) -> tuple[Transaction, Frontier]:
        """Begin on the connection that is kept, or on a new one when the server has dropped it since."""
        kept = self._transaction
        if kept is not None:
            try:
                return kept, await self.begin(kept)
            except self._database.driver_errors:
                if not kept.lost:
                    raise
                self.disconnect()
        self._transaction = opened = self.open()
        return opened, await self.begin(opened)

    def disconnect(self) -> None:
        """Drop the connection, which rolls back: after a failure nobody knows its state. The next change makes one."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            with contextlib.suppress(*self._database.driver_errors):
                transaction.close()


class Writer(Transactions):
    """A thread that writes; it starts with the first change."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, change: Callable[[Transaction], T]) -> Future[T]:
        """Return a Future of the change's result, done when it is durable."""
        job = Job(change, Future())
        with self._lock:
            if self._closed:
                raise Fault(f"the ledger {self._database.name!r} is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="ledger-writer", daemon=True)
                self._thread.start()
            self._queue.put(job)
        return job.future

    def close(self) -> None:
        """Finish what was submitted, then stop."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._queue.put(None)
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            with contextlib.suppress(Empty):
                while len(batch) < MAX_BATCH:
                    batch.append(self._queue.get_nowait())
            closing = None in batch
            jobs = [job for job in batch if job is not None and job.wanted()]
            if jobs:
                with contextlib.suppress(StopIteration):
                    self.answer(jobs).send(None)  # never suspends: see Transactions
        self.disconnect()
