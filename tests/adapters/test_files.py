"""Files of secrets: whole or not at all, and private or refused."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.adapters import files
from handfast.errors import Fault, NotFound, Refused, TooMuch, Unsafe

NOBODY = 65534


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Every test that asks for it must hold under any umask; ``tmp_path`` is made before."""
    old = os.umask(request.param)
    yield
    os.umask(old)


class TestWriteAtomic:
    """The old file or the new one, at every moment."""

    @pytest.mark.parametrize("wanted", [0o600, 0o644])
    @pytest.mark.usefixtures("umask")
    def test_mode_is_exact(self, tmp_path: Path, wanted: int) -> None:
        """The mode is the one asked for, whatever the umask."""
        files.write_atomic(tmp_path / "f", b"x", wanted)
        assert mode(tmp_path / "f") == wanted

    def test_replaces_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        """The new content is there, alone, and an earlier wide mode is gone."""
        (tmp_path / "f").write_bytes(b"old")
        (tmp_path / "f").chmod(0o644)
        files.write_atomic(tmp_path / "f", b"new")
        assert (tmp_path / "f").read_bytes() == b"new"
        assert mode(tmp_path / "f") == 0o600
        assert os.listdir(tmp_path) == ["f"]

    def test_link_is_replaced_not_followed(self, tmp_path: Path) -> None:
        """Whoever planted a link does not choose which file is written."""
        (tmp_path / "victim").write_bytes(b"precious")
        (tmp_path / "f").symlink_to("victim")
        files.write_atomic(tmp_path / "f", b"new")
        assert (tmp_path / "victim").read_bytes() == b"precious"
        assert not (tmp_path / "f").is_symlink()

    def test_flushed_before_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Content reaches the disk before the name, and the name before we say so: power may fail at any point."""
        order: list[str] = []
        fsync, replace = os.fsync, os.replace

        def note_fsync(fd: int) -> None:
            order.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
            fsync(fd)

        def note_replace(source: Path, target: Path) -> None:
            order.append("rename")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        files.write_atomic(tmp_path / "f", b"x")
        assert order == ["file", "rename", "directory"]

    @pytest.mark.parametrize("call", ["open", "fchmod", "write", "fsync", "replace"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_failure_keeps_the_old(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
    ) -> None:
        """A failing disk is a fault with path, reason and hint; the old file stays and nothing is added."""
        path = tmp_path / "f"
        path.write_bytes(b"old")

        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(Fault, match=os.strerror(number).lower()) as caught:
            files.write_atomic(path, b"new")
        monkeypatch.undo()
        assert str(tmp_path) in caught.value.message
        assert caught.value.hint
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["f"]

    def test_short_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system may take a few bytes at a time; all of them arrive."""
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        files.write_atomic(tmp_path / "f", b"0123456789")
        assert (tmp_path / "f").read_bytes() == b"0123456789"

    def test_no_directory(self, tmp_path: Path) -> None:
        """A missing directory is a fault that names the path."""
        with pytest.raises(Fault) as caught:
            files.write_atomic(tmp_path / "no" / "f", b"x")
        assert caught.value.message == f"cannot write {str(tmp_path / 'no' / 'f')!r}: no such file or directory"
        assert caught.value.hint == f"make the directory {str(tmp_path / 'no')!r} first"


def test_write_new_refuses_what_exists(tmp_path: Path) -> None:
    """A new file never goes through or over one that is there, a dangling link included."""
    (tmp_path / "f").symlink_to("elsewhere")
    with pytest.raises(Fault, match="file exists"):
        files.write_new(tmp_path / "f", b"x")
    assert not (tmp_path / "elsewhere").exists()


def test_leftovers_are_ours_alone(tmp_path: Path) -> None:
    """After a crash our temporary files go, and nothing that merely looks similar."""
    theirs = {".f.tmp", "f.0123456789abcdef.tmp", ".f.0123456789ABCDEF.tmp", "f"}
    for name in (*theirs, ".f.0123456789abcdef.tmp"):
        (tmp_path / name).write_bytes(b"")
    files.remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == theirs


class TestReplaceSymlink:
    """A link changes in one step."""

    def test_makes_and_replaces(self, tmp_path: Path) -> None:
        """A link is made, then swapped, and no other name remains."""
        for target in ("a", "b"):
            files.replace_symlink(tmp_path / "link", target)
            assert os.readlink(tmp_path / "link") == target
        assert os.listdir(tmp_path) == ["link"]

    def test_refuses_a_file(self, tmp_path: Path) -> None:
        """Somebody's file is not replaced by a link."""
        (tmp_path / "link").write_bytes(b"mine")
        with pytest.raises(Refused, match="in the way") as caught:
            files.replace_symlink(tmp_path / "link", "a")
        assert caught.value.hint
        assert (tmp_path / "link").read_bytes() == b"mine"


