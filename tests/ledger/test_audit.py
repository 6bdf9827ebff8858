"""Everything that somebody who can write the store might change is found and named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import BigInteger

from handfast import ledger
from handfast.core import checkpoint
from handfast.core.checkpoint import Checkpoint
from handfast.core.flow import Credential, Once
from handfast.core.merkle import Frontier, leaf_hash
from handfast.core.records import Event
from handfast.core.roles import Role
from handfast.errors import AlreadySpent, LogTampered, Malformed
from handfast.ledger import audit
from handfast.ledger.entries import decode, marker_of
from handfast.ledger.store import SqlLedger
from handfast.ledger.tables import metadata
from tests.ledger import ssh_material
from tests.ledger.instance_material import running
from tests.ledger.material import (
    LATER,
    LOG_KEY,
    NOW,
    ORIGIN,
    OTHER_KEY,
    grant,
    host_grant,
    invitation,
    join,
    set_head,
    signed_head,
    ssh_key,
    tamper,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlLedger]:
    """A ledger with one of everything, two checkpoints in it, and ten entries."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as opened:
        join(opened, 1)  # entries 0 to 2
        opened.save_checkpoint(signed_head(opened)).result()
        first = join(opened, 2, machine="web2.lan")  # 3 to 5
        opened.revoke(first.serial, reason="superseded", at=LATER).result()  # 6
        opened.invite(invitation(3)).result()  # 7
        opened.cancel(invitation(3).key_id, reason="no", at=LATER).result()  # 8
        opened.intend(grant(4), Once("test:1"), at=NOW).result()  # 9
        opened.save_checkpoint(signed_head(opened)).result()
        yield opened


@pytest.fixture
def hosts(store: SqlLedger) -> SqlLedger:
    """The same with a machine's SSH host keys, certificates and approvals, and an instance."""
    store.register(host_grant(1, 2, 3), Once("invitation:test"), at=NOW).result()
    store.retire("web1.lan", ssh_key(3), reason="stolen", at=NOW).result()
    ssh_material.some(store)
    running(store, 9)
    return store


def verify(store: SqlLedger, external: str | None = None) -> audit.AuditReport:
    """The audit, with the right key."""
    return audit.verify(store, LOG_KEY.public_key(), ORIGIN, external)


def rewrite(store: SqlLedger, entries: list[bytes]) -> None:
    """Put these entries in the place of the log, with the right hashes: all that is possible without the log's key."""
    connection = sqlite3.connect(store.name)
    connection.execute("DELETE FROM events")
    for index, entry in enumerate(entries):
        connection.execute(
            "INSERT INTO events SELECT ?, json_extract(?, '$.kind'), json_extract(?, '$.subject'), ?, ?, ?",
            (index, entry.decode(), entry.decode(), entry, leaf_hash(entry), marker_of(decode(entry))),
        )
    connection.commit()
    connection.close()
    set_head(store, Frontier().extend(map(leaf_hash, entries)))


def test_an_alarm_that_is_no_longer_counted_is_found(store: SqlLedger) -> None:
    """An alarm taken from its marker would let the log be filled: the audit compares marker and entry."""
    with pytest.raises(AlreadySpent):
        store.intend(grant(9), Once("test:9", 0), at=NOW).result()
    assert verify(store).size == 11
    tamper(store, "UPDATE events SET marker = NULL")
    with pytest.raises(LogTampered, match="entry 10 is filed under the marker None, and says 'test:9'"):
        verify(store)


def test_an_untouched_ledger_verifies(store: SqlLedger) -> None:
    """Without tampering nothing is reported, with a checkpoint kept elsewhere and without."""
    report = verify(store, signed_head(store))
    assert (report.size, report.checkpoints, report.credentials, report.invitations) == (10, 2, 3, 3)
    assert (report.root, report.external_size) == (store.head().root(), 10)
    assert verify(store).external_size is None


