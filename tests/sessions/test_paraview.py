"""What is known of ParaView before it runs: versions, the plan, the GUI's file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from handfast.core.invitation import Address
from handfast.errors import Malformed, NotFound, Refused, UsageError
from handfast.sessions import paraview
from handfast.sessions.paraview import Installation, Plan, Version
from tests.sessions import paraview_standin

STANDIN = (sys.executable, paraview_standin.__file__)
V511 = Version(5, 11, "5.11.0")
KNOWN = frozenset({"--connect-id", "--server-port", "--no-mpi", "--reverse-connection", "--multi-clients"})
OLD = Installation("/usr/bin/pvserver", "/usr/bin/pvpython", V511, KNOWN)
NEW = replace(OLD, version=Version(5, 13, "5.13.2"), flags=KNOWN | {"--bind-address"})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("paraview version 5.11.0\n", V511),
        ("paraview version 5.13.2-RC1\n", Version(5, 13, "5.13.2-RC1")),
        ("6.0", Version(6, 0, "6.0")),
    ],
)
def test_a_version_is_read_as_paraview_prints_it(text: str, version: Version) -> None:
    """What `pvserver --version` prints becomes major, minor and a text for people."""
    assert Version.parse(text) == version


def test_what_has_no_version_is_refused() -> None:
    """A program that prints no version is not ParaView's."""
    with pytest.raises(Malformed, match="no version"):
        Version.parse("usage: cat FILE")


@pytest.mark.parametrize("theirs", ["5.11.2", "5.11"])
def test_versions_agree_by_major_and_minor(theirs: str) -> None:
    """A patch release understands the others."""
    paraview.require_agreement(V511, {"paraview": theirs, "paraview-url": "cs"}, "cs")


@pytest.mark.parametrize("theirs", ["5.12.0", "6.11.0"])
def test_another_version_is_said_in_words(theirs: str) -> None:
    """Both versions are named, instead of ParaView's "unknown error parsing the handshake string"."""
    with pytest.raises(Refused, match=rf"runs ParaView '{theirs}', and this client is 5\.11\.0"):
        paraview.require_agreement(V511, {"paraview": theirs}, "cs")


def test_two_that_both_call_or_both_wait_are_refused() -> None:
    """A server in native reverse and a client that dials would fail in ParaView's handshake: it is said before."""
    with pytest.raises(Refused, match="'csrc' connection, and this client 'cs'") as refused:
        paraview.require_agreement(None, {"paraview-url": "csrc"}, "cs")
    assert "--native-reverse" in refused.value.hint


def test_a_server_that_says_nothing_is_not_judged() -> None:
    """`session serve` in front of somebody's own pvserver tells no version."""
    paraview.require_agreement(V511, {}, "cs")


def test_the_connect_id_is_of_the_session() -> None:
    """Both ends compute the same number from the session's certificate, another session another one; 31 bits, not 0."""
    ids = {paraview.connect_id(bytes([n])) for n in range(200)}
    assert len(ids) == 200
    assert all(0 < each < 2**31 for each in ids)
    assert paraview.connect_id(b"a") == paraview.connect_id(b"a")


def planned(
    found: Installation, *, namespaces: bool = False, native_reverse: bool = False, accept_open_port: bool = False
) -> Plan:
    """Return the plan with connect-id 7."""
    return paraview.plan(
        found, 7, namespaces=namespaces, native_reverse=native_reverse, accept_open_port=accept_open_port
    )


def test_the_newest_binds_to_loopback_and_is_in_a_private_network() -> None:
    """Where there is all of it, all of it is used: other users of the machine see no port."""
    plan = planned(NEW, namespaces=True)
    assert plan.command == (
        "/usr/bin/pvserver", "--no-mpi", "--connect-id=7", "--bind-address=127.0.0.1", "--multi-clients"
    )  # fmt: skip
    assert (plan.private, plan.scheme, plan.warning) == (True, "cs", "")
    assert plan.anchor == ("/usr/bin/pvpython", "--no-mpi", "--connect-id=7")


def test_loopback_alone_is_warned_of() -> None:
    """Without namespaces the bind address keeps the network out, and not the other users, which is said."""
    plan = planned(NEW)
    assert "--bind-address=127.0.0.1" in plan.command
    assert (plan.private, plan.scheme) == (False, "cs")
    assert "every user of this machine" in plan.warning


def test_an_old_one_is_put_into_a_private_network() -> None:
    """5.11 has no bind option: the namespace alone hides its port."""
    plan = planned(OLD, namespaces=True)
    assert not any("bind" in each for each in plan.command)
    assert (plan.private, plan.scheme, plan.warning) == (True, "cs", "")


def test_without_either_pvserver_opens_no_port() -> None:
    """The third choice is ParaView's own reverse connection, and the clients have to be told."""
    plan = planned(OLD)
    assert plan.command[-2:] == ("--reverse-connection", "--client-host=127.0.0.1")
    assert (plan.scheme, plan.anchor, plan.about["paraview-url"]) == ("csrc", (), "csrc")
    assert "clients need --native-reverse" in plan.warning


def test_an_open_port_is_refused_unless_it_is_named() -> None:
    """Nothing runs where everybody could reach it, but by the flag that says so."""
    bare = replace(OLD, flags=KNOWN - {"--reverse-connection"})
    with pytest.raises(Refused, match="listen on every interface"):
        planned(bare)
    plan = planned(bare, accept_open_port=True)
    assert plan.scheme == "cs"
    assert "everybody in the network can reach pvserver's port" in plan.warning


