"""ParaView's GUI starts our command from a .pvsc file, on a display that nobody sees, and reaches pvserver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.hosts import Host, program
from tests.interop.paraview_stage import Stage, ready, server, stage

pytestmark = [
    pytest.mark.peer("pvserver", "pvpython", "paraview", "xvfb", "xdotool", "ip"),
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
_SETTINGS = "[General]\nGeneralSettings.ShowWelcomeDialog=false\n"  # a dialog that nobody would close


@pytest.fixture(scope="module")
def made() -> Iterator[Stage]:
    """The machines."""
    with stage() as machines:
        yield machines


def open_gui(desk: Host, servers: Path, name: str) -> None:
    """Start the GUI with a file of servers, have it connect to one, and agree to the dialog with the connect-id."""
    screen = desk.start(program("xvfb"), "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "1280x1024x24")
    display = {"DISPLAY": ":" + screen.expect("").strip(), "QT_X11_NO_MITSHM": "1"}
    settings = desk.directory / ".config/ParaView"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "ParaView5.11.0.ini").write_text(_SETTINGS)
    desk.start(program("paraview"), f"--servers-file={servers}", f"--server={name}", env=display)
    dialog = ("search", "--sync", "--onlyvisible", "--name", "Connection Options")
    desk.run(program("xdotool"), *dialog, "windowfocus", "key", "Return", env=display)


@pytest.mark.parametrize("flags", [(), ("--native-reverse",)], ids=["cs", "csrc"])
def test_the_gui_starts_its_own_way_to_pvserver(made: Stage, flags: tuple[str, ...]) -> None:
    """The file names the command, the command makes the session, pvserver sees the GUI with the right connect-id."""
    session = made.session("gui" if not flags else "gui-reverse")
    file = made.export(session, "client", made.desk)
    place = f"{made.CLUSTER}:{7600 + len(flags)}"
    running = ready(server(made.cluster, made.export(session, "server", made.cluster), "--listen", place, *flags))
    servers = made.desk.directory / f"{session.name}.pvsc"
    made.desk.handfast(
        "session", "paraview", "client", "--session", file, place, *flags, "--pvsc", servers,
        "--local", f"127.0.0.1:{11700 + len(flags)}",
    )  # fmt: skip
    open_gui(made.desk, servers, session.name)
    running.process.expect("pvserver: Client connected." if flags else "pvserver: Accepting connection")
