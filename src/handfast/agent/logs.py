"""
The log files of a service, for a controller to read: which there are, their ends, and what is added.

A log is named by its path below the service's log directory. Names come over the network, so none is ever joined to a
path: a file is opened one component after the other, no link is followed, and only what the listing would have is
read. So what a service writes into its log directory is all that can be read through it; a file that has a second name
is left out, since whoever may write there can make one for a file of somebody else.

Positions are bytes. ``Mark`` knows the file besides, so that one that was rotated away is read to its end first.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from handfast.adapters import places
from handfast.adapters.places import Use
from handfast.core.agentjson import MAX_LINES
from handfast.errors import Malformed, NotFound, TooMuch

MAX_BYTES = 256 * 1024  # of one answer; in JSON a byte may be six, and a controller takes two megabytes
MAX_LOGS = 1_000  # files of one service
MAX_ENTRIES = 10_000  # files and directories that are looked at for them
MAX_DEPTH = 8  # directories below each other
PATTERN = "*log"  # as the original's API has it
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO there must not hold us
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a log without their ends, and the offset (bytes) behind them."""

    lines: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a log was read: which file it was, and the offset (bytes) in it."""

    device: int
    inode: int
    offset: int

    def __str__(self) -> str:
        return f"{self.device:x}-{self.inode:x}-{self.offset:x}"

    @classmethod
    def parse(cls, text: str) -> Mark:
        """Read what ``str`` wrote. :raises Malformed: anything else."""
        parts = text.split("-")
        try:
            if len(text) > 60 or len(parts) != 3 or not text.isascii() or not all(part.isalnum() for part in parts):
                raise ValueError(text)
            return cls(*(int(part, 16) for part in parts))
        except ValueError:
            raise Malformed(f"not a place in a log: {text[:60]!r}", hint="give what the last answer had") from None


@dataclass(frozen=True, slots=True)
class Added:
    """What a log has got since a mark. ``lost`` says that some of it is gone: cut off, or rotated away twice."""

    lines: tuple[str, ...]
    mark: Mark
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Logs:
    """The logs in one directory: the files there and below it whose names fit ``pattern``."""

    directory: Path
    pattern: str = PATTERN

    def listed(self) -> tuple[str, ...]:
        """
        Return the logs by name, such as ``server.log`` or ``sub/x.log``; what cannot be written so is left out.

        :raises TooMuch: over ``MAX_LOGS`` of them, or among over ``MAX_ENTRIES``.
        :raises Unsafe, Fault: as ``places.opened``.
        """
        try:
            root = _opened(self.directory, [])
        except NotFound:
            return ()  # the service has not made it yet
        found: list[str] = []
        try:
            with closing(self._walk(root, "", 0, itertools.count(1))) as names:
                for each in names:
                    found.append(each)
                    if len(found) > MAX_LOGS:
                        raise TooMuch(
                            f"over {MAX_LOGS} logs in {str(self.directory)!r}", hint="narrow the policy's log_pattern"
                        )
        finally:
            os.close(root)
        return tuple(sorted(found))

    def _walk(self, folder: int, prefix: str, depth: int, seen: Iterator[int]) -> Generator[str]:
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for each in entries:
                if next(seen) > MAX_ENTRIES:
                    raise TooMuch(
                        f"over {MAX_ENTRIES} files and directories in {str(self.directory)!r}",
                        hint="read a log by its name, or have the policy name a directory of logs alone",
                    )
                if not each.name.isprintable():
                    continue
                if each.is_dir(follow_symlinks=False):
                    folders.append(each.name)
                elif fnmatchcase(each.name, self.pattern) and _is_log(folder, each.name):
                    yield prefix + each.name
        for name in folders if depth < MAX_DEPTH else ():
            try:
                inner = os.open(name, _FOLDER, dir_fd=folder)
            except OSError:
                continue
            try:
                yield from self._walk(inner, f"{prefix}{name}/", depth + 1, seen)
            finally:
                os.close(inner)

    def _parts(self, log: str) -> tuple[list[str], str]:
        """Return the folders and the name of what the listing may have; nothing is listed for that: it may be much."""
        *folders, name = log.split("/")
        straight = log.isprintable() and not {"", ".", ".."} & {*folders, name} and len(folders) <= MAX_DEPTH
        if not straight or not fnmatchcase(name, self.pattern):
            raise NotFound(f"no log {log[:80]!r}", hint="see the list of logs")
        return folders, name

    @contextmanager
    def _open(self, log: str) -> Iterator[BinaryIO]:
        folders, name = self._parts(log)
        try:
            folder = _opened(self.directory, folders)
            try:
                file = _file(folder, name)
            finally:
                os.close(folder)
            if file is None:
                raise NotFound(f"{log[:80]!r} is no file, or has a second name", hint="see the list of logs")
            with file:
                yield file
        except OSError:
            raise NotFound(f"no log {log[:80]!r}, or it cannot be read", hint="see the list of logs") from None

    def tail(self, log: str, *, count: int, offset: int = 0) -> Lines:
        """
        Return up to ``count`` lines from an offset (bytes), as the original's API does.

        A negative offset counts from the end, and the line it falls into is left out; one beyond the file is its end,
        or its beginning. A last line without its end is returned as it is.

        :raises NotFound: no such log. :raises Malformed: no such count.
        """
        _check_count(count)
        with self._open(log) as file:
            size = os.fstat(file.fileno()).st_size
            start = max(size + offset, 0) if offset < 0 else min(offset, size)
            file.seek(start)
            if offset < 0 and start > 0:
                file.readline(MAX_BYTES)
            lines: list[str] = []
            left = MAX_BYTES
            while len(lines) < count and left > 0 and (line := file.readline(left)):
                left -= len(line)
                lines.append(_text(line))
            return Lines(tuple(lines), file.tell())

    def end(self, log: str) -> Mark:
        """Return the mark of a log's end, to follow it from there. :raises NotFound: no such log."""
        with self._open(log) as file:
            about = os.fstat(file.fileno())
            return Mark(about.st_dev, about.st_ino, about.st_size)

    def last(self, log: str, count: int) -> Added:
        """
        Return the last ``count`` whole lines of a log, from its last ``MAX_BYTES``, and the mark to follow it from.

        :raises NotFound: no such log. :raises Malformed: no such count.
        """
        _check_count(count)
        with self._open(log) as file:
            about = os.fstat(file.fileno())
            start = max(about.st_size - MAX_BYTES, 0)
            file.seek(start)
            data = file.read(MAX_BYTES)
            begin = data.find(b"\n") + 1 if start else 0
            whole = data.rfind(b"\n") + 1
            lines = data[begin:whole].removesuffix(b"\n").split(b"\n")[-count:] if whole > begin else []
            return Added(tuple(map(_text, lines)), Mark(about.st_dev, about.st_ino, start + whole))

    def since(self, log: str, mark: Mark) -> Added:
        """
        Return the whole lines that a log has got since a mark, up to ``MAX_BYTES``; a line being written waits.

        :raises NotFound: no such log.
        """
        with self._open(log) as file:
            about = os.fstat(file.fileno())
            if (about.st_dev, about.st_ino) == (mark.device, mark.inode):
                return _added(file, mark, lost=False)
            with self._rotated(log, mark) as old:
                if old is not None:
                    # Until something is in the new one, whoever writes may still have the old one open.
                    rest = _added(old, mark, lost=False, last=about.st_size > 0)
                    if rest.lines or not about.st_size:
                        return rest
            return _added(file, Mark(about.st_dev, about.st_ino, 0), lost=old is None)

    @contextmanager
    def _rotated(self, log: str, mark: Mark) -> Iterator[BinaryIO | None]:
        """
        Give the file that the mark is in, where it lies beside the log under another name: logrotate's way.

        A mark comes over the network, and could name any file there by its inode: one that is neither a log by its
        name, nor begins with this one's, is none of its past.
        """
        *folders, base = log.split("/")
        found = None
        try:
            inner = _opened(self.directory, folders)
        except OSError:
            yield None
            return
        try:
            with os.scandir(inner) as entries:
                same = [each.name for each in itertools.islice(entries, MAX_ENTRIES) if each.inode() == mark.inode]
            past = (f"{base}.", f"{base}-", f"{base}_")
            name = next((each for each in same if each.startswith(past) or fnmatchcase(each, self.pattern)), None)
            if name is not None and (found := _file(inner, name)) is not None:
                about = os.fstat(found.fileno())
                if (about.st_dev, about.st_ino) != (mark.device, mark.inode):
                    found.close()
                    found = None
        except OSError:
            found = None
        finally:
            os.close(inner)
        try:
            yield found
        finally:
            if found is not None:
                found.close()


