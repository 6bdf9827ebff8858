"""A real ssh-agent for a test, and a socket on which something else answers."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handfast.core.sshdata import string


@contextmanager
def ssh_agent(*options: str) -> Iterator[Path]:
    """A running ssh-agent; its socket. A path of its own, as one under pytest's may be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="hf") as directory:
        path = Path(directory) / "agent"
        command = ["ssh-agent", "-D", "-a", str(path), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # it says where it listens once it does
                yield path
            finally:
                process.terminate()


def ssh_add(agent: Path, *arguments: str | Path) -> str:
    """Run the real ssh-add; what it prints."""
    done = subprocess.run(
        ["ssh-add", *map(str, arguments)],
        env={"SSH_AUTH_SOCK": str(agent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@contextmanager
def standin(answer: Callable[[bytes], bytes | None]) -> Iterator[Path]:
    """A socket where each message gets what ``answer`` makes of it, raw; None says nothing and waits."""
    with tempfile.TemporaryDirectory(prefix="hf") as directory, socket.socket(socket.AF_UNIX) as listening:
        path = Path(directory) / "agent"
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=_serve, args=(listening, answer), daemon=True).start()
        try:
            yield path
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        with client, suppress(OSError):  # the other side may end in the middle
            while len(head := client.recv(4, socket.MSG_WAITALL)) == 4:
                said = answer(client.recv(int.from_bytes(head), socket.MSG_WAITALL))
                if said == b"":
                    break
                if said is not None:
                    client.sendall(said)


def message(number: int, *fields: bytes) -> bytes:
    """An agent's message with these bytes behind its number."""
    return string(bytes([number]) + b"".join(fields))
