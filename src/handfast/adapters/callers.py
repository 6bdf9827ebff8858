"""
Accepting connections in an event loop: none is lost, none waits for the others' end, and a flood is one line.

And what counts as one place that they come from, for whoever has a limit for each.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator

import structlog

from handfast.adapters.seldom import Seldom
from handfast.core.names import IPAddress

_PAUSE = 0.1  # seconds, when the process has no descriptor left: the kernel's queue holds the callers meanwhile
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def callers(listening: socket.socket) -> AsyncIterator[tuple[socket.socket, str]]:
    """
    Accept until cancelled; gives each connection, non-blocking, and the host it came from, "" if local.

    That it cannot be done, for want of descriptors above all, is logged, though not for each try.

    Unlike ``loop.sock_accept`` it accepts only in the moment in which it gives: a cancellation between the two would
    leave a connection to nobody. And after each the others have their turn, however many wait.
    """
    listening.setblocking(False)
    said = Seldom()
    while True:
        try:
            accepted, address = listening.accept()
        except BlockingIOError:
            await readable(listening.fileno())
            continue
        except OSError as error:  # no descriptor left, or the caller was gone before we looked
            if (left_out := said.due("accept")) is not None:
                _log.warning("cannot accept", error=error.strerror, before=left_out)
            await asyncio.sleep(_PAUSE)
            continue
        accepted.setblocking(False)
        yield accepted, str(address[0]) if address else ""
        await asyncio.sleep(0)


async def readable(fd: int) -> None:
    """Wait until something can be read, or that there is no more."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


def prefix(address: IPAddress | None) -> str:
    """Return what counts as one source: an IPv4 address, or an IPv6 /64, from which one host can choose."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def peer_address(peername: object) -> IPAddress | None:
    """Return the address of a socket's peer, as IPv4 where a dual-stack socket shows it mapped; None for others."""
    if not isinstance(peername, tuple) or not peername:
        return None
    try:
        address = ipaddress.ip_address(str(peername[0]).partition("%")[0])  # without the zone of a link-local one
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
