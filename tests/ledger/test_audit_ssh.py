"""Whoever changes SSH certificates, what was taken back or who decided, behind the log's back, is found out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast import ledger
from handfast.core.flow import Once
from handfast.errors import LogTampered
from handfast.ledger import audit, ssh_revocations
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LOG_KEY, NOW, ORIGIN, host_grant, tamper
from tests.ledger.ssh_material import WEEK, get, host_leaf, known, some, ssh_grant


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlLedger]:
    """A ledger with one of everything."""
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as opened:
        known(opened, 1, 2)
        some(opened)
        yield opened


def verify(store: SqlLedger) -> None:
    """The audit, with the right key."""
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


NOT_LOGGED = "is not what the log says"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE ssh_certificates SET grant_json = replace(grant_json, '10.0.0.1', '10.0.0.9')", NOT_LOGGED),
        (
            "UPDATE ssh_certificates SET grant_json = replace(grant_json, 'permit-pty', 'permit-X11-forwarding')",
            NOT_LOGGED,
        ),
        (
            'UPDATE ssh_certificates SET grant_json = replace(grant_json, \'"why"\', \'"more":1,"why"\')',
            "cannot be read",
        ),
        ("UPDATE ssh_certificates SET certificate = x'00'", NOT_LOGGED),
        ("UPDATE ssh_certificates SET certificate = NULL", "was issued in part"),
        (
            "UPDATE ssh_certificates SET certificate = NULL, issued_at = NULL",
            "speaks of a row that is not in the store",
        ),
        ("UPDATE ssh_certificates SET kind = 'user'", "is filed as something else"),
        ("UPDATE ssh_certificates SET holder = 'web9.lan'", "is filed as something else"),
        ("UPDATE ssh_certificates SET key_sha256 = x'00'", "is filed as something else"),
        ("UPDATE ssh_certificates SET valid_before = valid_before + 1", "is filed as something else"),
        ("UPDATE ssh_certificates SET marker = 'x:1'", NOT_LOGGED),
        ("UPDATE ssh_certificates SET keys_sha256 = x'00'", NOT_LOGGED),
        ("UPDATE ssh_certificates SET serial = -serial", "have serials that the ledger never makes"),
        ("UPDATE ssh_certificates SET serial = serial + 1 WHERE marker IS NULL", NOT_LOGGED),
        ("DELETE FROM ssh_certificates WHERE marker IS NULL", "speaks of a row that is not in the store"),
        ("DELETE FROM ssh_revocations", "speaks of a row that is not in the store"),
        ("UPDATE ssh_revocations SET valid_before = 0", "would leave the list of revoked keys"),
        ("UPDATE ssh_revocations SET kind = 'sshcert.abandoned'", NOT_LOGGED),
        ("UPDATE ssh_revocations SET reason = 'keyCompromise'", NOT_LOGGED),
        ("INSERT INTO ssh_revocations VALUES (1, 1, 1, 'superseded', 'sshcert.revoked')", "is not in the store"),
        ("UPDATE approvals SET decision = 'accepted' WHERE decision = 'rejected'", NOT_LOGGED),
        ("UPDATE approvals SET decided_by = 'bob' WHERE decision = 'rejected'", NOT_LOGGED),
        ("UPDATE approvals SET decision = NULL, decided_at = NULL", "cannot be read"),
        ("UPDATE approvals SET expires_at = expires_at + 1", NOT_LOGGED),
        ("UPDATE approvals SET reasons = '[\"all is well\"]'", NOT_LOGGED),
        ("UPDATE approvals SET machine = 'web9.lan'", "is about something else"),
        ("UPDATE approvals SET how = 'operator'", "is about something else"),
        ('UPDATE approvals SET owners = \'[["a","b"]]\'', "is about something else"),
        ("UPDATE approvals SET grant_json = replace(grant_json, 'true', 'false')", NOT_LOGGED),
        ("UPDATE approvals SET grant_json = replace(grant_json, '10.0.0.1', '10.0.0.9')", "is about something else"),
        ("DELETE FROM approvals WHERE decision = 'rejected'", "speaks of a row that is not in the store"),
    ],
)
def test_a_changed_table(store: SqlLedger, change: str, named: str) -> None:
    """A row that was edited, removed or slipped in does not fit the log, and is named."""
    verify(store)
    tamper(store, change)
    with pytest.raises(LogTampered, match=named):
        verify(store)


def test_a_certificate_that_says_what_is_not_so(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a change of a machine ever to leave one behind, the audit would name it, until it is over."""
    monkeypatch.setattr(ssh_revocations, "keep_true", lambda *_args, **_more: None)
    store.register(host_grant(1, 2, places=("web1.lan", "10.0.0.9")), None, at=NOW).result()
    with pytest.raises(LogTampered, match=r"is good, and yet 'web1\.lan' is not reached as '10\.0\.0\.1'"):
        verify(store)
    store.publish_krl("later", at=NOW + WEEK).result()
    verify(store)


def test_many_pages(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every certificate is read, once, however many pages that takes."""
    monkeypatch.setattr("handfast.ledger.audit_ssh._PAGE", 2)
    for number in range(20):
        get(store, ssh_grant(host_leaf(1, "web1.lan" if number % 2 else "10.0.0.1")), Once(f"test:{number}"))
    verify(store)
    tamper(
        store,
        "UPDATE ssh_certificates SET certificate = x'00' WHERE serial = (SELECT max(serial) FROM ssh_certificates)",
    )
    with pytest.raises(LogTampered, match=NOT_LOGGED):
        verify(store)
