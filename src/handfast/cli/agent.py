"""agent run, status: what a managed machine runs, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast import config
from handfast.cli import ui
from handfast.cli.arguments import DIALED, FILE, FOLDER, JSON, LISTEN
from handfast.cli.exit_codes import EXIT_CODES
from handfast.cli.lazy import Lazy
from handfast.core.invitation import Address
from handfast.errors import Unreachable, UsageError

if TYPE_CHECKING:
    from handfast.agent.run import Ready
    from handfast.agent.status import AgentView

AGENT_COMMANDS = {
    "run": ("agent", "be the agent of this machine, until SIGTERM"),
    "status": ("agent", "how this machine's agent is, and which services it manages"),
}
STATE = click.option(
    "--state",
    type=FOLDER,
    default=config.agent_directory,
    show_default="/var/lib/handfast-agent for root, else under XDG_STATE_HOME",
    help="Directory of this agent's key and certificate.",
)


@click.command("agent", cls=Lazy, table=AGENT_COMMANDS)
def agent_command() -> None:
    """A machine's agent: its controller introduces it, and then manages the services that the policy here names."""


@click.command("run")
@click.option(
    "--user-data",
    "place",
    metavar="FILE|auto|cmdline|nocloud|cloud-init|ec2|gce|openstack",
    default="auto",
    show_default=True,
    help="What `instance add` printed: a file, or where this machine was given it.",
)
@STATE
@click.option("--listen", type=LISTEN, help="HOST:PORT to listen on.  [default: as the user-data says]")
@click.option("--dial", type=DIALED, help="HOST:PORT, or https://HOST:PORT, of the controller to call; not to listen.")
@click.option(
    "--policy",
    type=FILE,
    show_default="/etc/handfast/agent/policy.toml, if it is there",
    help="Which services the controller may touch, and how.",
)
@click.option("--plain", is_flag=True, help="No TLS, for development: on loopback addresses only.")
@click.option("--password-file", type=FILE, help="With --plain: whoever knows it may call, and nobody else.")
@click.option("--legacy", is_flag=True, help="Take a key that the controller has made (`instance add --mode legacy`).")
@JSON
def run_command(
    place: str,
    state: Path,
    listen: Address | None,
    dial: Address | None,
    policy: Path | None,
    plain: bool,
    password_file: Path | None,
    legacy: bool,
    as_json: bool,
) -> int:
    """
    Be the agent of this machine: show its key, be introduced, and then do what the controller asks.

    Nothing that the policy does not name can be reached. A new agent says its key's fingerprint, in words too, on
    stderr and the console, and in Google's guest attributes, for `instance confirm`. SIGTERM finishes what is under
    way; SIGHUP reads the policy again. With --json one line says when it is ready: {"instance","stage","key","words",
    "listen" or "dial","pid"}. Exit code 2: a mistake in the policy; 3: a policy that others may write, or user-data of
    another machine or another authority.
    """
    import asyncio

    from handfast.adapters import logs
    from handfast.agent import run, sources
    from handfast.agent.plain import Plain
    from handfast.agent.policy import DEFAULT
    from handfast.core import instancedata

    if listen is not None and dial is not None:
        raise UsageError("--listen and --dial exclude each other", hint="who can reach whom? the one who cannot dials")
    if password_file is not None and not plain:
        raise UsageError("--password-file is for --plain", hint="over TLS certificates are what proves a controller")
    password = None if password_file is None else config.secret_from("password", file=password_file)
    logs.configure()
    found = sources.read(place, ui.warn)
    data = instancedata.read(found.text)
    work = run.run(
        data,
        state=state,
        policy=policy or DEFAULT,
        ready=_ready(data.instance, google=found.google, as_json=as_json),
        listen=listen,
        dial=dial,
        machine=found.instance_id,
        weaker=run.Weaker(Plain(password) if plain else None, legacy),
    )
    asyncio.run(work)  # uvloop would take 2 MB more, and bring no faster artifacts
    return 0


def _ready(name: str, *, google: bool, as_json: bool) -> Callable[[Ready], None]:
    def ready(told: Ready) -> None:
        from threading import Thread

        from handfast.adapters import console
        from handfast.agent import attributes
        from handfast.core import keyline
        from handfast.core.fingerprint_words import words
        from handfast.core.instance_views import fingerprint

        key = fingerprint(told.spki)
        if told.stage == "new":
            for line in (keyline.written(name, told.spki), keyline.in_words(name, told.spki)):
                ui.say(line)
                console.say(line)
            if google:  # a daemon: neither what follows nor the end waits for a cloud's service
                Thread(target=attributes.publish, args=(name, told.spki), daemon=True).start()
        place = {"dial": str(told.dials)} if told.listens is None else {"listen": str(told.listens)}
        if as_json:
            shown = {"key": key, "words": words(told.spki)}
            ui.emit_json({"instance": name, "stage": told.stage, **shown, **place, "pid": os.getpid()})
        else:
            ui.say(f"agent of {name}: {told.stage}, {_where(place.get('listen'), place.get('dial'))}")

    return ready


def _where(listen: str | None, dial: str | None) -> str:
    return f"listens at {listen}" if listen else f"dials {dial}"


@click.command("status")
@STATE
@JSON
def status_command(state: Path, as_json: bool) -> int:
    """Show how this machine's agent is. Exit code 4: it does not run, and only what it holds is shown."""
    from handfast.agent.status import current

    view = current(state)
    if as_json:
        ui.emit_json(view)
    else:
        _show(view)
    return 0 if view.running else EXIT_CODES[Unreachable]


def _show(view: AgentView) -> None:
    from handfast.adapters.clock import SystemClock
    from handfast.core.instance_views import ago

    where = _where(view.listen, view.dial) if view.running else "does not run"
    ui.emit(f"{view.instance}: {view.stage}, {where}")
    seen = view.controller_seen
    lines = {
        "id": view.instance_id,
        "key": view.key,
        "words": view.words,
        "credential": view.serial and f"{view.serial}, until {view.until}",
        "controller": f"{view.controller}, {ago(seen, SystemClock().now())} ago" if seen else "",
        "services": ", ".join(f"{each.name} {each.state or 'unknown'}" for each in view.services),
    }
    if view.running and not seen and view.stage != "plain":  # where nobody proves to be one
        lines["controller"] = "has not called since this agent was started"
    for key, text in lines.items():
        if text:
            ui.emit(f"  {key:<11} {text}")
