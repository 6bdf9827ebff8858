"""join, status, renew, explain: what a newcomer types."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast import config
from handfast.adapters.clock import SystemClock
from handfast.adapters.process import child_environment
from handfast.cli import ui
from handfast.cli.arguments import FILE, FOLDER, JSON, NAME, OUT, ROLE
from handfast.core.flow import Wish
from handfast.core.invitation import InvitationLine
from handfast.core.keys import format_pin
from handfast.core.names import Names
from handfast.errors import Fault, UsageError
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import LAYOUTS, layout_names

if TYPE_CHECKING:
    from handfast.newcomer.join import Joined, Published

SSH = click.option(
    "--ssh", is_flag=True, help="Publish the SSH host keys of this machine too, each signing for itself."
)
SSH_DIR = click.option("--ssh-dir", type=FOLDER, help="Where they are, if not in /etc/ssh; implies --ssh.")
NOTICEABLE = timedelta(seconds=60)  # of a clock's error: certificates are backdated by an hour


@click.command("join")
@OUT
@click.option("--invitation-file", type=FILE, help="Read the invitation from FILE.")
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
@JSON
def join_command(
    out: Path,
    invitation_file: Path | None,
    role: str | None,
    sans: tuple[str, ...],
    layouts: tuple[str, ...],
    owner: str | None,
    ssh: bool,
    ssh_dir: Path | None,
    ssh_ports: tuple[int, ...],
    as_json: bool,
) -> None:
    """
    Join with an invitation: from --invitation-file, HANDFAST_INVITATION, a systemd credential, stdin, or a prompt.

    Writes cert.pem chain.pem fullchain.pem privkey.pem trust.pem identity.json, and what --layout asks for.
    """
    from handfast.introducers.invitation import Invited
    from handfast.newcomer.join import join

    chosen = layout_names(("pem", *layouts))
    wish = Wish(config.parse_role(role) if role else None, Names.parse(sans))
    published = _host_keys(ssh_dir, ssh_ports) if ssh or ssh_dir or ssh_ports else None
    line = InvitationLine.parse(read_invitation(invitation_file))
    joined = join(
        Invited(line, wish), Keystore(out), layouts=chosen, owner=owner, now=SystemClock().now, published=published
    )
    if joined is None:
        ui.say(
            "this machine has joined with this invitation before, and renewed since; `handfast status` says until when"
        )
        if published is not None and "ssh_dir" not in Keystore(out).load().identity:
            ui.warn("its SSH host keys are not published: ask the operator for a new invitation")
    else:
        _tell(joined, out, line)
        _tell_published(published)
    if as_json:
        ui.emit_json(dict(Keystore(out).load().identity))


def _host_keys(directory: Path | None, ports: tuple[int, ...]) -> Published:
    from handfast.core.hosts import Place
    from handfast.newcomer import hostkeys
    from handfast.newcomer.join import Published

    place = directory or hostkeys.DEFAULT_DIRECTORY
    keys, remarks = hostkeys.load(place, ports=Place.parse((), ports=ports).ports)
    for remark in remarks:
        ui.warn(remark)
    return Published(keys, place.absolute())


def _tell(joined: Joined, out: Path, line: InvitationLine) -> None:
    who = joined.checked.identity
    ui.say(f"joined as {who.machine} ({who.role}), until {who.not_after:%Y-%m-%d %H:%M}Z, in {out}")
    ui.say(
        f"the registrar {joined.registrar!r} at {joined.address} is trusted because it proved a key under the root"
        f" whose hash came inside the invitation: {format_pin(line.pin)[:16]}…  (`handfast explain` has it all)"
    )
    if abs(joined.clock_offset) > NOTICEABLE:
        ui.warn(f"this machine's clock is {_off(joined.clock_offset)}: until it is set, it will misjudge its peers")


def _tell_published(published: Published | None) -> None:
    for signer in published.keys.signers if published else ():
        ui.say(f"published the SSH host key {signer.public.fingerprint} ({signer.public.algorithm})")


@click.command("status")
@OUT
@JSON
def status_command(out: Path, as_json: bool) -> int:
    """What this machine holds. Exit code 0 while it is valid, 3 when it has expired or nothing was joined."""
    from handfast.newcomer.renew import held

    holding = held(Keystore(out))
    now = SystemClock().now()
    who = holding.identity
    valid = who.not_before <= now < who.not_after
    state = "valid" if valid else ("expired" if now >= who.not_after else "not yet valid: is the clock right?")
    if as_json:
        about = dict(holding.material.identity)
        ui.emit_json(about | {"status": state.partition(":")[0], "due_at": holding.due_at.isoformat(), "out": str(out)})
    else:
        ui.emit(f"name      {who.machine}")
        ui.emit(f"role      {who.role}")
        ui.emit(f"names     {', '.join(who.names.texts()) or 'none'}")
        ui.emit(f"status    {state}")
        ui.emit(f"ends      {who.not_after:%Y-%m-%d %H:%M}Z ({_in(who.not_after - now)})")
        ui.emit(f"renewal   due {holding.due_at:%Y-%m-%d %H:%M}Z ({_in(holding.due_at - now)})")
        ui.emit(f"serial    {holding.serial:032x}")
        ui.emit(f"registrar {holding.material.identity.get('registrar')} at {', '.join(map(str, holding.addresses))}")
    return 0 if valid else 3


@click.command("renew")
@OUT
@click.option("--if-due", is_flag=True, help="Do nothing until the time for it has come (for timers).")
@click.option("--exec", "command", help="Run CMD in a shell after a change: reload what uses the certificate.")
@click.option("--install", is_flag=True, help="Write a systemd service and timer that do this, and start them.")
@click.option("--unit-dir", type=FOLDER, help="Where --install writes; nothing is started then.")
@SSH
@SSH_DIR
@JSON
def renew_command(
    out: Path,
    if_due: bool,
    command: str | None,
    install: bool,
    unit_dir: Path | None,
    ssh: bool,
    ssh_dir: Path | None,
    as_json: bool,
) -> None:
    """
    Get the successor of this machine's credential, with a new key.

    SSH host keys that it has published are published again. --ssh is for a machine that has not, of which the operator
    has entered a host key: it publishes the others.
    """
    from handfast.newcomer.renew import held, renew

    if (ssh or ssh_dir) and (if_due or install or unit_dir):
        raise UsageError("--ssh is for once, and not for timers", hint="say it alone: renewals then go on with it")
    keystore = Keystore(out)
    if install or unit_dir:
        from handfast.newcomer.timer import install_timer

        held(keystore)  # a timer for nothing would fail for ever
        for line in install_timer(out, command=command, unit_dir=unit_dir):
            ui.say(line)
        return
    clock = SystemClock()
    current = held(keystore)
    if if_due and clock.now() < current.due_at:
        ui.say(f"not due before {current.due_at:%Y-%m-%d %H:%M}Z")
    else:
        published = _host_keys(ssh_dir, ()) if ssh or ssh_dir else None
        current = renew(keystore, now=clock.now, publish=published, remark=ui.warn)
        ui.say(f"renewed {current.identity.machine}, until {current.identity.not_after:%Y-%m-%d %H:%M}Z")
        _tell_published(published)
        if command:
            _run_hook(command, out, current.identity.machine)
    if as_json:
        ui.emit_json(dict(current.material.identity))


@click.command("explain")
@OUT
def explain_command(out: Path) -> None:
    """Why this machine trusts and is trusted, in sentences."""
    from handfast.newcomer.explain import explain
    from handfast.newcomer.renew import held

    for sentence in explain(held(Keystore(out)), now=SystemClock().now()):
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


def _run_hook(command: str, out: Path, machine: str) -> None:
    # The operator's own command line, as in certbot's --deploy-hook; a shell is what they expect.
    environment = child_environment(HANDFAST_OUT=str(out.absolute()), HANDFAST_NAME=machine)
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, check=False, stdout=sys.stderr)
    if done.returncode:
        raise Fault(
            f"the new certificate is in place, but {shlex.quote(command)} ended with {done.returncode}",
            hint="run it by hand; the next renewal is not affected",
        )


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
