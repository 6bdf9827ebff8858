"""session paraview server, client: what a scientist types on the cluster and on the desk."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from handfast.adapters.clock import SystemClock
from handfast.adapters.files import write_atomic
from handfast.adapters.process import OURSELVES
from handfast.cli import ui
from handfast.cli.arguments import ADDRESS, DURATION, FILE, JSON, LISTEN
from handfast.cli.session_tunnel import SESSION_FILE, run_until_signal
from handfast.core.invitation import Address
from handfast.errors import UsageError

EPILOG = """\b
Example:
  cluster$ handfast session paraview server --session server.pem --listen cluster.lan:7500
  desk$    handfast session paraview client --session client.pem cluster.lan:7500 --gui
"""
_NATIVE = "Use ParaView's own reverse connection (csrc): pvserver opens no port at all. On both ends."


@click.group("paraview", epilog=EPILOG)
def paraview_command() -> None:
    """ParaView through a session: whoever reaches pvserver runs code as you, so only the session does."""


@paraview_command.command("server", short_help="on the cluster: pvserver, for the session alone")
@SESSION_FILE
@click.option("--listen", type=LISTEN, help="HOST:PORT to wait for clients on (forward).")
@click.option("--dial", type=ADDRESS, help="HOST:PORT of a client that waits (reverse).")
@click.option("--every", type=DURATION, default="5s", show_default=True, help="With --dial: how often to try.")
@click.option("--pvserver", default="pvserver", show_default=True, help="The program, where it is not on PATH.")
@click.option("--native-reverse", is_flag=True, help=_NATIVE)
@click.option("--keep-network", is_flag=True, help="Leave pvserver in this machine's network, if it needs it.")
@click.option("--i-accept-open-port", "open_port", is_flag=True, help="Let everybody reach pvserver, if need be.")
@JSON
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- PVSERVER FLAGS]")
def server_command(
    path: Path,
    listen: Address | None,
    dial: Address | None,
    every: timedelta,
    pvserver: str,
    native_reverse: bool,
    keep_network: bool,
    open_port: bool,
    as_json: bool,
    extra: tuple[str, ...],
) -> int:
    """
    Start pvserver where nobody else reaches it, and bring the session's clients to it.

    The pipeline stays when a client leaves, and whoever comes next finds it; with --native-reverse it does not.
    """
    from handfast.sessions import paraview_run

    if (listen is None) == (dial is None):
        raise UsageError("give --listen or --dial", hint="who can reach whom? the one who cannot be reached dials")
    wanted = paraview_run.Wanted(pvserver, native_reverse, keep_network, open_port, extra)

    def ready(place: dict[str, object]) -> str:
        where = f"at {place['listen']}" if "listen" in place else f"phones {place['dial']}"
        return f"session {place['session']}: ParaView {place['paraview']} {where}"

    seconds = every.total_seconds()
    run_until_signal(
        lambda told: paraview_run.serve(path, wanted, listen=listen, dial=dial, every=seconds, told=told),
        ready, as_json=as_json,
    )  # fmt: skip
    return 0


@paraview_command.command("client", short_help="on the desk: a way for ParaView to it")
@SESSION_FILE
@click.argument("server", type=ADDRESS, required=False, metavar="[HOST:PORT]")
@click.option("--wait", type=LISTEN, help="HOST:PORT to wait for the server's call on (reverse).")
@click.option("--local", "meeting", type=ADDRESS, default="127.0.0.1:11111", show_default=True,
              help="Where ParaView and this meet.")  # fmt: skip
@click.option("--native-reverse", is_flag=True, help=_NATIVE)
@click.option("--paraview", "program", help="The ParaView that will be used: its version is compared.")
@click.option("--gui", is_flag=True, help="Start ParaView's GUI, connected, and leave with it.")
@click.option("--pvsc", type=FILE, help="Only write FILE, with which the GUI does all of this by itself.")
@click.option("--once", is_flag=True, help="Leave when ParaView's first connection has ended, or none has begun.")
@click.option("--within", type=DURATION, default="2m", show_default=True, help="With --once: by when it has to begin.")
@JSON
def client_command(
    path: Path,
    server: Address | None,
    wait: Address | None,
    meeting: Address,
    native_reverse: bool,
    program: str | None,
    gui: bool,
    pvsc: Path | None,
    once: bool,
    within: timedelta,
    as_json: bool,
) -> int:
    """
    Reach a pvserver through the session: ParaView then connects to --local with the session's connect-id.

    Give HOST:PORT of a server that listens, or --wait for one that phones.
    """
    from handfast.sessions import paraview, paraview_run

    if (server is None) == (wait is None):
        raise UsageError("give HOST:PORT or --wait", hint="who can reach whom? the one who can be reached waits")
    scheme = paraview.REVERSE if native_reverse else paraview.FORWARD
    if pvsc is not None:
        where = [str(server)] if server is not None else ["--wait", str(wait)]
        _write_pvsc(pvsc, path, where, scheme, meeting, int(within.total_seconds()))
        return 0
    started = paraview.located(program or "paraview") if gui else None
    limit = within.total_seconds() if once else None
    who = paraview_run.Client(meeting, scheme, paraview.client_version(program), within=limit, gui=started)

    def ready(place: dict[str, object]) -> str:
        return f"session {place['session']}: connect to {scheme}://{place['local']}, connect-id {place['connect_id']}"

    if why := run_until_signal(
        lambda told: paraview_run.client(path, who, server=server, wait=wait, told=told), ready, as_json=as_json
    ):
        ui.say(why)
    return 0


def _write_pvsc(pvsc: Path, path: Path, where: list[str], scheme: str, meeting: Address, within: int) -> None:
    from handfast.sessions import paraview, paraview_run, party

    own = party.read(path, now=SystemClock().now())
    native = ["--native-reverse"] if scheme == paraview.REVERSE else []
    command = [
        *OURSELVES, "session", "paraview", "client", "--session", str(path.absolute()), *where,
        "--local", str(meeting), *native, "--once", "--within", f"{within}s",
    ]  # fmt: skip
    number = paraview_run.connect_id(own)
    content = paraview.write_pvsc(own.session, scheme, meeting, number, command, timeout=within)
    write_atomic(pvsc, content, 0o644)  # no secret in it
    ui.say(f"wrote {pvsc}: in ParaView, File > Connect > Load Servers; it connects to {own.session!r}")
