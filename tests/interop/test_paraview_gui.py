"""ParaView's GUI starts our command from a .pvsc file, on a display that nobody sees, and reaches pvserver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.hosts import HANDFAST, Host, Process, program
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


@pytest.fixture
def display(made: Stage) -> dict[str, str]:
    """A screen of its own for each GUI: without a window manager, two on one get in each other's way."""
    screen = made.desk.start(program("xvfb"), "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "1280x1024x24")
    while not (number := screen.expect("").strip()).isdigit():
        pass  # it may have complaints first
    return {"DISPLAY": f":{number}"}


def no_welcome(desk: Host) -> None:
    """Have the GUI start without its own dialog."""
    settings = desk.directory / ".config/ParaView"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "ParaView5.11.0.ini").write_text(_SETTINGS)


def open_gui(desk: Host, servers: Path, name: str, display: dict[str, str]) -> Process:
    """Start the GUI with a file of servers, have it connect to one, and agree to the dialog with the connect-id."""
    no_welcome(desk)
    gui = desk.start(program("paraview"), f"--servers-file={servers}", f"--server={name}", env=display)
    dialog = ("search", "--sync", "--onlyvisible", "--name", f'Connection Options for "{name}"')
    # the dialog may be gone when the key is released, which is an error to xdotool: pvserver's log is what counts
    desk.run(program("xdotool"), *dialog, "windowfocus", "key", "Return", env=display, code=None)
    return gui


@pytest.mark.parametrize("flags", [(), ("--native-reverse",)], ids=["cs", "csrc"])
def test_the_gui_starts_its_own_way_to_pvserver(made: Stage, display: dict[str, str], flags: tuple[str, ...]) -> None:
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
    gui = open_gui(made.desk, servers, session.name, display)
    running.process.expect("pvserver: Client connected." if flags else "pvserver: Accepting connection")
    gui.kill()


def test_one_command_opens_the_gui_and_leaves_with_it(made: Stage, display: dict[str, str]) -> None:
    """`--gui` starts ParaView when the server is there, with the right connect-id, and without a dialog."""
    session = made.session("one-command")
    file, place = made.export(session, "client", made.desk), f"{made.CLUSTER}:7610"
    running = ready(server(made.cluster, made.export(session, "server", made.cluster), "--listen", place))
    no_welcome(made.desk)
    arguments = ("session", "paraview", "client", "--session", file, place, "--local", "127.0.0.1:11710", "--gui")
    client = made.desk.start(*HANDFAST, *arguments, env=display)
    running.process.expect("pvserver: Accepting connection")
    (gui,) = made.desk.run("pgrep", "-P", str(client.pid), "paraview").stdout.split()
    made.desk.run("kill", "-9", gui)
    assert client.wait() == 0
    assert "ParaView has ended" in str(client)
