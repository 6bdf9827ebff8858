"""A cable on loopback that can be cut after so many bytes: it carries TLS and cannot see into it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator


class Cable:
    """
    Passes connections on to one port, one after the other, and counts.

    ``up`` is what newcomers sent, ``down`` what they were sent, in bytes since ``cut``. When one of them has
    reached its limit nothing passes any more: ``at_the_cut`` is called, and the connection is closed.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.cut()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def cut(
        self, *, up: int | None = None, down: int | None = None, at_the_cut: Callable[[], object] = lambda: None
    ) -> None:
        """Cut the next connection when so many bytes have passed in one direction; without limits, mend the cable."""
        self.up = self.down = 0
        self._up, self._down, self._at_the_cut = up, down, at_the_cut

    def close(self) -> None:
        """Take it away."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
                self._pass(near, far)

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while not self._is_cut():
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(self._room(upward=source is near))
                    if not data:
                        return
                    target.sendall(data)
                    if source is near:
                        self.up += len(data)
                    else:
                        self.down += len(data)
                    if self._is_cut():
                        break
            self._at_the_cut()

    def _room(self, *, upward: bool) -> int:
        limit, passed = (self._up, self.up) if upward else (self._down, self.down)
        return 65536 if limit is None else limit - passed

    def _is_cut(self) -> bool:
        return self.up == self._up or self.down == self._down


@contextlib.contextmanager
def cable(port: int) -> Iterator[Cable]:
    """Lay a cable, and take it away."""
    laid = Cable(port)
    try:
        yield laid
    finally:
        laid.close()
