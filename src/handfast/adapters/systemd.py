"""
The two halves of systemd's service protocol: sockets that it opened for us, and what we tell it.

Both do nothing where systemd did not start us. Specification: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import MutableMapping

from handfast.errors import UsageError

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def sockets(environment: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """
    Return the listening sockets that were passed to this very process, by their ``FileDescriptorName``.

    The variables are removed from ``environment``, so that no child takes the sockets for its own.

    :raises UsageError: two sockets with one name, or one that is not a listening stream socket.
    """
    pid, count, names = (environment.pop(variable, "") for variable in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    labels = names.split(":") if names else []
    for index in range(int(count)):
        name = labels[index] if index < len(labels) else "unknown"
        os.set_inheritable(_FIRST_FD + index, False)
        passed = socket.socket(fileno=_FIRST_FD + index)
        listening = passed.type == socket.SOCK_STREAM and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if name in found or not listening:
            passed.close()
            raise UsageError(
                f"socket {name!r} from systemd is passed twice, or is no listening stream socket",
                hint="one .socket unit each, with FileDescriptorName=https, =crl, =nifi, =instances; an agent: =agent",
            )
        passed.setblocking(False)
        found[name] = passed
    return found


class Notifier:
    """Tells systemd how we are. A lost message is not our failure: nothing is raised."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Take (and remove) ``NOTIFY_SOCKET`` and the watchdog's variables from ``environment``."""
        address = environment.pop("NOTIFY_SOCKET", "")
        # "@" stands for the NUL byte of an abstract address (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else None
        """Seconds within which ``WATCHDOG=1`` is expected again, or None."""

    async def watch(self, seconds: float) -> None:
        """Say within every ``seconds`` that we are alive, until cancelled."""
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(seconds / 2)  # as sd_watchdog_enabled(3) recommends

    def tell(self, *lines: str) -> None:
        """Send lines such as ``READY=1``."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.setblocking(False)  # a full queue must not stop the service
            notify.sendto("\n".join(lines).encode(), self._address)
