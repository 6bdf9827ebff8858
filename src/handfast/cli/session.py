"""session: the group; its commands are imported when they are called, as those of ``main``."""

from __future__ import annotations

import importlib

import click

# name -> (module, one line of help); the order is the order of a first day
SESSION = {
    "new": ("session_owner", "make a session: a small authority of its own, in a directory"),
    "show": ("session_owner", "its parties, what they hold, and until when"),
    "friend": ("session_owner", "add one more client, with a name and a key of its own"),
    "export": ("session_owner", "write a party's file, with a new key, to be copied to its machine"),
    "invite": ("session_owner", "better: print an invitation, and serve it until it was used"),
    "join": ("session_party", "on the other machine: paste the invitation, get the party's file"),
    "serve": ("session_tunnel", "on the server: bring clients to a service, waiting for them or phoning them"),
    "connect": ("session_tunnel", "on a client: a local port that leads to the service"),
    "phone": ("session_tunnel", "tell the server where to phone next, and leave"),
    "paraview": ("session_paraview", "ParaView through a session: pvserver, and clients for it"),
    "revoke": ("session_owner", "take back all that a party holds"),
}


class SessionCommands(click.Group):
    """A group whose commands are loaded from ``SESSION`` when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(SESSION)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return it."""
        if cmd_name not in SESSION:
            return None
        module = importlib.import_module(f"handfast.cli.{SESSION[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SESSION.items()])


EPILOG = """\b
Example:
  desk$    handfast session new paper --dir paper
  desk$    handfast session export client --dir paper -o client.pem
  desk$    handfast session invite server --dir paper
  cluster$ handfast session join -o server.pem
"""


@click.command("session", cls=SessionCommands, epilog=EPILOG)
def session_command() -> None:
    """One server, its clients, and nobody else between them."""
