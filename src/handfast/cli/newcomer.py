"""join, status, explain: what a newcomer types."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast import config
from handfast.adapters.clock import SystemClock
from handfast.cli import join_hostkey, join_x5c, ssh_certificates, ui
from handfast.cli.arguments import FILE, FOLDER, JSON, NAME, OUT, ROLE
from handfast.core.flow import Wish
from handfast.core.invitation import InvitationLine
from handfast.core.keys import format_pin
from handfast.core.names import Names
from handfast.errors import HandfastError, NotFound, UsageError
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import LAYOUTS, layout_names

if TYPE_CHECKING:
    from handfast.cli.ssh_certificates import Installing
    from handfast.core.invitation import Address
    from handfast.core.names import IPAddress
    from handfast.core.ports import FirstWay
    from handfast.newcomer.join import Joined, Published

SSH = click.option(
    "--ssh", is_flag=True, help="Publish the SSH host keys of this machine too, each signing for itself."
)
SSH_DIR = click.option("--ssh-dir", type=FOLDER, help="Where they are, if not in /etc/ssh; implies --ssh.")
_CAME = {"invitation": "inside the invitation"}  # else it was typed
NOTICEABLE = timedelta(seconds=60)  # of a clock's error: certificates are backdated by an hour


@click.command("join")
@OUT
@click.option("--invitation-file", type=FILE, help="Read the invitation from FILE.")
@join_x5c.X5C
@join_hostkey.options
@click.option("--role", type=ROLE, help="Insist on this role.")
@click.option("--san", "sans", type=NAME, multiple=True, help="Insist on exactly these names (repeatable).")
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    help=f"Also write the files that a program expects: {', '.join(LAYOUTS)} (repeatable).",
)
@click.option("--owner", help="User who may read the key (as root): the service that uses it.")
@SSH
@SSH_DIR
@click.option("--ssh-port", "ssh_ports", type=int, multiple=True, help="Port of its sshd, if not 22 (repeatable).")
@click.option("--install", is_flag=True, help="Have sshd show its SSH certificates, and systemd renew them.")
@ssh_certificates.install_options
@JSON
def join_command(
    out: Path,
    invitation_file: Path | None,
    x5c: join_x5c.Given | None,
    ssh_hostkey: tuple[Address, bytes] | None,
    names: tuple[str, ...],
    addresses: tuple[IPAddress, ...],
    role: str | None,
    sans: tuple[str, ...],
    layouts: tuple[str, ...],
    owner: str | None,
    ssh: bool,
    ssh_dir: Path | None,
    ssh_ports: tuple[int, ...],
    install: bool,
    sshd_config: Path | None,
    trust_users: bool,
    as_json: bool,
) -> None:
    """
    Join with an invitation: from --invitation-file, HANDFAST_INVITATION, a systemd credential, stdin, or a prompt.

    Or with --x5c: then this machine is what another authority's certificate says it is. Or with --ssh-hostkey, for SSH
    certificates alone: then it is what answers at its names and addresses.

    Writes cert.pem chain.pem fullchain.pem privkey.pem trust.pem identity.json, and what --layout asks for.
    """
    others = join_hostkey.flags(
        invitation_file=invitation_file, x5c=x5c, role=role, san=sans, layout=layouts, owner=owner, ssh=ssh
    )
    ssh = ssh or bool(ssh_dir or ssh_ports)
    if install and not (ssh or ssh_hostkey):
        raise UsageError("--install is for SSH certificates", hint="with --ssh, or --ssh-hostkey")
    asked = ssh_certificates.installing(install, trust_users, sshd_config)
    challenge = join_hostkey.given(ssh_hostkey, names, addresses, ssh_ports, ssh_dir, others=others)
    if challenge is not None:
        join_hostkey.join(challenge, Keystore(out), asked, as_json=as_json)
    else:
        chosen = layout_names(("pem", *layouts))
        if x5c is not None and (invitation_file or sans):
            raise UsageError("--x5c needs no invitation, and its names are in the certificate", hint="leave those out")
        published = host_keys(ssh_dir, ssh_ports) if ssh else None
        way = _invited(invitation_file, role, sans) if x5c is None else join_x5c.way(x5c, role)
        _join(way, out, published, asked, layouts=chosen, owner=owner)
        if as_json:
            keystore = Keystore(out)
            ui.emit_json(dict(keystore.load().identity) | ssh_certificates.view(ssh_certificates.held_of(keystore)))
    if asked is not None:
        ssh_certificates.keep_fresh(out, asked)


def _join(
    way: FirstWay,
    out: Path,
    published: Published | None,
    asked: Installing | None,
    *,
    layouts: tuple[str, ...],
    owner: str | None,
) -> None:
    from handfast.newcomer.join import join

    now, keystore = SystemClock().now, Keystore(out)
    joined = join(way, keystore, layouts=layouts, owner=owner, now=now, published=published, remark=ui.warn)
    if joined is None:
        invited = way.method in _CAME
        what = "invitation" if invited else "certificate"
        ui.say(f"this machine has joined with this {what} before, and renewed since; `handfast status` says until when")
        if published is not None and "ssh_dir" not in keystore.load().identity:
            again = "ask the operator for a new invitation" if invited else "that takes a new certificate"
            ui.warn(f"its SSH host keys are not published: {again}")
    else:
        _tell(joined, out, way)
        tell_published(published)
    if published is not None:
        _certify(joined, keystore, published, asked)


def _invited(file: Path | None, role: str | None, sans: tuple[str, ...]) -> FirstWay:
    from handfast.introducers.invitation import Invited

    wish = Wish(config.parse_role(role) if role else None, Names.parse(sans))
    return Invited(InvitationLine.parse(read_invitation(file)), wish)


def host_keys(directory: Path | None, ports: tuple[int, ...]) -> Published:
    """Read the SSH host keys that are to be published. :raises HandfastError: as ``hostkeys.load``."""
    from handfast.core.hosts import Place
    from handfast.newcomer import hostkeys
    from handfast.newcomer.join import Published

    place = directory or hostkeys.DEFAULT_DIRECTORY
    keys, remarks = hostkeys.load(place, ports=Place.parse((), ports=ports).ports)
    for remark in remarks:
        ui.warn(remark)
    return Published(keys, place.absolute())


def _tell(joined: Joined, out: Path, way: FirstWay) -> None:
    who = joined.checked.identity
    ui.say(f"joined as {who.machine} ({who.role}), until {who.not_after:%Y-%m-%d %H:%M}Z, in {out}")
    ui.say(
        f"the registrar {joined.registrar!r} at {joined.address} is trusted because it proved a key under the root"
        f" whose hash came {_CAME.get(way.method, 'with the command')}: {format_pin(way.pin)[:16]}…"
        "  (`handfast explain` has it all)"
    )
    if abs(joined.clock_offset) > NOTICEABLE:
        ui.warn(f"this machine's clock is {_off(joined.clock_offset)}: until it is set, it will misjudge its peers")


def tell_published(published: Published | None) -> None:
    """Say which SSH host keys were published."""
    for signer in published.keys.signers if published else ():
        ui.say(f"published the SSH host key {signer.public.fingerprint} ({signer.public.algorithm})")


def _certify(joined: Joined | None, keystore: Keystore, published: Published, asked: Installing | None) -> None:
    """
    Keep SSH certificates that came along, and install them where that was asked for.

    Without that, what goes wrong is a warning: the credential is there, and joining is done.

    :raises HandfastError: with ``asked``: there is nothing to install, or it could not be.
    """
    from handfast.newcomer.certificates import AGAIN
    from handfast.newcomer.renew import held
    from handfast.newcomer.ssh_state import SshHeld

    credential, before = held(keystore), ssh_certificates.held_of(keystore)
    try:
        certified = joined.certified if joined is not None else None
        if isinstance(certified, HandfastError):
            raise certified
        if certified is not None:
            ports = published.keys.ports
            made = SshHeld(certified, credential.addresses, credential.pin, published.directory, ports)
            ssh_certificates.finish(keystore, made, asked)
        elif asked is not None and before is None:
            ssh_certificates.first(keystore, credential, published.directory, asked)
        elif asked is not None and before is not None:
            ssh_certificates.renew(keystore, before, if_due=True, asked=asked)
    except HandfastError as error:
        if asked is not None:
            raise
        ui.warn(f"joined, and without SSH certificates in place: {error.message}; {error.hint or AGAIN}")


@click.command("status")
@OUT
@JSON
def status_command(out: Path, as_json: bool) -> int:
    """What this machine holds. Exit code 0 while it is valid, 3 when it has expired or nothing was joined."""
    keystore, now = Keystore(out), SystemClock().now()
    ssh = ssh_certificates.held_of(keystore)
    try:
        code, about = _credential(out, now, as_json=as_json)
    except NotFound:
        if ssh is None:
            raise
        code, about = 0 if now < ssh.ends else 3, {"out": str(out)}
    if as_json:
        ui.emit_json(about | ssh_certificates.view(ssh))
    elif ssh is not None:
        for line in ssh_certificates.lines(ssh, now):
            ui.emit(line)
    return code


def _credential(out: Path, now: datetime, *, as_json: bool) -> tuple[int, dict[str, object]]:
    from handfast.newcomer.renew import held

    holding = held(Keystore(out))
    who = holding.identity
    valid = who.not_before <= now < who.not_after
    state = "valid" if valid else ("expired" if now >= who.not_after else "not yet valid: is the clock right?")
    about = dict(holding.material.identity) | {
        "status": state.partition(":")[0],
        "due_at": holding.due_at.isoformat(),
        "out": str(out),
    }
    if not as_json:
        ui.emit(f"name      {who.machine}")
        ui.emit(f"role      {who.role}")
        ui.emit(f"names     {', '.join(who.names.texts()) or 'none'}")
        ui.emit(f"status    {state}")
        ui.emit(f"ends      {who.not_after:%Y-%m-%d %H:%M}Z ({_in(who.not_after - now)})")
        ui.emit(f"renewal   due {holding.due_at:%Y-%m-%d %H:%M}Z ({_in(holding.due_at - now)})")
        ui.emit(f"serial    {holding.serial:032x}")
        ui.emit(f"registrar {holding.material.identity.get('registrar')} at {', '.join(map(str, holding.addresses))}")
    return (0 if valid else 3), about


@click.command("explain")
@OUT
def explain_command(out: Path) -> None:
    """Why this machine trusts and is trusted, in sentences."""
    from handfast.newcomer.explain import explain
    from handfast.newcomer.renew import held

    keystore = Keystore(out)
    ssh = ssh_certificates.held_of(keystore)
    try:
        sentences = explain(held(keystore), now=SystemClock().now())
    except NotFound:
        if ssh is None:
            raise
        sentences = []
    for sentence in [*sentences, *(ssh_certificates.sentences(ssh) if ssh is not None else ())]:
        ui.emit(sentence)


def read_invitation(file: Path | None) -> str:
    """Return the line from the first source that has one. :raises UsageError: none has."""
    secret = config.secret_from("invitation", file=file, warn=ui.warn)
    if secret is not None:
        return secret.reveal().decode("ascii", "replace")
    if sys.stdin.isatty():
        return str(click.prompt("invitation", hide_input=True, err=True, prompt_suffix=": "))
    text = sys.stdin.read(4096)
    if not text.strip():
        raise UsageError(
            "no invitation was given", hint="use --invitation-file, HANDFAST_INVITATION, stdin, or run it on a terminal"
        )
    return text


def _off(offset: timedelta) -> str:
    return f"{_span(abs(offset))} {'behind' if offset > timedelta(0) else 'ahead'}"


def _in(span: timedelta) -> str:
    return f"in {_span(span)}" if span > timedelta(0) else f"{_span(-span)} ago"


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
