"""SQLite itself: the file and who may read it, a full disk, a lock that stays, a file that is something else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from handfast import ledger
from handfast.core.flow import Once
from handfast.core.records import Event
from handfast.errors import AlreadySpent, Fault, Unsafe
from handfast.ledger import audit, entries, sqlite
from handfast.ledger.alarms import MAX_ALARMS
from handfast.ledger.database import Session
from tests.ledger.material import LOG_KEY, NOW, ORIGIN, grant, tamper

EVENT = Event("test.one", NOW, "x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where no ledger is yet."""
    return tmp_path / "ledger.sqlite3"


def test_only_the_owner_may_open_it(path: Path) -> None:
    """The file and what SQLite puts beside it have mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        with ledger.open_sqlite(path) as store:
            store.note(EVENT).result()
            modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"), 0o600)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o606, 0o666])
def test_a_file_that_others_may_open_is_refused(path: Path, mode: int) -> None:
    """Group or others may neither read nor write the ledger; the message says so and what to do."""
    ledger.open_sqlite(path).close()
    path.chmod(mode)
    with pytest.raises(Unsafe, match=f"others may open the ledger .*{mode:04o}") as caught:
        ledger.open_sqlite(path)
    assert "chmod 600" in caught.value.hint


def test_a_link_is_refused(path: Path) -> None:
    """A link planted in its place is not followed, whether it leads somewhere or nowhere."""
    target = path.parent / "elsewhere"
    path.symlink_to(target)
    with pytest.raises(Unsafe, match="not a regular file"):
        ledger.open_sqlite(path)
    assert not target.exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """No directory is made on the way."""
    with pytest.raises(Fault, match=r"cannot make the ledger .*No such file") as caught:
        ledger.open_sqlite(tmp_path / "missing" / "ledger.sqlite3")
    assert caught.value.hint == "make the directory first"


def test_a_file_that_is_no_ledger(path: Path) -> None:
    """Something else in its place is an error that names the path, and is left as it was."""
    path.touch(0o600)
    path.write_bytes(b"something else entirely " * 100)
    with pytest.raises(Fault, match="not a database") as caught:
        ledger.open_sqlite(path)
    assert str(path) in caught.value.message
    assert "restore a backup" in caught.value.hint
    assert path.read_bytes() == b"something else entirely " * 100


def test_commits_are_durable(path: Path) -> None:
    """The settings on which every answer relies are in force on both kinds of connection."""
    with ledger.open_sqlite(path) as store:
        connection = store._database.connect()
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}
        found = {name: connection.execute(f"PRAGMA {name}").fetchone() for name in wanted}
        connection.close()
    assert found == {name: (value,) for name, value in wanted.items()}


def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing more fits, the write fails with path and hint, nothing half-written stays, and later it works."""
    with ledger.open_sqlite(path) as store:
        store.note(EVENT).result()
        (pages,) = store._writer.open().connection.execute("PRAGMA page_count").fetchone() or (0,)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "_PRAGMAS", (*sqlite._PRAGMAS, f"PRAGMA max_page_count={pages}"))
            store._writer.disconnect()
            futures = [store.intend(grant(key), Once(f"test:{key}"), at=NOW) for key in range(50)]
            errors = [error for future in futures if (error := future.exception()) is not None]
        assert errors
        for error in errors:
            assert isinstance(error, Fault)
            assert "full" in error.message
            assert str(path) in error.message
            assert "make room" in error.hint
        assert len(store.credentials()) == 50 - len(errors)
        again = [store.intend(grant(key), Once(f"test:{key}"), at=NOW).result() for key in range(50)]
        assert len({intent.serial for intent in again}) == 50
        assert store.head().size == 51


@pytest.mark.root
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system without room the same holds, down to the system calls."""
    script = """
import sys; from pathlib import Path
from handfast import ledger
from handfast.errors import Fault
from handfast.core.records import Event
from tests.ledger.material import NOW
place = Path(sys.argv[1]); event = Event("test.one", NOW, "x" * 5000)
with ledger.open_sqlite(place / "ledger.sqlite3") as store:
    (place / "ballast").write_bytes(bytes(1 << 20))
    written = 0
    try:
        while True:
            store.note(event).result()
            written += 1
    except Fault as fault:
        print(fault.message, fault.hint)
    assert len(store.events()) == written, written
    (place / "ballast").unlink()
    store.note(event).result()
    assert store.head().size == len(store.events()) == written + 1
