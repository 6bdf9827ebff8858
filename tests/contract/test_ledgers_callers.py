"""Every ledger among many callers: threads, coroutines, processes that race, crash and come back."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from handfast.core.flow import Intent, Once
from handfast.core.records import Event
from handfast.errors import (
    AlreadySpent,
    ConfigError,
    Fault,
    HandfastError,
)
from handfast.ledger import audit, open_postgres
from handfast.ledger.store import SqlLedger
from tests.ledger import postgres, workers
from tests.ledger.material import (
    LATER,
    LOG_KEY,
    NOW,
    ORIGIN,
    Place,
    grant,
)


def test_P3_of_two_processes_with_one_marker_one_wins(place: Place) -> None:
    """Two registrars on one store never give a marker to two keys."""
    place.open().close()
    start, pipes, running = workers.processes.Barrier(2), [], []
    for key in (1, 2):
        ours, theirs = workers.processes.Pipe()
        process = workers.processes.Process(target=workers.race, args=(place, "test:1", key, start, theirs))
        process.start()
        pipes.append(ours)
        running.append(process)
    answers = [pipe.recv() for pipe in pipes]
    for process in running:
        process.join()
    assert sum(answer is not None for answer in answers) == 1
    with place.open() as store:
        assert [record.serial for record in store.credentials()] == [a for a in answers if a is not None]
        assert len(store.events(kind_prefix="alarm.")) == 1


def test_P3_of_many_threads_with_one_marker_one_wins(store: SqlLedger) -> None:
    """However many keys arrive at the same moment, one gets the intent."""
    together = Barrier(8)

    def attempt(key: int) -> Intent | HandfastError:
        together.wait()
        try:
            return store.intend(grant(key), Once("test:1"), at=NOW).result()
        except AlreadySpent as refusal:
            return refusal

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(attempt, range(8)))
    assert sum(isinstance(result, Intent) for result in results) == 1
    assert len(store.credentials()) == 1


# --- crashes: rule 11 ---


def test_P4_killed_between_intend_and_issued(place: Place) -> None:
    """The registrar is killed after the intent: the same key gets the same serial from the next one."""
    ours, theirs = workers.processes.Pipe()
    process = workers.processes.Process(target=workers.intend_then_hang, args=(place, "test:1", 1, theirs))
    process.start()
    serial = ours.recv()
    process.kill()
    process.join()
    with place.open() as store:
        again = store.intend(grant(1), Once("test:1"), at=LATER).result()
        assert again == Intent(serial, grant(1))
        with pytest.raises(AlreadySpent):
            store.intend(grant(2), Once("test:1"), at=LATER).result()
        assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).credentials == 1


def test_killed_while_writing(place: Place) -> None:
    """Killed at any moment, everything that was answered is there and the log proves itself."""
    ours, theirs = workers.processes.Pipe()
    process = workers.processes.Process(target=workers.intend_without_end, args=(place, theirs))
    process.start()
    theirs.close()
    answered = {ours.recv() for _ in range(20)}
    process.kill()
    process.join()
    with place.open() as store:
        kept = {record.serial for record in store.credentials()}
        assert answered <= kept
        assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).credentials == len(kept)


def test_two_processes_write_one_log(place: Place) -> None:
    """Registrar and command line may write at the same time: all of it arrives, and the tree is right."""
    place.open().close()
    start = workers.processes.Barrier(2)
    running = [
        workers.processes.Process(target=workers.note_many, args=(place, number, 40, start)) for number in (1, 2)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    with place.open() as store:
        for number in (1, 2):
            noted = store.events(subject=f"process{number}")
            assert [event.fields["i"] for event in noted] == [str(i) for i in range(40)]
        assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).size == 80


def test_two_processes_make_one_ledger(place: Place) -> None:
    """Opened for the first time twice at the same moment, the tables are made once and both can write."""
    start = workers.processes.Barrier(2)
    running = [workers.processes.Process(target=workers.open_first, args=(place, start)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    with place.open() as store:
        assert len(store.events()) == 2


# --- all callers ---


@pytest.mark.parametrize("in_loop", [False, True])
async def test_asynchronous_callers(store: SqlLedger, in_loop: bool) -> None:
    """Many coroutines wait for their own answer, and a refusal reaches only its own, whoever writes."""

    async def attempt(key: int, marker: str) -> Intent:
        return await asyncio.wrap_future(store.intend(grant(key), Once(marker), at=NOW))

    attempts = [attempt(i, f"test:{i % 50}") for i in range(100)]
    async with store.in_loop() if in_loop else contextlib.nullcontext():
        results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, Intent) for result in results) == 50
    assert sum(isinstance(result, AlreadySpent) for result in results) == 50


def test_a_closed_ledger(place: Place) -> None:
    """After closing, reads and writes fail with a name; closing twice is nothing; what was submitted is done."""
    store = place.open()
    submitted = [store.note(Event("test.one", NOW, "x")) for _ in range(10)]
    store.close()
    assert all(future.exception() is None for future in submitted)
    with pytest.raises(Fault, match="is closed"):
        store.events()
    with pytest.raises(Fault, match="is closed"):
        store.note(Event("test.one", NOW, "x"))
    store.close()
    with place.open() as again:
        assert len(again.events()) == 10


# --- PostgreSQL alone ---


@pytest.mark.peer("postgresql")
def test_a_dropped_connection_is_made_anew(server: postgres.Server) -> None:
    """After the server closed every connection, the next read and the next write succeed."""
    import psycopg

    with server.database() as url, open_postgres(url) as store:
        store.note(Event("test.one", NOW, "x")).result()
        assert len(store.events()) == 1
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            ended = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname LIKE 'ledger%'"
            assert all(gone for (gone,) in admin.execute(ended))  # waited for: else the next read may be quicker
        assert len(store.events()) == 1
        store.note(Event("test.one", NOW, "x")).result()
        assert len(store.events()) == 2


@pytest.mark.peer("postgresql")
def test_a_server_that_is_not_there() -> None:
    """A wrong URL or an absent server is a clear error, and the password is never shown."""
    with pytest.raises(Fault, match="failed") as caught:
        open_postgres("postgresql://user:hunter2@/db?host=/nonexistent")
    assert "hunter2" not in caught.value.message
    assert "check that the server runs" in caught.value.hint
    for url in ("mysql://user:hunter2@host/db", "nonsense hunter2"):
        with pytest.raises(ConfigError, match="not a PostgreSQL URL") as wrong:
            open_postgres(url)
        assert "hunter2" not in wrong.value.message + wrong.value.hint