def test_accepting_the_danger_changes_nothing_where_there_is_none() -> None:
    """The flag permits an open port; it does not ask for one."""
    assert planned(NEW, namespaces=True, accept_open_port=True) == planned(NEW, namespaces=True)


def test_native_reverse_on_request_is_private_too() -> None:
    """No other user can take the call that pvserver makes."""
    plan = planned(NEW, namespaces=True, native_reverse=True)
    assert (plan.private, plan.scheme) == (True, "csrc")


def test_without_multi_clients_nothing_anchors() -> None:
    """A ParaView that has dropped the flag, or comes without pvpython, is started again after each client."""
    for found in (replace(OLD, flags=KNOWN - {"--multi-clients"}), replace(OLD, pvpython=None)):
        plan = planned(found, namespaces=True)
        assert plan.anchor == ()
        assert "--multi-clients" not in plan.command


@pytest.mark.parametrize(
    "flag",
    [
        "--server-port=1",
        "--sp",
        "-p",
        "-p1",
        "--bind-address=0.0.0.0",
        "--connect-id=0",
        "--rc",
        "-r",
        "--multi-clients",
    ],
)
def test_flags_that_decide_who_connects_are_not_passed_on(flag: str) -> None:
    """What is passed on to pvserver cannot undo what was chosen."""
    with pytest.raises(UsageError, match="not for you to choose"):
        paraview.plan(NEW, 7, namespaces=True, extra=(flag,))


def test_other_flags_are_passed_on() -> None:
    """Rendering is the user's business."""
    flags = ("--force-offscreen-rendering", "--displays=0", "--plugins", "a.so")
    assert paraview.plan(NEW, 7, namespaces=True, extra=flags).command[-4:] == flags


def program(directory: Path, text: str) -> str:
    """Write an executable script."""
    path = directory / "pvserver"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_installation_is_asked_for_its_flags(tmp_path: Path) -> None:
    """--help says what a pvserver knows, and a pvpython beside it is of the same installation."""
    path = program(tmp_path, f'exec {" ".join(STANDIN)} "$@"')
    found = paraview.installation(path)
    assert found.flags == {"--connect-id", "--no-mpi", "--mpi", "--rc", "--reverse-connection", "--sp", "--server-port"}
    assert (found.pvserver, found.pvpython, found.version) == (path, None, V511)
    (tmp_path / "pvpython").symlink_to("/bin/true")
    assert paraview.installation(path).pvpython == str(tmp_path / "pvpython")


def test_another_program_is_not_taken_for_pvserver(tmp_path: Path) -> None:
    """A mistyped path is found before anything listens."""
    with pytest.raises(Malformed, match="does not know --server-port"):
        paraview.installation(program(tmp_path, "echo hello"))
    with pytest.raises(NotFound, match="no program"):
        paraview.installation(str(tmp_path / "missing"))


# ------------------------------------------------------------------------------------------- the GUI's file


def pvsc(command: tuple[str, ...] = ("handfast", "session"), scheme: str = "cs", name: str = "paper") -> ET.Element:
    """Return the root element of a file for the GUI."""
    meeting = Address.parse("127.0.0.1:11111")
    return ET.fromstring(paraview.write_pvsc(name, scheme, meeting, 4711, command, timeout=120))


def test_the_file_for_the_gui_says_where_and_how() -> None:
    """The GUI learns the connect-id, starts the command and lets it run, then connects to loopback."""
    command = ("handfast", "session", "paraview", "client", "--session", "/home/ann/a b.pem")
    server = pvsc(command).find("Server")
    assert server is not None
    assert server.attrib == {"name": "paper", "resource": "cs://127.0.0.1:11111", "timeout": "120"}
    executed = server.find("CommandStartup/Command")
    assert executed is not None
    assert executed.attrib == {"exec": "handfast", "process_wait": "0", "delay": "2"}
    assert [each.attrib["value"] for each in executed.iterfind("Arguments/Argument")] == list(command[1:])
    option = server.find("CommandStartup/Options/Option")
    assert option is not None
    assert (option.attrib["name"], option[0].attrib["default"]) == ("PV_CONNECT_ID", "4711")


def test_a_gui_that_listens_waits_for_ever() -> None:
    """In native reverse the GUI has no timeout: the server calls when it does."""
    server = pvsc(scheme="csrc").find("Server")
    assert server is not None
    assert server.attrib == {"name": "paper", "resource": "csrc://127.0.0.1:11111"}


def test_a_name_cannot_break_out_of_the_file() -> None:
    """A session's name is text, whatever is in it."""
    name = '"/><Command exec="rm"> & co'
    root = pvsc(name=name)
    assert [each.attrib["name"] for each in root.iterfind("Server")] == [name]
    assert len(root.findall(".//Command")) == 1


@pytest.mark.parametrize("argument", ["/home/$USER$/x", 'a"b', "a\\b", "a\nb"])
def test_what_paraview_would_change_is_refused(argument: str) -> None:
    """ParaView substitutes and splits: a path that would not arrive as it is is refused, not mended."""
    with pytest.raises(UsageError, match="cannot pass on"):
        pvsc(("handfast", argument))
