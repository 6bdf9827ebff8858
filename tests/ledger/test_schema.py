"""The migrations: they make what ``tables`` says, once, and only when it is needed."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from handfast import ledger
from handfast.core.flow import Credential, Once
from handfast.core.instances import lasting
from handfast.errors import Fault, Refused
from handfast.ledger import audit, schema, statements
from handfast.ledger.store import SqlLedger
from handfast.ledger.tables import metadata
from tests.ledger import postgres
from tests.ledger.instance_material import instance
from tests.ledger.material import LOG_KEY, NOW, ORIGIN, grant, host_grant, invitation, ssh_key, tamper
from tests.ledger.ssh_material import get, host_leaf, ssh_grant


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where no ledger is yet."""
    return tmp_path / "ledger.sqlite3"


def differences(store: SqlLedger) -> list[object]:
    """What Alembic would change so that the database is as ``tables`` says, except for indexes."""
    options = {"compare_type": True, "include_object": lambda _object, _name, kind, *_rest: kind != "index"}
    with store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))


def test_migrations_and_tables_agree(path: Path) -> None:
    """A migrated SQLite is what the code believes it is."""
    with ledger.open_sqlite(path) as store:
        assert differences(store) == []


@pytest.mark.peer("postgresql")
def test_migrations_and_tables_agree_on_postgresql() -> None:
    """A migrated PostgreSQL is what the code believes it is."""
    with postgres.running() as server, server.database() as url, ledger.open_postgres(url) as store:
        assert differences(store) == []


def test_no_statement_of_the_flow_reads_a_whole_table(path: Path) -> None:
    """What is asked for each introduction, or for one machine, is found by an index however long the store."""
    every = {name for name in vars(statements) if name.isupper() and not name.startswith(("_", "ADD_", "COUNT_"))}
    whole = {name for name in every if name.startswith("ALL_")} | {"EVENTS"}
    with ledger.open_sqlite(path) as store:
        connection = store._database.connect()
        for name in sorted(every - whole):
            sql = store._database.sql(getattr(statements, name))
            anything = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
            for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", anything).fetchall():
                step = str(row[3])
                assert not step.startswith("SCAN") or step == "SCAN log_head" or "USING" in step, (name, step)
        connection.close()


