"""
Files of secrets: written whole or not at all, read only when nobody else could have read them.

The modes are set on the open descriptor before the first byte is written, so that neither the umask
nor a race ever shows a secret. Everything is flushed to the disk before it gets its name.

Limit: only the file or directory itself is checked, not its parents. Whoever may write a parent may
put another directory in its place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from handfast.errors import Fault, NotFound, Refused, TooMuch, Unsafe

MAX_PRIVATE_FILE = 1 << 20  # bytes; no key, chain or invitation comes near it
_OTHERS = 0o077
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_HINTS = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of the quota and run the same command again",
    errno.EACCES: "check who owns it, or run the command as its owner",
    errno.EPERM: "check who owns it, or run the command as its owner",
    errno.EROFS: "choose a directory on a file system that can be written",
    errno.ENOTDIR: "a part of the path is a file: choose another directory",
}


@contextmanager
def faults(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a ``Fault`` that names ``path`` and the reason."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise Fault(f"cannot {action} {str(path)!r}: {reason}", hint=_HINTS.get(error.errno or 0, "")) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. :raises Fault: the disk says no."""
    with faults("flush", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_new(path: Path, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """
    Write a file that must not exist yet, and flush it; its directory is left for the caller to flush.

    ``owner`` is a uid and gid to give it to. A failure leaves no file behind; a crash may leave part of one.

    :raises Fault: the path exists, the disk is full, permissions.
    """
    _write(path, data, mode=mode, owner=owner, named=path)


def _write(path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None, named: Path) -> None:
    """``named`` is what a person hears of, who does not know the temporary file."""
    with faults("write", named):
        try:
            # 0o600 whatever ``mode`` is: a wider mode is set below, when the owner is right
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError as error:
            hint = f"make the directory {str(path.parent)!r} first"
            raise Fault(f"cannot write {str(named)!r}: no such file or directory", hint=hint) from error
        try:
            fill(fd, data, mode=mode, owner=owner)
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(fd)


def fill(fd: int, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Give a new, empty file its owner (uid, gid), mode and content, and flush it. :raises OSError: it cannot be."""
    if owner is not None:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """
    Put ``data`` at ``path``: at every moment, and after a crash, there is the old file or the new one.

    A symbolic link at ``path`` is replaced, never followed. A crash may leave a temporary file beside
    it, which ``remove_leftovers`` finds.

    :raises Fault: the disk is full, permissions, a directory in the way.
    """
    temporary = _temporary(path)
    _write(temporary, data, mode=mode, owner=None, named=path)
    _rename(temporary, path)


def replace_symlink(path: Path, target: str) -> None:
    """
    Make ``path`` a symbolic link to ``target`` in one step, whether or not it was one before.

    :raises Refused: something that is not a symbolic link is there.
    :raises Fault: the disk is full, permissions.
    """
    if os.path.lexists(path) and not path.is_symlink():
        raise Refused(f"{str(path)!r} is in the way and is not a link", hint="move it away, then try again")
    temporary = _temporary(path)
    with faults("write", path):
        os.symlink(target, temporary)
    _rename(temporary, path)


def remove_leftovers(directory: Path) -> None:
    """
    Remove the temporary files that a crash left in ``directory``.

    Only where nobody else writes these files at the moment: a ``FileLock`` which the caller holds keeps others apart.
    """
    with faults("clean", directory):
        for name in os.listdir(directory):
            if _LEFTOVER.fullmatch(name):
                os.unlink(directory / name)


def read_private(
    path: Path, *, owner: int | None = None, group: int | None = None, limit: int = MAX_PRIVATE_FILE
) -> bytes:
    """
    Return the content of a file that only its owner can read or write.

    The owner must be the caller's effective user, or ``owner`` (a uid). Root is no exception: what
    root reads by default must be root's, or any user could choose what a privileged command acts on.
    With ``group`` (a gid) that group may read it, too.

    The checks are made on the open descriptor, so the file cannot be exchanged after them. A symbolic
    link is followed (mounted secrets are links): what it leads to is what is checked. *Not* checked:
    access control lists, except as far as they show in the group bits.

    :raises NotFound: no such file.
    :raises Unsafe: another owner, access for group or others, or no regular file.
    :raises TooMuch: more than ``limit`` bytes.
    :raises Fault: it cannot be read.
    """
    owners = {os.geteuid(), owner}
    return _content(path, lambda status: _check_file(path, status, owners, group), limit)


def read_unforged(path: Path, *, limit: int = MAX_PRIVATE_FILE) -> bytes:
    """
    Return the content of a file that nobody but us or root could have written; it may be read by anybody.

    For what says what root does. The checks and their limits are otherwise those of ``read_private``.

    :raises NotFound, TooMuch, Fault: as ``read_private``.
    :raises Unsafe: another owner, writable by group or others, or no regular file.
    """

    def check(status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe(f"{str(path)!r} is not a regular file", hint="give a file")
        if status.st_uid not in {0, os.geteuid()}:
            raise Unsafe(f"{str(path)!r} belongs to user id {status.st_uid}", hint="it has to be root's, or yours")
        if status.st_mode & 0o022:
            raise Unsafe(
                f"{str(path)!r} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"look at what is in it, then chmod go-w {path}",
            )

    return _content(path, check, limit)


def read_told(
    path: Path, tell: Callable[[str], None], *, owner: int | None = None, limit: int = MAX_PRIVATE_FILE
) -> bytes:
    """
    Return the content of a file as ``read_private``, but only tell where others can read it, or who else owns it.

    For what orchestrators mount: they choose mode and owner. Root alone is refused what any user could have written,
    for it would choose what root does: a file of another than root or ``owner``, or one that everybody can write.

    :raises NotFound, Unsafe, TooMuch, Fault: as ``read_private``.
    """
    owners = {os.geteuid(), owner, 0}

    def check(status: os.stat_result) -> None:
        try:
            _check_file(path, status, owners)
        except Unsafe as error:
            anybodys = status.st_uid not in owners or status.st_mode & stat.S_IWOTH
            if not stat.S_ISREG(status.st_mode) or (os.geteuid() == 0 and anybodys):
                raise
            tell(f"{error.message}; it has secrets in it")

    return _content(path, check, limit)


def read_trusted(path: Path, *, limit: int) -> bytes:
    """
    Return the content of a file that everybody may read, and nobody but its owner write: our user, or root.

    :raises NotFound, TooMuch, Fault: as ``read_private``. :raises Unsafe: somebody else could have written it.
    """

    def check(status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe(f"{str(path)!r} is not a regular file", hint="give a file")
        if status.st_uid not in {os.geteuid(), 0} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Unsafe(f"others can write {str(path)!r}, and so choose who is trusted", hint=f"chmod go-w {path}")

    return _content(path, check, limit)


def _content(path: Path, check: Callable[[os.stat_result], None], limit: int) -> bytes:
    with faults("read", path):
        try:
            # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise NotFound(f"no file {str(path)!r}", hint="check the path") from None
        try:
            file = os.fdopen(fd, "rb")
        except OSError:  # a directory: it is not the file object's to close yet
            os.close(fd)
            raise
        with file:
            check(os.fstat(fd))
            data = file.read(limit + 1)
    if len(data) > limit:
        raise TooMuch(f"{str(path)!r} is longer than {limit} bytes", hint="check that this is the right file")
    return data


def private_directory(path: Path, *, group: int | None = None) -> None:
    """
    Make sure that ``path`` is a directory which nobody but its owner can read or write.

    A missing one is created with mode 0700; its missing parents too, but root's are 0755. With
    ``group`` (a gid) that group may look inside, not write (0750). An existing directory of ours is
    opened to ``group`` likewise, but one that is too open is refused and not mended: what lies in it
    may have been read, or planted.

    The owner must be the effective user or root. So root refuses a user's directory: that user could
    lead root's writes elsewhere with a symbolic link.

    :raises Unsafe: another owner, or open to others.
    :raises Refused: a file is in the way.
    :raises Fault: it cannot be created.
    """
    with faults("create", path):
        _make_parents(path.parent)
        _make_directory(path, 0o700)
    check_directory(path, group=group)
    if group is not None and path.stat().st_uid == os.geteuid():
        with faults("open", path):
            os.chown(path, -1, group)
            os.chmod(path, 0o750)  # noqa: S103  for the one group that was asked for


def check_directory(path: Path, *, group: int | None = None) -> None:
    """
    Make the checks of ``private_directory`` and change nothing.

    :raises NotFound: no such directory.
    :raises Unsafe: another owner, or open to others than ``group``.
    :raises Refused: a file is in the way.
    """
    with faults("open", path):
        try:
            status = path.stat()
        except FileNotFoundError:
            raise NotFound(f"no directory {str(path)!r}", hint="check the path") from None
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{str(path)!r} is not a directory", hint="choose another one")
    if status.st_uid not in {0, os.geteuid()}:
        raise Unsafe(
            f"{str(path)!r} belongs to user id {status.st_uid}",
            hint="run the command as that user, or choose a directory of your own",
        )
    allowed = 0o050 if group is not None and status.st_gid == group else 0
    if status.st_mode & _OTHERS & ~allowed:
        raise Unsafe(
            f"{str(path)!r} can be read or written by others (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod {0o700 | allowed:o} {path}",
        )


class FileLock:
    """
    A lock between processes, for ``with``: taken at once, or within ``patience`` seconds, or not at all.

    It is ``flock(2)``: the kernel drops it when the holder dies, so there are no stale locks. The file
    stays, with the last holder's process id in it, which is only ever used in a message.
    """

    def __init__(
        self, path: Path, *, patience: float = 0.0, hint: str = "wait until it has finished, or stop it"
    ) -> None:
        self._path, self._patience, self._hint = path, patience, hint
        self._fd = -1

    def __enter__(self) -> Self:
        """:raises Fault: another process holds it, or the file cannot be made."""
        with faults("lock", self._path):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                self._take(fd)
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            except BlockingIOError:
                holder = os.pread(fd, 20, 0).strip()
                os.close(fd)
                who = f"process {int(holder)}" if holder.isdigit() else "another process"
                raise Fault(f"{str(self._path.parent)!r} is in use by {who}", hint=self._hint) from None
            except BaseException:
                os.close(fd)
                raise
        self._fd = fd
        return self

    def _take(self, fd: int) -> None:
        end = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.02)  # waiting in flock(2) itself could not be bounded

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._fd = -1


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _rename(temporary: Path, path: Path) -> None:
    with faults("write", path):
        try:
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    sync_directory(path.parent)


def _make_parents(path: Path) -> None:
    if path.exists():
        return
    _make_parents(path.parent)
    # Root makes places for services too, and they hold nothing but what is checked by itself.
    _make_directory(path, 0o755 if os.geteuid() == 0 else 0o700)


def _make_directory(path: Path, mode: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
        os.chmod(path, mode)  # the umask narrows what mkdir was asked for
        sync_directory(path.parent)


def _check_file(path: Path, status: os.stat_result, owners: set[int | None], group: int | None = None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unsafe(f"{str(path)!r} is not a regular file", hint="give a file")
    if status.st_uid not in owners:
        raise Unsafe(
            f"{str(path)!r} belongs to user id {status.st_uid}",
            hint="run the command as that user, or make a copy of your own with mode 0600",
        )
    allowed = stat.S_IRGRP if status.st_gid == group else 0
    if status.st_mode & _OTHERS & ~allowed:
        raise Unsafe(
            f"{str(path)!r} can be read or written by others (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {path}; if others may have read it, replace the secret in it",
        )
