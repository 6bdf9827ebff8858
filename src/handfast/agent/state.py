"""What the agent's requests share: its identity, its services, and who is behind each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import structlog
from aiohttp import web

from handfast.adapters.clock import SystemClock
from handfast.agent.agent import TRIAL, Agent, Face
from handfast.agent.doors import Caller
from handfast.agent.members import Members
from handfast.agent.plain import Plain
from handfast.agent.policy import Looking, Policy
from handfast.agent.service import Service, Turn
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from handfast.errors import Conflict, HandfastError, Malformed, NotFound, TooMuch

if TYPE_CHECKING:
    from handfast.agent.looks import Looks

MAX_BODY = 64 * 1024  # bytes, where a request has no limit of its own
BODY = 30.0  # seconds for all of it
TRANSFERS = 4  # artifacts that come at once
LARGE = 4  # bodies of over MAX_BODY in memory at once, each several times: as bytes, as text, as files
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Answers(Protocol):
    """How one of the two APIs says no."""

    def refused(self, error: HandfastError) -> web.Response: ...

    def broken(self, error: web.HTTPException) -> web.Response:
        """What aiohttp itself refuses: no such route, wrong method, a body that is none."""

    def unexpected(self) -> web.Response:
        """A bug."""


@dataclass(slots=True)
class State:
    """
    All of it; for the loop's thread. ``callers`` are those of ``Doors``, ``seen`` who has called last, and when.

    ``plain``: there is no TLS, and nobody is introduced. ``legacy``: a key may be delivered.
    """

    agent: Agent
    data: InstanceData
    callers: Mapping[asyncio.BaseTransport, Caller] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    members: Members | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # the members: one after the other
    looking: Looking | None = None
    looks: Looks | None = None  # once it was asked to look
    plain: Plain | None = None
    legacy: bool = False
    listens: Address | None = None
    dials: Address | None = None
    seen: tuple[Caller, float] | None = None  # by time.monotonic()
    stopping: bool = False
    busy: set[object] = field(default_factory=set)
    rested: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE))
    now: Callable[[], datetime] = SystemClock().now  # the clock by which TLS compares dates
    _transfers: int = 0
    _turns: dict[str, Turn] = field(default_factory=dict)  # also of what the policy has no more: it may come back

    @property
    def stage(self) -> str:
        """How far it has come; without TLS there is nowhere to come to."""
        return self.agent.stage.value if self.plain is None else "plain"

    def adopt(self, policy: Policy) -> None:
        """Have another policy from the next request on. What is under way goes on by the one that it began with."""
        self._turns |= {name: Turn() for name in policy.services.keys() - self._turns.keys()}
        self.services = {name: Service(each, turn=self._turns[name]) for name, each in policy.services.items()}
        self.members = Members(policy.hosts_file) if policy.hosts_file is not None else None
        self.looking = policy.looking

    def service(self, name: str) -> Service:
        """Return a service. :raises NotFound: the policy has none of that name."""
        found = self.services.get(name)
        if found is None:
            raise NotFound(f"no service {name[:80]!r}", hint="the policy of this machine names its services")
        return found

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Have one of the few places for artifacts. :raises TooMuch: none is left."""
        if self._transfers >= TRANSFERS:
            raise TooMuch(f"{TRANSFERS} artifacts are coming already", hint="try again in 5 s", after=5)
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1

    def on_trial(self) -> None:
        """Have it said in the log if nobody calls over the certificate that is on trial from now on."""
        trial = self.agent.face.leaf

        def over() -> None:
            held = self.agent.held
            if trial is not None and (held is None or held.not_valid_after_utc < trial.not_valid_after_utc):
                _log.warning("nobody has called over the new certificate; the one before is shown again")

        asyncio.get_running_loop().call_later(TRIAL.total_seconds() + 1, over)

    def background(self, work: Coroutine[object, object, object], what: str) -> asyncio.Task[object]:
        """Have something done whose end nobody waits for but the agent's own; that it failed is logged."""

        def over(task: asyncio.Task[object]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error(f"cannot {what}", reason=str(error)[:500])

        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(over)
        return task


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a proved controller; without TLS ``caller`` is None, and he has proved nothing."""

    request: web.Request
    state: State
    caller: Caller | None

    @property
    def proved(self) -> Caller:
        """Who calls. :raises Conflict: there is no TLS, over which alone an agent is introduced."""
        if self.caller is None:
            raise Conflict(
                "this agent speaks plain HTTP, over which nobody is introduced", hint="start it without --plain"
            )
        return self.caller

    @property
    def service(self) -> Service:
        """The service in the path. :raises NotFound: there is none."""
        return self.state.service(self.request.match_info["service"])

    def part(self, name: str) -> str:
        """Return a part of the path, unquoted once. Its characters can be any; who uses it has to look."""
        return self.request.match_info[name]

    async def body(self, most: int = MAX_BODY) -> bytes:
        """Return the body. :raises TooMuch: longer, as announced or in fact. :raises Malformed: broken."""
        if (self.request.content_length or 0) > most:
            raise TooMuch(f"a body of {self.request.content_length} bytes, at most {most} are read")
        read = bytearray()
        try:
            async with asyncio.timeout(BODY):
                async for piece in self.request.content.iter_any():
                    read += piece
                    if len(read) > most:
                        raise TooMuch(f"a body of over {most} bytes")
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason="the body took too long") from None
        except web.RequestPayloadError as error:
            raise Malformed(f"the body is broken: {str(error)[:200]}") from None
        return bytes(read)


Handler = Callable[[Call], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """
    A method and path of one of the APIs. ``first``: also before the introduction, and over any face.

    ``large``: its body may be longer than ``MAX_BODY``, so a few at a time, and the others wait.
    """

    method: str
    path: str
    handler: Handler
    first: bool = False
    large: bool = False


def check_introduced(state: State, face: Face) -> None:
    """
    Check that the controller can know whom it talks to: nothing else is served before.

    A connection from before the introduction does not become another by it: whoever sends something over it, such as
    a configuration, sends it to a key that was shown to be nobody's in particular.

    :raises Conflict: it has to introduce us, or to connect again.
    """
    if state.agent.identity is None:
        raise Conflict("this agent is not introduced", hint="introduce it first, then connect again")
    if face.leaf is None:
        raise Conflict("this connection is older than the introduction", hint="connect again")
