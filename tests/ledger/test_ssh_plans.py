"""How SSH certificates are found in a store of many, and what a crash, a kill or an old backup makes of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from handfast import ledger
from handfast.core.flow import Once, SshCredential
from handfast.errors import LogTampered
from handfast.ledger import audit, ssh_statements
from handfast.ledger.store import SqlLedger
from tests.ledger import postgres, workers
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, Place, signed_head
from tests.ledger.ssh_material import WEEK, get, host_leaf, known, ssh_grant, user_grant

EVERY = {name for name in vars(ssh_statements) if name.isupper() and not name.startswith(("_", "ADD_", "COUNT_"))}
WHOLE = {name for name in EVERY if name.startswith("ALL_")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where no ledger is yet."""
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[SqlLedger]:
    """An empty ledger."""
    with ledger.open_sqlite(path) as opened:
        yield opened


@pytest.mark.parametrize("name", sorted(EVERY - WHOLE))
def test_no_statement_of_the_flow_reads_a_whole_table(store: SqlLedger, name: str) -> None:
    """What is asked for each certificate is found by an index, however long the store."""
    connection = store._database.connect()
    sql = store._database.sql(getattr(ssh_statements, name))
    anything = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    steps = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", anything).fetchall()]
    connection.close()
    for step in steps:
        assert not step.startswith("SCAN") or step == "SCAN log_head", step


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("SSH_STANDING", "ix_ssh_certificates_key (key_sha256=?)"),
        ("SSH_LAST_OF_HOST_KEY", "ix_ssh_certificates_key (key_sha256=?)"),
        ("SSH_INTENTS_SINCE", "ix_ssh_certificates_key (key_sha256=? AND intended_at>?)"),
        ("SSH_DISTRUSTED_SINCE", "ix_ssh_certificates_key (key_sha256=?)"),
        ("SSH_LIVE_OF_HOST", "ix_ssh_certificates_holder (holder=? AND valid_before>?)"),
        ("SSH_CERTIFICATES_OF_HOLDER", "ix_ssh_certificates_holder (holder=? AND valid_before>?)"),
        ("SSH_OF_MARKER", "ix_ssh_certificates_marker (marker=? AND keys_sha256=?)"),
        ("STALE_SSH_INTENTS", "ix_ssh_certificates_pending (intended_at<?)"),
        ("SSH_REVOKED", "ix_ssh_revocations_valid_before (valid_before>?)"),
        ("OPEN_APPROVALS", "ix_approvals_open (expires_at>?)"),
        ("OPEN_COUNTS", "ix_approvals_open (expires_at>?)"),
    ],
)
def test_the_index_is_the_one_that_was_made_for_it(store: SqlLedger, name: str, index: str) -> None:
    """And not one that happens to be there."""
    connection = store._database.connect()
    sql = store._database.sql(getattr(ssh_statements, name))
    anything = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    plan = " ".join(str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", anything).fetchall())
    connection.close()
    assert index in plan


def steps_of(store: SqlLedger, work: str) -> int:
    """How much SQLite does for one request: a number that does not depend on the machine."""
    connection = store._writer.open().connection
    count = 0

    def progress() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(progress, 1)  # type: ignore[attr-defined]
    sql = store._database.sql(getattr(ssh_statements, work))
    connection.execute(sql, dict.fromkeys(re.findall(r":(\w+)", sql), "nobody")).fetchall()
    connection.close()
    return count


@pytest.mark.parametrize("name", ["SSH_STANDING", "SSH_LIVE_OF_HOST", "SSH_SPENDING", "SSH_DISTRUSTED_SINCE"])
def test_a_longer_store_costs_a_request_nothing(store: SqlLedger, name: str) -> None:
    """What is decided in the writer, where all others wait, takes the same with one certificate and with hundreds."""
    known(store, 1)
    get(store, ssh_grant(host_leaf(1)), Once("first"))
    before = steps_of(store, name)
    futures = [store.intend_ssh(user_grant(number), Once(f"test:{number}"), at=NOW) for number in range(500)]
    for future in futures:
        future.result()
    assert steps_of(store, name) <= before + 10


def test_a_certificate_takes_little_room(store: SqlLedger, path: Path) -> None:
    """A store of all that a large house issues in a year stays one that can be copied and audited."""

    def size() -> int:
        copy = path.with_name("copy.sqlite3")
        copy.unlink(missing_ok=True)
        connection = store._database.connect()
        connection.execute(f"VACUUM INTO '{copy}'")
        connection.close()
        return copy.stat().st_size

    before = size()
    for number in range(200):
        (intent,) = store.intend_ssh(user_grant(number), Once(f"test:{number}"), at=NOW).result()
        store.issued_ssh((SshCredential(intent.serial, intent.leaf, b"c" * 500),), at=NOW).result()
    assert (size() - before) / 200 < 4096


def test_killed_between_intent_and_certificate(path: Path) -> None:
    """The serial is on record, the same key gets it again from the next process, and in the end it is revoked."""
    place = Place("sqlite", str(path))
    ours, theirs = workers.processes.Pipe()
    process = workers.processes.Process(target=workers.intend_ssh_then_hang, args=(place, theirs))
    process.start()
    serial = ours.recv()
    process.kill()
    process.join()
    with place.open() as store:
        (again,) = store.intend_ssh(ssh_grant(host_leaf(1)), None, at=NOW).result()
        assert (again.serial, again.certificate) == (serial, None)
        assert store.abandon_intents(LATER, at=LATER).result() == 1
        assert store.publish_krl("x", at=LATER).result().hosts == (serial,)


def test_a_backup_that_is_older_than_a_certificate(store: SqlLedger, path: Path, tmp_path: Path) -> None:
    """It gives no serial a second time, so that revoking one never hits the other; and a checkpoint finds it out."""
    known(store, 1)
    backup = tmp_path / "backup.sqlite3"
    connection = store._database.connect()
    connection.execute(f"VACUUM INTO '{backup}'")
    connection.close()
    serials = {get(store, user_grant(number), Once(f"test:{number}"))[0] for number in range(20)}
    outside = signed_head(store)
    store.close()
    shutil.move(backup, path)
    path.chmod(0o600)
    with ledger.open_sqlite(path) as restored:
        again = {get(restored, user_grant(number), Once(f"test:{number}"))[0] for number in range(20)}
        assert not serials & again
        get(restored, ssh_grant(host_leaf(1, start=timedelta(days=1))), at=NOW + WEEK)
        with pytest.raises(LogTampered, match="one of them was changed"):
            audit.verify(restored, LOG_KEY.public_key(), ORIGIN, outside)


@pytest.mark.peer("postgresql")
def test_every_statement_is_one_of_postgresql_too() -> None:
    """Prepared with anything in the place of its values."""
    with postgres.running() as server, server.database() as url, ledger.open_postgres(url) as store:
        connection = store._database.connect()
        for name in sorted(EVERY):
            sql = store._database.sql(getattr(ssh_statements, name))
            connection.execute(f"EXPLAIN {sql}", dict.fromkeys(re.findall(r"%\((\w+)\)s", sql), None))
        connection.close()
