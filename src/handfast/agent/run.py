"""One agent, from its first moment to its last request: its state, its policy, its connections, its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from aiohttp import web

from handfast.adapters import sockets, systemd
from handfast.adapters.clock import SystemClock
from handfast.adapters.pace import pause, sparing
from handfast.adapters.signals import signals
from handfast.agent import policy as policies
from handfast.agent import status
from handfast.agent.agent import Agent
from handfast.agent.app import application, runner
from handfast.agent.doors import Doors
from handfast.agent.machine import check_machine
from handfast.agent.plain import Plain
from handfast.agent.policy import Policy
from handfast.agent.state import State
from handfast.core.agentjson import check_password
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from handfast.core.loopback import on_loopback
from handfast.errors import Fault, HandfastError, UsageError
from handfast.newcomer.keystore import Keystore

DRAIN = 60.0  # seconds at the end for what is under way; systemd's patience is 90
REDIAL = 2.0  # seconds between two connections to a controller, and up to eight times that while it does not answer
STREAMS = 2  # connections to a controller at once: one on which it asks how we are, one for what takes long
SOCKET = "agent"  # the FileDescriptorName of systemd's socket
_STAYED = 5.0  # seconds after which a connection has been one
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Weaker:
    """What a developer, or somebody with an old controller, may ask for besides: see ``plain`` and ``delivery``."""

    plain: Plain | None = None
    legacy: bool = False

    def check(self, listens: Address | None) -> None:
        """Say which of it there is. :raises UsageError: without TLS anywhere else than on a loopback address."""
        if self.legacy and self.plain is not None:
            raise UsageError(
                "--legacy and --plain exclude each other", hint="a key is delivered over TLS, or not at all"
            )
        if self.plain is not None:
            if listens is None:
                raise UsageError("an agent that dials speaks TLS", hint="--plain with --listen 127.0.0.1:7575")
            on_loopback(listens, what="an agent without TLS")
            password = self.plain.password
            if password is not None:
                check_password(password)
            who = "its own user" if password is None else "whoever knows the password"
            _log.warning(f"no TLS: on this machine {who} may do all that the policy allows", at=str(listens))
        if self.legacy:
            _log.warning("a key may be delivered to this agent, by its controller: its maker has it as well")


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the agent can be reached, once it can, and the SHA-256 of the key that it shows; else whom it dials."""

    stage: str
    spki: bytes
    listens: Address | None = None
    dials: Address | None = None


async def run(
    data: InstanceData,
    *,
    state: Path,
    policy: Path | None,
    ready: Callable[[Ready], None],
    listen: Address | None = None,
    dial: Address | None = None,
    machine: str | None = None,
    weaker: Weaker = Weaker(),
) -> None:
    """
    Be the agent of an instance until SIGTERM or SIGINT, and finish what is under way. SIGHUP reads ``policy`` again.

    ``state`` is a directory for us alone. Without a policy there are no services. ``listen`` and ``dial`` are instead
    of what the user-data says; where systemd passed a socket, that is where we listen. ``machine`` is this one's id by
    the cloud's own word, where it is known. What is ``weaker`` than an introduction is said at each start.

    :raises ConfigError, Unsafe: the policy. :raises Fault: another agent has the directory, or the address is in use.
    :raises UsageError: an address to listen on that cannot be. :raises Refused: this is a copy of the instance, or was
        introduced to another authority.
    """
    listens, dials = (listen, dial) if listen or dial else (data.listens, data.dials)
    if (listens is None) == (dials is None):
        raise UsageError("an agent listens, or dials its controller", hint="one of --listen and --dial")
    with contextlib.ExitStack() as ending:
        passed = systemd.sockets()  # also by an agent that dials: the variables are for no program that it starts
        for each in passed.values():
            ending.enter_context(each)
        if unknown := passed.keys() - {SOCKET}:
            raise UsageError(f"systemd passed a socket called {min(unknown)!r}", hint=f"FileDescriptorName={SOCKET}")
        at = None if listens is None else passed.get(SOCKET) or listens
        weaker.check(sockets.address_of(at) if isinstance(at, socket.socket) else at)
        wanted = _read(policy)
        keystore = Keystore(state)
        ending.enter_context(keystore.exclusive())
        asked = ending.enter_context(signals())
        check_machine(keystore.directory, data, machine)
        made = State(Agent(data, keystore, now=_clock()), data, plain=weaker.plain, legacy=weaker.legacy)
        async with status.answering(keystore.directory, made):
            await _run(made, wanted, policy, asked, ready, at, dials)


