"""Logs of a service: what the listing has is read, from any offset, through rotations, and nothing else on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.agent import logs
from handfast.agent.logs import Logs, Mark
from handfast.core.agentjson import MAX_LINES
from handfast.errors import Malformed, NotFound, TooMuch


def written(directory: Path, name: str = "server.log", content: bytes = b"one\ntwo\nthree\n") -> Logs:
    """Write a log, and return the logs there."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Logs(directory)


def test_the_listing_is_what_is_there(tmp_path: Path) -> None:
    """Files whose names end in ``log``, also below; no other file, no link, no folder, nothing unprintable."""
    found = written(tmp_path)
    written(tmp_path, "sub/deep/x.log")
    for name in ("other.txt", "a\nb.log", "catalog.d/none"):
        written(tmp_path, name)
    (tmp_path / "evil.log").symlink_to("/etc/passwd")
    (tmp_path / "linked").symlink_to("/var/log")
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "folder.log").mkdir()
    assert found.listed() == ("server.log", "sub/deep/x.log")


def test_no_directory_is_no_logs(tmp_path: Path) -> None:
    """A service that has never run has none; that is no error."""
    assert Logs(tmp_path / "none").listed() == ()


def test_too_many_logs_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that somebody filled does not fill our memory."""
    monkeypatch.setattr(logs, "MAX_LOGS", 3)
    for number in range(4):
        written(tmp_path, f"{number}.log")
    with pytest.raises(TooMuch, match="over 3 logs"):
        Logs(tmp_path).listed()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.log", "/etc/passwd", "sub/../server.log", "./server.log", "server.log/", "server.log\0", "", ".",
        "evil.log", "linked/syslog", "pipe.log", "folder.log", "SERVER.LOG", "server.log;id",
    ],
)  # fmt: skip
def test_only_what_is_listed_is_read(name: str, tmp_path: Path) -> None:
    """A name is one of the listing's or none: no path, no link, no device, no other spelling."""
    found = written(tmp_path / "logs")
    written(tmp_path, "secret.log")
    (tmp_path / "logs" / "evil.log").symlink_to(tmp_path / "secret.log")
    (tmp_path / "logs" / "linked").symlink_to("/var/log")
    os.mkfifo(tmp_path / "logs" / "pipe.log")
    (tmp_path / "logs" / "folder.log").mkdir()
    for read in (lambda: found.tail(name, count=1), lambda: found.end(name), lambda: found.since(name, Mark(1, 1, 0))):
        with pytest.raises(NotFound):
            read()


@pytest.mark.parametrize(
    ("count", "offset", "lines", "after"),
    [
        (10, 0, ("one", "two", "three"), 14),
        (1, 0, ("one",), 4),
        (2, 4, ("two", "three"), 14),
        (1, 5, ("wo",), 8),
        (10, -6, (), 14),
        (10, -7, ("three",), 14),
        (10, -8, ("three",), 14),
        (10, -14, ("one", "two", "three"), 14),
        (10, -999, ("one", "two", "three"), 14),
        (10, 999, (), 14),
    ],
)
def test_the_tail(count: int, offset: int, lines: tuple[str, ...], after: int, tmp_path: Path) -> None:
    """From an offset, from the end without the line that is cut there, or from as near as there is."""
    tail = written(tmp_path).tail("server.log", count=count, offset=offset)
    if offset == -6:  # exactly at the beginning of a line: the original drops it as well
        assert tail.lines == ()
    assert (tail.lines, tail.offset) == (lines, after)


@pytest.mark.parametrize("count", [0, -1, MAX_LINES + 1])
def test_a_count_is_bounded(count: int, tmp_path: Path) -> None:
    """An answer is never longer than we say."""
    with pytest.raises(Malformed, match=f"{count} lines of a log"):
        written(tmp_path).tail("server.log", count=count)


def test_one_endless_line_is_bounded(tmp_path: Path) -> None:
    """A line of any length costs an answer of bounded length, and reading goes on behind it."""
    found = written(tmp_path, content=b"x" * (logs.MAX_BYTES + 5))
    first = found.tail("server.log", count=2)
    assert (len(first.lines[0]), first.offset) == (logs.MAX_BYTES, logs.MAX_BYTES)
    assert found.tail("server.log", count=2, offset=first.offset).lines == ("xxxxx",)
    mark = found.since("server.log", Mark(*start(tmp_path)))
    assert mark.mark.offset == logs.MAX_BYTES


def start(directory: Path, name: str = "server.log") -> tuple[int, int, int]:
    """Return the mark of a file's beginning."""
    about = (directory / name).stat()
    return about.st_dev, about.st_ino, 0


def test_what_is_no_text_is_read_nevertheless(tmp_path: Path) -> None:
    """A log has whatever was logged; only its line ends are ours."""
    assert written(tmp_path, content=b"\xff\x00a\rb\r\n").tail("server.log", count=1).lines == ("\ufffd\0a\rb",)


# --- following ---


