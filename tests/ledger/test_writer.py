"""The writer: what is committed together, and what a failure does to its neighbours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handfast import ledger
from handfast.core.flow import Once
from handfast.core.records import Event
from handfast.errors import AlreadySpent, Fault, Refused
from handfast.ledger.store import SqlLedger
from handfast.ledger.writer import MAX_BATCH, Transaction
from tests.ledger.material import NOW, grant


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlLedger]:
    """An empty ledger."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as opened:
        yield opened


class Gate:
    """A change that holds the writer, so that what is submitted meanwhile is committed together."""

    def __init__(self, store: SqlLedger) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.done = store._writer.submit(self._hold)
        self.entered.wait()

    def _hold(self, _tx: Transaction) -> None:
        self.entered.set()
        self.open.wait()


def commits(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many events each commit appends."""
    sizes: list[int] = []
    real = Transaction.commit

    def commit(self: Transaction) -> None:
        sizes.append(len(self.pending))
        real(self)

    monkeypatch.setattr(Transaction, "commit", commit)
    return sizes


def noting(name: str) -> Callable[[Transaction], str]:
    """A change that logs one event."""

    def change(tx: Transaction) -> str:
        tx.log(Event("test.one", NOW, name))
        return name

    return change


def test_waiting_changes_are_committed_together(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits while the writer is busy shares one commit, and everybody gets his own result, in order."""
    sizes = commits(store, monkeypatch)
    gate = Gate(store)
    futures = [store._writer.submit(noting(str(i))) for i in range(20)]
    gate.open.set()
    assert [future.result() for future in futures] == [str(i) for i in range(20)]
    assert sizes == [0, 20]
    assert [event.subject for event in store.events()] == [str(i) for i in range(20)]


def test_a_transaction_is_bounded(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait, one transaction takes only so many."""
    sizes = commits(store, monkeypatch)
    gate = Gate(store)
    futures = [store._writer.submit(noting("x")) for _ in range(MAX_BATCH + 1)]
    gate.open.set()
    for future in futures:
        future.result()
    assert sizes == [0, MAX_BATCH, 1]


def test_nothing_is_answered_before_the_commit(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the commit has not returned, neither success nor refusal is told."""
    entered, leave = threading.Event(), threading.Event()
    real = Transaction.commit

    def commit(self: Transaction) -> None:
        entered.set()
        leave.wait()
        real(self)

    monkeypatch.setattr(Transaction, "commit", commit)
    intent = store.intend(grant(), Once("test:1"), at=NOW)
    refusal = store.intend(grant(), Once("test:2", 0), at=NOW)
    entered.wait()
    assert not intent.done()
    assert not refusal.done()
    leave.set()
    assert intent.result().serial
    assert isinstance(refusal.exception(), AlreadySpent)


def test_a_refusal_keeps_what_it_wrote(store: SqlLedger) -> None:
    """A refusal in the middle is its own: its alarm and its neighbours' changes are committed."""
    gate = Gate(store)
    before = store._writer.submit(noting("before"))
    refused = store.intend(grant(), Once("test:1", 0), at=NOW)
    after = store._writer.submit(noting("after"))
    gate.open.set()
    assert isinstance(refused.exception(), Refused)
    assert (before.result(), after.result()) == ("before", "after")
    assert [event.kind for event in store.events()] == ["test.one", "alarm.second-key", "test.one"]


def test_a_failure_undoes_only_itself(store: SqlLedger) -> None:
    """A change that breaks after writing leaves nothing behind; its neighbours are run and logged once."""

    def broken(tx: Transaction) -> None:
        noting("half")(tx)
        tx.connection.execute("INSERT INTO machines VALUES ('half', 'server', 1)")
        raise ZeroDivisionError

    gate = Gate(store)
    before = store._writer.submit(noting("before"))
    failed = store._writer.submit(broken)
    wrong = store._writer.submit(lambda tx: tx.connection.execute("SELECT nonsense FROM nowhere"))
    after = store._writer.submit(noting("after"))
    gate.open.set()
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert isinstance(wrong.exception(), Fault)
    assert (before.result(), after.result()) == ("before", "after")
    assert [event.subject for event in store.events()] == ["before", "after"]
    assert store.machines() == []


def test_a_commit_that_fails_answers_nobody_with_success(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the commit itself fails, everybody in it is told, nothing is kept, and the writer goes on."""
    real = Transaction.commit

    def commit(self: Transaction) -> None:
        self.connection.execute("INSERT INTO revocations VALUES ('nothing', 1, '', '')")  # breaks a foreign key

    gate = Gate(store)
    intent = store.intend(grant(), Once("test:1"), at=NOW)
    refusal = store.intend(grant(), Once("test:2", 0), at=NOW)
    monkeypatch.setattr(Transaction, "commit", commit)
    gate.open.set()
    for error in (gate.done.exception(), intent.exception(), refusal.exception()):
        assert isinstance(error, Fault)
        assert "FOREIGN KEY" in error.message
    monkeypatch.setattr(Transaction, "commit", real)
    assert store.credentials() == []
    store.note(Event("test.one", NOW, "x")).result()
    assert store.head().size == 1


def test_a_change_that_was_cancelled_in_time_is_not_made(store: SqlLedger) -> None:
    """A caller that gave up before its turn leaves no trace; one that gave up later changes nothing."""
    gate = Gate(store)
    given_up = store._writer.submit(noting("given up"))
    wanted = store._writer.submit(noting("wanted"))
    assert given_up.cancel()
    assert not gate.done.cancel()
    gate.open.set()
    assert wanted.result() == "wanted"
    assert [event.subject for event in store.events()] == ["wanted"]
