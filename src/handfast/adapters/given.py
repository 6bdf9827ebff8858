"""Files that a person names to a command: read whole, bounded, and refused in words where they are none."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handfast.adapters import files
from handfast.errors import NotFound, TooMuch, UsageError


def content(path: Path, *, most: int) -> bytes:
    """
    Return a file of at most ``most`` bytes; ``-`` is stdin.

    :raises NotFound: there is none. :raises UsageError: a directory, a device. :raises TooMuch: :raises Fault:
    """
    if str(path) == "-":
        read = sys.stdin.buffer.read(most + 1)
    else:
        with opened(path) as file, files.faults("read", path):
            read = file.read(most + 1)
    if len(read) > most:
        raise TooMuch(f"{str(path)!r} has over {most} bytes, which is the most", hint="is it the right file?")
    return read


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """
    Open a regular file: a device may never end, and a FIFO never begin. An error while it is read is the caller's.

    :raises NotFound, UsageError, Fault: as ``content``.
    """
    with files.faults("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no file {str(path)!r}", hint="check the path") from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        what = "a directory" if stat.S_ISDIR(kind) else "no regular file"
        raise UsageError(f"{str(path)!r} is {what}", hint="give one file")
    with os.fdopen(descriptor, "rb") as file:
        yield file
