"""
SSL_read and SSL_write straight on the caller's memory, for the streams of sessions.

pyOpenSSL's ``recv_into`` decrypts into memory of its own, made for each call, and copies from there. Without that a
bulk transfer takes 7 to 15 % less CPU for a byte, and an echo 15 % less time: measured through two engines over
loopback, on two cores of a virtual machine, with pyOpenSSL 26.4.

What is private to pyOpenSSL is used here and nowhere else: the two modules that its own methods consist of. Its version
is pinned to below the next major one, and the test that compares these functions with those methods says when one has
changed them.

The pointers are safe. Bounds are checked before. The memory is a memoryview's, which is an argument here and so lives
until the call is over: what it views can be neither freed nor resized, and who could release it, the caller, waits.
OpenSSL keeps no pointer into it: after WANT_WRITE the rest may come again from elsewhere
(``SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER``, which pyOpenSSL sets). ``_ssl`` belongs to the ``Connection``, an argument as
well. Do not give ``from_buffer``'s value a name: the traceback of what is raised would keep it, and Python 3.11's
garbage collector crashes over such a one.
"""

from __future__ import annotations

import errno
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

_from_buffer: Any = _ffi.from_buffer
_read: Any = _lib.SSL_read
_write: Any = _lib.SSL_write


def one_record_a_read(connection: SSL.Connection) -> None:
    """
    Let a read return after a record without bytes for us (a key update, a ticket), as if nothing had come.

    OpenSSL would go on reading instead, in one call, for as long as the peer sends such records: where one thread has
    all connections, that stops them all.
    """
    _lib.SSL_clear_mode(connection._ssl, _lib.SSL_MODE_AUTO_RETRY)  # noqa: SLF001


def read_into(connection: SSL.Connection, buffer: memoryview, at: int, most: int) -> int:
    """
    Decrypt up to ``most`` bytes into ``buffer`` from ``at`` on; return how many.

    None are only after ``one_record_a_read``, for a record of TLS's own: more may be there, and no event announce it.

    :raises SSL.Error: as ``Connection.recv_into``.
    :raises IndexError: the buffer ends before that: C would write behind it.
    """
    if not 0 <= at <= at + most <= buffer.nbytes:
        raise IndexError(f"{most} bytes at {at} do not fit {buffer.nbytes}")
    tls = connection._ssl  # noqa: SLF001
    _ffi.errno = 0
    count: int = _read(tls, _from_buffer(buffer, require_writable=True) + at, most)
    if count <= 0:
        # OpenSSL says WANT_READ of both; but only where the socket was empty did the kernel say so.
        if _ffi.errno != errno.EAGAIN and _lib.SSL_get_error(tls, count) == _lib.SSL_ERROR_WANT_READ:
            return 0
        connection._raise_ssl_error(tls, count)  # noqa: SLF001
    return count


def write(connection: SSL.Connection, content: memoryview, at: int) -> int:
    """
    Encrypt and send ``content`` from ``at`` on; return how much was, at least one byte and a record at most.

    :raises SSL.Error: as ``Connection.send``. :raises IndexError: nothing is there.
    """
    if not 0 <= at < content.nbytes:
        raise IndexError(f"nothing at {at} of {content.nbytes}")
    tls = connection._ssl  # noqa: SLF001
    count: int = _write(tls, _from_buffer(content) + at, min(content.nbytes - at, 1 << 30))
    if count <= 0:
        connection._raise_ssl_error(tls, count)  # noqa: SLF001
    return count