class TestReadPrivate:
    """What others can reach is not read."""

    def test_reads(self, tmp_path: Path) -> None:
        """What only we can read is read, through a link too."""
        files.write_atomic(tmp_path / "f", b"secret")
        (tmp_path / "link").symlink_to("f")
        assert files.read_private(tmp_path / "f") == b"secret"
        assert files.read_private(tmp_path / "link") == b"secret"

    @pytest.mark.parametrize("bad", [0o640, 0o620, 0o604, 0o602, 0o610, 0o777])
    def test_refuses_open_modes(self, tmp_path: Path, bad: int) -> None:
        """Any access for group or others is refused, with the chmod that mends it, without the content."""
        files.write_atomic(tmp_path / "f", b"secret", bad)
        with pytest.raises(Unsafe, match=f"{bad:04o}") as caught:
            files.read_private(tmp_path / "f")
        assert f"chmod 600 {tmp_path / 'f'}" in caught.value.hint
        assert "secret" not in caught.value.message

    def test_link_to_an_open_file(self, tmp_path: Path) -> None:
        """What counts is the file that a link leads to."""
        files.write_atomic(tmp_path / "f", b"x", 0o644)
        (tmp_path / "link").symlink_to("f")
        with pytest.raises(Unsafe):
            files.read_private(tmp_path / "link")

    @pytest.mark.root
    def test_a_group_may_read(self, tmp_path: Path) -> None:
        """The group that the caller names may read, and not write; no other group may, nor anybody else."""
        files.write_atomic(tmp_path / "f", b"x", 0o640)
        os.chown(tmp_path / "f", -1, NOBODY)
        assert files.read_private(tmp_path / "f", group=NOBODY) == b"x"
        for group in (None, 0, NOBODY - 1):
            with pytest.raises(Unsafe):
                files.read_private(tmp_path / "f", group=group)
        for bad in (0o660, 0o644, 0o650):
            (tmp_path / "f").chmod(bad)
            with pytest.raises(Unsafe, match=f"{bad:04o}"):
                files.read_private(tmp_path / "f", group=NOBODY)

    @pytest.mark.root
    def test_root_is_no_exception(self, tmp_path: Path) -> None:
        """A user's file is not taken for root's, unless the caller knows that this user owns it."""
        files.write_new(tmp_path / "f", b"x", owner=(NOBODY, NOBODY))
        with pytest.raises(Unsafe, match=f"user id {NOBODY}"):
            files.read_private(tmp_path / "f")
        with pytest.raises(Unsafe):
            files.read_private(tmp_path / "f", owner=NOBODY - 1)
        assert files.read_private(tmp_path / "f", owner=NOBODY) == b"x"

    def test_missing(self, tmp_path: Path) -> None:
        """A missing file is named."""
        with pytest.raises(NotFound, match="no file"):
            files.read_private(tmp_path / "f")

    def test_directory_or_fifo(self, tmp_path: Path) -> None:
        """Neither a directory nor a FIFO is read; the FIFO does not hang us."""
        os.mkfifo(tmp_path / "fifo", 0o600)
        with pytest.raises(Unsafe, match="regular file"):
            files.read_private(tmp_path / "fifo")
        with pytest.raises((Unsafe, Fault)):
            files.read_private(tmp_path)

    def test_limit(self, tmp_path: Path) -> None:
        """A file up to the limit is read; one byte more is refused."""
        files.write_atomic(tmp_path / "f", b"1234")
        assert files.read_private(tmp_path / "f", limit=4) == b"1234"
        with pytest.raises(TooMuch, match="longer than 3 bytes"):
            files.read_private(tmp_path / "f", limit=3)


