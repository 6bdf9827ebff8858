"""instance watch: the controller in the foreground, one line for each change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from handfast import config
from handfast.adapters.clock import SystemClock
from handfast.adapters.process import many_files
from handfast.cli import ui
from handfast.cli.arguments import DATA, FILE, PASSPHRASE
from handfast.core.instance_views import InstanceView, instance_view
from handfast.core.instances import Instance, State

if TYPE_CHECKING:
    from handfast.wiring import Service


class ChangeView(msgspec.Struct, frozen=True):
    """A change: what the instance ``was``, and what it is now."""

    at: str
    was: str
    instance: InstanceView


@click.command("watch")
@DATA
@click.option("--config", "config_file", type=FILE, help="Instead of DATA/config.toml.")
@PASSPHRASE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value for each change, a line each.")
def watch_command(data: Path, config_file: Path | None, passphrase_file: Path | None, as_json: bool) -> int:
    """
    Introduce the instances when they answer, and ask how they are, until SIGTERM; a line for each change of state.

    `up` does the same where its configuration says [instances] watch = true. One process at a time does.
    """
    from handfast.adapters import logs
    from handfast.wiring import Overrides, open_service, require_data

    require_data(data)
    logs.configure()
    many_files()
    passphrase = config.secret_from("passphrase", file=passphrase_file)
    service = open_service(data, Overrides(config=config_file, warn=ui.warn), passphrase=passphrase)
    try:
        asyncio.run(_watch(service, _json if as_json else _line))
    finally:
        service.ledger.close()
    return 0


async def _watch(service: Service, tell: Callable[[Instance, Instance], None]) -> None:
    from handfast.adapters.signals import signals
    from handfast.controller.control import Controller

    async with service.ledger.in_loop():
        with signals() as asked:
            watching = asyncio.ensure_future(Controller(lambda: service, tell=tell, begun=_begun).run())
            ended = asyncio.ensure_future(asked.get())
            try:
                await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()
            finally:
                for task in (watching, ended):
                    task.cancel()
                await asyncio.gather(watching, ended, return_exceptions=True)


def _begun() -> None:
    ui.say("watching the instances; SIGTERM ends it")


def _line(before: Instance, after: Instance) -> None:
    why = f": {after.reason}" if after.reason else ""
    was = "" if before.state is after.state else f"{before.state.value} -> "
    ui.emit(f"{_now()}  {after.name}  {was}{after.state.value}{why}")
    if after.state is State.QUARANTINED:
        ui.warn(f"{after.name} is quarantined: {after.reason}; see `handfast instance show {after.name}`")


def _json(before: Instance, after: Instance) -> None:
    ui.emit_json(ChangeView(_now(), before.state.value, instance_view(after, watched=True)))


def _now() -> str:
    return SystemClock().now().strftime("%Y-%m-%dT%H:%M:%SZ")
