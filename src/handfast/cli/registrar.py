"""up, invite, list, show, revoke: what an operator types, on the registrar's machine or with an operator credential."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from handfast import config
from handfast.cli import ui
from handfast.cli.newcomer import FILE, FOLDER, JSON, ROLE
from handfast.core.invitation import Address
from handfast.core.names import network
from handfast.core.roles import Role

if TYPE_CHECKING:
    from handfast.core import views

DATA = click.option(
    "--data",
    type=FOLDER,
    default=config.data_directory,
    show_default="/var/lib/handfast for root, else under XDG_STATE_HOME",
    help="The registrar's data directory.",
)
IDENTITY = click.option(
    "--identity",
    type=FOLDER,
    help="Work at a distance, with the operator credential in this directory.",
)


class Operator(Protocol):
    """What an operator can do, here or at a distance."""

    def invite(self, request: views.InviteRequest) -> views.InviteAnswer: ...

    def list(self) -> list[views.MachineView]: ...

    def show(self, name: str) -> views.MachineView: ...

    def revoke(self, request: views.RevokeRequest) -> views.RevokeAnswer: ...


def _operator(data: Path, identity: Path | None, addresses: tuple[Address, ...] = ()) -> Operator:
    if identity is not None:
        from handfast.adapters.clock import SystemClock
        from handfast.newcomer.keystore import Keystore
        from handfast.newcomer.operate import RemoteOperator

        return RemoteOperator(Keystore(identity), now=SystemClock().now)
    from handfast.registrar.operator import LocalOperator
    from handfast.wiring import open_administration

    return LocalOperator(open_administration(data, addresses=addresses))


@click.command("up")
@DATA
@click.option("--listen", help="HOST:PORT for HTTPS; port 0 takes a free one.  [default: 0.0.0.0:7443]")
@click.option("--crl-listen", help="HOST:PORT for the CRL over plain HTTP.  [default: as --listen, port 7480]")
@click.option("--address", "addresses", multiple=True, help="HOST:PORT under which newcomers reach it (repeatable).")
@click.option("--config", "config_file", type=FILE, help="Instead of DATA/config.toml.")
@click.option("--passphrase-file", type=FILE, help="Encrypts the authority's keys at rest.")
@JSON
def up_command(
    data: Path,
    listen: str | None,
    crl_listen: str | None,
    addresses: tuple[str, ...],
    config_file: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """
    Run a registrar on this machine; the first run makes the authority.

    SIGTERM finishes what is in flight; SIGHUP reads the configuration again. With --json one line says when it is
    ready: {"url","pin","listen","pid"}.
    """
    from handfast.server.up import up
    from handfast.wiring import Overrides

    overrides = Overrides(
        listen=config.parse_listen(listen) if listen else None,
        crl_listen=config.parse_listen(crl_listen) if crl_listen else None,
        addresses=tuple(Address.parse(text) for text in addresses),
        config=config_file,
    )
    passphrase = config.secret_from("passphrase", file=passphrase_file)
    return up(data, overrides, passphrase=passphrase, ready=_ready(data, as_json))


def _ready(data: Path, as_json: bool) -> Callable[[dict[str, object]], None]:
    def ready(place: dict[str, object]) -> None:
        if as_json:
            ui.emit_json(place)
            return
        ui.say(f"registrar ready at {place['url']}, root {place['pin']}")
        ui.say(f"invite a machine: handfast invite NAME --data {data}")

    return ready


@click.command("invite")
@click.argument("name")
@DATA
@IDENTITY
@click.option("--role", type=ROLE, default="server", show_default=True)
@click.option("--san", "sans", multiple=True, help="A DNS name or IP address of it (repeatable).  [default: NAME]")
@click.option("--for", "lasting", default="1h", show_default=True, help="How long it is good: 90s, 15m, 1h, 7d.")
@click.option(
    "--uses",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="How many keys may use it; all get this one name.",
)
@click.option("--from", "sources", multiple=True, help="Only from this network, as CIDR (repeatable).")
@click.option("--address", "addresses", multiple=True, help="HOST:PORT of the registrar, if not as `up` announced it.")
@click.option("--qr", is_flag=True, help="Also draw it as a QR code, on stderr.")
@JSON
def invite_command(
    name: str,
    data: Path,
    identity: Path | None,
    role: str,
    sans: tuple[str, ...],
    lasting: str,
    uses: int,
    sources: tuple[str, ...],
    addresses: tuple[str, ...],
    qr: bool,
    as_json: bool,
) -> None:
    """
    Print an invitation for NAME: one line on stdout, nothing else.

    The line is a secret until it is used: whoever reads it first may join as NAME.
    """
    from handfast.core import views

    request = views.InviteRequest(
        machine=name,
        role=Role(role),
        seconds=int(config.duration(lasting) / timedelta(seconds=1)),
        names=list(sans),
        uses=uses,
        sources=[str(network(text)) for text in sources] or None,
    )
    operator = _operator(data, identity, tuple(Address.parse(text) for text in addresses))
    answer = operator.invite(request)
    if as_json:
        ui.emit_json(answer)
    else:
        ui.emit(answer.line)
    for remark in answer.remarks:
        ui.warn(remark)
    if qr:
        _draw(answer.line)


def _draw(line: str) -> None:
    import sys

    import segno

    segno.make(line, error="m", micro=False).terminal(out=sys.stderr, compact=True)


@click.command("list")
@DATA
@IDENTITY
@JSON
def list_command(data: Path, identity: Path | None, as_json: bool) -> None:
    """The machines this registrar knows, with what is alarming about them."""
    machines = _operator(data, identity).list()
    if as_json:
        ui.emit_json(machines)
        return
    rows = [
        [m.name, str(m.role or ""), m.status, m.not_after or "", f"{len(m.alarms)} ALARM" if m.alarms else ""]
        for m in machines
    ]
    ui.table(["name", "role", "status", "until", "alarms"], rows)
    alarming = [m.name for m in machines if m.alarms]
    if alarming:
        ui.warn(f"alarms for {', '.join(alarming)}: somebody else may hold a secret; see `handfast show {alarming[0]}`")


@click.command("show")
@click.argument("name")
@DATA
@IDENTITY
@JSON
def show_command(name: str, data: Path, identity: Path | None, as_json: bool) -> None:
    """One machine: credentials, invitations, alarms, history."""
    machine = _operator(data, identity).show(name)
    if as_json:
        ui.emit_json(machine)
        return
    ui.emit(f"{machine.name}: {machine.role or 'no role'}, {machine.status}")
    for alarm in machine.alarms:
        ui.emit(f"  ALARM       {alarm.at}  {alarm.kind.removeprefix('alarm.')}: {_fields(alarm)}")
    for held in machine.credentials:
        state = f"{held.status} ({held.revoked_reason})" if held.revoked_reason else held.status
        ui.emit(f"  credential  {held.serial}  {state}, {held.role}, until {held.not_after}, by {held.method}")
        ui.emit(f"              for {', '.join(held.names) or 'no network name'}; {'; '.join(held.why)}")
    for invitation in machine.invitations:
        bounds = f"{invitation.spent} of {invitation.uses} used, until {invitation.expires_at}"
        ui.emit(f"  invitation  {invitation.key_id}  {invitation.status}, {invitation.role}, {bounds}")
    for event in machine.history:
        ui.emit(f"  {event.at}  {event.kind}  {_fields(event)}")


def _fields(event: views.EventView) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(event.fields.items()))


@click.command("revoke")
@click.argument("what", metavar="NAME|SERIAL")
@DATA
@IDENTITY
@click.option(
    "--reason", required=True, help="keyCompromise, superseded, cessationOfOperation (RFC 5280), or your own words."
)
@JSON
def revoke_command(what: str, data: Path, identity: Path | None, reason: str, as_json: bool) -> None:
    """Take back all that NAME holds, or one SERIAL; renewal is refused at once and the CRL lists it."""
    from handfast.core import views

    answer = _operator(data, identity).revoke(views.RevokeRequest(what=what, reason=reason))
    if as_json:
        ui.emit_json(answer)
    for serial in answer.serials:
        ui.say(f"revoked {serial} ({reason})")
    if not answer.serials:
        ui.say(f"{what} held no credential; its open invitations are cancelled")
