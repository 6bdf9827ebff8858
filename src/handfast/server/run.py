"""One registrar, from its sockets to its last request: signals, systemd, reload, orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog
import uvloop
from aiohttp import web

from handfast.adapters import logs, sockets, systemd
from handfast.adapters.process import many_files
from handfast.adapters.signals import signals
from handfast.core import keys
from handfast.core.invitation import Address
from handfast.errors import Fault, HandfastError, UsageError
from handfast.server import maintenance, nifi
from handfast.server.app import application, runner
from handfast.server.connections import Identity, Listener
from handfast.server.identity import obtain
from handfast.server.limits import Limits
from handfast.server.state import State
from handfast.wiring import Service, announced

HTTPS, CRL, NIFI, INSTANCES = "https", "crl", "nifi", "instances"  # FileDescriptorName= of the systemd sockets
_SETTINGS = {HTTPS: "--listen", CRL: "--crl-listen", NIFI: "--nifi-listen"}
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the registrar can be reached, once it can. What is not served is None."""

    pin: str
    pid: int
    url: str | None = None
    listen: str | None = None
    crl_url: str | None = None
    nifi: str | None = None
    addresses: tuple[Address, ...] = ()


def serve(service: Service, *, ready: Callable[[Ready], None], limits: Limits | None = None) -> int:
    """
    Serve until SIGTERM or SIGINT, finish what is in flight, and return 0. SIGHUP reloads.

    :raises UsageError: an address to listen on that cannot be.
    :raises Refused: the authority may not certify our own names.
    :raises Fault: the address is in use, or the ledger fails at the start.
    """
    logs.configure()
    many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_with_signals(service, ready, limits or Limits()))
    return 0


async def _with_signals(service: Service, ready: Callable[[Ready], None], limits: Limits) -> None:
    with signals() as asked:
        await run(service, asked, ready=ready, limits=limits)


async def run(
    service: Service, asked: asyncio.Queue[signal.Signals], *, ready: Callable[[Ready], None], limits: Limits
) -> None:
    """Serve until something else than SIGHUP is ``asked``; see ``serve``."""
    async with service.ledger.in_loop():
        await _run(service, asked, ready, limits)


async def _run(
    service: Service, asked: asyncio.Queue[signal.Signals], ready: Callable[[Ready], None], limits: Limits
) -> None:
    notifier = systemd.Notifier()
    passed = systemd.sockets()
    calls = _calls(service, passed)
    bound = _bound(service, passed)
    where = {name: sockets.address_of(each) for name, each in bound.items()}
    service = _placed(service, where.get(HTTPS))
    state = State.start(service, await obtain(service) if HTTPS in bound else None, limits)
    state.calls = calls
    runners, listeners = [], []
    for name, listening in bound.items():
        app, identity = _served(name, state)
        runners.append(runner(app, limits))
        await runners[-1].setup()
        listeners.append(Listener(listening, _http(runners[-1]), state.connections, limits, identity))
    tasks = [asyncio.create_task(maintenance.forever(state, name, work)) for name, work in maintenance.TASKS.items()]
    if notifier.watchdog is not None:
        tasks.append(asyncio.create_task(notifier.watch(notifier.watchdog)))
    try:
        ready(_ready(service, where))
        notifier.tell("READY=1", f"STATUS=serving on {', '.join(map(str, where.values()))}")
        while await asked.get() == signal.SIGHUP:
            await _reload(state, where.get(HTTPS), notifier)
    finally:
        state.stopping = True
        notifier.tell("STOPPING=1")
        await _stop(state, listeners, runners, tasks)
        if calls is not None:
            calls.close()


def _calls(service: Service, passed: dict[str, socket.socket]) -> socket.socket | None:
    """
    Return the socket where agents call, systemd's where it ``passed`` one: the controller takes the calls.

    :raises UsageError: nobody would take their calls, or it is no TCP socket. :raises Fault: the address is in use.
    """
    calls, settings = passed.pop(INSTANCES, None), service.instances
    if settings.watch and settings.listen is not None:
        calls = sockets.listen(settings.listen, calls, setting="[instances] listen")
    elif calls is not None:
        raise UsageError(
            f"systemd passed a socket called {INSTANCES!r}, and nobody would take agents' calls",
            hint="[instances] watch = true, and listen = HOST:PORT as in the .socket unit",
        )
    if calls is not None:
        sockets.address_of(calls)
    return calls


