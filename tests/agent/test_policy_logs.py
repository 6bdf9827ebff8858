"""What a policy's `logs` lets a controller read, and what it does not, whatever lies beside and below."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from handfast.agent.logs import Logs, Mark
from handfast.errors import NotFound, TooMuch, Unsafe

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
    for read in (logs.listed, lambda: logs.tail("access.log", count=1)):
        with pytest.raises(Unsafe, match="logs' is a link"):
            read()


def test_a_folder_that_becomes_a_link_meanwhile(logs: Logs, tmp_path: Path) -> None:
    """Between the list and the file: neither the log nor its past is looked for behind it."""
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere/access.log"
    other.write_bytes(b"not yours\n")
    assert "sub/access.log" in logs.listed()
    (logs.directory / "sub").rename(logs.directory / "was")
    (logs.directory / "sub").symlink_to(tmp_path / "elsewhere")
    for read in (lambda: logs.tail("sub/access.log", count=1), lambda: logs.since("sub/access.log", mark(other))):
        with pytest.raises(NotFound, match=r"no log 'sub/access\.log', or it cannot be read"):
            read()
    with logs._rotated("sub/access.log", mark(other)) as found:
        assert found is None


def test_a_folder_that_becomes_a_link_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the log directory swaps a folder for a link before any of our calls: root's file is not read."""
    real: dict[str, Any] = {"open": os.open, "stat": os.stat, "scandir": os.scandir}
    for at in itertools.count(1):
        place = tmp_path / str(at)
        for folder in ("root/etc", "logs/a/etc"):
            (place / folder).mkdir(parents=True)
        secret = place / "root/etc/shadow.log"
        secret.write_bytes(b"root:SECRET\n")
        (place / "logs/a/etc/x.log").write_bytes(LINE)
        calls = itertools.count(1)

        def swapping(call: str, at: int, place: Path, calls: Iterator[int]) -> Callable[..., Any]:
            def swapped(*args: Any, **options: Any) -> Any:
                if next(calls) == at:
                    os.rename(place / "logs/a", place / "logs/b")
                    os.symlink(place / "root", place / "logs/a")
                return real[call](*args, **options)

            return swapped

        found, asked = Logs(place / "logs"), mark(secret)
        lines: list[str] = []
        for call in real:
            monkeypatch.setattr(os, call, swapping(call, at, place, calls))
        with suppress(NotFound):
            lines += found.since("a/etc/x.log", asked).lines
            lines += found.since("a/etc/x.log", asked).lines
        monkeypatch.undo()
        assert set(lines) <= {"GET /"}
        if next(calls) <= at:  # they were fewer
            break
    assert at > 10


@pytest.mark.parametrize("name", ["other.log", "access.log.1"])
def test_a_second_name_for_a_file_of_others(name: str, logs: Logs, tmp_path: Path) -> None:
    """A hard link is no log, and no log's past: whoever may write there could make one."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours\n")
    os.link(secret, logs.directory / name)
    assert logs.listed() == ("access.log", "sub/access.log")
    added = logs.since("access.log", mark(secret))
    assert (added.lines, added.lost) == (("GET /",), True)
    if name == "other.log":
        with pytest.raises(NotFound, match=r"'other\.log' is no file, or has a second name"):
            logs.tail(name, count=1)


def test_a_directory_that_somebody_has_filled(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is counted over all of it, and fitting or not; a log is read without looking at the others."""
    monkeypatch.setattr("handfast.agent.logs.MAX_ENTRIES", 20)
    for folder in range(4):
        (logs.directory / f"d{folder}").mkdir()
        for number in range(4):
            (logs.directory / f"d{folder}" / f"x{number}").touch()
    with pytest.raises(TooMuch, match="over 20 files and directories in"):
        logs.listed()
    assert logs.tail("sub/access.log", count=1).lines == ("GET /",)


def test_too_many_logs_in_folders(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few in each of many are many."""
    monkeypatch.setattr("handfast.agent.logs.MAX_LOGS", 6)
    for folder in range(4):
        (logs.directory / f"d{folder}").mkdir()
        (logs.directory / f"d{folder}/x.log").touch()
    assert len(logs.listed()) == 6
    (logs.directory / "d0/y.log").touch()
    with pytest.raises(TooMuch, match="over 6 logs in"):
        logs.listed()


def test_what_is_listed_is_what_is_read(logs: Logs) -> None:
    """As deep as the listing goes, and no further."""
    deep = "/".join("12345678")
    (logs.directory / deep / "9").mkdir(parents=True)
    for name in (f"{deep}/x.log", f"{deep}/9/x.log"):
        (logs.directory / name).write_bytes(LINE)
    assert f"{deep}/x.log" in logs.listed()
    assert logs.tail(f"{deep}/x.log", count=1).lines == ("GET /",)
    assert f"{deep}/9/x.log" not in logs.listed()
    with pytest.raises(NotFound, match="no log"):
        logs.tail(f"{deep}/9/x.log", count=1)
