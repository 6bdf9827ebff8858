"""session join: what a party of a session types."""

from __future__ import annotations

from pathlib import Path

import click

from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import FILE, JSON
from handfast.cli.newcomer import read_invitation
from handfast.core.flow import Wish
from handfast.core.invitation import InvitationLine
from handfast.core.views import serial_text, time_text


@click.command("join")
@click.option(
    "-o", "--out", type=FILE, default=Path("session.pem"), show_default=True, help="The session file to write."
)
@click.option("--invitation-file", type=FILE, help="Read the invitation from FILE.")
@JSON
def join_command(out: Path, invitation_file: Path | None, as_json: bool) -> None:
    """
    Join a session with an invitation, as `handfast join` takes it: from a file, the environment, stdin or a prompt.

    The key is made here and stays here. If the answer is lost, say it again with the same line. Any registrar's
    invitation will do, if it is for the role server or client: all of those of that registrar are then one session.
    """
    from handfast.introducers.invitation import Invited
    from handfast.server.session_join import join

    line = InvitationLine.parse(read_invitation(invitation_file))
    made = join(Invited(line, Wish()), out, now=SystemClock().now)
    if as_json:
        until, serial = time_text(made.not_after), serial_text(made.serial)
        about = {"session": made.session, "name": made.name, "role": made.role, "serial": serial, "until": until}
        ui.emit_json(about | {"file": str(out)})
    ui.say(
        f"joined the session {made.session} as {made.name} ({made.role}), until {made.not_after:%Y-%m-%d %H:%M}Z,"
        f" in {out}"
    )
