"""up, invite, list, show, revoke: what an operator types, on the registrar's machine or with an operator credential."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
from click.core import ParameterSource

from handfast import config
from handfast.cli import ui
from handfast.cli.arguments import (
    ADDRESS,
    DATA,
    DURATION,
    FILE,
    FOLDER,
    IDENTITY,
    JSON,
    LISTEN,
    MACHINE,
    NAME,
    NETWORK,
    PASSPHRASE,
    ROLE,
)
from handfast.core.invitation import Address
from handfast.core.names import IPNetwork
from handfast.core.roles import Role
from handfast.core.sshleaf import evidence_words
from handfast.errors import UsageError

if TYPE_CHECKING:
    from handfast.core import views
    from handfast.core.secret import Secret
    from handfast.nifi.service import Adopted

_HASH = 64  # characters of a SHA-256 in hex


class Operator(Protocol):
    """What an operator can do, here or at a distance."""

    def invite(self, request: views.InviteRequest) -> views.InviteAnswer: ...

    def certificates(self) -> list[views.CertificateView]: ...

    def list(self) -> list[views.MachineView]: ...

    def show(self, name: str) -> views.MachineView: ...

    def revoke(self, request: views.RevokeRequest) -> views.RevokeAnswer: ...


def _operator(
    data: Path, identity: Path | None, addresses: tuple[Address, ...] = (), passphrase: Path | None = None
) -> Operator:
    if identity is not None:
        given = click.get_current_context().get_parameter_source
        for option in ("data", "addresses"):
            if given(option) is ParameterSource.COMMANDLINE:
                name = {"data": "--data", "addresses": "--address"}[option]
                raise UsageError(f"--identity and {name} exclude each other", hint="the registrar knows its own")
        from handfast.adapters.clock import SystemClock
        from handfast.newcomer.keystore import Keystore
        from handfast.newcomer.operate import RemoteOperator

        return RemoteOperator(Keystore(identity), now=SystemClock().now)
    from handfast.registrar.operator import LocalOperator
    from handfast.wiring import open_administration

    def ask() -> Secret | None:
        return config.secret_from("passphrase", file=passphrase)

    return LocalOperator(open_administration(data, addresses=addresses, passphrase=ask))


@click.command("up")
@DATA
@click.option("--listen", type=LISTEN, help="HOST:PORT for HTTPS; port 0 takes a free one.  [default: 0.0.0.0:7443]")
@click.option(
    "--crl-listen", type=LISTEN, help="HOST:PORT for the CRL over plain HTTP.  [default: as --listen, port 7480]"
)
@click.option(
    "--address", "addresses", type=ADDRESS, multiple=True, help="HOST:PORT under which newcomers reach it (repeatable)."
)
@click.option("--nifi-listen", type=LISTEN, help="HOST:PORT to serve NiFi's tls-toolkit clients on as well.")
@click.option(
    "--nifi-hostname", type=NAME, help="What NiFi's clients call it (their -c).  [default: the host of --address]"
)
@click.option(
    "--nifi-token-file", type=FILE, help="A token that all NiFi nodes share; `invite --nifi` makes better ones."
)
@click.option(
    "--from-nifi", type=FOLDER, help="Take over the CA of the tls-toolkit server in this directory, at the first start."
)
@click.option("--config", "config_file", type=FILE, help="Instead of DATA/config.toml.")
@PASSPHRASE
@JSON
def up_command(
    data: Path,
    listen: Address | None,
    crl_listen: Address | None,
    addresses: tuple[Address, ...],
    nifi_listen: Address | None,
    nifi_hostname: str | None,
    nifi_token_file: Path | None,
    from_nifi: Path | None,
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
        listen=listen,
        crl_listen=crl_listen,
        addresses=addresses,
        config=config_file,
        nifi={
            name: value
            for name, value in {
                "listen": nifi_listen,
                "hostname": nifi_hostname,
                "token_file": nifi_token_file,
            }.items()
            if value is not None
        },
        adopted=None if from_nifi is None else _taken_over(from_nifi),
        warn=ui.warn,
    )
    passphrase = config.secret_from("passphrase", file=passphrase_file)
    return up(data, overrides, passphrase=passphrase, ready=_ready(data, as_json))


def _taken_over(directory: Path) -> Adopted:
    """Read a toolkit server's CA; its token is not taken over: everybody who ever had it would still get in."""
    from handfast.nifi.migrate import read_toolkit
    from handfast.nifi.service import Adopted

    taken = read_toolkit(directory)
    for remark in taken.remarks:
        ui.warn(remark)
    return Adopted(taken.certificate, taken.key)


def _ready(data: Path, as_json: bool) -> Callable[[dict[str, object]], None]:
    def ready(place: dict[str, object]) -> None:
        if as_json:
            ui.emit_json(place)
            return
        ui.say(f"registrar ready at {place['url']}, root {place['pin']}")
        if "nifi" in place:
            ui.say(
                f"NiFi's tls-toolkit clients are served at {place['nifi']}: handfast invite NAME --nifi --data {data}"
            )
        ui.say(f"invite a machine: handfast invite NAME --data {data}")

    return ready


