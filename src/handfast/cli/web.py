"""web: the registrar's pages for people, on loopback."""

from __future__ import annotations

from pathlib import Path

import click

from handfast.cli import ui
from handfast.cli.arguments import DATA


@click.command("web")
@DATA
@click.option("--no-browser", is_flag=True, help="Only print the link; any user of this machine may open it, once.")
def web_command(data: Path, no_browser: bool) -> int:
    """
    Show the machines and their SSH host keys in a browser on this machine.

    Prints a link, one line on stdout: it is a secret, and good once. Serves on loopback until SIGINT or SIGTERM. From
    elsewhere, forward its port under the same number: ssh -L PORT:127.0.0.1:PORT.
    """
    from handfast.adapters.browser import open_link
    from handfast.config.settings import load
    from handfast.server.pages import Pages
    from handfast.server.web import serve
    from handfast.wiring import CONFIG, open_administration

    administration = open_administration(data)
    accept = load(data / CONFIG).rules.ssh.accept
    pages = Pages(administration.ledger, administration.clock, accept)

    def browse(link: str) -> bool:
        opened = not no_browser and open_link(link)
        ui.say("opened in your browser" if opened else "open the link in a browser: it is good once, and a secret")
        ui.say("Ctrl-C ends it")
        return opened

    return serve(pages, ready=ui.emit, browse=browse)
