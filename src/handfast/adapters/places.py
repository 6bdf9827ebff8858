"""
Directories that nobody else can have led us to.

A path is looked up anew each time that it is used, and whoever may write a directory on the way chooses what it leads
to: root, told to write `/srv/app/conf/app.conf`, writes wherever the owner of `/srv/app` wants. So a directory is
opened here one part after the other, each below the descriptor of the one before, and what is done in it is done below
its descriptor too.

The rule: **no part is a link. From the first part on that is somebody's, all others are his.** So root reads and
writes in directories of root's that root alone holds in their place, or in those of one user, who can do there what he
wants anyway; never in one that he has led root to.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from handfast.adapters import files
from handfast.errors import NotFound, TooMuch, Unsafe

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # a file that is not there yet


class Use(Enum):
    """What a directory is opened for, and so whom it, and those before it, may belong to."""

    TRUST = "what says what root does: root's, or our own, and nobody else writes in any of them"
    WRITE = "by the rule; nobody else writes in those before it"
    # Some systems have a group write in /var/log: through no link that shows another directory of logs at most.
    READ = "by the rule; nobody beyond its group writes in those before it"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that is open: this one, whatever its path leads to by now. Names are one component."""

    path: Path
    descriptor: int

    def about(self, name: str) -> os.stat_result | None:
        """Return what lies there, None for nothing; a link is itself. :raises Fault: it cannot be looked at."""
        with files.faults("look at", self.path / name):
            try:
                return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def read(self, name: str, *, limit: int) -> bytes:
        """
        Return the content of a file, never of what a link leads to.

        :raises Unsafe: it is a link, or no regular file. :raises TooMuch: it has over ``limit`` bytes.
        :raises Fault: it is not there, or cannot be read.
        """
        path = self.path / name
        with files.faults("read", path):
            try:
                # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever
                descriptor = os.open(name, _READ, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Unsafe(f"{str(path)!r} is a link", hint="give the file itself") from None
                raise
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Unsafe(f"{str(path)!r} is not a regular file", hint="give a file")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    data = file.read(limit + 1)
            finally:
                os.close(descriptor)
        if len(data) > limit:
            raise TooMuch(f"{str(path)!r} is longer than {limit} bytes", hint="check that this is the right file")
        return data

    def create(self, name: str) -> None:
        """Make an empty file (0600). :raises Fault: it is there, the disk is full, permissions."""
        with files.faults("write", self.path / name):
            os.close(os.open(name, NEW, 0o600, dir_fd=self.descriptor))

    def write(self, name: str, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
        """
        Put ``data`` at a name as ``files.write_atomic`` does: a link is replaced, never followed.

        ``owner`` is a uid and gid to give it to. A crash may leave a temporary file, which ``clean`` finds.

        :raises Fault: the disk is full, permissions, a directory in the way.
        """
        part = f".{name}.{secrets.token_hex(8)}.tmp"
        with files.faults("write", self.path / name):
            descriptor = os.open(part, NEW, 0o600, dir_fd=self.descriptor)
            try:
                try:
                    files.fill(descriptor, data, mode=mode, owner=owner)
                finally:
                    os.close(descriptor)
                os.rename(part, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=self.descriptor)
                raise
            os.fsync(self.descriptor)

    def link(self, name: str, second: str) -> None:
        """Give what lies there a second name, also if it is a link. :raises Fault: as ``create``."""
        with files.faults("keep", self.path / name):
            os.link(name, second, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor, follow_symlinks=False)

    def rename(self, name: str, other: str) -> None:
        """Give it another name, instead of what has that. :raises Fault: it is not there, a directory is in the way."""
        with files.faults("rename", self.path / name):
            os.rename(name, other, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a name, if it is there. :raises Fault: it is a directory, permissions."""
        with files.faults("remove", self.path / name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def clean(self, pattern: re.Pattern[str]) -> int:
        """
        Remove the files whose names fit, and return how many; what cannot be removed stays, and holds up nothing.

        Whoever owns the directory may have put a directory of such a name there. :raises Fault: it cannot be listed.
        """
        count = 0
        with files.faults("clean", self.path):
            for name in filter(pattern.fullmatch, os.listdir(self.descriptor)):
                with suppress(OSError):
                    if stat.S_ISREG(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode):
                        os.unlink(name, dir_fd=self.descriptor)
                        count += 1
        return count

    def sync(self) -> None:
        """Make its names durable. :raises Fault: the disk says no."""
        with files.faults("flush", self.path):
            os.fsync(self.descriptor)


def leftovers(name: str) -> re.Pattern[str]:
    """Return what the temporary files fit that ``write`` leaves of a name in a crash."""
    return re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp")


@contextmanager
def opened(path: Path, use: Use) -> Iterator[Place]:
    """
    Open a directory by its absolute path, one part after the other.

    *Not* checked: what root has mounted, and access control lists, except as far as they show in the group bits.

    :raises NotFound: it is not there. :raises Unsafe: somebody could have led us there: see above.
    :raises Fault: it is no directory, or cannot be opened.
    """
    with files.faults("open", path):
        descriptor = os.open(path.anchor, _LOOK)
    try:
        owner = _checked(Path(path.anchor), os.fstat(descriptor), None, use, last=len(path.parts) == 1)
        for part in (*reversed(path.parents[:-1]), *([path] if path.name else [])):
            with files.faults("open", path):
                try:
                    inner = os.open(part.name, _LOOK, dir_fd=descriptor)
                except FileNotFoundError:
                    raise NotFound(f"no directory {str(part)!r}", hint="check the path") from None
            os.close(descriptor)
            descriptor = inner
            with files.faults("open", path):
                owner = _checked(part, os.fstat(descriptor), owner, use, last=part == path)
        with files.faults("open", path):
            inner = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
        yield Place(path, descriptor)
    finally:
        os.close(descriptor)


def _checked(part: Path, status: os.stat_result, owner: int | None, use: Use, *, last: bool) -> int | None:
    """Check a part of the way, and return whose the rest has to be; None as long as that is root, or we."""
    if stat.S_ISLNK(status.st_mode):
        raise Unsafe(f"{str(part)!r} is a link", hint=f"give what it leads to: `realpath {part}` says where it is")
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    whose = None if status.st_uid in {0, os.geteuid()} else status.st_uid
    if whose is not None and use is Use.TRUST:
        raise Unsafe(f"{str(part)!r} belongs to user id {whose}", hint="it has to be root's, or yours")
    if owner is not None and whose != owner:
        raise Unsafe(
            f"{str(part)!r} belongs to user id {status.st_uid}, below a directory of user id {owner}",
            hint=f"who could have put it there: chown it, or {part.parent}",
        )
    # In a sticky directory, such as /tmp, nobody renames what is another's.
    others = status.st_mode & (0o002 if use is Use.READ else 0o022)
    if others and not status.st_mode & stat.S_ISVTX and (use is Use.TRUST or not last):
        raise Unsafe(
            f"{str(part)!r} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"look at what is in it, then chmod go-w {part}",
        )
    return whose
