"""
Connections that agents have dialled, for instances that nobody can reach: kept until they are wanted.

An agent says its name in one line, which proves nothing; then it waits to be spoken to, as if it had been dialled. Who
it is, is found out by TLS, with us as the client (``calls``). Until then anybody can be anybody, and all that tells two
callers apart is from where they call, which TCP has made sure of. So places are shared by sources: of those who wait
under one name each source has as many as the others, they have their turns one after the other, and where there is one
too many it is the oldest from where most have come. The place from which an instance has last proved to be it is kept
for it, and its turn is the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import structlog

from handfast.adapters.callers import callers, peer_address, prefix
from handfast.core.agentjson import GREETING
from handfast.core.names import machine_name
from handfast.errors import HandfastError, Unreachable

_GREETING = f"{GREETING} ".encode()
MAX_LINE = 300  # bytes
PATIENCE = 5.0  # seconds for the line, which an agent sends at once
IDLE = 60.0  # seconds that a connection waits to be wanted
EACH = 2  # connections that wait under one name from one source: an agent has two
SOURCES = 16  # sources from which connections wait under one name
MAX_GREETING = 64  # connections that have not said anything yet
PER_SOURCE = 256  # connections from one address: a site behind one
MAX_WAITING = 4096  # connections that wait
_TURNS = 64  # sources that are remembered to have had their turn under one name
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Waiting:
    """A connection under a name, before TLS; who it is nobody knows. It is the ``number``-th."""

    connected: socket.socket
    name: str
    source: str
    number: int
    closing: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Dialled:
    """
    Takes agents' calls, for instances whose names are ``known``, and gives them to whoever wants to speak to one.

    ``woken`` is told a name when somebody calls by it who was not listened to yet, or has proved to be it.
    """

    known: Callable[[str], bool]
    woken: Callable[[str], None] = lambda _name: None
    _waiting: dict[str, list[Waiting]] = field(default_factory=dict)  # the oldest first
    _wanted: dict[str, deque[asyncio.Future[Waiting]]] = field(default_factory=dict)
    _greeting: dict[asyncio.Task[str], str] = field(default_factory=dict)  # their sources, the oldest first
    _sources: Counter[str] = field(default_factory=Counter)
    _turns: dict[str, dict[str, int]] = field(default_factory=dict)  # by name and source: when it had its last one
    _proved: dict[str, str] = field(default_factory=dict)  # by name: the source
    _count: count[int] = field(default_factory=count)

    async def listen(self, listening: socket.socket) -> None:
        """Accept until cancelled; what waits is closed then."""
        try:
            async for accepted, host in callers(listening):
                source = prefix(peer_address((host,)))
                if self._sources[source] >= PER_SOURCE and not self._one_less(source):
                    accepted.close()
                    continue
                if len(self._greeting) >= MAX_GREETING:
                    self._hush(_most(self._greeting.values()))
                self._sources[source] += 1
                task = asyncio.ensure_future(self._greet(accepted))
                self._greeting[task] = source
                task.add_done_callback(partial(self._greeted, accepted=accepted, source=source))
        finally:
            tasks = list(self._greeting)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for call in self._all():
                self._drop(call)

    def calls(self, name: str) -> list[Waiting]:
        """Take those who wait under a name, one from each source, in their turn; the newest, as others may be gone."""
        newest = {call.source: call for call in self._waiting.get(name, ())}
        taken = [newest[source] for source in self._in_turn(name)]
        for call in taken:
            self._forget(call)
        return taken

    async def take(self, name: str, *, patience: float) -> Waiting:
        """Return whose turn it is of those who wait under a name, or the next. :raises Unreachable: nobody calls."""
        if turns := self._in_turn(name):
            call = next(call for call in reversed(self._waiting[name]) if call.source == turns[0])
            self._forget(call)
            return call
        wanted: asyncio.Future[Waiting] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(name, deque()).append(wanted)
        try:
            async with asyncio.timeout(patience):
                try:
                    return await wanted
                except asyncio.CancelledError:
                    if not wanted.cancelled():  # it came in this very moment, and is nobody's
                        wanted.result().connected.close()
                    raise
        except TimeoutError:
            raise Unreachable(f"{name!r} has not called") from None
        finally:
            with contextlib.suppress(ValueError, KeyError):
                self._wanted[name].remove(wanted)
                if not self._wanted[name]:
                    del self._wanted[name]

    def had_its_turn(self, call: Waiting) -> None:
        """Take note that a caller was listened to: others from elsewhere come before him next time."""
        turns = self._turns.setdefault(call.name, {})
        turns.pop(call.source, None)
        turns[call.source] = next(self._count)
        if len(turns) > _TURNS:
            del turns[next(iter(turns))]

    def proved(self, call: Waiting) -> None:
        """Take note that a caller has proved to be the instance: from there it is heard first."""
        self._proved[call.name] = call.source

    def _in_turn(self, name: str) -> list[str]:
        """Return the sources that wait under a name: the one that has proved it, then whoever was not heard longest."""
        sources = dict.fromkeys(call.source for call in self._waiting.get(name, ()))
        turns, proved = self._turns.get(name, {}), self._proved.get(name)
        return sorted(sources, key=lambda source: (source != proved, turns.get(source, -1)))

    async def _greet(self, accepted: socket.socket) -> str:
        """Read who it says it is. :raises Unreachable: nobody who is managed here, or too late."""
        try:
            async with asyncio.timeout(PATIENCE):
                name = await _name(accepted)
        except OSError as error:  # a TimeoutError is one
            raise Unreachable(error.strerror or "it took too long") from None
        if not self.known(name):  # the same silence as for a name that is: who is managed here is not told
            raise Unreachable("nobody of that name is managed here")
        return name

    def _greeted(self, task: asyncio.Task[str], accepted: socket.socket, source: str) -> None:
        held = self._greeting.pop(task, None) is not None
        error = None if task.cancelled() else task.exception()
        if held and not task.cancelled() and error is None:
            self._offer(Waiting(accepted, task.result(), source, next(self._count)))
            return
        if held:
            self._left(source)
        accepted.close()
        if isinstance(error, HandfastError):
            _log.debug("not an agent's call", source=source, error=str(error)[:200])
        elif error is not None:
            _log.error("unexpected", exc_info=error)

    def _offer(self, call: Waiting) -> None:
        for wanted in self._wanted.get(call.name, ()):
            if not wanted.done():
                self._left(call.source)
                wanted.set_result(call)
                return
        self._have_place(call)
        loop = asyncio.get_running_loop()
        self._waiting.setdefault(call.name, []).append(call)
        call.closing = loop.call_later(IDLE, self._drop, call)
        # An agent says nothing before it is spoken to: what can be read is its end.
        loop.add_reader(call.connected.fileno(), self._drop, call)
        # Whoever was heard, and was not it, waits for the next look: he does not choose how often there is one.
        if call.source == self._proved.get(call.name) or call.source not in self._turns.get(call.name, {}):
            self.woken(call.name)

    def _have_place(self, call: Waiting) -> None:
        """Drop whoever has to make place for a call."""
        ours = self._waiting.get(call.name, [])
        same = [other for other in ours if other.source == call.source]
        if len(same) >= EACH:
            self._drop(same[0])
        elif not same and len(turns := self._in_turn(call.name)) >= SOURCES:
            heard = self._turns.get(call.name, {})
            # Not whose turn it is; else who was heard last, and of those who were not whoever came first.
            last = max(turns[1:], key=lambda source: heard.get(source, -1))
            for other in [other for other in ours if other.source == last]:
                self._drop(other)
        if sum(map(len, self._waiting.values())) >= MAX_WAITING:
            those = self._strangers() or self._all()
            most = _most(other.source for other in those)
            self._drop(next(other for other in those if other.source == most))

    def _one_less(self, source: str) -> bool:
        """Drop the oldest from a source which has proved nothing; False if all have."""
        if source in self._greeting.values():
            self._hush(source)
            return True
        found = next((call for call in self._strangers() if call.source == source), None)
        if found is not None:
            self._drop(found)
        return found is not None

    def _hush(self, source: str) -> None:
        """End the oldest from a source that has not said its name: an agent does so at once."""
        oldest = next(task for task, other in self._greeting.items() if other == source)
        del self._greeting[oldest]
        self._left(source)
        oldest.cancel()

    def _all(self) -> list[Waiting]:
        """Return who waits, the oldest first."""
        return sorted((call for calls in self._waiting.values() for call in calls), key=lambda call: call.number)

    def _strangers(self) -> list[Waiting]:
        """Return who waits where the instance has not proved to be."""
        return [call for call in self._all() if self._proved.get(call.name) != call.source]

    def _forget(self, call: Waiting) -> None:
        """Take a connection out of the books."""
        if call.closing is not None:
            call.closing.cancel()
        asyncio.get_running_loop().remove_reader(call.connected.fileno())  # at once: it is another's from here on
        self._left(call.source)
        self._waiting[call.name].remove(call)
        if not self._waiting[call.name]:
            del self._waiting[call.name]

    def _drop(self, call: Waiting) -> None:
        if call in self._waiting.get(call.name, ()):
            self._forget(call)
            call.connected.close()

    def _left(self, source: str) -> None:
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]  # or the table would grow with every address ever seen


def _most(sources: Iterable[str]) -> str:
    """Return what is there most often."""
    return Counter(sources).most_common(1)[0][0]


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
    if not line.startswith(_GREETING) or line.count(b"\n") != 1:
        raise Unreachable("not an agent")
    return machine_name(line.removeprefix(_GREETING).removesuffix(b"\n").decode("ascii", "replace"))
