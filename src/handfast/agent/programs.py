"""Programs that the agent runs: an argument vector from the policy, never a shell, with bounded time and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from handfast.adapters.process import child_environment
from handfast.errors import Fault

MAX_OUTPUT = 64 * 1024  # bytes that are kept, the last
PATIENCE = 120.0  # seconds; a database that recovers takes its time
_CHUNK = 16 * 1024
_LAST_WORDS = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended: its exit status (negative: the signal), and the end of what it said."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line that says something, for a message."""
        lines = ["".join(filter(str.isprintable, line)).strip() for line in self.output.splitlines()]
        return next((line[:200] for line in reversed(lines) if line), "and said nothing")


async def run(argv: tuple[str, ...], *, patience: float = PATIENCE) -> Done:
    """
    Run a program to its end; nothing of ours is in its input, and no secret in its environment.

    :raises Fault: it cannot be started, or does not end in time: it is then killed, with all of its process group. What
        has made itself a session of its own (setsid), as daemons do, is not found, and goes on.
    """
    async with _pipe() as (reader, writer):
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                env=child_environment(LC_ALL="C.UTF-8"),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Fault(f"cannot run {argv[0]!r}: {reason}", hint="the agent's policy names the program") from None
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(patience):
                output = await _read(reader, process)
                status = await process.wait()
        except TimeoutError:
            hint = "it was ended; see its own log"
            raise Fault(f"{argv[0]!r} did not end within {patience:.0f} s", hint=hint) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    return Done(status, output.decode("utf-8", "replace"))


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """Give what reads a pipe, and the descriptor that writes to it; our end is closed whoever else holds the other."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0))
    try:
        yield reader, theirs
    finally:
        transport.close()


async def _read(reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> bytes:
    """Return the end of what it says. A daemon left behind may hold the pipe: the program's end counts."""
    kept = b""
    ended = asyncio.ensure_future(process.wait())
    piece = asyncio.ensure_future(reader.read(_CHUNK))
    try:
        while True:
            await asyncio.wait({piece, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():  # it has ended; what it said last may be on its way through the pipe
                await asyncio.wait({piece}, timeout=_LAST_WORDS)
            if not piece.done() or not piece.result():
                return kept
            kept = (kept + piece.result())[-MAX_OUTPUT:]
            piece = asyncio.ensure_future(reader.read(_CHUNK))
    finally:
        for each in (piece, ended):
            each.cancel()
