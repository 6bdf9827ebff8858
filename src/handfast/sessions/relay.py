"""
The bytes of one stream: between TLS and a plain socket, both ways, each byte touched as seldom as can be.

A direction reads into a buffer that all streams of the loop share, and sends from there. What the other side does not
take at once is copied, and until that is gone nothing more is read: so a stream holds at most ``BUFFER`` bytes a
direction, and nothing while it is idle. An end passes to the other side as an end (half-close), an error as an error:
a stream that was cut off never looks complete.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Protocol

from handfast.errors import HandfastError, Unreachable
from handfast.sessions.channel import Again, Channel, Stalled, prepare, shut

BUFFER = 256 * 1024  # bytes
_PAUSE = 0.05  # seconds; see Stalled


@dataclass(frozen=True, slots=True)
class Ended:
    """
    What came of a stream: bytes from the peer and to it, and what ended it; None if both sides did, in order.

    Bytes count when they were handed to the kernel of this machine: no more is known.
    """

    received: int
    sent: int
    error: HandfastError | None


class ByteStream(Protocol):
    """One end of a relay; all calls return at once."""

    fd: int

    def read_into(self, buffer: memoryview) -> int | None:
        """Fill ``buffer`` with what is there; 0 at the end, None if nothing came."""

    def write(self, content: memoryview) -> int:
        """Return how much was taken; the rest must come again."""

    def finish(self) -> bool:
        """Say that nothing more comes, and whether it could be said."""


class Relay:
    """One stream, from its first byte to the end of both directions. Owns both sides and closes them."""

    def __init__(self, channel: Channel, plain: socket.socket, buffer: memoryview, *, idle: float | None) -> None:
        """``buffer`` has ``BUFFER`` bytes; ``idle`` is after how many silent seconds (up to twice) it ends."""
        plain.setblocking(False)
        prepare(plain)
        self._channel, self._plain, self._idle = channel, _Plain(plain), idle
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.over = False  # both sides are closed
        self._outcome: asyncio.Future[HandfastError | None] = self._loop.create_future()
        self.up = _Direction(channel, self._plain, buffer, self)
        self.down = _Direction(self._plain, channel, buffer, self)

    async def run(self) -> Ended:
        """Return when the stream is over. A cancellation resets both sides."""
        self._watch(-1)
        if self._channel.closed is not None:  # cut off before it began: OpenSSL would read whatever has its number now
            self.fail(self._channel.closed)
        self.up.start()
        self.down.start()
        try:
            error = await self._outcome
        finally:
            self.fail(Unreachable("this side is stopping"))
        return Ended(self.up.count, self.down.count, error)

    def fail(self, why: HandfastError) -> None:
        """Reset both sides at once, dropping what was not sent."""
        self._close(why, reset=True)

    @property
    def held(self) -> int:
        """Bytes that wait in this process for a slow reader."""
        return len(self.up.rest) + len(self.down.rest)

    def ended(self) -> None:
        """Take note that a direction is over."""
        if self.up.over and self.down.over:
            self._close(None, reset=False)

    def _close(self, why: HandfastError | None, *, reset: bool) -> None:
        if self.over:
            return
        self.over = True
        if not self._outcome.done():  # it is, when the task that waits for it was cancelled
            self._outcome.set_result(why)
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._plain.fd)
        self._loop.remove_writer(self._plain.fd)
        shut(self._plain.socket, reset=reset)
        self._channel.abort(why or Unreachable("the stream has ended"), reset=reset)

    def _watch(self, before: int) -> None:
        if self._idle is None:
            return
        count = self.up.count + self.down.count
        if count == before:
            self.fail(Unreachable(f"no byte came or went for {self._idle:g} s"))
            return
        self._timer = self._loop.call_later(self._idle, self._watch, count)


class _Direction:
    """One direction."""

    __slots__ = ("_buffer", "_due", "_ended", "_loop", "_paused", "_relay", "_sink", "_source", "count", "over", "rest")

    def __init__(self, source: ByteStream, sink: ByteStream, buffer: memoryview, relay: Relay) -> None:
        self._source, self._sink, self._buffer, self._relay = source, sink, buffer, relay
        self._loop = asyncio.get_running_loop()
        self._paused, self._ended, self._due = False, False, False
        self.rest = memoryview(b"")
        self.count = 0
        self.over = False

    def start(self) -> None:
        """Begin, with what TLS may have decrypted already."""
        if not self._relay.over:
            self._loop.add_reader(self._source.fd, self._pump)
            self._pump()

    def _pump(self) -> None:
        if self._paused or self._ended or self._relay.over:
            return  # a call that was under way when that happened
        try:
            count = self._source.read_into(self._buffer)
            if count is None:
                return
            if count == 0:
                self._ended = True
                self._loop.remove_reader(self._source.fd)
                self._finish()
                return
            self.count += count
            taken = self._sink.write(self._buffer[:count])
        except Again:
            self._after_the_others()
            return
        except Stalled:
            self._pause()
            self._loop.call_later(_PAUSE, self._resume)
            return
        except HandfastError as error:
            self._relay.fail(error)
            return
        if taken < count:
            self.rest = memoryview(bytes(self._buffer[taken:count]))
            self._pause()
            self._loop.add_writer(self._sink.fd, self._flush)
        else:
            self._after_the_others()

    def _after_the_others(self) -> None:
        """
        Read on until nothing is left, but let the others have their turn.

        No event announces what TLS has decrypted already, and of a reset that came right behind the last bytes libuv
        tells but once. Once for a turn of the loop: the events that come as well would each begin a chain of their own,
        and a peer that never pauses would have as many turns as he likes.
        """
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        self._pump()

    def _flush(self) -> None:
        if self._relay.over:
            return
        try:
            self.rest = self.rest[self._sink.write(self.rest) :]
        except HandfastError as error:
            self._relay.fail(error)
            return
        if not self.rest:
            self.rest = memoryview(b"")  # lets go of the copy
            self._loop.remove_writer(self._sink.fd)
            self._resume()

    def _pause(self) -> None:
        self._paused = True
        self._loop.remove_reader(self._source.fd)

    def _resume(self) -> None:
        self._paused = False
        self.start()

    def _finish(self) -> None:
        try:
            done = self._sink.finish()
        except HandfastError as error:
            self._relay.fail(error)
            return
        if not done:
            self._loop.add_writer(self._sink.fd, self._finish)
            return
        self._loop.remove_writer(self._sink.fd)
        self.over = True
        self._relay.ended()


class _Plain:
    """The side without TLS: a TCP or Unix socket."""

    __slots__ = ("fd", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.socket, self.fd = connected, connected.fileno()

    def read_into(self, buffer: memoryview) -> int | None:
        try:
            return self.socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise _broken(error) from None

    def write(self, content: memoryview) -> int:
        try:
            return self.socket.send(content)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise _broken(error) from None

    def finish(self) -> bool:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it closed both its directions before we did
                raise _broken(error) from None
        return True


def _broken(error: OSError) -> Unreachable:
    return Unreachable(f"the plain side of the stream broke off: {error.strerror}")
