"""Listening sockets: systemd's where it passed one, else our own, with errors that name the address."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handfast.core.invitation import Address
from handfast.errors import Fault, UsageError

_BACKLOG = 512  # a fleet that boots at once; the kernel cuts it to net.core.somaxconn


def listen(address: Address, passed: socket.socket | None = None, *, setting: str = "--listen") -> socket.socket:
    """
    Return a non-blocking listening socket; ``passed`` by systemd wins over ``address``.

    ``setting`` is what says another address.

    ``::`` also takes IPv4. Of a name that has several addresses the first is used. Port 0 takes a free one.

    :raises UsageError: an address that is unknown or not of this machine.
    :raises Fault: it is in use, or the port needs more rights.
    """
    if passed is not None:
        return passed
    try:
        family, _, _, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(
            place, family=family, backlog=_BACKLOG, dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6()
        )
    except socket.gaierror:
        raise UsageError(f"cannot listen on {str(address)!r}: no such host", hint="give one of this machine") from None
    except OSError as error:
        raise _refusal(address, error, setting) from None
    listening.setblocking(False)
    return listening


def address_of(listening: socket.socket) -> Address:
    """Return where a socket listens. :raises UsageError: it is not a TCP socket."""
    if listening.family not in {socket.AF_INET, socket.AF_INET6}:
        raise UsageError("the socket from systemd is no TCP socket", hint="use ListenStream=PORT in the .socket unit")
    host, port, *_ = listening.getsockname()
    return Address(host, port)


def _refusal(address: Address, error: OSError, setting: str) -> UsageError | Fault:
    where = str(address)
    if error.errno == errno.EADDRINUSE:
        return Fault(f"{where!r} is in use by another program", hint=f"stop it, or choose another port with {setting}")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Fault(f"no right to listen on {where!r}", hint="choose a port above 1023, or use systemd's sockets")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{where!r} is not an address of this machine", hint="0.0.0.0 or :: listens on all")
    return Fault(f"cannot listen on {where!r}: {error.strerror}")


@contextmanager
def unix_path(directory: Path, name: str) -> Iterator[str]:
    """Give a path for a Unix socket in a directory, short enough for one (unix(7): 107 bytes), however deep that is."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{name}"
    finally:
        os.close(folder)
