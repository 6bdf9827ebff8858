"""instance add, list, show, place, confirm, release, remove: managed machines, from their user-data to their end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast import config
from handfast.cli import ui
from handfast.cli.arguments import ADDRESS, DATA, DURATION, FILE, JSON, MACHINE, Parsed, dialed
from handfast.cli.instance_show import ask_where, done, show, views_of, where
from handfast.cli.lazy import Lazy
from handfast.core.instancedata import check_instance_id
from handfast.core.instances import Mode
from handfast.core.invitation import Address
from handfast.errors import UsageError

if TYPE_CHECKING:
    from handfast.core.instances import Instance
    from handfast.core.secret import Secret
    from handfast.registrar.instances import Instances

INSTANCE_COMMANDS = {
    "add": ("instance", "print the user-data of a new instance: a secret for its whole time"),
    "list": ("instance", "the instances, with what each is doing and why"),
    "show": ("instance", "one instance: where it is, which key it has, what was met instead"),
    "watch": ("instance_watch", "be their controller: introduce them, and ask how they are"),
    "services": ("instance_operate", "the services of an instance, and how each is"),
    "start": ("instance_operate", "start a service there"),
    "stop": ("instance_operate", "stop a service there"),
    "restart": ("instance_operate", "restart a service there"),
    "configure": ("instance_operate", "write a service's configuration there, and have it checked and taken"),
    "deploy": ("instance_artifacts", "bring a file to a service there, or have it fetched"),
    "artifacts": ("instance_artifacts", "the files that were deployed to a service there"),
    "undeploy": ("instance_artifacts", "remove a file that was deployed to a service there"),
    "logs": ("instance_operate", "a service's logs, their ends, and what is added"),
    "place": ("instance", "say where an instance listens"),
    "confirm": ("instance_confirm", "say which key an instance has, as its console or its cloud shows it"),
    "release": ("instance", "have an instance tried again that was quarantined or has failed"),
    "remove": ("instance", "forget an instance, and take back all that it holds"),
}
INSTANCE_ID = Parsed("id", check_instance_id)
CALLED = Parsed("host:port", lambda text: dialed(text) if text else "")


@click.command("instance", cls=Lazy, table=INSTANCE_COMMANDS)
def instance_command() -> None:
    """Managed machines: a controller introduces them when they boot, and from then on knows whom it speaks to."""


@click.command("add")
@click.argument("name", type=MACHINE)
@click.option("--address", type=ADDRESS, help="HOST:PORT where its agent will listen; else `place` says so later.")
@click.option(
    "--dial",
    type=CALLED,
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="It has no address: its agent dials the controller, also https://HOST:PORT.  [default: as [instances] listen]",
)
@DATA
@click.option(
    "--instance-id", type=INSTANCE_ID, help="The cloud's id, where it is known.  [default: handfast-UUID, a new one]"
)
@click.option(
    "--require",
    type=click.Choice(["secret", "secret+fingerprint"]),
    default="secret",
    show_default=True,
    help="secret+fingerprint: somebody has to `confirm` its key as well, before anything is asked of it.",
)
@click.option(
    "--mode",
    type=click.Choice([each.value for each in Mode]),
    default=Mode.INTRODUCTION.value,
    show_default=True,
    help="legacy: the controller makes its key, and sends it to whoever answers. plain: no TLS, on loopback only.",
)
@click.option("--password-file", type=FILE, help="With --mode plain: the password of that agent, which is kept.")
@click.option(
    "--for", "lasting", type=DURATION, default="1d", show_default=True, help="How long its secret is good: 15m, 1h, 7d."
)
@click.option(
    "--registrar", type=ADDRESS, help="HOST:PORT of the registrar, if not as `up` announced it.", metavar="HOST:PORT"
)
@click.option("--format", "form", type=click.Choice(["cloud-init", "json"]), default="cloud-init", show_default=True)
def add_command(
    name: str,
    address: Address | None,
    dial: Address | str | None,
    data: Path,
    instance_id: str | None,
    require: str,
    mode: str,
    password_file: Path | None,
    lasting: timedelta,
    registrar: Address | None,
    form: str,
) -> None:
    """
    Print the user-data with which to launch NAME, and nothing else on stdout.

    It says whom the instance may obey, and has a secret that is good once. Until its time is over,
    whoever reads it may pose as the instance until that is introduced, and raise an alarm about it afterwards; nobody
    can pose as the controller by it. The first time the controller's authority is made, as `up` would.
    """
    from handfast.controller.userdata import cloud_config
    from handfast.core.instancedata import written
    from handfast.registrar.instances import Wanted

    if address is not None and dial is not None:
        raise UsageError("--address and --dial exclude each other", hint="an instance that dials has no address")
    if password_file is not None and mode != Mode.PLAIN.value:
        raise UsageError("--password-file is for --mode plain", hint="over TLS certificates prove who calls")
    instances = _opened(data, registrar)
    if dial == "":
        dial = _called_at(data, instances)
    wanted = Wanted(
        name=name,
        lasting=lasting,
        instance_id=instance_id,
        address=address,
        dials=dial if isinstance(dial, Address) else None,
        needs_key=require != "secret",
        mode=Mode(mode),
    )
    password = None if password_file is None else _password(password_file)
    made, instance = instances.add(wanted)
    if password is not None:
        from handfast.controller.passwords import keep_password

        keep_password(data, instance.name, password)
    ui.emit((written(made) if form == "json" else cloud_config(made)).rstrip("\n"))
    _say_what_follows(instance, data)


def _password(file: Path) -> Secret | None:
    from handfast.core.agentjson import check_password

    password = config.secret_from("password", file=file)
    if password is not None:
        check_password(password)
    return password


def _say_what_follows(instance: Instance, data: Path) -> None:
    if instance.mode is not Mode.PLAIN:  # where nothing is proved by it
        ui.warn(
            f"this is a secret until {instance.deadline:%Y-%m-%d %H:%M}Z: whoever reads it may pose as {instance.name}"
            " until that is introduced, and raise an alarm afterwards"
        )
    if instance.address is None and not instance.dials:
        ui.say(f"when it is launched: handfast instance place {instance.name} HOST:7575 --data {data}")
    if instance.needs_key:
        shows = f"handfast instance confirm {instance.name} --fingerprint … --data {data}"
        ui.say(f"when its console or its cloud shows its key: {shows}")
    if warning := _WEAKER.get(instance.mode):
        ui.warn(warning)


_WEAKER = {
    Mode.LEGACY: "legacy: the controller makes its key, and sends it to whoever answers first at its address, who is"
    " the instance for it then; only --require secret+fingerprint closes that",
    Mode.PLAIN: "plain: no TLS, no introduction, for development on this machine: nothing proves who answers",
}


def _opened(data: Path, registrar: Address | None) -> Instances:
    """Return the instances of a data directory; the first time, make the controller's authority."""
    from handfast.wiring import make_authority, open_instances

    if make_authority(data, passphrase=config.secret_from("passphrase")):
        ui.say(f"there was no controller in {str(data)!r}: its authority was made; `handfast up --data {data}` runs it")
    return open_instances(data, addresses=() if registrar is None else (registrar,))


