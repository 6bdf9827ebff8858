"""What flows through a tunnel, and the service behind it: plain TCP on both sides, as cheap as possible."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

PIECE = 256 * 1024  # bytes
MEGABYTE = 1 << 20
_BLOCK = memoryview(bytearray(PIECE))


def serve(port: int) -> None:
    """Run the service: the first byte says whether to send, to swallow, or to give back what comes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(_Service, "127.0.0.1", port, backlog=2048)
        await asyncio.Event().wait()

    uvloop.run(main())


class _Service(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self._buffer = bytearray(PIECE)
        self._kind, self._left = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        start = 0
        if not self._kind:  # the order comes in one piece: a letter and eight bytes
            self._kind, start = bytes(self._buffer[:1]), 9
            self._left = int.from_bytes(self._buffer[1:9], "big")
            if self._kind == b"d":
                self.resume_writing()
        if self._kind == b"u":
            self._left -= count - start
            if self._left <= 0:
                self._transport.write(b"k")
        elif self._kind == b"e" and count > start:
            self._transport.write(bytes(self._buffer[start:count]))

    def resume_writing(self) -> None:
        while self._kind == b"d" and self._left > 0 and self._transport.get_write_buffer_size() < PIECE:
            self._transport.write(_BLOCK[: min(PIECE, self._left)])
            self._left -= PIECE

    def eof_received(self) -> None: ...


def connect(port: int) -> socket.socket:
    """Return a connection to a tunnel's near end."""
    connected = socket.create_connection(("127.0.0.1", port), timeout=60)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def order(connected: socket.socket, kind: bytes, count: int = 0) -> None:
    """Say what the service is to do."""
    connected.sendall(kind + count.to_bytes(8, "big"))


def down(port: int, count: int) -> None:
    """Read ``count`` bytes from the service."""
    with connect(port) as connected:
        order(connected, b"d", count)
        buffer = bytearray(MEGABYTE)
        while count > 0:
            got = connected.recv_into(buffer)
            if not got:
                raise ConnectionError("the tunnel ended early")
            count -= got


def up(port: int, count: int) -> None:
    """Send ``count`` bytes to the service and wait until it has them all."""
    with connect(port) as connected:
        order(connected, b"u", count)
        while count > 0:
            connected.sendall(_BLOCK[: min(PIECE, count)])
            count -= PIECE
        if connected.recv(1) != b"k":
            raise ConnectionError("the tunnel ended early")


def rate(port: int, flow: Callable[[int, int], None], megabytes: int, streams: int) -> float:
    """Return MB/s of ``streams`` at once, over all."""
    return megabytes / _together(streams, lambda: flow(port, megabytes * MEGABYTE // streams))


def echo(port: int, times: int, streams: int) -> tuple[float, float]:
    """Return median and 99th percentile (µs) of 64 bytes to the service and back, one after the other on each."""
    waiting = selectors.DefaultSelector()
    for _ in range(streams):
        connected = connect(port)
        order(connected, b"e")
        connected.sendall(bytes(64))
        connected.recv(64)
        waiting.register(connected, selectors.EVENT_READ)
    spent: list[float] = []
    sent: dict[int, float] = {}
    for key in list(waiting.get_map().values()):
        sent[key.fd] = time.perf_counter()
        os.write(key.fd, bytes(64))
    while len(spent) < times:
        for key, _ in waiting.select():
            os.read(key.fd, 64)
            now = time.perf_counter()
            spent.append(now - sent[key.fd])
            sent[key.fd] = time.perf_counter()
            os.write(key.fd, bytes(64))
    for key in list(waiting.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    cuts = statistics.quantiles(spent, n=100)
    return cuts[49] * 1e6, cuts[98] * 1e6


def connections(port: int, count: int, at_once: int) -> float:
    """Return how many connections a second are opened, carry 64 bytes there and back, and are closed."""

    def some() -> None:
        for _ in range(count // at_once):
            with connect(port) as connected:
                order(connected, b"e")
                connected.sendall(bytes(64))
                if not connected.recv(64):
                    raise ConnectionError("the tunnel ended early")

    return count / _together(at_once, some)


def idle(port: int, count: int) -> list[socket.socket]:
    """Return ``count`` connections that have carried a byte."""
    opened = [connect(port) for _ in range(count)]
    for each in opened:
        order(each, b"e")
        each.sendall(b".")
        if not each.recv(1):
            raise ConnectionError("the tunnel does not work")
    return opened


def processes(pid: int) -> list[int]:
    """Return a process and its children."""
    found = [pid]
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int(status.read_text().rpartition(") ")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def cpu(pids: list[int]) -> float:
    """Return the CPU seconds of processes, all threads."""
    return sum(time.clock_gettime(~each << 3 | 2) for pid in pids for each in processes(pid))


def memory(pids: list[int]) -> int:
    """Return the KiB that are theirs (proportional set size)."""
    lines = [
        line
        for pid in pids
        for each in processes(pid)
        for line in Path(f"/proc/{each}/smaps_rollup").open()  # noqa: SIM115
    ]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _together(count: int, work: Callable[[], None]) -> float:
    failed: list[BaseException] = []

    def one() -> None:
        try:
            work()
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    begun = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - begun


if __name__ == "__main__":
    serve(int(sys.argv[1]))
