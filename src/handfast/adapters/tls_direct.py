"""
SSL_read and SSL_write straight on the caller's memory, for the streams of sessions.

pyOpenSSL's ``recv_into`` decrypts into memory of its own, made for each call, and copies from there. Without that an
echo through a session takes half the time, and a bulk transfer a third less CPU (docs/performance.md). What is private
to pyOpenSSL is used here and nowhere else: the two modules that its own methods consist of, and the test that compares
these functions with those methods says when a version has changed them.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

_from_buffer: Any = _ffi.from_buffer
_read: Any = _lib.SSL_read
_write: Any = _lib.SSL_write


def read_into(connection: SSL.Connection, buffer: memoryview, at: int, most: int) -> int:
    """
    Decrypt up to ``most`` bytes into ``buffer`` from ``at`` on; return how many, at least one.

    :raises SSL.Error: as ``Connection.recv_into``.
    :raises IndexError: the buffer ends before that: C would write behind it.
    """
    if not 0 <= at <= at + most <= buffer.nbytes:
        raise IndexError(f"{most} bytes at {at} do not fit {buffer.nbytes}")
    tls = connection._ssl  # noqa: SLF001
    count: int = _read(tls, _from_buffer(buffer, require_writable=True) + at, most)
    if count <= 0:
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
