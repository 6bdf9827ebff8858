"""Writing from an event loop: what is committed together, what waits where, and what other threads do meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from handfast import ledger
from handfast.core.flow import Once
from handfast.core.records import Event
from handfast.errors import AlreadySpent, Fault
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from handfast.ledger.writer import MAX_BATCH, Transaction
from tests.ledger.material import LOG_KEY, NOW, ORIGIN, grant


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """An empty ledger whose changes the test's own loop makes."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as opened:
        async with opened.in_loop():
            yield opened


def note(store: SqlLedger, subject: str) -> asyncio.Future[None]:
    """Submit one event."""
    return asyncio.wrap_future(store.note(Event("test.one", NOW, subject)))


def commits(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> list[int]:
    """Record how many events each commit has, and call ``before`` in its thread."""
    sizes: list[int] = []
    real = Transaction.commit

    def commit(self: Transaction) -> None:
        sizes.append(len(self.pending))
        before()
        real(self)

    monkeypatch.setattr(Transaction, "commit", commit)
    return sizes


async def test_what_comes_in_one_turn_is_committed_together(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of one turn of the loop share a commit, in order, and one transaction takes only so many."""
    sizes = commits(monkeypatch)
    await asyncio.gather(*(note(store, str(i)) for i in range(MAX_BATCH + 3)))
    assert sizes == [MAX_BATCH, 3]
    assert [event.subject for event in store.events()] == [str(i) for i in range(MAX_BATCH + 3)]


async def test_the_loop_goes_on_while_the_disk_is_slow(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told before its commit has returned; what comes meanwhile shares the next one; the loop is free."""
    entered, leave = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        leave.wait(10)

    sizes = commits(monkeypatch, slow)
    intent = asyncio.wrap_future(store.intend(grant(), Once("test:1"), at=NOW))
    refusal = asyncio.wrap_future(store.intend(grant(), Once("test:2", 0), at=NOW))
    while not entered.is_set():  # noqa: ASYNC110  the loop has to turn
        await asyncio.sleep(0)
    later = [note(store, str(i)) for i in range(3)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not intent.done()
    assert not refusal.done()
    assert not any(future.done() for future in later)
    leave.set()
    assert (await intent).serial
    with pytest.raises(AlreadySpent):
        await refusal
    await asyncio.gather(*later)
    assert sizes == [2, 3]


async def test_another_process_that_writes_is_waited_for(store: SqlLedger) -> None:
    """While somebody else holds SQLite's write lock the loop goes on, and the change is made afterwards."""
    other = sqlite3.connect(store.name, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = note(store, "after")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    await waiting
    assert [event.subject for event in store.events()] == ["after"]


async def test_another_process_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    """After the ledger's patience the change fails as a fault with a hint, and the next one succeeds."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as store:
        store._database = replace(store._database, patience=0.0)
        async with store.in_loop():
            other = sqlite3.connect(store.name, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Fault, match="locked") as caught:
                await note(store, "lost")
            assert "another process" in caught.value.hint
            other.close()
            await note(store, "kept")
        assert [event.subject for event in store.events()] == ["kept"]


async def test_other_threads_write_as_before(store: SqlLedger) -> None:
    """What other threads submit at the same time is written too, and the log proves itself."""

    def many() -> None:
        for i in range(40):
            store.note(Event("test.one", NOW, f"thread{i}")).result()

    thread = asyncio.create_task(asyncio.to_thread(many))
    for i in range(40):
        await note(store, f"loop{i}")
    await thread
    assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).size == 80


async def test_blocking_the_loop_is_an_error_and_no_deadlock(store: SqlLedger) -> None:
    """Asking for the result in the loop's own thread says so; when it is there it may be asked for."""
    future = store.note(Event("test.one", NOW, "x"))
    with pytest.raises(RuntimeError, match="wrap_future"):
        future.result()
    await asyncio.wrap_future(future)
    future.result()


async def test_a_commit_that_fails_answers_nobody_with_success(
    store: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, everybody in that commit is told, nothing is kept, and the next one succeeds."""

    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        commits(patch, full)
        results = await asyncio.gather(note(store, "a"), note(store, "b"), return_exceptions=True)
    assert all(isinstance(result, Fault) and "full" in result.message for result in results)
    await note(store, "c")
    assert [event.subject for event in store.events()] == ["c"]


class Stop(BaseException):
    """An order to stop, as ``KeyboardInterrupt`` is one."""


async def test_an_order_to_stop_leaves_no_transaction_open(store: SqlLedger) -> None:
    """What a change wrote before it was stopped is rolled back, and the next change begins anew."""

    def stopped(tx: Transaction) -> None:
        tx.log(Event("test.one", NOW, "half"))
        tx.connection.execute("INSERT INTO machines VALUES ('half', 'server', 1)")
        raise Stop

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the order reaches its task too
    with pytest.raises(Stop):
        await asyncio.wrap_future(store._submit(stopped))
    await note(store, "after")
    assert [event.subject for event in store.events()] == ["after"]
    assert store.machines() == []


async def test_a_loop_that_is_stopped_in_a_commit_lets_it_finish(
    store: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the disk works, the connection is dropped only behind it, and the next change begins anew."""
    entered, leave = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        leave.wait(10)

    with monkeypatch.context() as patch:
        commits(patch, slow)
        cut = note(store, "cut")
        while not entered.is_set():  # noqa: ASYNC110  the loop has to turn
            await asyncio.sleep(0)
        assert store._looped is not None
        assert store._looped._task is not None
        store._looped._task.cancel()
        threading.Timer(0.05, leave.set).start()
        with pytest.raises(asyncio.CancelledError):
            await cut
    await note(store, "after")
    assert [event.subject for event in store.events()] == ["cut", "after"]


async def test_a_change_that_nobody_waits_for_is_not_made(store: SqlLedger) -> None:
    """A caller that is cancelled before its turn leaves no trace."""
    given_up, wanted = store.note(Event("test.one", NOW, "given up")), note(store, "wanted")
    assert given_up.cancel()
    await wanted
    assert [event.subject for event in store.events()] == ["wanted"]


async def test_at_the_end_what_was_submitted_is_done(tmp_path: Path) -> None:
    """Leaving the block finishes what was submitted; afterwards the thread writes, also for the loop."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as store:
        async with store.in_loop():
            submitted = [store.note(Event("test.one", NOW, str(i))) for i in range(3)]
        assert all(future.done() for future in submitted)
        store.note(Event("test.one", NOW, "3")).result()
        assert [event.subject for event in store.events()] == ["0", "1", "2", "3"]


async def test_a_closed_ledger_takes_nothing_from_the_loop_either(store: SqlLedger) -> None:
    """After closing, a change is refused by name; one that was submitted before is still made."""
    before = note(store, "before")
    store.close()
    with pytest.raises(Fault, match="is closed"):
        store.note(Event("test.one", NOW, "after"))
    await before