async def _run(
    state: State,
    wanted: Policy,
    source: Path | None,
    asked: asyncio.Queue[signal.Signals],
    ready: Callable[[Ready], None],
    listens: socket.socket | Address | None,
    dials: Address | None,
) -> None:
    notifier, agent = systemd.Notifier(), state.agent
    state.adopt(wanted)
    _recover(state)
    listening = sockets.listen(listens) if isinstance(listens, Address) else listens
    http = runner(application(state))
    await http.setup()
    doors = Doors(_http(http), face=lambda: agent.face, admit=agent.authorize)
    state.callers = doors.callers
    where = None if listening is None else sockets.address_of(listening)
    state.listens, state.dials = where, dials
    entering = _enter(doors, listening, dials, state.data.instance)
    if state.plain is not None and listening is not None:
        entering.close()
        entering = _plainly(http, listening)
    tasks = [asyncio.create_task(entering)]
    tasks[0].add_done_callback(lambda _ended: asked.put_nowait(signal.SIGTERM))
    if notifier.watchdog is not None:
        tasks.append(asyncio.create_task(notifier.watch(notifier.watchdog)))
    try:
        ready(Ready(state.stage, agent.face.spki, where, dials))
        notifier.tell("READY=1", f"STATUS={agent.stage}, at {where or dials}")
        while await asked.get() == signal.SIGHUP:
            _reload(state, source, notifier)
        if tasks[0].done():  # a bug of ours; without it nobody could reach us
            tasks[0].result()
    finally:
        state.stopping = True
        notifier.tell("STOPPING=1")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if listening is not None:
            listening.close()  # whoever comes now is refused, and does not wait for nobody
        await _stop(state, doors, http)


def _read(source: Path | None) -> Policy:
    read = Policy() if source is None else policies.load(source)
    if not read.services:
        _log.warning("no policy: there is no service here that the controller could reach", file=str(source))
    return read


def _recover(state: State) -> None:
    """Put in order what a crash has left, before anybody can ask for anything."""
    steps: list[Callable[[], object]] = [service.recover for service in state.services.values()]
    steps += [each.policy.artifacts.clean for each in state.services.values() if each.policy.artifacts is not None]
    steps += [] if state.members is None else [state.members.recover]
    for step in steps:
        try:
            step()
        except HandfastError as error:  # one service less is no reason to leave the others alone
            _log.error("cannot put in order what was left", reason=error.message, hint=error.hint)
        except OSError as error:  # nor is what a service's own user has put where its files are
            _log.error("cannot put in order what was left", reason=str(error)[:500])


async def _enter(doors: Doors, listening: socket.socket | None, dials: Address | None, name: str) -> None:
    if listening is not None:
        await doors.listen(listening)
    if dials is None:  # unreachable: one of the two is given
        return
    say = sparing(lambda text: _log.warning("no controller", at=str(dials), reason=text))
    async with asyncio.TaskGroup() as streams:
        for _ in range(STREAMS):
            streams.create_task(_call(doors, dials, name, say))


async def _plainly(http: web.AppRunner, listening: socket.socket) -> None:
    """Serve without TLS until cancelled."""
    site = web.SockSite(http, listening)
    await site.start()
    try:
        await asyncio.Event().wait()
    finally:
        await site.stop()  # before its socket is closed


async def _call(doors: Doors, dials: Address, name: str, say: Callable[[str], None]) -> None:
    failures = 0
    while True:
        began = time.monotonic()
        try:
            await doors.dial(dials, name)
        except OSError as error:  # a TimeoutError is one
            say(error.strerror or "it does not answer")
        stayed = time.monotonic() - began >= _STAYED
        failures = 0 if stayed else failures + 1
        await asyncio.sleep(pause(REDIAL, failures))


def _reload(state: State, source: Path | None, notifier: systemd.Notifier) -> None:
    """Read the policy anew; if it is not good, the one before stays."""
    notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        state.adopt(_read(source))
        _log.info("reloaded", services=sorted(state.services))
    except HandfastError as error:
        _log.error("the policy before this one stays", code=error.code, reason=error.message, hint=error.hint)
    notifier.tell("READY=1")


async def _stop(state: State, doors: Doors, http: web.AppRunner) -> None:
    """Drop whoever has not come in, finish what is under way, then close."""
    await doors.close()
    for connection in _http(http).connections:
        if connection not in state.busy:
            connection.force_close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):
            if state.busy:
                await state.rested.wait()
            if state.tasks:
                await asyncio.wait(state.tasks)
    for left in state.tasks:
        left.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)
    await http.cleanup()


def _http(each: web.AppRunner) -> web.Server:
    if each.server is None:  # unreachable: it was set up
        raise Fault("the HTTP server is not set up")
    return each.server


def _clock() -> Callable[[], datetime]:
    """Return a clock that goes on from the time of the start: a new machine's is set right by years, at any moment."""
    start, began = SystemClock().now(), time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)