def test_following_gives_each_line_once(tmp_path: Path) -> None:
    """What is added comes once, and a line that is still being written comes when it is whole."""
    found, log = written(tmp_path), tmp_path / "server.log"
    mark = found.end("server.log")
    with log.open("ab") as file:
        file.write(b"four\nfi")
    added = found.since("server.log", mark)
    assert (added.lines, added.lost) == (("four",), False)
    with log.open("ab") as file:
        file.write(b"ve\n\n")
    assert found.since("server.log", added.mark).lines == ("five", "")


def test_a_rotated_log_is_read_to_its_end(tmp_path: Path) -> None:
    """When the file was renamed, what was written to it last comes before what the new one has."""
    found, log = written(tmp_path), tmp_path / "server.log"
    mark = found.end("server.log")
    with log.open("ab") as file:
        file.write(b"last words")
    log.rename(tmp_path / "server.log.1")
    log.write_bytes(b"new\n")
    first = found.since("server.log", mark)
    assert (first.lines, first.lost) == (("last words",), False)
    second = found.since("server.log", first.mark)
    assert (second.lines, second.lost) == (("new",), False)
    assert found.since("server.log", second.mark).lines == ()


def test_what_is_gone_is_said(tmp_path: Path) -> None:
    """Rotated away for good, or cut off in its place: what is there is read from its beginning, and the gap is said."""
    found, log = written(tmp_path), tmp_path / "server.log"
    mark = found.end("server.log")
    log.write_bytes(b"cut\n")
    cut = found.since("server.log", mark)
    assert (cut.lines, cut.lost) == (("cut",), True)
    keep = tmp_path / "keeps the inode from being used again"
    log.rename(keep)
    keep.rename(tmp_path.parent / f"{tmp_path.name}-away")
    log.write_bytes(b"other\n")
    other = found.since("server.log", cut.mark)
    assert (other.lines, other.lost) == (("other",), True)


@given(st.lists(st.tuples(st.sampled_from(["write", "rotate", "read"]), st.binary(max_size=20)), max_size=25))
def test_nothing_is_lost_or_doubled(tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, bytes]]) -> None:
    """However writes, rotations and reads follow each other, the lines are those that were written, in their order."""
    directory = tmp_path_factory.mktemp("logs")
    found, log = written(directory, content=b""), directory / "server.log"
    mark, rotated = found.end("server.log"), 0
    read: list[str] = []
    expected: list[str] = []

    def reading(mark: Mark) -> Mark:
        while True:
            added = found.since("server.log", mark)
            assert not added.lost
            read.extend(added.lines)
            if added.mark == mark:
                return mark
            mark = added.mark

    for what, data in story:
        if what == "write":
            line = data.replace(b"\n", b"").replace(b"\r", b"")
            with log.open("ab") as file:
                file.write(line + b"\n")
            expected.append(line.decode("utf-8", "replace"))
        elif what == "rotate":
            mark = reading(mark)  # one rotation between two reads is what a mark bridges
            rotated += 1
            log.rename(directory / f"server.log.{rotated}")
            log.write_bytes(b"")
        else:
            mark = reading(mark)
    reading(mark)
    assert read == expected


def test_a_mark_is_text(tmp_path: Path) -> None:
    """A mark goes over the wire and comes back, and nothing else is one."""
    mark = written(tmp_path).end("server.log")
    assert Mark.parse(str(mark)) == mark
    for text in ("", "1-2", "1-2-3-4", "x-y-z", "-1-2-3", "1--2", "1-2-" + "f" * 60, "1-2-\u0663"):
        with pytest.raises(Malformed, match="not a place in a log"):
            Mark.parse(text)


@pytest.mark.parametrize(
    ("content", "count", "lines"),
    [
        (b"one\ntwo\nthree\n", 2, ("two", "three")),
        (b"one\ntwo\nthr", 2, ("one", "two")),  # a line being written waits
        (b"one\n", 10, ("one",)),
        (b"\n\n", 10, ("", "")),
        (b"one", 10, ()),
        (b"", 10, ()),
    ],
)
def test_the_last_lines_are_whole(content: bytes, count: int, lines: tuple[str, ...], tmp_path: Path) -> None:
    """As many as there are, and the mark is behind them: what follows it begins with a whole line."""
    found = written(tmp_path, content=content)
    last = found.last("server.log", count)
    assert (last.lines, last.lost) == (lines, False)
    with (tmp_path / "server.log").open("ab") as file:
        file.write(b"!\n")
    assert found.since("server.log", last.mark).lines == (content.rpartition(b"\n")[2].decode() + "!",)


def test_the_last_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes, where a part of a line is left out, and in number."""
    monkeypatch.setattr(logs, "MAX_BYTES", 9)
    found = written(tmp_path)
    last = found.last("server.log", 10)
    assert last.lines == ("three",)
    assert found.since("server.log", last.mark).lines == ()
    for count in (0, -1, MAX_LINES + 1):
        with pytest.raises(Malformed, match="lines of a log"):
            found.last("server.log", count)
