"""The quick way to one machine's host keys sees what the ledger itself sees."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.core.flow import HostGrant
from handfast.core.hosts import How, Place
from handfast.core.sshkeys import from_blob
from handfast.errors import Fault, Unsafe
from handfast.ledger import open_sqlite
from handfast.ledger.host_lookup import host_at
from handfast.ledger.store import SqlLedger

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
HEAD = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
ONE, TWO, THREE = (from_blob(HEAD + bytes([number] * 32)) for number in (1, 2, 3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger's path, in a directory of ours alone."""
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqlLedger]:
    """An open ledger with a machine that has all there is, one without a place, and one that was removed."""
    opened = open_sqlite(path)
    place = Place.parse(["web1.lan", "10.0.0.1", "2001:db8::1"], aliases=["web"], ports=(22, 2222))
    opened.register(HostGrant("web1", (ONE, TWO), How.INVITATION, "for 'ü'", place), None, at=NOW).result()
    opened.register(HostGrant("web1", (ONE,), How.CONSOLE, "", None, complete=False), None, at=NOW).result()
    opened.retire("web1", TWO, reason='stolen, "they" say', at=NOW + timedelta(days=1)).result()
    opened.register(HostGrant("db1", (THREE,), How.OPERATOR, "", None), None, at=NOW).result()
    opened.register(HostGrant("old1", (TWO,), How.OPERATOR, "", None), None, at=NOW).result()
    opened.remove_host("old1", reason="gone", at=NOW).result()
    yield opened
    opened.close()


@pytest.mark.parametrize("spelling", ["web1", "web", "web1.lan", "[web1.lan]:2222", "2001:db8::1", "db1", "old1", "?'"])
def test_it_finds_what_the_ledger_finds(ledger: SqlLedger, path: Path, spelling: str) -> None:
    """The same machine, whole, or nobody, while another process has the ledger open."""
    assert host_at(path, spelling) == ledger.host_at(spelling)
    assert (host_at(path, spelling) is None) == (spelling == "?'")


def test_a_ledger_that_is_closed_is_read_too(ledger: SqlLedger, path: Path) -> None:
    """No registrar has to run."""
    ledger.close()
    assert host_at(path, "web1") is not None


def test_what_is_no_ledger_is_a_fault(path: Path) -> None:
    """Missing, of an older version, or something else: said as such, and nothing is made."""
    with pytest.raises(Fault, match="cannot read host keys"):
        host_at(path, "web1")
    assert not path.exists()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(Fault, match="cannot read host keys"):
        host_at(path, "web1")


def test_a_directory_that_others_can_write_is_refused(ledger: SqlLedger, path: Path) -> None:
    """Whoever can put another ledger there could say whose keys are believed."""
    path.parent.chmod(0o777)
    with pytest.raises(Unsafe):
        host_at(path, "web1")
