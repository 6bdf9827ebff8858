"""session: the table of its commands."""

from __future__ import annotations

import click

from handfast.cli.lazy import Lazy

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


EPILOG = """\b
Example:
  desk$    handfast session new paper --dir paper
  desk$    handfast session export client --dir paper -o client.pem
  desk$    handfast session invite server --dir paper
  cluster$ handfast session join -o server.pem
"""


@click.command("session", cls=Lazy, table=SESSION, epilog=EPILOG)
def session_command() -> None:
    """One server, its clients, and nobody else between them."""
