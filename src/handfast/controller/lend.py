"""
Agents' calls for another process of the controller's: whoever watches has them all, and lends one to who asks.

What is lent is the TCP connection, before TLS: the borrower proves himself to the agent, and the agent to him. It ends
with the borrower, whatever becomes of the one who watches, and the agent calls anew. The place is a Unix socket in the
controller's directory; whoever may open that has the controller's key as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path

from handfast.adapters import files, sockets
from handfast.adapters.callers import callers, readable
from handfast.adapters.threads import to_its_end
from handfast.controller.credential import DIRECTORY
from handfast.controller.listen import Dialled, Waiting
from handfast.core.names import machine_name
from handfast.errors import HandfastError, Unreachable

NAME = "calls.sock"
PATIENCE = 10.0  # seconds for an agent to call, who does so again after 2
_MAX_NAME = 300  # bytes
_TAKEN, _NONE = b"+", b"-"


async def lend(data: Path, dialled: Dialled) -> None:
    """Lend connections until cancelled. :raises Fault: the disk."""
    with sockets.unix_path(data / DIRECTORY, NAME) as place, socket.socket(socket.AF_UNIX) as listening:
        with files.faults("make", data / DIRECTORY / NAME):
            with suppress(FileNotFoundError):
                os.unlink(place)  # of a process that was killed: we hold the lock of those who watch
            listening.bind(place)
            listening.listen()
        tasks: set[asyncio.Task[None]] = set()
        try:
            async for accepted, _ in callers(listening):
                task = asyncio.ensure_future(_lent(accepted, dialled))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(place)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _lent(accepted: socket.socket, dialled: Dialled) -> None:
    loop = asyncio.get_running_loop()
    with accepted, suppress(OSError):  # a TimeoutError is one; who asked is gone
        async with asyncio.timeout(2 * PATIENCE):
            asked = await loop.sock_recv(accepted, _MAX_NAME)
            # Who asks says nothing more: what can be read is his end, and nothing is to be taken for him then.
            taking = asyncio.ensure_future(_taken(dialled, asked.decode("ascii", "replace")))
            gone = asyncio.ensure_future(readable(accepted.fileno()))
            try:
                try:
                    await asyncio.wait({taking, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in (taking, gone):
                        each.cancel()
                    await to_its_end(asyncio.wait({taking, gone}))
            except BaseException:
                _hang_up(taking)  # perhaps it has come in this very moment, and is nobody's
                raise
        if taking.cancelled():
            return
        if (found := taking.result()) is None:
            await loop.sock_sendall(accepted, _NONE)
        else:
            with found.connected:
                socket.send_fds(accepted, [_TAKEN], [found.connected.fileno()])


def _hang_up(taking: asyncio.Task[Waiting | None]) -> None:
    if not taking.cancelled() and taking.exception() is None and (call := taking.result()) is not None:
        call.connected.close()


async def _taken(dialled: Dialled, name: str) -> Waiting | None:
    try:
        call = await dialled.take(machine_name(name), patience=PATIENCE)
    except HandfastError:
        return None
    dialled.had_its_turn(call)
    return call


async def borrow(data: Path, name: str) -> socket.socket:
    """
    Return a connection that the agent of an instance has dialled, or somebody by its name.

    :raises Unreachable: nobody watches, or the agent does not call.
    """
    loop = asyncio.get_running_loop()
    try:
        with sockets.unix_path(data / DIRECTORY, NAME) as place, socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            async with asyncio.timeout(2 * PATIENCE):
                await loop.sock_connect(asking, place)
                await loop.sock_sendall(asking, name.encode("ascii"))
                await readable(asking.fileno())
            said, found, _, _ = socket.recv_fds(asking, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        said, found = b"", []
    if said == _NONE:
        raise Unreachable(
            f"{name!r} has not called",
            hint=f"another command may have its call; else see `handfast instance show {name}`",
        )
    if said != _TAKEN or len(found) != 1:  # nobody answers, or he died before he did
        raise Unreachable(
            f"{name!r} calls its controller, and nobody takes its calls",
            hint="handfast instance watch, or `up` with [instances] watch = true; and [instances] listen",
        )
    connected = socket.socket(fileno=found[0])
    connected.setblocking(False)
    return connected