def test_an_empty_ledger_verifies(tmp_path: Path) -> None:
    """A log without entries has a root and a checkpoint too."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as empty:
        assert verify(empty, signed_head(empty)).size == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE events SET entry = entry || x'20' WHERE leaf_index = 2", "entry 2 was changed"),
        ("UPDATE events SET leaf_hash = zeroblob(32) WHERE leaf_index = 2", "entry 2 was changed"),
        ("UPDATE events SET kind = 'test.other' WHERE leaf_index = 2", "entry 2 is filed as 'test.other'"),
        ("UPDATE events SET subject = 'web9' WHERE leaf_index = 2", "entry 2 is filed as .* of 'web9'"),
        ("UPDATE events SET marker = 'test:9' WHERE leaf_index = 2", "entry 2 is filed under the marker 'test:9'"),
        ("DELETE FROM events WHERE leaf_index = 2", "entry 2 is missing"),
        ("DELETE FROM events WHERE leaf_index = 0", "entry 0 is missing"),
        ("DELETE FROM events WHERE leaf_index = 9", "entry 9 of 10 is missing"),
        ("DELETE FROM events", "entry 0 of 10 is missing"),
        ("UPDATE events SET leaf_index = 10 WHERE leaf_index = 9", "entry 9 of 10 is missing"),
        (
            "INSERT INTO events SELECT 10, kind, subject, entry, leaf_hash, marker FROM events LIMIT 1",
            "beyond its ends",
        ),
        (
            "INSERT INTO events SELECT -1, kind, subject, entry, leaf_hash, marker FROM events LIMIT 1",
            "beyond its ends",
        ),
        ("UPDATE log_head SET frontier = zeroblob(64)", "head of the log at size 10 does not fit"),
        ("UPDATE log_head SET size = 7", "head of the log is damaged"),
        ("DELETE FROM log_head", "lost the head of its log"),
    ],
)
def test_a_changed_log(store: SqlLedger, change: str, named: str) -> None:
    """A flipped byte, a missing, moved or added entry, a wrong head: each is found where it is."""
    tamper(store, change)
    with pytest.raises(LogTampered, match=named) as caught:
        verify(store)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "UPDATE credentials SET certificate = x'00' WHERE certificate IS NOT NULL",
            "the credential .* is not what the log says",
        ),
        (
            "UPDATE credentials SET certificate = NULL WHERE machine = 'web2.lan'",
            "speaks of a row that is not in the store",
        ),
        (
            "UPDATE credentials SET certificate = x'00', issued_at = 1 WHERE marker = 'test:1'",
            "no entry 'credential.issued' fits",
        ),
        (
            "UPDATE credentials SET grant_json = replace(grant_json, '\"server\"', '\"operator\"')",
            "no entry 'credential.intended' fits",
        ),
        ("UPDATE credentials SET grant_json = 'x' WHERE marker = 'test:1'", "the credential .* cannot be read"),
        ("UPDATE credentials SET marker = 'test:2' WHERE marker = 'test:1'", "no entry 'credential.intended' fits"),
        (
            "UPDATE credentials SET key_sha256 = zeroblob(32) WHERE marker = 'test:1'",
            "no entry 'credential.intended' fits",
        ),
        ("UPDATE credentials SET machine = 'web9.lan' WHERE marker = 'test:1'", "no entry 'credential.intended' fits"),
        ("UPDATE credentials SET issued_at = issued_at + 1", "no entry 'credential.issued' fits"),
        ("UPDATE credentials SET serial = 'f' || substr(serial, 2)", "serials that the ledger never makes"),
        ("DELETE FROM credentials WHERE marker = 'test:1'", "entry 9 speaks of a row that is not in the store"),
        ("DELETE FROM revocations", "was closed by nothing in the log"),
        (
            "DELETE FROM revocations; DELETE FROM closed_markers WHERE marker LIKE 'successor:%'",
            "entry 6 speaks of a row",
        ),
        ("DELETE FROM closed_markers WHERE marker LIKE 'successor:%'", "could still introduce a successor"),
        ("DELETE FROM closed_markers WHERE marker LIKE 'invitation:%'", "entry 8 speaks of a row"),
        (
            "INSERT INTO closed_markers VALUES ('invitation:0000000000000001', 1, 'no')",
            "no entry 'invitation.cancelled' fits",
        ),
        ("INSERT INTO closed_markers VALUES ('other', 1, 'no')", "'other' was closed by nothing"),
        ("UPDATE revocations SET reason = 'unspecified'", "no entry 'credential.revoked' fits"),
        ("UPDATE revocations SET kind = 'credential.abandoned'", "no entry 'credential.abandoned' fits"),
        ("UPDATE invitations SET public_half = zeroblob(32) WHERE uses = 1", "no entry 'invitation.created' fits"),
        ("UPDATE invitations SET uses = 100", "no entry 'invitation.created' fits"),
        ("UPDATE invitations SET expires_at = expires_at + 1", "no entry 'invitation.created' fits"),
        ("UPDATE invitations SET sources = '[]'", "no entry 'invitation.created' fits"),
        ("UPDATE invitations SET method = 'nifi'", "no entry 'invitation.created' fits"),
        ("UPDATE invitations SET subject = x'3000'", "no entry 'invitation.created' fits"),
        ("UPDATE invitations SET role = 'emperor'", "the invitation .* cannot be read"),
        ("DELETE FROM invitations WHERE key_id LIKE '%1'", "entry 0 speaks of a row that is not in the store"),
        (
            (
                "INSERT INTO invitations VALUES"
                " ('feed', 'invitation', x'', 'web1', 'peer', '{\"dns\":[],\"ips\":[]}', 1, 1, 2, NULL, NULL)"
            ),
            "the invitation 'feed' is not what the log says",
        ),
        ("UPDATE machines SET role = 'operator' WHERE name = 'web1.lan'", "the machine 'web1.lan' is not what"),
        ("UPDATE machines SET introduced_at = 1 WHERE name = 'web1.lan'", "the machine 'web1.lan' is not what"),
        ("DELETE FROM machines WHERE name = 'web1.lan'", "the machine 'web1.lan' is not what"),
        ("INSERT INTO machines VALUES ('web9.lan', 'server', 1)", "the machine 'web9.lan' is not what"),
    ],
)
def test_a_changed_table(store: SqlLedger, change: str, named: str) -> None:
    """A row that was edited, removed or slipped in does not fit the log, and is named."""
    tamper(store, *change.split("; "))
    with pytest.raises(LogTampered, match=named):
        verify(store)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE hosts SET state = replace(state, 'AAAA', 'AAAB')", "the host keys or the place of 'web1.lan' are not"),
        ("UPDATE host_words SET words = ''", "the host keys or the place of 'web1.lan' are not"),
        ("UPDATE hosts SET revision = 9", "the host keys or the place of 'web1.lan' are not"),
        ("DELETE FROM host_words", "the host keys or the place of 'web1.lan' are not"),
        ("INSERT INTO host_words VALUES ('web9.lan', 'x')", "the index of what machines are searched by is not"),
        ("DELETE FROM hosts", "the host keys or the place of 'web1.lan' are not"),
        ("INSERT INTO hosts VALUES ('web9.lan', '', 1)", "the host keys or the place of 'web9.lan' are not"),
        ("UPDATE host_places SET machine = 'web9.lan'", "the index of names of machines is not"),
        ("UPDATE host_places SET host = 'other'", "the index of names of machines is not"),
        ("DELETE FROM host_places WHERE spelling = '10.0.0.1'", "the index of names of machines is not"),
        ("UPDATE host_keys SET machine = 'web9.lan'", "the index of host keys is not"),
        ("DELETE FROM host_retired_keys", "the list of retired host keys is not"),
        ("UPDATE host_retired_keys SET reason = 'removed'", "the list of retired host keys is not"),
        ("INSERT INTO host_retired_keys VALUES ('web9.lan', x'00', 'x', 1)", "the list of retired host keys is not"),
        ("DELETE FROM host_registrations", "speaks of a row that is not in the store"),
        ("UPDATE host_registrations SET keys_sha256 = x'00'", "the registration of 'web1.lan' is not what"),
    ],
)
def test_a_changed_host(hosts: SqlLedger, change: str, named: str) -> None:
    """Host keys, places and what finds them are what the log makes them, or it is named."""
    verify(hosts)
    tamper(hosts, change)
    with pytest.raises(LogTampered, match=named):
        verify(hosts)


@pytest.mark.parametrize("value", ["x'00'", "'x'", "77", "7.5", "9223372036854775807"])
def test_values_that_the_ledger_never_writes(hosts: SqlLedger, tmp_path: Path, value: str) -> None:
    """Whatever is put into any column, of whatever type, is tampering, and not a crash of the audit."""
    copy = tmp_path / "copy.sqlite3"
    columns = [column for table in metadata.sorted_tables for column in table.columns if str(column) != "log_head.id"]
    hosts.note(Event("alarm.test", NOW, "x")).result()
    for column in columns:
        tamper(hosts, f"VACUUM INTO '{copy}'")
        copy.chmod(0o600)
        with ledger.open_sqlite(copy) as changed:
            try:
                tamper(changed, f"UPDATE OR REPLACE {column.table.name} SET {column.name} = {value}")
            except sqlite3.IntegrityError:
                assert isinstance(column.type, BigInteger)  # an INTEGER PRIMARY KEY holds nothing else
            else:
                with pytest.raises(LogTampered):
                    verify(changed)
        copy.unlink()


def test_a_key_that_may_not_come_back(store: SqlLedger) -> None:
    """The key for coming back after expiry is under the log as well: nobody plants his own."""
    tamper(store, f"UPDATE credentials SET grant_json = replace(grant_json, '{bytes(range(32)).hex()}', '{'00' * 32}')")
    with pytest.raises(LogTampered, match=r"no entry 'credential\.intended' fits"):
        verify(store)


@pytest.mark.parametrize("index", [0, 4, 9])
def test_a_rewritten_log(store: SqlLedger, index: int) -> None:
    """Rewritten with all its hashes, the log still does not have the root that was signed."""
    outside = signed_head(store)
    logged = list(store.entries())
    logged[index] = logged[index].replace(b'"at":"2026', b'"at":"2025')
    rewrite(store, logged)
    with pytest.raises(LogTampered, match=f"the first {3 if index < 3 else 10} entries have the root"):
        verify(store)
    tamper(store, "DELETE FROM checkpoints")
    with pytest.raises(LogTampered, match="the first 10 entries have the root"):
        verify(store, outside)


def test_a_log_with_another_order(store: SqlLedger) -> None:
    """The same entries in another order have another root."""
    logged = list(store.entries())
    rewrite(store, [*logged[:8], logged[9], logged[8]])
    with pytest.raises(LogTampered, match="the first 10 entries have the root"):
        verify(store)


def test_a_truncated_log(store: SqlLedger) -> None:
    """Cut with its head, tables and checkpoints, the log is shorter than the checkpoint kept elsewhere."""
    outside = signed_head(store)
    rewrite(store, list(store.entries())[:9])
    tamper(store, "DELETE FROM checkpoints WHERE size = 10", "DELETE FROM credentials WHERE marker = 'test:1'")
    assert verify(store).size == 9
    with pytest.raises(LogTampered, match="truncated: it has 9 entries, a checkpoint of 10 was signed"):
        verify(store, outside)


def test_an_entry_that_was_logged_twice(store: SqlLedger) -> None:
    """A repeated entry is no second fact."""
    tamper(store, "DELETE FROM checkpoints")
    logged = list(store.entries())
    rewrite(store, [*logged, logged[2]])
    with pytest.raises(LogTampered, match=r"entry 10 .* repeats entry 2"):
        verify(store)


@pytest.mark.parametrize("entry", [b"{}", b"[]", b'{"at": "x"}', b'{"at":1,"fields":{},"kind":"","subject":""}'])
def test_an_entry_that_is_none(store: SqlLedger, entry: bytes) -> None:
    """Bytes with a right hash that are no event are reported as such."""
    tamper(
        store,
        "DELETE FROM checkpoints",
        f"UPDATE events SET entry = x'{entry.hex()}', leaf_hash = x'{leaf_hash(entry).hex()}' WHERE leaf_index = 5",
    )
    with pytest.raises(LogTampered, match="entry 5 cannot be read"):
        verify(store)


@pytest.mark.parametrize(
    ("origin", "size", "key", "named"),
    [
        (ORIGIN, 10, OTHER_KEY, "size 10 does not verify: .* not signed by the key"),
        ("other", 10, LOG_KEY, "size 10 does not verify: .* log 'other'"),
        (ORIGIN, 9, LOG_KEY, "size 10 is one of size 9"),
        (ORIGIN, 10, LOG_KEY, "the first 10 entries have the root"),
    ],
)
def test_a_replaced_checkpoint(store: SqlLedger, origin: str, size: int, key: Ed25519PrivateKey, named: str) -> None:
    """A stored checkpoint by another key, of another log or size, or of another tree, is reported."""
    note = checkpoint.sign(Checkpoint(origin, size, bytes(32)), key)
    tamper(store, f"UPDATE checkpoints SET note = '{note}' WHERE size = 10")
    with pytest.raises(LogTampered, match=named):
        verify(store)


def test_a_checkpoint_that_is_none(store: SqlLedger) -> None:
    """Rubbish in the place of a stored checkpoint is reported too."""
    tamper(store, "UPDATE checkpoints SET note = 'rubbish' WHERE size = 10")
    with pytest.raises(LogTampered, match="size 10 does not verify: not a checkpoint"):
        verify(store)


def test_a_stored_checkpoint_of_a_future_log(store: SqlLedger) -> None:
    """A signed size that the log never had means that entries are gone."""
    future = checkpoint.sign(Checkpoint(ORIGIN, 11, bytes(32)), LOG_KEY)
    tamper(store, f"INSERT INTO checkpoints VALUES (11, '{future}')")
    with pytest.raises(LogTampered, match="a checkpoint of 11 was signed"):
        verify(store)


def test_an_external_checkpoint_by_another_key(store: SqlLedger) -> None:
    """A checkpoint that somebody else signed proves nothing, and neither does what is none."""
    with pytest.raises(LogTampered, match="not signed by the key"):
        verify(store, signed_head(store, OTHER_KEY))
    with pytest.raises(LogTampered, match="is of the log 'other'"):
        verify(store, signed_head(store, origin="other"))
    with pytest.raises(Malformed):
        verify(store, "nonsense")


def test_a_role_that_changed_is_followed(store: SqlLedger) -> None:
    """The machine's role is that of its newest certificate by the order of the log, whatever the clock said."""
    renewed = store.intend(grant(7, role=Role.PEER), Once("test:7"), at=NOW).result()
    earlier = NOW.replace(year=2020)  # the clock was put back
    store.issued(Credential(renewed.serial, renewed.grant, b"certificate 7"), at=earlier).result()
    machine = store.machine("web1.lan")
    assert machine is not None
    assert machine.role is Role.PEER
    verify(store)


def test_a_long_log(store: SqlLedger) -> None:
    """Over a thousand entries, in pages, with progress to the end."""
    for future in [store.note(Event("test.one", NOW, "x", {"i": str(i)})) for i in range(2100)]:
        future.result()
    steps: list[tuple[int, int]] = []
    report = audit.verify(store, LOG_KEY.public_key(), ORIGIN, progress=lambda done, total: steps.append((done, total)))
    assert report.size == 2110
    assert steps == [(1000, 2110), (2000, 2110), (2110, 2110)]
    assert len(list(store.entries())) == 2110
