"""What a policy's `logs` lets a controller read, and what it does not, whatever lies beside and below."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handfast.agent.logs import Logs, Mark
from handfast.errors import NotFound

LINE = b"GET /\n"


def mark(path: Path) -> Mark:
    """Return the begin of a file: whoever has one mark can guess the others."""
    about = path.stat()
    return Mark(about.st_dev, about.st_ino, 0)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    """Logs of a service, which has other things beside them."""
    (tmp_path / "logs/sub").mkdir(parents=True)
    for folder in ("logs", "logs/sub"):
        (tmp_path / folder / "access.log").write_bytes(LINE)
        (tmp_path / folder / "secret.key").write_bytes(b"a key\n")
    return Logs(tmp_path / "logs")


@pytest.mark.parametrize("name", ["access.log", "sub/access.log"])
def test_a_mark_leads_to_no_other_file(name: str, logs: Logs) -> None:
    """One with the inode of a file that is no log is a mark whose file is gone."""
    secret = logs.directory / name.replace("access.log", "secret.key")
    added = logs.since(name, mark(secret))
    assert (added.lines, added.lost) == (("GET /",), True)
    assert added.mark.inode == (logs.directory / name).stat().st_ino


@pytest.mark.parametrize("after", ["access.log.1", "access.log-20261122", "access.2026-11-22.log"])
def test_a_mark_leads_to_what_was_rotated(after: str, logs: Logs) -> None:
    """Under the names that rotating programs give."""
    log = logs.directory / "sub/access.log"
    before = mark(log)
    log.rename(log.with_name(after))
    log.write_bytes(b"new\n")
    added = logs.since("sub/access.log", before)
    assert (added.lines, added.lost) == (("GET /",), False)
    assert logs.since("sub/access.log", added.mark).lines == ("new",)


def test_nothing_through_links(logs: Logs, tmp_path: Path) -> None:
    """A service that turns a log, a folder or the directory itself into a link shows nothing of what is elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/access.log").write_bytes(b"not yours\n")
    (logs.directory / "linked.log").symlink_to(tmp_path / "elsewhere/access.log")
    (logs.directory / "folder").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(logs.directory / "pipe.log")
    assert logs.listed() == ("access.log", "sub/access.log")
    for name in ("linked.log", "folder/access.log", "pipe.log", "../elsewhere/access.log"):
        with pytest.raises(NotFound):
            logs.tail(name, count=1)
    logs.directory.rename(tmp_path / "before")
    logs.directory.symlink_to(tmp_path / "elsewhere")
    assert logs.listed() == ()


def test_a_folder_that_becomes_a_link_meanwhile(logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the list and the file: neither the log nor its past is looked for behind it."""
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere/access.log"
    other.write_bytes(b"not yours\n")
    listed = logs.listed()
    (logs.directory / "sub").rename(logs.directory / "was")
    (logs.directory / "sub").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(Logs, "listed", lambda _self: listed)
    for read in (lambda: logs.tail("sub/access.log", count=1), lambda: logs.since("sub/access.log", mark(other))):
        with pytest.raises(NotFound, match="is gone"):
            read()
    with logs._rotated("sub/access.log", mark(other)) as found:
        assert found is None
