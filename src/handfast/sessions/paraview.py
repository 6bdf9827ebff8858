"""
What has to be known of ParaView before anything runs: its version, how to start pvserver safely, the GUI's file.

Whoever connects to pvserver runs code as its user, by design of ParaView (a programmable filter is Python). Its
protocol has no authentication, and before 5.13 it listens on every interface. So who reaches its port matters more
than anything else here, and ``plan`` refuses what everybody could reach.

Nothing here listens or connects. Starting: ``paraview_server``. The process beside pvserver: ``paraview_keeper``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

from handfast.adapters.process import child_environment
from handfast.core.invitation import Address
from handfast.errors import Fault, Malformed, NotFound, Refused, UsageError

FORWARD, REVERSE = "cs", "csrc"  # ParaView's own names: schemes of its URLs
VERSION_KEY, SCHEME_KEY = "paraview", "paraview-url"  # in what a peer says about itself
LOOPBACK = "127.0.0.1"
PORT = 11111  # ParaView's default
_PATIENCE = 60.0  # seconds for a program to print its version; on a cluster it may come from a slow disk
_VERSION = re.compile(r"\b(\d{1,4})\.(\d{1,4})(?:\.\S{1,40})?")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_UNQUOTABLE = re.compile(r'["$\\]|[^\x20-\x7e\xa0-\U0010ffff]')  # ParaView substitutes $NAME$, and splits at quotes


@dataclass(frozen=True, slots=True)
class Version:
    """A version of ParaView. Two that differ in ``major`` or ``minor`` refuse each other; the rest is for people."""

    major: int
    minor: int
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """:raises Malformed: no version in it."""
        found = _VERSION.search(text)
        if found is None:
            raise Malformed(f"no version in {text[:80]!r}", hint="is this program ParaView's?")
        return cls(int(found[1]), int(found[2]), found[0])

    def agrees(self, other: Version) -> bool:
        """Whether programs of the two versions understand each other."""
        return (self.major, self.minor) == (other.major, other.minor)


@dataclass(frozen=True, slots=True)
class Installation:
    """A pvserver, and the pvpython beside it where there is one. ``flags`` is what its --help knows."""

    pvserver: str
    pvpython: str | None
    version: Version
    flags: frozenset[str]


def installation(pvserver: str) -> Installation:
    """
    Ask a pvserver (a path, or a name on PATH) for its version and flags.

    :raises NotFound: there is none. :raises Malformed: it is something else. :raises Fault: it does not run.
    """
    path = located(pvserver)
    said = _output(path, "--help")
    flags = frozenset(_FLAG.findall(said))
    if not {"--server-port", "--connect-id"} <= flags:
        raise Malformed(f"{path!r} does not know --server-port and --connect-id", hint="give pvserver itself")
    # pvpython of another installation would be another version
    beside = Path(os.path.realpath(path)).with_name("pvpython")
    return Installation(path, str(beside) if os.access(beside, os.X_OK) else None, version(path), flags)


def located(program: str) -> str:
    """Return the absolute path of a program. :raises NotFound: there is none."""
    path = shutil.which(program)
    if path is None:
        raise NotFound(f"no program {program!r}", hint="install ParaView, or say where it is")
    return os.path.abspath(path)


def version(program: str) -> Version:
    """
    Return the version of one of ParaView's programs.

    Not for the GUI: it wants a display even for that. Ask the pvpython beside it.

    :raises Malformed: it prints none. :raises Fault: it does not run.
    """
    return Version.parse(_output(program, "--version"))


def client_version(program: str | None) -> Version | None:
    """
    Return the version of the ParaView that a client will use; ``program`` is its GUI, its pvpython, or None for any.

    None where none is found and none was named: the client may be started elsewhere.

    :raises NotFound: the one that was named is not there. :raises Malformed: it is something else.
    :raises Fault: it does not run.
    """
    if program is None:
        program = next(filter(None, map(shutil.which, ("paraview", "pvpython"))), None)
        if program is None:
            return None
    path = Path(os.path.realpath(located(program)))
    beside = path.with_name("pvpython")
    return version(str(beside if os.access(beside, os.X_OK) else path))


def require_agreement(ours: Version | None, theirs: Mapping[str, str], scheme: str) -> None:
    """
    Compare this client with what the server says about itself, so that a difference reads well.

    ``ours`` is None where no ParaView was found here. A server that says nothing is not judged.

    :raises Refused: another version, or the other direction of ParaView's own connection.
    """
    told = theirs.get(VERSION_KEY)
    if told is not None and ours is not None and not ours.agrees(Version.parse(told)):
        raise Refused(
            f"the server runs ParaView {told!r}, and this client is {ours.text}: they would not understand each other",
            hint="major and minor version must be the same on both ends",
        )
    direction = theirs.get(SCHEME_KEY)
    if direction is not None and direction != scheme:
        reverse = direction == REVERSE
        raise Refused(
            f"the server uses ParaView's {direction!r} connection, and this client {scheme!r}",
            hint="start the client with --native-reverse" if reverse else "start the client without --native-reverse",
        )


def connect_id(session: bytes) -> int:
    """
    Return the connect-id of a session, from the DER of its certificate: 1 to 2^31 - 1.

    It keeps apart by accident what should not meet on one machine. It is no secret (`ps` shows it) and no security.
    Both ends compute it, so it need not be handed over, and the GUI's file stays right when the server is restarted.
    """
    digest = hashlib.sha256(b"handfast paraview connect-id\0" + session).digest()
    return int.from_bytes(digest[:8], "big") % (2**31 - 1) + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How pvserver is started. Made by ``plan``.

    ``command`` lacks the port. ``anchor`` keeps the pipeline alive (empty: nothing does). ``private``: in a network
    namespace of its own. ``warning`` is for the person, empty where there is nothing to warn of.
    """

    command: tuple[str, ...]
    anchor: tuple[str, ...]
    private: bool
    scheme: str
    version: Version
    warning: str

    @property
    def reverse(self) -> bool:
        """Whether pvserver makes the connection, as ParaView's ``csrc`` has it."""
        return self.scheme == REVERSE

    @property
    def about(self) -> dict[str, str]:
        """What the client is told."""
        return {VERSION_KEY: self.version.text, SCHEME_KEY: self.scheme}


