"""A session made and used by its commands on one machine or two, and services for it to lead to."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handfast.config import duration
from handfast.server import session
from tests.interop.hosts import HANDFAST, PATIENCE, Done, Host, Process

# The command, with a control connection that is dead after 0.8 s of silence.
IMPATIENT = (
    HANDFAST[0],
    "-c",
    """if True:
    import handfast.sessions.control as control, handfast.sessions.connect as connect
    control.PING, control.DEAD, connect.AGAIN = 0.2, 0.8, 0.1
    from handfast.cli.main import main
    main()""",
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session's directory on its owner's machine."""

    owner: Host
    directory: Path

    @classmethod
    def new(cls, owner: Host, *friends: str, name: str = "paper", lasting: str = "30d") -> Session:
        """What `session new` does, and `session friend` for each."""
        session.new(name, owner.directory / name, lifetime=duration(lasting))
        for who in friends:
            session.friend(owner.directory / name, who)
        return cls(owner, owner.directory / name)

    def export(self, who: str, to: Host | None = None) -> Path:
        """What `session export` does, and copy the file to the party's machine."""
        host = to or self.owner
        out = self.owner.directory / f"{self.directory.name}-{who}.pem"
        session.export(self.directory, who, out)
        return out if host is self.owner else Path(shutil.move(out, host.directory / out.name))

    def revoke(self, who: str) -> None:
        """`session revoke`."""
        self.owner.handfast("session", "revoke", who, "--dir", self.directory)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A `session serve` or `session connect` that is ready."""

    process: Process
    place: dict[str, Any]

    @property
    def port(self) -> int:
        """Where it listens: for peers, or for this machine's programs."""
        return int(str(self.place.get("local", self.place.get("listen"))).rpartition(":")[2])


def serve(
    host: Host, file: Path, to: str, *, listen: str = "127.0.0.1:0", command: tuple[str, ...] = HANDFAST
) -> Tunnel:
    """A server that waits."""
    return started(host, "serve", file, "--listen", listen, "--to", to, command=command)


def connect(host: Host, file: Path, server: str | Tunnel, *more: str, command: tuple[str, ...] = HANDFAST) -> Tunnel:
    """A client that dials, with a local port."""
    place = server if isinstance(server, str) else str(server.place["listen"])
    return started(host, "connect", file, place, "--local", "127.0.0.1:0", *more, command=command)


def started(host: Host, what: str, file: Path, *more: str | Path, command: tuple[str, ...] = HANDFAST) -> Tunnel:
    """Start a command of `session` that says where it is when it is ready."""
    process = host.start(*command, "session", what, "--session", file, "--json", *more)
    return Tunnel(process, json.loads(process.expect('"session"')))


def attempt(host: Host, what: str, file: Path, *more: str | Path, code: int) -> Done:
    """Run a command of `session` that has to end by itself, with this code."""
    return host.handfast("session", what, "--session", file, *more, code=code)


@contextlib.contextmanager
def service(act: Callable[[socket.socket], object]) -> Iterator[tuple[str, list[socket.socket]]]:
    """A service on loopback which does ``act`` with each connection; its address, and who has touched it."""
    touched: list[socket.socket] = []

    def serve_() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            touched.append(accepted)
            threading.Thread(target=_quietly, args=(act, accepted), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        thread = threading.Thread(target=serve_, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", touched
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for each in touched:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _quietly(act: Callable[[socket.socket], object], accepted: socket.socket) -> None:
    with contextlib.suppress(OSError):
        act(accepted)
        accepted.shutdown(socket.SHUT_WR)


def shout(accepted: socket.socket) -> None:
    """Send everything back, louder."""
    while piece := accepted.recv(1 << 16):
        accepted.sendall(piece.upper())


def pour(accepted: socket.socket) -> None:
    """Send until nobody takes it."""
    while True:
        accepted.sendall(bytes(1 << 16))


def program_at(port: int) -> socket.socket:
    """A program of this machine at a local port."""
    made = socket.create_connection(("127.0.0.1", port), PATIENCE)
    made.settimeout(PATIENCE)
    return made


def ask(port: int, text: bytes = b"hello") -> bytes:
    """Send, end, and return all that comes back."""
    with program_at(port) as made:
        made.sendall(text)
        made.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: made.recv(1 << 16), b""))
