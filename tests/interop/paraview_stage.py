"""
A desk, a cluster node and a friend's machine, each in a network of its own, with the real pvserver and pvpython.

Data only: without a display, rendering crashes Debian's ParaView.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop import paraview_recorder
from tests.interop.hosts import HANDFAST, Host, Network, Process, network, program

PORT = "11111"  # ParaView's default
POINTS = 3970  # of a sphere with resolution 64
_SPOKEN = b"paraview-5."  # what a ParaView client says first, in the clear: version, connect-id, rendering back end

# Connects, tells what is in the pipeline, adds a sphere, and fetches its points, which pvserver has computed.
_CLIENT = """\
import json, sys
from paraview import servermanager
from paraview.simple import Connect, Disconnect, GetSources, ReverseConnect, Sphere
how, port, name = sys.argv[1:]
connection = ReverseConnect(port) if how == "csrc" else Connect("127.0.0.1", int(port), timeout=5)
if connection is None:
    sys.exit("refused")
before = sorted(each for each, _ in GetSources())
sphere = Sphere(registrationName=name, ThetaResolution=64, PhiResolution=64)
sphere.UpdatePipeline()
points = servermanager.Fetch(sphere).GetNumberOfPoints()
print(json.dumps(dict(remote=bool(connection.IsRemote()), before=before, points=points)))
Disconnect()
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """
    Three machines; the cluster node has a cable to each of the others, who do not see each other.

    The session was made on the desk. Files are handed over as people do: by a copy.
    """

    net: Network

    CLUSTER = Network.REGISTRAR  # the addresses
    DESK = Network.SERVER
    FRIEND = Network.OFFICE

    @property
    def cluster(self) -> Host:
        """Where pvserver runs."""
        return self.net.registrar

    @property
    def desk(self) -> Host:
        """The scientist's."""
        return self.net.server

    @property
    def friend(self) -> Host:
        """Somebody else's."""
        return self.net.office

    def session(self, name: str) -> Path:
        """Make a session on the desk, and return its directory."""
        self.desk.handfast("session", "new", name, "--dir", name)
        return self.desk.directory / name

    def export(self, session: Path, who: str, to: Host, *, name: str = "") -> Path:
        """Make the file of a party, and copy it to the machine it is for."""
        made = f"{session.name}-{who}.pem"
        self.desk.handfast("session", "export", who, "--dir", session, "-o", made)
        return to.put(name or made, (self.desk.directory / made).read_text())

    def record(self, host: Host, listen: str, dial: str, tape: str) -> Path:
        """Put a recorder on the way, on ``host``; return its file."""
        script = paraview_recorder.__file__
        path = host.directory / tape
        host.start(sys.executable, script, listen, dial, path).expect("recording")
        return path


@contextmanager
def stage() -> Iterator[Stage]:
    """Make the machines."""
    with network() as net:
        yield Stage(net)


def sphere(host: Host, name: str, connect_id: int, *, port: str = PORT, how: str = "cs") -> dict[str, Any]:
    """Be a ParaView client on ``host``: add a sphere, and return what it saw."""
    flags = ["--no-mpi", f"--connect-id={connect_id}"]
    done = host.run(program("pvpython"), *flags, "-c", _CLIENT, how, port, name, env={"PYTHONPATH": ""})
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def server(host: Host, file: Path, *flags: str) -> Process:
    """Start pvserver behind a session."""
    return host.start(*HANDFAST, "session", "paraview", "server", "--session", file, *flags, "--json")


def client(host: Host, file: Path, *arguments: str) -> Process:
    """Start the client's side of a session."""
    return host.start(*HANDFAST, "session", "paraview", "client", "--session", file, *arguments, "--json")


def spoken(tape: Path) -> bool:
    """Whether ParaView's own first words were to be read on the wire."""
    return _SPOKEN in tape.read_bytes()


@dataclass(frozen=True, slots=True)
class Running:
    """One side that runs, and what it said when it was ready."""

    process: Process
    ready: dict[str, Any]

    @property
    def connect_id(self) -> int:
        """The session's."""
        return int(self.ready["connect_id"])


def ready(process: Process) -> Running:
    """Wait until a side is ready."""
    return Running(process, json.loads(process.expect('"connect_id"')))
