"""session serve, connect, phone: what the two machines of a session type."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from handfast.adapters.process import many_files
from handfast.cli import ui
from handfast.cli.arguments import ADDRESS, DURATION, FILE, JSON, LISTEN, Parsed
from handfast.config import parse_listen
from handfast.core.invitation import Address
from handfast.errors import UsageError

if TYPE_CHECKING:
    from handfast.sessions.engine import Limits
    from handfast.sessions.local import Endpoint
    from handfast.sessions.relay import Ended
    from handfast.sessions.run import Told

T = TypeVar("T")


def _endpoint(text: str) -> Endpoint:
    from handfast.sessions.local import Endpoint

    return Endpoint.parse(text)


def _door(text: str) -> Endpoint:
    from handfast.sessions.local import Endpoint

    return Endpoint.parse(text) if text.startswith("unix:") else Endpoint(parse_listen(text))


SESSION_FILE = click.option("--session", "path", type=FILE, required=True, help="The party's session file.")
ENDPOINT = Parsed("host:port|unix:path", _endpoint)
DOOR = Parsed("host:port|unix:path", _door)
IDLE = click.option("--idle", type=DURATION, help="End a stream after this long without a byte.  [default: never]")


@click.command("serve")
@SESSION_FILE
@click.option("--listen", type=LISTEN, help="HOST:PORT to wait for clients on (forward).")
@click.option("--dial", type=ADDRESS, help="HOST:PORT of a client that waits (reverse).")
@click.option("--every", type=DURATION, default="5s", show_default=True, help="With --dial: how often to try.")
@click.option("--to", "service", type=ENDPOINT, required=True, help="The service that clients get to.")
@IDLE
@JSON
def serve_command(
    path: Path,
    listen: Address | None,
    dial: Address | None,
    every: timedelta,
    service: Endpoint,
    idle: timedelta | None,
    as_json: bool,
) -> int:
    """
    Bring the session's clients to one service, and nobody else.

    With --listen clients come here; with --dial this machine phones a client, until it is told to phone another one.
    """
    from handfast.sessions import run

    if (listen is None) == (dial is None):
        raise UsageError("give --listen or --dial", hint="who can reach whom? the one who cannot be reached dials")
    limits = _limits(idle)

    def serving(told: Told) -> Coroutine[Any, Any, None]:
        if listen is not None:
            return run.serve(path, listen, service, limits=limits, told=told)
        assert dial is not None  # noqa: S101  one of the two is given
        return run.call(path, dial, every.total_seconds(), service, limits=limits, told=told)

    def ready(place: dict[str, object]) -> str:
        where = f"at {place['listen']}" if "listen" in place else f"phones {place['dial']}"
        return f"session {place['session']}: {place['name']} {where} for {place['to']}"

    run_until_signal(serving, ready, as_json=as_json)
    return 0


@click.command("connect")
@SESSION_FILE
@click.argument("server", type=ADDRESS, required=False, metavar="[HOST:PORT]")
@click.option("--wait", type=LISTEN, help="HOST:PORT to wait for the server's call on (reverse).")
@click.option("--local", "door", type=DOOR, help="Where programs of this machine connect: loopback or unix:PATH.")
@click.option("--any-user", is_flag=True, help="Let every user of this machine in there: they all are you then.")
@click.option("--stdio", is_flag=True, help="Carry standard input and output instead, as ssh's ProxyCommand.")
@IDLE
@JSON
def connect_command(
    path: Path,
    server: Address | None,
    wait: Address | None,
    door: Endpoint | None,
    any_user: bool,
    stdio: bool,
    idle: timedelta | None,
    as_json: bool,
) -> int:
    """
    Reach the session's service through a local port, which opens once the server has proved itself.

    Give HOST:PORT of a server that listens, or --wait for one that phones.
    """
    from handfast.sessions import local, run

    if (server is None) == (wait is None):
        raise UsageError("give HOST:PORT or --wait", hint="who can reach whom? the one who can be reached waits")
    if (door is None) == (not stdio):
        raise UsageError("give --local or --stdio", hint="--local 127.0.0.1:11111 opens a port for this machine's user")
    limits = _limits(idle)
    if any_user and (door is None or door.path is not None):
        raise UsageError("--any-user is for a port: --local 127.0.0.1:PORT", hint="a Unix socket is this user's alone")
    if door is None:
        return _stdio(path, server, wait, limits)
    welcome = local.is_anybodys if any_user else local.is_ours

    def connecting(told: Told) -> Coroutine[Any, Any, str]:
        if any_user:
            told.say(f"warning: whoever has an account on this machine can use the session, at {door}")
        if server is not None:
            return run.connect(path, server, door, limits=limits, told=told, welcome=welcome)
        assert wait is not None  # noqa: S101  one of the two is given
        return run.wait(path, wait, door, limits=limits, told=told, welcome=welcome)

    def ready(place: dict[str, object]) -> str:
        return f"session {place['session']}: {place['server']} is behind {place['local']}"

    if why := run_until_signal(connecting, ready, as_json=as_json):
        ui.say(why)
    return 0


def _stdio(path: Path, server: Address | None, wait: Address | None, limits: Limits) -> int:
    from handfast.sessions import run
    from handfast.sessions.stdio import standard

    def carrying(told: Told) -> Coroutine[Any, Any, Ended]:
        if server is not None:
            return run.connect_once(path, server, plain, limits=limits, told=told)
        assert wait is not None  # noqa: S101  one of the two is given
        return run.wait_once(path, wait, plain, limits=limits, told=told)

    with standard() as plain:
        ended = run_until_signal(carrying, str, as_json=False)
        if ended is None:
            raise click.exceptions.Exit(0)  # by a signal: what nobody reads is not waited for
    if ended.error is not None:
        raise ended.error
    return 0


@click.command("phone")
@SESSION_FILE
@click.argument("to", type=ADDRESS, metavar="HOST:PORT")
@click.option("--every", type=DURATION, default="10s", show_default=True, help="How often to try.")
def phone_command(path: Path, to: Address, every: timedelta) -> None:
    """
    Tell the server, through the client that runs with this file, where to phone next; that client leaves then.

    The server keeps running, and phones until somebody of the session takes the call.
    """
    from handfast.sessions.connect import order

    order(path, to, every.total_seconds())
    ui.say(f"the server phones {to} now, every {every.total_seconds():g} s")


def _say(text: str) -> None:
    """Tell whoever still listens: a server that was started over ssh outlives the terminal that read its stderr."""
    with contextlib.suppress(OSError):
        ui.say(text)


def _limits(idle: timedelta | None) -> Limits:
    from handfast.sessions.engine import Limits

    return Limits(idle=idle.total_seconds() if idle is not None else None)


def run_until_signal(
    work: Callable[[Told], Coroutine[Any, Any, T]], say: Callable[[dict[str, object]], str], *, as_json: bool
) -> T | None:
    """Run until it ends or a signal comes. :raises HandfastError: why it could not go on."""
    import uvloop

    from handfast.adapters import logs
    from handfast.sessions.run import Told

    logs.configure(logging.WARNING)
    many_files()
    told = Told(lambda place: ui.emit_json(place) if as_json else _say(say(place)), _say)

    async def main() -> T | None:
        task = asyncio.ensure_future(work(told))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            return await task
        return None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())