def _bound(service: Service, passed: Mapping[str, socket.socket]) -> dict[str, socket.socket]:
    """Return the listening sockets of what is served. :raises UsageError: systemd passed one for something else."""
    wanted = {HTTPS: service.listen, CRL: service.crl_listen, NIFI: service.nifi.listen if service.nifi else None}
    served = {name: address for name, address in wanted.items() if address is not None}
    if unknown := passed.keys() - served.keys():
        names = " or ".join(f"={name}" for name in served)
        raise UsageError(f"systemd passed a socket called {min(unknown)!r}", hint=f"FileDescriptorName{names}")
    return {
        name: sockets.listen(address, passed.get(name), setting=_SETTINGS[name]) for name, address in served.items()
    }


def _served(name: str, state: State) -> tuple[web.Application, Callable[[], Identity] | None]:
    """Return the application of a listener, and what gives the identity that it presents: none for plain HTTP."""
    if name == CRL:
        return application(state, plain=True), None
    if name == NIFI and state.service.nifi is not None:
        presented = nifi.NifiIdentity.of(state.service.nifi)
        return nifi.application(state), lambda: presented

    def identity() -> Identity:
        if state.identity is None:  # unreachable: it was obtained because this is served; never answer in the clear
            raise Fault("no serving certificate")
        return state.identity

    return application(state), identity


async def _stop(
    state: State, listeners: list[Listener], runners: list[web.AppRunner], tasks: list[asyncio.Task[None]]
) -> None:
    await asyncio.gather(*(listener.close() for listener in listeners))
    await _drain(state, [_http(each) for each in runners])
    await asyncio.gather(*(each.cleanup() for each in runners))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    try:
        await maintenance.sign_checkpoint(state)
    except HandfastError as error:
        _log.error("no last checkpoint", code=error.code, reason=error.message)
    state.operators.shutdown()
    state.readers.shutdown(cancel_futures=True)


async def _drain(state: State, servers: list[web.Server]) -> None:
    """Close idle connections and wait for requests in flight: aiohttp's own end drops a body that is still coming."""
    for server in servers:
        for connection in server.connections:
            if connection not in state.busy:
                connection.force_close()
    if state.busy:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(state.limits.drain):
                await state.rested.wait()


async def _reload(state: State, listen: Address | None, notifier: systemd.Notifier) -> None:
    """Read everything anew and swap it in one step; whatever fails, the old stays."""
    notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    old = state.service
    try:
        new = _placed(await state.in_thread(old.reload), listen)
        identity = await obtain(new) if listen is not None else None
    except HandfastError as error:
        _log.error("reload failed, the old configuration stays", code=error.code, reason=error.message, hint=error.hint)
    except Exception:  # noqa: BLE001  whatever it was, the old configuration works
        _log.exception("reload failed, the old configuration stays")
    else:
        state.service = new
        if identity is not None:
            maintenance.present(state, identity)
        if _places(new) != _places(old):
            _log.warning("a changed listening address needs a restart")
        _log.info("reloaded")
    notifier.tell("READY=1")


def _places(service: Service) -> tuple[Address | None, ...]:
    nifi = service.nifi.listen if service.nifi is not None else None
    return service.listen, service.crl_listen, nifi, service.instances.listen


def _placed(service: Service, listen: Address | None) -> Service:
    """Return the service with the addresses that invitations name, now that the port is known."""
    if listen is None:
        return service
    addresses = announced(service.addresses, listen)
    return replace(service, addresses=addresses, administration=replace(service.administration, addresses=addresses))


def _ready(service: Service, where: Mapping[str, Address]) -> Ready:
    nifi = str(where[NIFI]) if NIFI in where else None
    if HTTPS not in where and service.nifi is not None:
        return Ready(keys.format_pin(service.nifi.authority.pin), os.getpid(), nifi=nifi)
    place, authority = service.addresses[0], service.authority
    return Ready(
        url=f"https://{place}",
        pin=keys.format_pin(authority.pin),
        listen=str(where[HTTPS]),
        pid=os.getpid(),
        crl_url=f"http://{Address(place.host, where[CRL].port)}/crl/{authority.public.crl_names[0]}.crl"
        if CRL in where
        else None,
        nifi=nifi,
        addresses=service.addresses,
    )


def _http(each: web.AppRunner) -> web.Server:
    if each.server is None:  # unreachable: it was set up
        raise Fault("the HTTP server is not set up")
    return each.server