def test_the_current_version_is_the_newest_migration() -> None:
    """The version that lets Alembic be skipped is the head of one line of revisions."""
    config = Config()
    config.set_main_option("script_location", "handfast.ledger:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.CURRENT]


def test_alembic_is_loaded_only_to_migrate(path: Path) -> None:
    """The first opening migrates; every other one starts without Alembic."""
    script = (
        "import sys; from pathlib import Path; from handfast import ledger; "
        "ledger.open_sqlite(Path(sys.argv[1])).close(); print('alembic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run() -> str:
        command = [sys.executable, "-c", script, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    assert run() == "True\n"
    assert run() == "False\n"


def test_a_newer_ledger_is_refused(path: Path) -> None:
    """A schema from the future is left alone, with a hint."""
    with ledger.open_sqlite(path) as store:
        tamper(store, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Fault, match=r"a schema that this version does not know.*9999") as caught:
        ledger.open_sqlite(path)
    assert "newer" in caught.value.hint


def test_a_migration_that_fails_leaves_nothing(path: Path) -> None:
    """All tables or none: a table in the way stops it, and it is as if it had not begun."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE log_head (something TEXT)")
    connection.commit()
    path.chmod(0o600)
    with pytest.raises(Fault, match="log_head already exists"):
        ledger.open_sqlite(path)
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    assert tables == [("log_head",)]


def schema_of(path: Path) -> dict[str, str]:
    """What SQLite has been told to make."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return dict(found)


def migrated_to(path: Path, revision: str) -> None:
    """An empty ledger as the Handfast of that revision made it."""
    config = Config()
    config.set_main_option("script_location", "handfast.ledger:migrations")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_a_ledger_of_the_first_schema_is_migrated(path: Path, tmp_path: Path) -> None:
    """What an older Handfast wrote is all there, host keys can be added to it, and the audit finds nothing amiss."""
    migrated_to(tmp_path / "first.sqlite3", "0001")
    first = schema_of(tmp_path / "first.sqlite3")
    with ledger.open_sqlite(path) as store:
        store.invite(invitation(1)).result()
        intent = store.intend(grant(1), Once(invitation(1).marker), at=NOW).result()
        store.issued(Credential(intent.serial, intent.grant, b"certificate"), at=NOW).result()
        before = (store.invitations(), store.credentials(), store.events(), store.head())
        newer = {name for name, sql in schema_of(path).items() if sql.startswith("CREATE TABLE")} - set(first)
        tamper(store, *(f"DROP TABLE {name}" for name in newer), "UPDATE alembic_version SET version_num = '0001'")
    assert schema_of(path) == first  # so it is one of the first, with content
    with ledger.open_sqlite(path) as store:
        assert differences(store) == []
        assert (store.invitations(), store.credentials(), store.events(), store.head()) == before
        assert (store.hosts(), store.hosts_revision()) == ([], 0)
        again = store.intend(grant(1), Once(invitation(1).marker), at=NOW).result()
        assert (again.serial, again.certificate) == (intent.serial, b"certificate")
        host = store.register(host_grant(1), None, at=NOW).result()
        assert store.host_at("web1.lan") == host
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)
    with ledger.open_sqlite(path) as store:
        assert store.host("web1.lan") == host


def test_a_ledger_of_the_second_schema_is_migrated(path: Path, tmp_path: Path) -> None:
    """What it knows of machines can be certified, where they are and why keys were retired too; the audit agrees."""
    migrated_to(tmp_path / "second.sqlite3", "0002")
    second = schema_of(tmp_path / "second.sqlite3")
    with ledger.open_sqlite(path) as store:
        store.register(host_grant(1, 2, 3, ports=(22, 2222)), None, at=NOW).result()
        store.register(host_grant(1, 2), None, at=NOW).result()
        store.retire("web1.lan", ssh_key(2), reason="stolen", at=NOW).result()
        newer = {name for name, sql in schema_of(path).items() if sql.startswith("CREATE TABLE")} - set(second)
        tamper(store, *(f"DROP TABLE {name}" for name in newer))
        for table, columns in (("host_places", "spelling, machine"), ("host_retired_keys", "machine, digest")):
            tamper(store, f"CREATE TABLE kept AS SELECT {columns} FROM {table}", f"DROP TABLE {table}")
            tamper(store, second[table], f"INSERT INTO {table} SELECT * FROM kept", "DROP TABLE kept")
        tamper(store, second["ix_host_places_machine"], "UPDATE alembic_version SET version_num = '0002'")
    assert schema_of(path) == second  # so it is one of the second, with content
    with ledger.open_sqlite(path) as store:
        assert differences(store) == []
        assert store.hosts_reached(["10.0.0.1"]) == {("10.0.0.1", "web1.lan"), ("[10.0.0.1]:2222", "web1.lan")}
        with pytest.raises(Refused, match=r"was retired as one of 'web1\.lan' \(stolen\)"):
            store.register(host_grant(2, machine="web2.lan", places=("web2.lan",)), None, at=NOW).result()
        store.register(host_grant(3, machine="web2.lan", places=("web2.lan",)), None, at=NOW).result()
        assert (store.ssh_certificates(), store.approvals()) == ([], [])
        (serial,) = get(store, ssh_grant(host_leaf(1)))
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)
    with ledger.open_sqlite(path) as store:
        assert [each.serial for each in store.ssh_certificates()] == [serial]


def test_a_ledger_of_the_third_schema_is_migrated(path: Path) -> None:
    """Instances can be added to it, and the audit finds nothing amiss."""
    with ledger.open_sqlite(path) as store:
        store.register(host_grant(1), None, at=NOW).result()
        tamper(store, "DROP TABLE instances", "UPDATE alembic_version SET version_num = '0003'")
    with ledger.open_sqlite(path) as store:
        assert differences(store) == []
        assert store.instances() == []
        store.add_instance(*instance(1)).result()
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)
    with ledger.open_sqlite(path) as store:
        assert store.instances() == [lasting(instance(1)[0])]