def _called_at(data: Path, instances: Instances) -> Address:
    from handfast.config.instances import called_at
    from handfast.config.settings import load
    from handfast.wiring import CONFIG

    return called_at(load(data / CONFIG).instances, instances.administration.addresses)


@click.command("list")
@DATA
@JSON
def list_command(data: Path, as_json: bool) -> None:
    """List the instances, with what each is doing, and why."""
    from handfast.core.instance_views import ago
    from handfast.wiring import open_instances

    instances = open_instances(data)
    now = instances.administration.clock.now()
    views = views_of(data, instances, instances.all(), at=now)
    if as_json:
        ui.emit_json(views)
        return
    if not views:
        ui.say("no instances: handfast instance add NAME")
    rows = [
        [each.name, each.state, "" if each.since is None else ago(each.since, now), where(each), each.reason]
        for each in views
    ]
    ui.table(["name", "state", "for", "where", "why"], rows)
    bad = [each.name for each in views if each.state == "quarantined"]
    if bad:
        ui.warn(f"quarantined: {', '.join(bad)}: find out who answered there; see `handfast instance show {bad[0]}`")
    ask_where(views, data)
    if views and not any(each.watched for each in views):
        ui.say("nobody watches them: handfast instance watch, or [instances] watch = true for `up`")


@click.command("show")
@click.argument("name", type=MACHINE)
@DATA
@JSON
def show_command(name: str, data: Path, as_json: bool) -> None:
    """Show one instance: where it is, which key it has, and what was met instead."""
    from handfast.wiring import open_instances

    instances = open_instances(data)
    (view,) = views_of(data, instances, [instances.one(name)], at=instances.administration.clock.now())
    if as_json:
        ui.emit_json(view)
        return
    show(view)
    ask_where([view], data)


@click.command("place")
@click.argument("name", type=MACHINE)
@click.argument("address", type=ADDRESS)
@DATA
@JSON
def place_command(name: str, address: Address, data: Path, as_json: bool) -> None:
    """Say that the agent of NAME listens at ADDRESS (HOST:PORT). What it is is proved there all the same."""
    from handfast.wiring import open_instances

    instances = open_instances(data)
    done(instances, instances.place(name, address), data, as_json=as_json)


@click.command("release")
@click.argument("name", type=MACHINE)
@click.option("--reason", required=True, help="What you have found out, for the log.")
@DATA
@JSON
def release_command(name: str, reason: str, data: Path, as_json: bool) -> None:
    """Have NAME tried again, which was quarantined or has failed. Find out first who answered in its place."""
    from handfast.wiring import open_instances

    instances = open_instances(data)
    done(instances, instances.release(name, reason=reason), data, as_json=as_json)


@click.command("remove")
@click.argument("name", type=MACHINE)
@click.option("--reason", default="removed", show_default=True, help="Why, for the log.")
@DATA
@JSON
def remove_command(name: str, reason: str, data: Path, as_json: bool) -> None:
    """Forget NAME: its secret, its credentials and its SSH certificates are good for nothing from now on."""
    from handfast.controller.passwords import forget
    from handfast.wiring import open_instances

    instances = open_instances(data)
    (was,) = views_of(data, instances, [instances.one(name)], at=instances.administration.clock.now())
    gone = instances.remove(name, reason=reason)
    forget(data, gone.name)
    if as_json:
        ui.emit_json(was)
    else:
        ui.say(f"{gone.name}: forgotten; what it held is revoked")