def _check_count(count: int) -> None:
    if not 0 < count <= MAX_LINES:
        raise Malformed(f"{count} lines of a log", hint=f"1 to {MAX_LINES}")


def _opened(directory: Path, folders: list[str]) -> int:
    """Open a folder below a directory, one component after the other, through no link."""
    with places.opened(directory, Use.READ) as place:
        folder = os.dup(place.descriptor)
    for each in folders:
        try:
            inner = os.open(each, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _added(file: BinaryIO, mark: Mark, *, lost: bool, last: bool = False) -> Added:
    """Read from a mark; ``last`` takes a line without its end, since nothing will be added to this file."""
    size = os.fstat(file.fileno()).st_size
    cut = mark.offset > size
    start = 0 if cut else mark.offset  # copytruncate: the same file, begun anew
    file.seek(start)
    data = file.read(MAX_BYTES)
    whole = len(data) if last or (len(data) == MAX_BYTES and b"\n" not in data) else data.rfind(b"\n") + 1
    lines = data[:whole].removesuffix(b"\n").split(b"\n") if whole else []
    return Added(tuple(map(_text, lines)), Mark(mark.device, mark.inode, start + whole), lost or cut)


def _file(folder: int, name: str) -> BinaryIO | None:
    """Open a file there, None if it is none that is read. :raises OSError: it is not there."""
    if not _plain(os.stat(name, dir_fd=folder, follow_symlinks=False)):
        return None  # before it is opened: a device may do something then
    file = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
    if _plain(os.fstat(file.fileno())):
        return file
    file.close()
    return None


def _is_log(folder: int, name: str) -> bool:
    try:
        return _plain(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:  # it is gone
        return False


def _plain(about: os.stat_result) -> bool:
    return stat.S_ISREG(about.st_mode) and about.st_nlink <= 1


def _text(line: bytes) -> str:
    return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")
