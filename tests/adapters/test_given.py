"""Files that a person names: whole, bounded, and none that has no end."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from handfast.adapters import given
from handfast.errors import Fault, HandfastError, NotFound, TooMuch, UsageError


def test_a_file_is_read_to_its_bound(tmp_path: Path) -> None:
    """All of it, or not at all; a link leads to what it leads to."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert given.content(tmp_path / "file", most=5) == given.content(tmp_path / "link", most=5) == b"12345"
    with pytest.raises(TooMuch, match="has over 4 bytes"):
        given.content(tmp_path / "file", most=4)


def test_a_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same bound, and not to the end of one that has none."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12345" * 2)))
    assert given.content(Path("-"), most=10) == b"12345" * 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12345" * 2)))
    with pytest.raises(TooMuch, match="'-' has over 9 bytes"):
        given.content(Path("-"), most=9)


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("none", NotFound, "no file '.*none'"),
        ("none/none", NotFound, "no file"),
        ("", UsageError, "is a directory"),
        ("fifo", UsageError, "is no regular file"),
        ("/dev/zero", UsageError, "'/dev/zero' is no regular file"),
        ("file/x", Fault, "cannot read '.*file/x': not a directory"),
        ("/proc/self/mem", Fault, "cannot read '/proc/self/mem': input/output error"),
    ],
)
def test_what_is_no_file_is_refused(name: str, error: type[HandfastError], why: str, tmp_path: Path) -> None:
    """In words, at once: nobody waits for a writer of a FIFO, and no descriptor stays open."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=why):
        given.content(tmp_path / name, most=10)
    assert len(os.listdir("/proc/self/fd")) == before
