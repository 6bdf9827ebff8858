"""
Standard input and output as one socket, so that a stream can be carried by them: for ssh's ProxyCommand, or in a pipe.

They may be files, pipes or a terminal, some of which no event loop can wait for; and what is non-blocking here would be
so for the shell that shares them. So two threads do the waiting.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

_PIECE = 256 * 1024  # bytes


@contextlib.contextmanager
def standard(source: int = 0, sink: int = 1) -> Iterator[socket.socket]:
    """
    Give a socket whose other end is these two descriptors, and return when all that came has been written.

    The end of the input is an end of that direction alone. When nobody reads the output any more, the socket breaks.
    """
    ours, plain = socket.socketpair()
    threading.Thread(target=_read, args=(source, ours.dup()), name="stdin", daemon=True).start()  # may wait for ever
    writer = threading.Thread(target=_write, args=(ours, sink), name="stdout", daemon=True)
    writer.start()
    try:
        yield plain
        plain.close()
        writer.join()  # not after an exception: it is not known whether anybody still reads
    finally:
        plain.close()
        with ours, contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)  # which the reader's copy notices


def _read(source: int, into: socket.socket) -> None:
    with into:
        with contextlib.suppress(OSError):
            while piece := os.read(source, _PIECE):
                into.sendall(piece)
        with contextlib.suppress(OSError):
            into.shutdown(socket.SHUT_WR)


def _write(from_: socket.socket, sink: int) -> None:
    try:
        while piece := from_.recv(_PIECE):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(sink, rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            from_.shutdown(socket.SHUT_RDWR)
