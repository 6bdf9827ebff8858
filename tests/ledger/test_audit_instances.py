"""Whoever changes a managed machine behind the log's back is found out; and what a longer store costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast import ledger
from handfast.core.instances import Stranger, met
from handfast.core.records import Event
from handfast.errors import LogTampered
from handfast.ledger import audit, instance_entries, instance_statements
from handfast.ledger.store import SqlLedger
from tests.ledger import postgres
from tests.ledger.instance_material import KEY, OTHER, instance, running
from tests.ledger.material import LOG_KEY, NOW, ORIGIN, tamper

EVERY = {name for name in vars(instance_statements) if name.isupper() and not name.startswith(("_", "ADD_", "ALL_"))}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlLedger]:
    """A ledger with an instance that runs, one in quarantine, one that waits, and one that was removed."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as opened:
        running(opened)
        made = running(opened, 2)
        opened.change_instance(made, met(made, Stranger("another key", OTHER), at=NOW), at=NOW).result()
        opened.add_instance(*instance(3)).result()
        opened.add_instance(*instance(4)).result()
        opened.remove_instance("app4.lan", reason="a typo", at=NOW).result()
        yield opened


def verify(store: SqlLedger) -> None:
    """The audit, with the right key."""
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def replaced(key: str, old: str, new: str) -> str:
    """A statement that edits one value in the rows that have it."""
    return f"""UPDATE instances SET state = replace(state, '"{key}":"{old}"', '"{key}":"{new}"')"""


@pytest.mark.parametrize(
    "change",
    [
        replaced("expected", KEY.hex(), OTHER.hex()),
        replaced("serial", f"{7:032x}", f"{8:032x}"),
        replaced("state", "quarantined", "unreachable"),
        replaced("reason", "another key", ""),
        replaced("seen", OTHER.hex(), ""),
        replaced("address", "10.0.0.9:7575", "10.0.0.66:7575"),
        replaced("needs_key", "no", "yes"),
        replaced("dials", "no", "yes"),
        replaced("instance_id", "i-1", "i-9"),
        replaced("invitation", f"{1:016x}", f"{9:016x}"),
        replaced("rollbacks", "0", "1"),
        replaced("name", "app1.lan", "app9.lan"),
        replaced("deadline", "2026-11-22T13:00:00.123456Z", "2036-11-22T13:00:00.123456Z"),
        replaced("issued_key", "", KEY.hex()),
        replaced("issued_serial", "", f"{8:032x}"),
        replaced("since", "2026-11-22T12:00:00.123456Z", "2026-01-01T00:00:00.000000Z"),
        "UPDATE instances SET state = '{}' WHERE name = 'app1.lan'",
        "UPDATE instances SET state = x'00' WHERE name = 'app1.lan'",
        "UPDATE instances SET name = 'app9.lan' WHERE name = 'app1.lan'",
        "DELETE FROM instances WHERE name = 'app3.lan'",
        "INSERT INTO instances SELECT 'app4.lan', state FROM instances WHERE name = 'app3.lan'",
    ],
)
def test_a_changed_row(store: SqlLedger, change: str) -> None:
    """A value that was edited, and a row that was removed, renamed or slipped in, does not fit the log."""
    verify(store)
    tamper(store, change)
    with pytest.raises(LogTampered, match=r"the instance '.*' is not what the log makes it"):
        verify(store)


@pytest.mark.parametrize(
    "event",
    [
        Event("instance.added", NOW, "app1.lan", {"name": "app1.lan"}),
        Event("instance.changed", NOW, "app4.lan", {"address": "10.0.0.66:7575"}),
        Event("instance.removed", NOW, "nobody", {"why": "x"}),
        Event("instance.changed", NOW, "app1.lan", {"colour": "red"}),
    ],
    ids=lambda event: f"{event.kind} {event.subject}",
)
def test_events_that_do_not_follow(store: SqlLedger, event: Event) -> None:
    """Of what was not there, was there already, or has no such part, the ledger has written no entry."""
    store._submit(lambda tx: tx.log(event)).result()
    with pytest.raises(LogTampered, match="a value that the ledger never writes"):
        verify(store)


def test_every_value_comes_back(store: SqlLedger) -> None:
    """What is read from a row is what was written, whatever an instance has."""
    for each in store.instances():
        assert instance_entries.from_json(instance_entries.to_json(instance_entries.texts(each))) == each


@pytest.mark.parametrize("name", sorted(EVERY))
def test_one_instance_is_found_by_its_key(store: SqlLedger, name: str) -> None:
    """What is asked for each meeting reads no table, however many instances there are."""
    connection = store._database.connect()
    sql = store._database.sql(getattr(instance_statements, name))
    anything = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", anything).fetchall()]
    connection.close()
    assert plan == ["SEARCH instances USING INDEX sqlite_autoindex_instances_1 (name=?)"]


def test_an_instance_takes_little_room(store: SqlLedger) -> None:
    """A row, and what is logged until an instance runs, is a few kilobytes at most: all of a fleet is read at once."""
    connection = store._database.connect()
    (most,) = connection.execute("SELECT max(length(state)) FROM instances").fetchall()[0]
    (logged,) = connection.execute("SELECT sum(length(entry)) FROM events WHERE subject = 'app1.lan'").fetchall()[0]
    connection.close()
    assert most < 1024
    assert logged < 4096


@pytest.mark.peer("postgresql")
def test_every_statement_is_one_of_postgresql_too() -> None:
    """Prepared with anything in the place of its values."""
    with postgres.running() as server, server.database() as url, ledger.open_postgres(url) as store:
        connection = store._database.connect()
        for name in sorted(EVERY):
            sql = store._database.sql(getattr(instance_statements, name))
            connection.execute(f"EXPLAIN {sql}", dict.fromkeys(re.findall(r"%\((\w+)\)s", sql), None))
        connection.close()
