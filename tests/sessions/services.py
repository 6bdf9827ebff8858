"""Services on loopback, and a real server of a session in front of one."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.ports import free_port
from tests.sessions.conftest import Made

Service = Callable[[socket.socket], None]
_RESET = struct.pack("ii", 1, 0)


@contextmanager
def service(serve: Service) -> Iterator[str]:
    """A TCP service on loopback, each caller in a thread; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def one(accepted: socket.socket) -> None:
            with accepted, suppress(ConnectionError):
                serve(accepted)

        def accept() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=one, args=(accepted,)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        host, port = listening.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for each in (accepting, *threads):
                each.join(10)


@contextmanager
def serving(made: Made, to: str, *way: str) -> Iterator[str]:
    """A real `handfast session serve`; gives where it listens, if it does."""
    command = [sys.executable, "-m", "handfast", "session", "serve", "--session", str(made.file("server"))]
    command += [*(way or ("--listen", "127.0.0.1:0")), "--to", to, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline()).get("listen"))
        finally:
            process.terminate()


def echo(accepted: socket.socket) -> None:
    """Give back what comes."""
    while piece := accepted.recv(1 << 16):
        accepted.sendall(piece)


def digest(accepted: socket.socket) -> None:
    """Read to the end, and only then answer."""
    found = hashlib.sha256()
    while piece := accepted.recv(1 << 16):
        found.update(piece)
    accepted.sendall(found.digest())


def half(accepted: socket.socket) -> None:
    """Send half of what it should, and break."""
    accepted.sendall(b"half")
    accepted.recv(1)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def free_address() -> str:
    """An address where nobody listens yet."""
    return f"127.0.0.1:{free_port()}"