"""
    mounted = f'mount -t tmpfs -o size=4m none "{tmp_path}" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "disk" in done.stdout


def test_an_alarm_costs_the_same_however_many_there_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with thousands of alarms, each of another marker, has no more entries read than those that decide."""
    with ledger.open_sqlite(path) as store:
        for future in [store.intend(grant(1), Once(f"test:{i}", 0), at=NOW) for i in range(500)]:
            assert isinstance(future.exception(), AlreadySpent)
        decoded: list[bytes] = []
        real = entries.decode

        def decode(entry: bytes) -> Event:
            decoded.append(entry)
            return real(entry)

        monkeypatch.setattr(entries, "decode", decode)
        for key in range(20):
            assert isinstance(store.intend(grant(key), Once("test:7", 0), at=NOW).exception(), AlreadySpent)
        assert len(decoded) <= 20 * MAX_ALARMS
        decoded.clear()
        assert isinstance(store.intend(grant(1), Once("test:new", 0), at=NOW).exception(), AlreadySpent)
        assert decoded == []


def test_a_lock_that_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process never lets go, the write fails with a hint, reading goes on, and later it works."""
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT", 0.05)
    with ledger.open_sqlite(path) as store:
        store.note(EVENT).result()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        futures = [store.note(EVENT) for _ in range(5)]
        for future in futures:
            with pytest.raises(Fault, match="locked") as caught:
                future.result()
            assert "another process" in caught.value.hint
        assert len(store.events()) == 1
        other.execute("ROLLBACK")
        other.close()
        store.note(EVENT).result()
        assert len(store.events()) == 2


def test_a_damaged_store(path: Path) -> None:
    """A table that is gone is a fault with a name, for a first read, a later one, a write and the audit."""
    with ledger.open_sqlite(path) as store:
        tamper(store, "DROP TABLE machines", "DROP TABLE events")
        for _ in range(2):
            with pytest.raises(Fault, match="no such table: machines") as caught:
                store.machines()
            assert str(path) in caught.value.message
            assert store.invitations() == []
        with pytest.raises(Fault, match="no such table: events"):
            store.note(EVENT).result()
        with pytest.raises(Fault, match="no such table: events"):
            audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def test_opening_it_twice_keeps_the_locks(path: Path) -> None:
    """A second opening in the same process does not drop the lock of a transaction that runs."""
    with ledger.open_sqlite(path) as store:
        transaction = store._database.connect()
        transaction.execute("BEGIN IMMEDIATE")
        ledger.open_sqlite(path).close()
        script = (
            "import sqlite3, sys\n"
            "try: sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')\n"
            "except sqlite3.OperationalError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
        transaction.close()
    assert done.stdout == "database is locked\n"


def test_importing_the_package_is_cheap() -> None:
    """SQLAlchemy is not loaded until a ledger is opened: other commands start without it."""
    script = "import sys, handfast.ledger; print([name for name in ('sqlalchemy', 'sqlite3') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_environment() | _UNMEASURED
    )
    assert done.stdout == "[]\n"


_UNMEASURED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}  # coverage keeps its data in SQLite


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_closing_waits_for_a_read(tmp_path: Path) -> None:
    """Another thread's connection is not closed while it runs a statement, which crashes SQLite; later reads refuse."""
    opened = ledger.open_sqlite(tmp_path / "ledger.sqlite3")
    reading, closed, may_end = threading.Event(), threading.Event(), threading.Event()

    def slow(session: Session) -> bool:
        reading.set()
        assert may_end.wait(30)
        return closed.is_set()

    def close() -> None:
        opened.close()
        closed.set()

    with ThreadPoolExecutor(2) as threads:
        read = threads.submit(opened._read, slow)
        assert reading.wait(30)
        closing = threads.submit(close)
        while not opened._closed:
            time.sleep(0.001)
        assert not closed.wait(0.05)
        may_end.set()
        assert read.result(30) is False
        closing.result(30)
    with pytest.raises(Fault, match="is closed"):
        opened.machines()


def test_a_ledger_that_another_process_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes at that moment waits: SQLite itself refuses to turn its journal on at once, whatever its timeout is."""
    path = tmp_path / "ledger.sqlite3"
    path.touch(0o600)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ended = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: other.execute("ROLLBACK"))
    monkeypatch.setattr(sqlite, "time", ended)
    with ledger.open_sqlite(path) as store:
        assert store.events() == []
    other.close()


def test_a_ledger_that_another_process_never_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience it is a fault that says what to look for."""
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT", 0.0)
    path = tmp_path / "ledger.sqlite3"
    path.touch(0o600)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Fault, match="database is locked") as caught:
        ledger.open_sqlite(path)
    assert "another process has been writing for too long" in caught.value.hint
    other.close()
