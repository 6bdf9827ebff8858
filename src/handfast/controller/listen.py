"""
Connections that agents have dialled, for instances that nobody can reach: kept until they are wanted.

An agent says its name in one line, which proves nothing; then it waits to be spoken to, as if it had been dialled. Who
it is, is found out by TLS, with us as the client. So a stranger who says another's name gets a connection on which he
has to prove that one's key, and until then holds one of few places: each name has two, the newest, and what nobody
takes is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from handfast.adapters.callers import callers
from handfast.core.names import machine_name
from handfast.errors import HandfastError, Unreachable

GREETING = b"HANDFAST-AGENT/1 "
MAX_LINE = 300  # bytes
PATIENCE = 5.0  # seconds for the line
IDLE = 60.0  # seconds that a connection waits to be wanted
EACH = 2  # connections that wait under one name
MAX_GREETING = 64  # connections that have not said anything yet
PER_SOURCE = 256  # connections from one address: a site behind one
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(slots=True)
class _Waiting:
    """A connection that is not wanted yet."""

    connected: socket.socket
    source: str
    closing: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Dialled:
    """
    Takes agents' calls, for instances whose names are ``known``, and gives them to whoever wants to speak to one.

    ``woken`` is told a name when a first connection waits under it.
    """

    known: Callable[[str], bool]
    woken: Callable[[str], None] = lambda _name: None
    _waiting: dict[str, deque[_Waiting]] = field(default_factory=dict)
    _wanted: dict[str, deque[asyncio.Future[socket.socket]]] = field(default_factory=dict)
    _greeting: set[asyncio.Task[None]] = field(default_factory=set)
    _sources: Counter[str] = field(default_factory=Counter)

    async def listen(self, listening: socket.socket) -> None:
        """Accept until cancelled; what waits is closed then."""
        try:
            async for accepted, source in callers(listening):
                if len(self._greeting) >= MAX_GREETING or self._sources[source] >= PER_SOURCE:
                    accepted.close()
                    continue
                self._sources[source] += 1
                task = asyncio.ensure_future(self._greet(accepted, source))
                self._greeting.add(task)
                task.add_done_callback(self._greeting.discard)
        finally:
            for task in list(self._greeting):
                task.cancel()
            await asyncio.gather(*self._greeting, return_exceptions=True)
            for name in list(self._waiting):
                while self._waiting.get(name):
                    self._drop(name, self._waiting[name][0])

    async def take(self, name: str, *, patience: float) -> socket.socket:
        """Return a connection under a name, the newest, or the next that comes. :raises Unreachable: none does."""
        if waiting := self._waiting.get(name):
            newest = waiting[-1]
            self._forget(name, newest)
            return newest.connected
        wanted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(name, deque()).append(wanted)
        try:
            async with asyncio.timeout(patience):
                return await wanted
        except TimeoutError:
            raise Unreachable(f"{name!r} has not called") from None
        finally:
            with contextlib.suppress(ValueError, KeyError):
                self._wanted[name].remove(wanted)
                if not self._wanted[name]:
                    del self._wanted[name]

    async def _greet(self, accepted: socket.socket, source: str) -> None:
        """Read who it says it is, and have it wait."""
        try:
            async with asyncio.timeout(PATIENCE):
                name = await _name(accepted)
            if not self.known(name):  # the same silence as for a name that is: who is managed here is not told
                raise Unreachable("nobody of that name is managed here")
        except (HandfastError, OSError) as error:
            _log.debug("not an agent's call", source=source, error=str(error)[:200])
            self._gone(accepted, source)
        except BaseException:
            self._gone(accepted, source)
            raise
        else:
            self._offer(name, accepted, source)

    def _offer(self, name: str, accepted: socket.socket, source: str) -> None:
        for wanted in self._wanted.get(name, ()):
            if not wanted.done():
                self._sources[source] -= 1
                wanted.set_result(accepted)
                return
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(name, deque())
        first = not waiting
        while len(waiting) >= EACH:
            self._drop(name, waiting[0])
            waiting = self._waiting.setdefault(name, deque())
        new = _Waiting(accepted, source)
        new.closing = loop.call_later(IDLE, self._drop, name, new)
        waiting.append(new)
        # An agent says nothing before it is spoken to: what can be read is its end.
        loop.add_reader(accepted.fileno(), self._drop, name, new)
        if first:
            self.woken(name)

    def _forget(self, name: str, waiting: _Waiting) -> None:
        """Take a connection out of the books."""
        if waiting.closing is not None:
            waiting.closing.cancel()
        asyncio.get_running_loop().remove_reader(waiting.connected.fileno())  # at once: it is another's from here on
        self._sources[waiting.source] -= 1
        self._waiting[name].remove(waiting)
        if not self._waiting[name]:
            del self._waiting[name]

    def _drop(self, name: str, waiting: _Waiting) -> None:
        if waiting in self._waiting.get(name, ()):
            self._forget(name, waiting)
            waiting.connected.close()

    def _gone(self, accepted: socket.socket, source: str) -> None:
        self._sources[source] -= 1
        accepted.close()


async def _name(accepted: socket.socket) -> str:
    """Read the one line, and not a byte of what follows. :raises HandfastError: it is none."""
    loop, line = asyncio.get_running_loop(), b""
    while not line.endswith(b"\n"):
        if len(line) >= MAX_LINE:
            raise Unreachable("too long a line")
        # The agent waits for us after its line, so what is there is the line; one byte too many would be TLS's.
        piece = await loop.sock_recv(accepted, MAX_LINE - len(line))
        if not piece:
            raise Unreachable("closed before its name")
        line += piece
    if not line.startswith(GREETING) or line.count(b"\n") != 1:
        raise Unreachable("not an agent")
    return machine_name(line.removeprefix(GREETING).removesuffix(b"\n").decode("ascii", "replace"))