class TestPrivateDirectory:
    """Ours alone, or refused."""

    @pytest.mark.usefixtures("umask")
    def test_created_private(self, tmp_path: Path) -> None:
        """It is ours alone, whatever the umask; others may pass through parents that root made for a service."""
        files.private_directory(tmp_path / "a" / "b")
        parents = 0o700 if os.geteuid() else 0o755
        assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b")] == [parents, 0o700]
        files.private_directory(tmp_path / "a" / "b")

    @pytest.mark.parametrize("bad", [0o750, 0o720, 0o701, 0o702, 0o755])
    def test_refuses_open_ones(self, tmp_path: Path, bad: int) -> None:
        """An open directory is refused with the chmod that closes it, and not closed behind one's back."""
        (tmp_path / "d").mkdir()
        (tmp_path / "d").chmod(bad)
        with pytest.raises(Unsafe, match=f"{bad:04o}") as caught:
            files.private_directory(tmp_path / "d")
        assert caught.value.hint == f"chmod 700 {tmp_path / 'd'}"
        assert mode(tmp_path / "d") == bad

    def test_file_in_the_way(self, tmp_path: Path) -> None:
        """A file where the directory, or one above it, should be is an error, not a traceback."""
        (tmp_path / "f").write_bytes(b"")
        with pytest.raises(Refused, match="not a directory"):
            files.private_directory(tmp_path / "f")
        with pytest.raises(Fault, match="not a directory"):
            files.private_directory(tmp_path / "f" / "d")

    def test_dangling_link(self, tmp_path: Path) -> None:
        """A link to nowhere is an error."""
        (tmp_path / "d").symlink_to("nowhere")
        with pytest.raises(NotFound):
            files.private_directory(tmp_path / "d")

    @pytest.mark.root
    def test_root_refuses_a_users_directory(self, tmp_path: Path) -> None:
        """In a user's directory the user could lead root's writes elsewhere."""
        (tmp_path / "d").mkdir(0o700)
        os.chown(tmp_path / "d", NOBODY, NOBODY)
        with pytest.raises(Unsafe, match=f"user id {NOBODY}"):
            files.private_directory(tmp_path / "d")

    @pytest.mark.root
    @pytest.mark.usefixtures("umask")
    def test_group(self, tmp_path: Path) -> None:
        """A group may look in and pass through the parents made for it; it is then accepted, and no other is."""
        files.private_directory(tmp_path / "a" / "b", group=NOBODY)
        assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b")] == [0o755, 0o750]
        assert (tmp_path / "a" / "b").stat().st_gid == NOBODY
        files.private_directory(tmp_path / "a" / "b", group=NOBODY)
        for other in (None, NOBODY - 1):
            with pytest.raises(Unsafe):
                files.private_directory(tmp_path / "a" / "b", group=other)

    @pytest.mark.root
    def test_group_never_writes(self, tmp_path: Path) -> None:
        """Even the right group may not write."""
        files.private_directory(tmp_path / "d", group=NOBODY)
        (tmp_path / "d").chmod(0o770)
        with pytest.raises(Unsafe, match="0770") as caught:
            files.private_directory(tmp_path / "d", group=NOBODY)
        assert caught.value.hint == f"chmod 750 {tmp_path / 'd'}"


HOLDER = """
import sys
from collections.abc import Iterator
from pathlib import Path
from handfast.adapters.files import FileLock
with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestFileLock:
    """One process at a time, and none for ever."""

    def test_names_the_holder_and_dies_with_it(self, tmp_path: Path) -> None:
        """While another process holds it we are told which; kill -9 frees it."""
        source = str(Path(files.__file__).parents[2])
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": source},
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(Fault, match=rf"in use by process {holder.pid}$") as caught,
                files.FileLock(tmp_path / "lock"),
            ):
                pass
            assert caught.value.hint
            holder.kill()
        with files.FileLock(tmp_path / "lock"):
            assert int((tmp_path / "lock").read_bytes()) == os.getpid()
        assert mode(tmp_path / "lock") == 0o600

    def test_holder_unknown(self, tmp_path: Path) -> None:
        """Nonsense in the file is not repeated."""
        with files.FileLock(tmp_path / "lock"):
            (tmp_path / "lock").write_bytes(b"\x1b[31mnonsense")
            with pytest.raises(Fault, match=r"in use by another process$"), files.FileLock(tmp_path / "lock"):
                pass

    def test_with_patience_it_waits(self, tmp_path: Path) -> None:
        """Held for a moment only it is taken then; held for longer it is refused in the end."""
        first, second = (files.FileLock(tmp_path / "lock", patience=patience) for patience in (0, 20))
        with first:
            with pytest.raises(Fault, match="in use by process"), files.FileLock(tmp_path / "lock", patience=0.05):
                pass
            waiting = threading.Thread(target=second.__enter__)
            waiting.start()
        waiting.join(20)
        with pytest.raises(Fault, match="in use by process"), first:
            pass
        second.__exit__(None, None, None)

    def test_again_after_release(self, tmp_path: Path) -> None:
        """A lock object can be used again."""
        lock = files.FileLock(tmp_path / "lock")
        for _ in range(2):
            with lock:
                pass

    def test_link_is_not_followed(self, tmp_path: Path) -> None:
        """A planted link does not make us truncate what it leads to."""
        (tmp_path / "victim").write_bytes(b"precious")
        (tmp_path / "lock").symlink_to("victim")
        with pytest.raises(Fault, match="cannot lock"), files.FileLock(tmp_path / "lock"):
            pass
        assert (tmp_path / "victim").read_bytes() == b"precious"
