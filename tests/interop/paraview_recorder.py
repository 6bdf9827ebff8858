"""
A wire with a listener on it: whoever owns a switch or a router between two machines sees this.

    python paraview_recorder.py LISTEN_HOST:PORT DIAL_HOST:PORT FILE

Carries bytes both ways and appends each to FILE before it goes on. Standard library alone.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import BinaryIO


def address(text: str) -> tuple[str, int]:
    """Return host and port."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def carry(source: socket.socket, sink: socket.socket, tape: BinaryIO) -> None:
    """Carry one direction to its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            tape.write(data)
            tape.flush()
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main() -> None:
    """Record until somebody ends it."""
    here, there, path = sys.argv[1:]
    with open(path, "ab") as tape, socket.create_server(address(here), backlog=16) as listener:
        print("recording", flush=True)
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(address(there))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=(*pair, tape), daemon=True).start()


if __name__ == "__main__":
    main()
