"""session new, show, friend, export, invite, revoke: what the owner of a session types."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.cli import ui
from handfast.cli.arguments import ADDRESS, DURATION, FILE, FOLDER, JSON, LISTEN, MACHINE
from handfast.core.invitation import Address
from handfast.core.views import serial_text, time_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from handfast.server.session import SessionView
    from handfast.server.session_invite import Offered

DIRECTORY = click.option("--dir", "directory", type=FOLDER, required=True, help="The session's directory.")
WHO = click.argument("who", metavar="server|client|WHO", type=MACHINE)


@click.command("new")
@click.argument("name", type=MACHINE)
@click.option("--dir", "directory", type=FOLDER, required=True, help="Where it is made; must not exist yet.")
@click.option(
    "--for", "lasting", type=DURATION, default="30d", show_default=True, help="How long it lasts: 90m, 12h, 30d."
)
@JSON
def new_command(name: str, directory: Path, lasting: timedelta, as_json: bool) -> None:
    """
    Make a session NAME with the parties server and client.

    DIR holds its keys, and is for its owner alone. What makes others parties is `session invite` or `session export`.
    """
    from handfast.server import session

    _tell(session.new(name, directory, lifetime=lasting), as_json)


@click.command("show")
@DIRECTORY
@JSON
def show_command(directory: Path, as_json: bool) -> None:
    """The session's pin, its end, and all who can get in."""
    from handfast.server import session

    _tell(session.show(directory), as_json)


def _tell(view: SessionView, as_json: bool) -> None:
    if as_json:
        ui.emit_json(view)
        return
    ui.emit(f"session  {view.name}, {view.status}, until {view.until}")
    ui.emit(f"pin      {view.pin}")
    for each in view.parties:
        until = f", until {each.until}" if each.until is not None else ""
        several = f", {len(each.serials)} credentials" if len(each.serials) > 1 else ""
        alarms = f", {each.alarms} ALARM" if each.alarms else ""
        ui.emit(f"party    {each.name} ({each.role}): {each.status}{until}{several}{alarms}")


@click.command("friend")
@click.argument("who", type=MACHINE)
@DIRECTORY
def friend_command(who: str, directory: Path) -> None:
    """Add the client WHO; then invite it, or export its file."""
    from handfast.server import session

    session.friend(directory, who)
    ui.say(f"{who} is a client of the session: handfast session invite {who} --dir {directory}")


@click.command("export")
@WHO
@DIRECTORY
@click.option("-o", "--out", type=FILE, required=True, help="The file to write; must not exist yet.")
@JSON
def export_command(who: str, directory: Path, out: Path, as_json: bool) -> None:
    """
    Write the session file of a party: its new key, its certificate and the session's, mode 0600.

    Whoever can read it is that party. `session invite` does without copying a key.
    """
    from handfast.server import session

    made = session.export(directory, who, out)
    if as_json:
        until, serial = time_text(made.not_after), serial_text(made.serial)
        ui.emit_json({"name": made.name, "role": made.role, "serial": serial, "until": until, "file": str(out)})
    ui.say(f"wrote {out} for {made.name} ({made.role}), until {made.not_after:%Y-%m-%d %H:%M}Z: it holds a key")


@click.command("invite")
@WHO
@DIRECTORY
@click.option("--listen", type=LISTEN, help="HOST:PORT to serve it on.  [default: a free port of all addresses]")
@click.option(
    "--address", "addresses", type=ADDRESS, multiple=True, help="HOST:PORT under which it is reached (repeatable)."
)
@click.option(
    "--for", "lasting", type=DURATION, default="1h", show_default=True, help="How long it is good: 90s, 15m, 1h."
)
@JSON
def invite_command(
    who: str,
    directory: Path,
    listen: Address | None,
    addresses: tuple[Address, ...],
    lasting: timedelta,
    as_json: bool,
) -> None:
    """
    Print an invitation for a party, one line on stdout, and serve it until it was used.

    The line comes when it can be used. Ends with 0 when the party has joined, and with 3 when nobody did in time or
    this was interrupted; then the invitation is good for nobody.
    """
    from handfast.server import session_invite

    chosen = listen or session_invite.ANYWHERE
    serial = session_invite.invite(
        directory, who, lasting=lasting, offer=_offer(as_json), listen=chosen, addresses=addresses
    )
    ui.say(f"{who} has joined, with the credential {serial}")


def _offer(as_json: bool) -> Callable[[Offered], None]:
    def offer(offered: Offered) -> None:
        if as_json:
            ui.emit_json(
                {
                    "line": offered.line,
                    "name": offered.party,
                    "role": offered.role,
                    "listen": offered.listen,
                    "until": time_text(offered.until),
                }
            )
        else:
            ui.emit(offered.line)
        for remark in offered.remarks:
            ui.warn(remark)
        where = ", ".join(map(str, offered.addresses))
        ui.say(f"waiting at {where} until {offered.until:%H:%M:%S}Z: handfast session join -o FILE")

    return offer


@click.command("revoke")
@WHO
@DIRECTORY
@click.option(
    "--reason", default="privilegeWithdrawn", show_default=True, help="A name of RFC 5280, or your own words."
)
@JSON
def revoke_command(who: str, directory: Path, reason: str, as_json: bool) -> None:
    """
    Take back all that a party holds, and its open invitations.

    Programs of the session on this machine cut it within a second; others when they next meet one that knows.
    """
    from handfast.server import session

    serials = session.revoke(directory, who, reason=reason)
    if as_json:
        ui.emit_json({"serials": serials})
    for serial in serials:
        ui.say(f"revoked {serial} of {who} ({reason})")
    if not serials:
        ui.say(f"{who} held no credential; its open invitations are cancelled")
