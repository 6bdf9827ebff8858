"""Revocation lists from files and over HTTP: fetched again when it is time, kept when that fails, never older."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import revocation_lists
from handfast.adapters.revocation_lists import EVERY, RevocationLists
from handfast.errors import Unreachable
from tests.introducers.x5c_material import NOW, site

THEIRS = site()
HOUR = timedelta(hours=1)
OLD = THEIRS.ca.crl(begin=NOW - 2 * HOUR).public_bytes(Encoding.DER)
NEW = THEIRS.ca.crl(THEIRS.leaf).public_bytes(Encoding.DER)


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


def dates(lists: RevocationLists) -> list[timedelta]:
    """How old each list that is there is."""
    return [NOW - each.since for each in lists.current()]


def test_a_file_is_read_at_once_and_when_it_has_changed(tmp_path: Path) -> None:
    """Whoever puts a new one there need tell nobody."""
    path = tmp_path / "their.crl"
    path.write_bytes(OLD)
    lists = RevocationLists().having((str(path),))
    assert dates(lists) == [2 * HOUR]
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
    shelf.body = OLD
    why = "it is of 2026-11-22 10:00Z, older than the one of 2026-11-22 11:00Z"
    with pytest.raises(Unreachable, match=re.escape(why)):
        refresh(lists, EVERY)
    assert dates(lists) == [HOUR]


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
