"""
Ports for whoever listens later, or has listened before and comes back: nobody else on this machine is given them.

A port that was only seen to be free may be another test's a moment later. These are bound, and nobody listens at them:
callers are refused, the kernel hands them out to nobody, and whoever names one may listen there, as ``SO_REUSEADDR``
lets him: ``socket.create_server`` and the servers of asyncio and aiohttp set it.
"""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A port of loopback where nobody listens but who names it, until the end of the tests of one file."""
    made = socket.socket()
    _held.append(made)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, 0))
    return int(made.getsockname()[1])


def release() -> None:
    """Give them all back."""
    while _held:
        _held.pop().close()
