"""
Writing from an event loop: its own thread runs the statements, and only the wait for the disk is elsewhere.

Each statement lets go of the interpreter's lock. From another thread, every one of a dozen in a transaction then
fights the loop for it (docs/performance.md has what that costs). Here the lock changes hands once for each commit,
and while that waits for the disk the loop verifies the next requests.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from handfast.core.merkle import Frontier
from handfast.ledger.database import Database
from handfast.ledger.writer import MAX_BATCH, Job, Transaction, Transactions

T = TypeVar("T")
_RETRY = 0.001  # seconds between two looks whether another process has finished writing


class _Awaited(Future[T]):
    """A Future that its own loop will resolve: waiting for it in that thread would be for ever."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def result(self, timeout: float | None = None) -> T:
        if threading.get_ident() == self._thread and not self.done():
            raise RuntimeError("a change submitted in the event loop is awaited with asyncio.wrap_future")
        return super().result(timeout)


class LoopWriter(Transactions):
    """Writes for the running loop. ``no_wait`` makes a connection fail at once when another process writes."""

    def __init__(self, database: Database, no_wait: str) -> None:
        super().__init__(database)
        self._no_wait = no_wait
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._waiting: deque[Job[Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, "ledger-commit")

    @property
    def here(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self._thread

    def submit(self, change: Callable[[Transaction], T]) -> Future[T]:
        """Return a Future of the change's result, done when it is durable. To be called in the loop's thread."""
        job = Job[T](change, _Awaited(self._thread))
        self._waiting.append(job)
        if self._task is None:
            self._task = self._loop.create_task(self._work())  # in the next turn: others of this one join it
        return job.future

    async def close(self) -> None:
        """Finish what was submitted, then stop."""
        if self._task is not None:
            await self._task
        self.disconnect()
        self._disk.shutdown()

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
                if jobs := [job for job in batch if job.wanted()]:
                    await self.answer(jobs)
        finally:
            self._task = None

    def open(self) -> Transaction:
        """Return a new connection that never waits."""
        opened = super().open()
        opened.connection.execute(self._no_wait)
        return opened

    async def begin(self, transaction: Transaction) -> Frontier:
        """Begin as soon as no other process writes; the loop goes on meanwhile."""
        give_up = self._loop.time() + self._database.patience
        while True:
            try:
                return transaction.begin()
            except self._database.driver_errors as error:
                if not self._database.busy(error) or self._loop.time() >= give_up:
                    raise
            await asyncio.sleep(_RETRY)

    def disconnect(self) -> None:
        """Drop the connection, behind a commit that runs: who waited for it may have been cancelled."""
        self._disk.submit(super().disconnect).result()

    async def commit(self, transaction: Transaction) -> None:
        """Return when everything is on disk."""
        await self._loop.run_in_executor(self._disk, transaction.commit)
