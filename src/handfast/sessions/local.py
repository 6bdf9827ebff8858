"""
The plain ends of a session: what it listens on for this machine's own user, and the service that it dials.

A local port would open the session to whoever else has an account here, so it is on loopback only, and each caller's
user is looked up before it gets a stream. A Unix socket is made with mode 0600, and its caller's user is asked of the
kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handfast.adapters.socket_owner import peer_uid
from handfast.core.invitation import Address
from handfast.errors import Fault, Malformed, Unreachable, UsageError

DIAL_TIMEOUT = 10.0  # seconds
_BACKLOG = 128
_UNIX = "unix:"
_LONGEST_PATH = 107  # bytes: sockaddr_un


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address or the path of a Unix socket, on this machine or behind it."""

    address: Address | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``host:port``, ``[v6]:port`` or ``unix:PATH``. :raises Malformed: neither."""
        if not text.startswith(_UNIX):
            return cls(address=Address.parse(text))
        path = Path(text.removeprefix(_UNIX))
        if not path.name or len(os.fsencode(path)) > _LONGEST_PATH:
            raise Malformed(f"not a path for a socket: {str(path)[:80]!r}", hint=f"at most {_LONGEST_PATH} bytes")
        return cls(path=path)

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}" if self.path is not None else str(self.address)


async def dial(endpoint: Endpoint, *, within: float = DIAL_TIMEOUT) -> socket.socket:
    """
    Return a connected, non-blocking socket; of a name's addresses the first that answers.

    :raises Unreachable: none does in time.
    """
    try:
        async with asyncio.timeout(within):
            if endpoint.path is not None:
                return await _connected(socket.AF_UNIX, str(endpoint.path))
            return await _dial_tcp(endpoint, within)
    except TimeoutError:
        raise Unreachable(f"{endpoint} does not answer within {within:g} s", hint="is a firewall in between?") from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno and not isinstance(error, socket.gaierror):
            reason = os.strerror(error.errno)  # asyncio has words of its own
        raise Unreachable(f"cannot reach {endpoint}: {reason}", hint="is something listening there?") from None


async def _dial_tcp(endpoint: Endpoint, within: float) -> socket.socket:
    address = endpoint.address
    if address is None:  # unreachable: one of the two is set
        raise Fault("an endpoint without an address")
    loop = asyncio.get_running_loop()
    # Asked anew each time: the name of a laptop moves.
    places = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failed: OSError | None = None
    for family, _, _, _, place in places:
        try:
            # Each has its share of the time: the first may be where packets vanish.
            async with asyncio.timeout(within / len(places)):
                return await _connected(family, place)
        except OSError as error:  # a TimeoutError is one
            failed = failed or error
    raise failed or OSError("no address")


async def _connected(family: int, place: object) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connecting, place)  # type: ignore[arg-type]
    except BaseException:
        connecting.close()
        raise
    return connecting


@contextlib.contextmanager
def listening(endpoint: Endpoint) -> Iterator[socket.socket]:
    """
    Give a socket that listens for this machine's own user, and take it away afterwards.

    :raises UsageError: not a loopback address: others would come in by it.
    :raises Fault: it is in use, or the directory of the Unix socket is not there.
    """
    if endpoint.path is not None:
        with _listening_unix(endpoint.path) as each:
            yield each
        return
    address = endpoint.address
    if address is None or not _is_loopback(address.host):
        raise UsageError(
            f"{endpoint} is not on loopback: everybody who reaches this machine could use the session",
            hint="listen on 127.0.0.1 or [::1]; to let somebody else in: `handfast session friend`",
        )
    with public(address) as each:
        yield each


@contextlib.contextmanager
def public(address: Address) -> Iterator[socket.socket]:
    """Give a socket that listens for peers of the session, anywhere. :raises Fault: it is in use, or not ours."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        made = socket.create_server(
            place, family=family, backlog=_BACKLOG, dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        raise Fault(
            f"cannot listen on {address}: {error.strerror or error}", hint="is the port in use? choose another one"
        ) from None
    with made:
        made.setblocking(False)
        yield made


@contextlib.contextmanager
def _listening_unix(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        _remove_dead(path)
        before = os.umask(0o177)  # the socket must never be open to others, not for a moment
        try:
            made.bind(str(path))
        except OSError as error:
            raise Fault(
                f"cannot listen on {str(path)!r}: {error.strerror or error}", hint="choose another path"
            ) from None
        finally:
            os.umask(before)
        made.listen(_BACKLOG)
        made.setblocking(False)
        own = os.stat(path).st_ino
        try:
            yield made
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == own:
                    os.unlink(path)


def _remove_dead(path: Path) -> None:
    """Remove the socket of a process that was killed. :raises Fault: somebody answers, or it is no socket of ours."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise Fault(f"{str(path)!r} exists, and is no socket of ours", hint="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise Fault(f"{str(path)!r} is in use by another process", hint="end it, or choose another path")


def address_of(listening: socket.socket) -> Address:
    """Return where a TCP socket listens."""
    host, port, *_ = listening.getsockname()
    return Address(host, port)


def is_ours(accepted: socket.socket) -> bool:
    """
    Whether a local caller is this process's own user, or root.

    Of a Unix socket the kernel says so. Of a TCP connection on loopback it is known by the caller's own end; what is
    not found there any more is refused, and everybody is where the kernel does not answer such questions. So is an end
    that nobody holds any more: older kernels show root's uid for it, whoever it was, who may have sent all that he
    wanted before he closed it.
    """
    if accepted.family == socket.AF_UNIX:
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        return uid in _allowed()
    try:
        return peer_uid(accepted) in _allowed()
    except Fault:
        return False


def is_anybodys(_accepted: socket.socket) -> bool:
    """Let in whoever has an account on this machine: for a client whose user has said so."""
    return True


def _allowed() -> set[int]:
    return {os.geteuid(), 0}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
