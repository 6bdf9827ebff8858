"""
Watching instances: each by itself, so that none waits for another, and with patience of its own.

One task for each instance asks, sleeps and asks again. An instance that runs keeps its connection, over which a call
costs next to nothing, and waits for nobody. Of the others a number connect at a time, which is mostly waiting for those
that do not answer, and fewer are introduced, which is work. What changes for good is written down before anything
follows from it; that somebody was unreachable for a while is not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import structlog

from handfast.controller.http import Stream
from handfast.controller.meeting import Meetings
from handfast.core.instances import Instance, Silence, State, lasting, met
from handfast.errors import HandfastError

CONNECTING = 256  # at a time: TCP and TLS, five seconds at most, and the wait for one of the places that follow
INTRODUCING = 64  # at a time: first meetings over a connection
EVERY = 15.0  # seconds between two calls of an instance that runs
AFRESH = 60.0  # seconds that a connection is kept which somebody has dialled
_FIRST, _LONGEST = 1.0, 15.0  # seconds of the pauses while one does not answer
_DUE = frozenset({State.VERIFYING, State.RENEWING})  # it waits a minute for our call, which so waits for no place
_chance = secrets.SystemRandom()
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Registry(Protocol):
    """Where instances are kept: the ledger."""

    def instances(self) -> list[Instance]: ...

    async def keep(self, before: Instance, after: Instance) -> Instance:
        """
        Write a change down, if nobody has changed the instance since ``before``; return what is on record then.

        :raises Fault: it could not be made durable.
        """


Dial = Callable[[Instance], Awaitable[Stream]]
"""Returns a connection to an instance, dialled by us or by it. Raises ``Unreachable``."""


@dataclass(slots=True)
class Watched:
    """
    One instance under watch: as it is, and what is tried.

    ``connected`` is when its connection was made; ``contact`` when it has last proved to be itself.
    """

    instance: Instance
    task: asyncio.Task[None] | None = None
    connection: Stream | None = None
    connected: float = 0.0
    contact: datetime | None = None
    tries: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Watch:
    """Watches all instances of a registry until cancelled; ``tell`` is told of each change of state."""

    def __init__(
        self,
        meetings: Callable[[], Meetings],
        registry: Registry,
        dial: Dial,
        *,
        tell: Callable[[Instance, Instance], None] = lambda _before, _after: None,
        every: float = EVERY,
        jitter: Callable[[], float] = _chance.random,
    ) -> None:
        self._meetings, self._registry, self._dial = meetings, registry, dial
        self._tell, self._every, self._jitter = tell, every, jitter
        self._connecting, self._introducing = asyncio.Semaphore(CONNECTING), asyncio.Semaphore(INTRODUCING)
        self._all: dict[str, Watched] = {}

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All of them as they are now, by name."""
        return tuple(self._all[name].instance for name in sorted(self._all))

    @property
    def contacts(self) -> dict[str, datetime]:
        """When each has last proved to be itself, by its name."""
        return {name: each.contact for name, each in self._all.items() if each.contact is not None}

    async def run(self) -> None:
        """Watch until cancelled; what was added, changed or removed by others is noticed each second."""
        try:
            while True:
                self._notice()
                await asyncio.sleep(1.0)
        finally:
            for each in self._all.values():
                _end(each)
            tasks = [each.task for each in self._all.values() if each.task is not None]
            await asyncio.gather(*tasks, return_exceptions=True)

    def _notice(self) -> None:
        found = {each.name: each for each in self._registry.instances()}
        for name in self._all.keys() - found.keys():
            _end(self._all.pop(name))
        for name, instance in found.items():
            known = self._all.get(name)
            if known is None:
                known = self._all[name] = Watched(self._begun(instance))
                known.task = asyncio.ensure_future(self._watch(known))
            elif lasting(known.instance) != lasting(instance):  # somebody else has changed it
                known.instance, known.tries = self._begun(instance), 0
                _hang_up(known)
                known.wake.set()

    def _begun(self, instance: Instance) -> Instance:
        """Return an instance whose state begins when we see it, where it is none that is written down."""
        unknown = instance.state.asks and instance.since == instance.deadline
        return replace(instance, since=self._now()) if unknown else instance

    async def _watch(self, watched: Watched) -> None:
        while True:
            if watched.instance.state.asks:
                await self._once(watched)
            pause = self._pause(watched)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await watched.wake.wait()
            watched.wake.clear()

    def _pause(self, watched: Watched) -> float | None:
        state = watched.instance.state
        if not state.asks:
            return None  # until somebody does something about it
        if state in _DUE:
            return 0.0
        if state is State.RUNNING:
            return self._every * (0.9 + 0.2 * self._jitter())
        return min(_FIRST * (1 << min(watched.tries, 8)), _LONGEST) * (0.5 + 0.5 * self._jitter())

    async def _once(self, watched: Watched) -> None:
        """Meet the instance once, and write down what came of it."""
        before, other = watched.instance, None

        def under_way(now: Instance) -> None:
            nonlocal before
            if watched.instance is before:  # else an operator was quicker
                before = self._show(watched, before, now)

        try:
            async with self._place(watched):
                before = watched.instance  # perhaps another by now
                other = await self._other(watched)
                after = await self._meetings().meet(before, other or await self._connected(watched), under_way)
        except HandfastError as error:
            after = met(before, Silence(error.message), at=self._now())
        except Exception:  # noqa: BLE001  a bug with one instance must not end the watch of the others
            _log.exception("unexpected", instance=before.name)
            if other is not None:
                other.close()
            _hang_up(watched)
            watched.tries += 1
            return
        if other is not None and after.state is not State.RUNNING and lasting(after) == lasting(before):
            other.close()  # nobody's: the instance goes on over the one that it has
            return
        if other is not None:
            _hang_up(watched)
            watched.connection = other
        if after.state is State.RUNNING:
            watched.contact = self._now()
        else:
            _hang_up(watched)  # what is verified next is verified on a new connection
        watched.tries = 0 if after.state.introduced and after.state is not State.UNREACHABLE else watched.tries + 1
        await self._keep(watched, before, after)

    async def _keep(self, watched: Watched, before: Instance, after: Instance) -> None:
        if lasting(after) != lasting(before):
            try:
                after = await self._registry.keep(before, after)
            except HandfastError as error:  # asked again, the instance gets the same answer
                _log.error("cannot write down", instance=before.name, reason=error.message)
                return
        if watched.instance is not before and lasting(watched.instance) != lasting(after):
            return  # an operator was quicker: what he said counts; else it was our own change that was noticed
        self._show(watched, before, after)

    def _show(self, watched: Watched, before: Instance, after: Instance) -> Instance:
        watched.instance = after
        if after.state is not before.state or after.reason != before.reason:
            self._tell(before, after)
        return after

    def _now(self) -> datetime:
        return self._meetings().registrar.context.now()

    def holds(self, name: str) -> bool:
        """Whether there is a connection to an instance, over which it is asked."""
        watched = self._all.get(name)
        return watched is not None and _usable(watched)

    def woken(self, name: str) -> None:
        """Ask an instance at once that does not run: it has called."""
        watched = self._all.get(name)
        if watched is not None and watched.instance.state is not State.RUNNING:
            watched.wake.set()

    @asynccontextmanager
    async def _place(self, watched: Watched) -> AsyncIterator[None]:
        """Have a place for a meeting, once there is a connection. :raises Unreachable: there is none."""
        if _usable(watched) or watched.instance.state in _DUE:
            yield
            return
        async with self._connecting:
            await self._connected(watched)
            await self._introducing.acquire()
        try:
            yield
        finally:
            self._introducing.release()

    async def _connected(self, watched: Watched) -> Stream:
        if watched.connection is None or not watched.connection.usable:
            _hang_up(watched)  # the other side need not
            watched.connection, watched.connected = await self._dial(watched.instance), time.monotonic()
        return watched.connection

    async def _other(self, watched: Watched) -> Stream | None:
        """
        Return another call by the name of an instance that runs, if there is one and it is time.

        Who was introduced first is not always who should have been, and over his connection nobody finds that out.
        """
        held, now = watched.connection, time.monotonic()
        runs = watched.instance.dials and watched.instance.state is State.RUNNING
        if not runs or held is None or not held.usable or now - watched.connected < AFRESH:
            return None
        watched.connected = now
        with suppress(HandfastError):
            return await self._dial(watched.instance)
        return None


def _usable(watched: Watched) -> bool:
    return watched.connection is not None and watched.connection.usable


def _hang_up(watched: Watched) -> None:
    if watched.connection is not None:
        watched.connection.close()
        watched.connection = None


def _end(watched: Watched) -> None:
    _hang_up(watched)
    if watched.task is not None:
        watched.task.cancel()
