"""Standard input and output as a socket."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from handfast.sessions.stdio import standard


def read_all(fd: int) -> bytes:
    """Everything to the end."""
    return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))


def test_input_from_a_file_arrives_whole_and_then_ends(tmp_path: Path) -> None:
    """A file, which no event loop can wait for, comes through to its end, and the output still works after it."""
    (tmp_path / "in").write_bytes(bytes(range(256)) * 10_000)
    source, (reading, writing) = os.open(tmp_path / "in", os.O_RDONLY), os.pipe()
    with standard(source, writing) as plain:
        got = b"".join(iter(lambda: plain.recv(1 << 16), b""))
        plain.sendall(b"answer")
    os.close(writing)
    assert got == bytes(range(256)) * 10_000
    assert read_all(reading) == b"answer"
    os.close(source)
    os.close(reading)


def test_all_output_is_written_before_it_returns() -> None:
    """What the socket was given last is in the pipe when the block is left, however slowly it is read."""
    (quiet, typist), (reading, writing) = os.pipe(), os.pipe()
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(read_all(reading)))
    reader.start()
    with standard(quiet, writing) as plain:
        plain.sendall(b"x" * 1_000_000)
    os.close(writing)
    reader.join()
    assert len(read[0]) == 1_000_000
    for each in (typist, reading):  # `quiet` is the reader thread's, until its end comes
        os.close(each)


def test_a_closed_output_breaks_the_socket() -> None:
    """When nobody reads the output, the stream learns it, as a program in a pipe does."""
    (quiet, typist), (reading, writing) = os.pipe(), os.pipe()
    os.close(reading)
    with standard(quiet, writing) as plain, pytest.raises(BrokenPipeError):
        plain.sendall(b"x" * 10_000_000)
    os.close(typist)
    os.close(writing)