@click.command("invite")
@click.argument("name", type=MACHINE)
@DATA
@IDENTITY
@click.option("--role", type=ROLE, default="server", show_default=True)
@click.option(
    "--san", "sans", type=NAME, multiple=True, help="A DNS name or IP address of it (repeatable).  [default: NAME]"
)
@click.option(
    "--for", "lasting", type=DURATION, default="1h", show_default=True, help="How long it is good: 90s, 15m, 1h, 7d."
)
@click.option(
    "--uses",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="How many keys may use it; all get this one name.",
)
@click.option("--from", "sources", type=NETWORK, multiple=True, help="Only from this network, as CIDR (repeatable).")
@click.option(
    "--address",
    "addresses",
    type=ADDRESS,
    multiple=True,
    help="HOST:PORT of the registrar, if not as `up` announced it.",
)
@click.option("--nifi", is_flag=True, help="A one-time token for NiFi's tls-toolkit instead (its -t).")
@click.option("--dn", "subject", metavar="DN", help="With --nifi: the subject.  [default: CN=NAME, OU=NIFI]")
@click.option("--qr", is_flag=True, help="Also draw it as a QR code, on stderr.")
@PASSPHRASE
@JSON
def invite_command(
    name: str,
    data: Path,
    identity: Path | None,
    role: str,
    sans: tuple[str, ...],
    lasting: timedelta,
    uses: int,
    sources: tuple[IPNetwork, ...],
    addresses: tuple[Address, ...],
    nifi: bool,
    subject: str | None,
    qr: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """
    Print an invitation for NAME: one line on stdout, nothing else.

    The line is a secret until it is used: whoever reads it first may join as NAME.
    """
    from handfast.core import views

    given = click.get_current_context().get_parameter_source
    for option, flag in (("role", "--role"), ("addresses", "--address")):
        if nifi and given(option) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--nifi and {flag} exclude each other", hint="a node is client and server, of one CA")
    if subject is not None and not nifi:
        raise UsageError("--dn is for --nifi", hint="names are given with --san")
    request = views.InviteRequest(
        machine=name,
        role=Role.PEER if nifi else Role(role),
        seconds=int(lasting / timedelta(seconds=1)),
        method="nifi" if nifi else "invitation",
        subject=subject,
        names=list(sans),
        uses=uses,
        sources=[str(network) for network in sources] or None,
    )
    answer = _operator(data, identity, addresses, passphrase_file).invite(request)
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
@click.option("--ssh", is_flag=True, help="The SSH certificates that are not over instead.")
@JSON
def list_command(data: Path, identity: Path | None, ssh: bool, as_json: bool) -> None:
    """The machines this registrar knows, with what is alarming about them."""
    if ssh:
        _list_certificates(_operator(data, identity).certificates(), as_json=as_json)
        return
    machines = _operator(data, identity).list()
    if as_json:
        ui.emit_json(machines)
        return
    if not machines:
        ui.say("no machine was invited yet: handfast invite NAME")
    rows = [
        [m.name, str(m.role or ""), m.status, m.not_after or "", f"{m.alarm_count} ALARM" if m.alarms else ""]
        for m in machines
    ]
    ui.table(["name", "role", "status", "until", "alarms"], rows)
    alarming = [m.name for m in machines if m.alarms]
    if alarming:
        ui.warn(f"alarms for {', '.join(alarming)}: somebody else may hold a secret; see `handfast show {alarming[0]}`")


def _list_certificates(certificates: list[views.CertificateView], *, as_json: bool) -> None:
    if as_json:
        ui.emit_json(certificates)
        return
    if not certificates:
        ui.say("no SSH certificate is out: `handfast join --ssh` gets a machine one")
    certificate_rows(certificates)


def certificate_rows(certificates: list[views.CertificateView]) -> None:
    """Print a row for each SSH certificate."""
    rows = [
        [
            each.serial,
            each.kind,
            each.holder,
            ", ".join(each.principals),
            each.until,
            each.status,
            evidence_words(each.evidence),
        ]
        for each in certificates
    ]
    ui.table(["serial", "kind", "holder", "names", "until", "status", "known by"], rows)


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
    # Hashes are for programs: --json and `handfast log show` have them.
    return ", ".join(f"{key} {value}" for key, value in sorted(event.fields.items()) if len(value) < _HASH)


@click.command("revoke")
@click.argument("what", metavar="NAME|SERIAL|KEY-ID")
@DATA
@IDENTITY
@click.option(
    "--reason", required=True, help="keyCompromise, superseded, cessationOfOperation (RFC 5280), or your own words."
)
@click.option("--ssh", is_flag=True, help="SERIAL is an SSH certificate's, in decimal digits; see `list --ssh`.")
@JSON
def revoke_command(what: str, data: Path, identity: Path | None, reason: str, ssh: bool, as_json: bool) -> None:
    """
    Take back all that NAME holds, for SSH too, one SERIAL, or one invitation; at once, and on the lists.

    With the last credential of a machine, or of an operator, go the SSH certificates.
    """
    from handfast.core import views

    request = views.RevokeRequest(what=what, reason=reason, kind="ssh" if ssh else "credential")
    answer = _operator(data, identity).revoke(request)
    if as_json:
        ui.emit_json(answer)
    for serial in answer.serials:
        ui.say(f"revoked {serial} ({reason})")
    for fingerprint in answer.host_keys:
        ui.say(f"{what}: its SSH host key {fingerprint} is refused from now on")
    for serial in answer.ssh:
        ui.say(f"revoked SSH certificate {serial} ({reason}): hosts and users refuse it when they have the next list")
    if not (answer.serials or answer.ssh):
        ui.say(f"{what}: no credential to revoke; what else was open of it is taken back")