def plan(
    found: Installation,
    connect_id: int,
    *,
    namespaces: bool,
    native_reverse: bool = False,
    accept_open_port: bool = False,
    extra: Sequence[str] = (),
) -> Plan:
    """
    Choose how to start pvserver so that only the session reaches it.

    ``namespaces``: whether a private network can be had, and is wanted. In order:
    1. ``--bind-address`` 127.0.0.1, from ParaView 5.13, *and* 2. a private network namespace: whichever there is. The
       first alone leaves the port to every user of this machine, who can read the connect-id in `ps`.
    3. ParaView's native reverse connection: pvserver opens no port at all. The clients have to be told.
    4. an open port, if ``accept_open_port`` names it (then before 3); else nothing.

    :raises Refused: everybody could reach it.
    :raises UsageError: ``extra`` contradicts this.
    """
    _check_extra(extra)
    common = [*(["--no-mpi"] if "--no-mpi" in found.flags else []), f"--connect-id={connect_id}"]
    command = [found.pvserver, *common]
    bind = "--bind-address" in found.flags
    warning = ""
    if not native_reverse and not (bind or namespaces or accept_open_port):
        if "--reverse-connection" not in found.flags:
            raise Refused(
                f"pvserver {found.version.text} would listen on every interface, and nothing here can prevent it",
                hint="use ParaView 5.13 or later, a kernel with user namespaces, or --i-accept-open-port",
            )
        native_reverse = True
        warning = "no way to keep others from pvserver's port, so it opens none: clients need --native-reverse"
    if native_reverse:
        return Plan(
            (*command, "--reverse-connection", f"--client-host={LOOPBACK}", *extra),
            (), namespaces, REVERSE, found.version, warning,
        )  # fmt: skip
    if bind:
        command.append(f"--bind-address={LOOPBACK}")
    if not namespaces:
        who = "every user of this machine" if bind else "everybody in the network"
        warning = f"{who} can reach pvserver's port and, with the connect-id, run code as you"
    anchored = "--multi-clients" in found.flags and found.pvpython is not None
    return Plan(
        (*command, *(["--multi-clients"] if anchored else []), *extra),
        (found.pvpython, *common) if anchored and found.pvpython is not None else (),
        namespaces, FORWARD, found.version, warning,
    )  # fmt: skip


def write_pvsc(
    name: str, scheme: str, local: Address, connect_id: int, command: Sequence[str], *, timeout: int
) -> bytes:
    """
    Return the content of a ``.pvsc`` file, with which ParaView's GUI starts ``command`` and then connects.

    The GUI shows one dialog with the connect-id: any ``Option`` brings one up. ``local`` is where the two meet: the
    command listens there (``cs``), or the GUI does (``csrc``). With ``process_wait`` 0 the GUI lets the command run on;
    if it ends within ``delay`` seconds with an error, the GUI gives up at once, else it tries for ``timeout`` seconds.

    :raises UsageError: an argument that ParaView cannot pass on as it is.
    """
    if bad := next((each for each in command if _UNQUOTABLE.search(each)), None):
        raise UsageError(f"ParaView cannot pass on {bad!r}", hint='use a path without ", $, \\ and control characters')
    servers = ET.Element("Servers")
    server = ET.SubElement(servers, "Server", name=name, resource=f"{scheme}://{local}")
    if scheme == FORWARD:
        server.set("timeout", str(timeout))  # a GUI that listens may wait for ever
    startup = ET.SubElement(server, "CommandStartup")
    option = ET.SubElement(
        ET.SubElement(startup, "Options"),
        "Option", name="PV_CONNECT_ID", label="Connect-id of the session", readonly="true", save="false",
    )  # fmt: skip
    ET.SubElement(option, "Range", type="int", min="1", max=str(2**31 - 1), step="1", default=str(connect_id))
    executed = ET.SubElement(startup, "Command", exec=command[0], process_wait="0", delay="2")
    arguments = ET.SubElement(executed, "Arguments")
    for each in command[1:]:
        ET.SubElement(arguments, "Argument", value=each)
    ET.indent(servers)
    content: bytes = ET.tostring(servers, encoding="utf-8", xml_declaration=True) + b"\n"
    return content


def _check_extra(extra: Sequence[str]) -> None:
    """:raises UsageError: a flag that decides who reaches pvserver, which is for ``plan`` alone."""
    ours = ("port", "sp", "bind", "rev", "rc", "client", "connect", "multi", "host", "data", "mpi")
    for each in extra:
        name = each.lstrip("-")
        if (each.startswith("--") and name.startswith(ours)) or name.startswith("server-port") or each[:2] in _SHORT:
            raise UsageError(f"{each!r} is not for you to choose here", hint="it decides who can reach pvserver")


_SHORT = frozenset({"-p", "-r"})


def _output(program: str, flag: str) -> str:
    try:
        done = subprocess.run(
            [program, flag], env=child_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Fault(f"cannot run {program!r} {flag}: {error}", hint="try it by hand") from error
    return done.stdout.decode(errors="replace")
