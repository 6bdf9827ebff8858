"""Revocation lists from files and over HTTP: fetched again when it is time, kept when that fails, never older."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import revocation_lists
from handfast.adapters.revocation_lists import EVERY, MAX_UNPROVEN, RevocationLists
from handfast.core import revocation
from handfast.core.revocation import Coverage
from handfast.errors import EvidenceRejected, Revoked, Unreachable
from tests.introducers.x5c_material import NOW, p256, root, site

THEIRS = site()
HOUR = timedelta(hours=1)
OLD = THEIRS.ca.crl(begin=NOW - 2 * HOUR).public_bytes(Encoding.DER)
NEW = THEIRS.ca.crl(THEIRS.leaf).public_bytes(Encoding.DER)
CLEAN = THEIRS.ca.crl().public_bytes(Encoding.DER)
PATH = (*THEIRS.chain, THEIRS.root.certificate)


def by_nobody(number: int = 0, *, begin: datetime = NOW - HOUR, end: datetime | None = None) -> bytes:
    """A list in the CA's name by another key."""
    return root("their CA", p256(f"mallory {number}")).crl(begin=begin, end=end).public_bytes(Encoding.DER)


@dataclass
class Shelf:
    """What a server of lists answers with."""

    url: str = ""
    body: bytes = OLD
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A web server with one list."""
    found = Shelf()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            self.send_response(found.status)
            for name, value in ({"Content-Length": str(len(found.body))} | found.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/their.crl"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def refresh(lists: RevocationLists, late: timedelta = timedelta(0)) -> None:
    """Do what is due."""
    asyncio.run(lists.refresh(NOW + late))


def look(lists: RevocationLists) -> None:
    """Do what a request does, by which it becomes known whose a list is."""
    revocation.check_path(PATH, lists.current(), coverage=Coverage.LEAF, at=NOW)


def dates(lists: RevocationLists) -> list[timedelta]:
    """How old each list that is there is."""
    return [NOW - each.since for each in lists.current()]


def test_a_file_is_read_at_once_and_when_it_has_changed(tmp_path: Path) -> None:
    """Whoever puts a new one there need tell nobody."""
    path = tmp_path / "their.crl"
    path.write_bytes(OLD)
    lists = RevocationLists().having((str(path),))
    assert dates(lists) == [2 * HOUR]
    look(lists)
    path.write_bytes(NEW)
    refresh(lists)
    assert dates(lists) == [HOUR]


def test_a_URL_is_fetched_when_it_is_due(shelf: Shelf) -> None:
    """Not with every look, but every quarter of an hour; also when a clock was set back."""
    lists = RevocationLists().having((shelf.url,))
    assert dates(lists) == []
    refresh(lists)
    refresh(lists, EVERY - timedelta(seconds=1))
    assert (dates(lists), shelf.asked) == ([2 * HOUR], 1)
    look(lists)
    shelf.body = NEW
    refresh(lists, EVERY)
    assert (dates(lists), shelf.asked) == ([HOUR], 2)
    refresh(lists, -HOUR)
    assert shelf.asked == 3


def test_what_was_fetched_outlives_a_new_configuration(shelf: Shelf, tmp_path: Path) -> None:
    """Reloading asks nobody again, and what is not wanted any more does not count."""
    first = RevocationLists().having((shelf.url,))
    refresh(first)
    path = tmp_path / "their.crl"
    path.write_bytes(NEW)
    second = first.having((str(path), shelf.url))
    assert (dates(second), shelf.asked) == ([HOUR, 2 * HOUR], 1)
    assert dates(second.having(())) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": 404}, "status 404"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, "status 302"),
        ({"body": b"<html>please log in</html>"}, "not a revocation list"),
        ({"headers": {"Content-Length": "100000"}}, "Response payload is not completed|[Nn]ot enough data"),
    ],
    ids=["not there", "elsewhere", "no list", "cut off"],
)
def test_what_cannot_be_had_leaves_the_old_one(shelf: Shelf, change: dict[str, object], why: str) -> None:
    """It is said, tried again at the next look, and the list counts until it ends."""
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    for name, value in change.items():
        setattr(shelf, name, value)
    for _ in range(2):
        with pytest.raises(Unreachable, match=why) as caught:
            refresh(lists, EVERY)
        assert shelf.url in caught.value.message
        assert "x5c introduces nobody" in caught.value.hint
    assert dates(lists) == [2 * HOUR]
    assert shelf.asked == 3


def test_a_list_never_goes_back_to_an_older_one(shelf: Shelf) -> None:
    """Somebody on the way who plays an old list hides no revocation from us."""
    shelf.body = NEW
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    with pytest.raises(Revoked):
        look(lists)
    shelf.body = OLD
    why = "it is of 2026-11-22 10:00Z, older than the one of 2026-11-22 11:00Z"
    with pytest.raises(Unreachable, match=re.escape(why)):
        refresh(lists, EVERY)
    assert dates(lists) == [HOUR]


@pytest.mark.parametrize("needed", [True, False], ids=["a path has needed it", "none has yet"])
@pytest.mark.parametrize(
    "between",
    [root("anybody").crl().public_bytes(Encoding.DER), by_nobody()],
    ids=["of somebody else", "in its name"],
)
def test_a_list_of_nobody_knows_whom_takes_none_back(shelf: Shelf, between: bytes, needed: bool) -> None:
    """Whoever is on the way and hands over anybody's list first, then yesterday's, hides no revocation."""
    shelf.body = NEW
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    if needed:
        with pytest.raises(Revoked):
            look(lists)
    shelf.body = between
    refresh(lists, EVERY)
    shelf.body = OLD
    if needed:
        with pytest.raises(Unreachable, match="older than the one of"):
            refresh(lists, 2 * EVERY)
    else:
        refresh(lists, 2 * EVERY)
    with pytest.raises(Revoked):
        look(lists)


def test_a_forged_list_of_the_future_keeps_no_true_one_out(shelf: Shelf) -> None:
    """It costs whoever is on the way one request; it must not cost us every list for ten years."""
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    look(lists)
    shelf.body = by_nobody(begin=NOW + 3650 * 24 * HOUR, end=NOW + 3660 * 24 * HOUR)
    refresh(lists, EVERY)
    look(lists)  # the true one still counts
    shelf.body = NEW
    refresh(lists, 2 * EVERY)
    with pytest.raises(Revoked):
        look(lists)


def test_forged_lists_fill_no_memory(shelf: Shelf) -> None:
    """A few are kept, as nobody can say yet which is true; one that is known to be goes for none of them."""
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    look(lists)
    for number in range(MAX_UNPROVEN + 3):
        shelf.body = by_nobody(number)
        refresh(lists, EVERY * (1 + number))
    assert len(lists.current()) == 1 + MAX_UNPROVEN
    look(lists)
    first = RevocationLists().having((shelf.url,))
    refresh(first)
    with pytest.raises(EvidenceRejected, match="none at all"):
        look(first)


def test_a_newer_list_takes_the_older_ones_place(shelf: Shelf) -> None:
    """Where its key is known; what was put on hold and taken off again is no longer revoked."""
    shelf.body = OLD
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    look(lists)
    shelf.body = THEIRS.ca.crl(THEIRS.leaf, begin=NOW - HOUR * 3 / 2).public_bytes(Encoding.DER)
    refresh(lists, EVERY)
    with pytest.raises(Revoked):
        look(lists)
    shelf.body = CLEAN
    refresh(lists, 2 * EVERY)
    look(lists)
    assert dates(lists) == [HOUR]


def test_the_same_list_again_is_not_read_again(shelf: Shelf) -> None:
    """What is known of its signature stays known, so that a large one is no work every quarter of an hour."""
    lists = RevocationLists().having((shelf.url,))
    refresh(lists)
    before = lists.current()
    refresh(lists, EVERY)
    assert shelf.asked == 2
    assert lists.current()[0] is before[0]


def test_a_list_without_end_is_not_read_to_its_end(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends for ever fills no memory."""
    monkeypatch.setattr(revocation_lists, "MAX_LIST", 1000)
    shelf.body = bytes(100_000)
    with pytest.raises(Unreachable, match="over 1000 bytes"):
        refresh(RevocationLists().having((shelf.url,)))


def test_a_server_that_is_not_there_is_said(tmp_path: Path, shelf: Shelf) -> None:
    """All the others are read."""
    path = tmp_path / "their.crl"
    lists = RevocationLists().having(("http://127.0.0.1:1/crl", str(path), shelf.url))
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1/crl: .*no file") as caught:
        refresh(lists)
    assert str(path) in caught.value.message
    assert dates(lists) == [2 * HOUR]


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """They could keep the old one there for ever."""
    path = tmp_path / "their.crl"
    path.write_bytes(OLD)
    os.chmod(path, 0o666)
    lists = RevocationLists().having((str(path),))
    with pytest.raises(Unreachable, match="others can write"):
        refresh(lists)
    assert dates(lists) == []
