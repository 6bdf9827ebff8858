"""Files that say what root does: anybody may read them, and nobody else may have written them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handfast.adapters import files
from handfast.errors import Fault, NotFound, TooMuch, Unsafe


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good one."""
    made = tmp_path / "policy.toml"
    made.write_text("content")
    made.chmod(0o644)
    return made


def test_it_is_read(path: Path) -> None:
    """By its own path or through a link."""
    (path.parent / "link").symlink_to(path)
    assert files.read_unforged(path) == files.read_unforged(path.parent / "link") == b"content"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o777])
def test_not_if_others_can_write_it(mode: int, path: Path) -> None:
    """The hint says to look first: what is in it may be theirs."""
    path.chmod(mode)
    with pytest.raises(Unsafe, match="can be written by others") as caught:
        files.read_unforged(path)
    assert caught.value.hint.startswith("look at what is in it")


@pytest.mark.root
def test_not_if_it_is_a_users(path: Path) -> None:
    """A user's file would have root run what the user wants."""
    os.chown(path, 1000, 0)
    with pytest.raises(Unsafe, match="belongs to user id 1000"):
        files.read_unforged(path)


def test_not_what_is_no_file(path: Path) -> None:
    """A pipe that would hold us, nothing at all, or far too much."""
    os.mkfifo(path.parent / "pipe")
    with pytest.raises(Unsafe, match="is not a regular file"):
        files.read_unforged(path.parent / "pipe")
    with pytest.raises(NotFound):
        files.read_unforged(path.parent / "none")
    with pytest.raises(TooMuch):
        files.read_unforged(path, limit=3)


def test_what_is_refused_is_closed(tmp_path: Path) -> None:
    """A directory in the place of a file costs no descriptor, however often it is tried."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Fault, match="is a directory"):
            files.read_unforged(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
