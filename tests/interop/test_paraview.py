"""The use cases of ParaView's "Secure Connections", each by its name, with the real pvserver and pvpython."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.hosts import program
from tests.interop.paraview_stage import POINTS, Running, Stage, client, ready, server, sphere, spoken, stage

pytestmark = [
    pytest.mark.peer("pvserver", "pvpython", "ip"),
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


@dataclass(frozen=True, slots=True)
class Paper:
    """A session named paper, and its files on the machines."""

    stage: Stage
    directory: Path
    server: Path
    client: Path


@pytest.fixture(scope="module")
def paper() -> Iterator[Paper]:
    """The session that most use cases assume."""
    with stage() as made:
        directory = made.session("paper")
        yield Paper(
            made, directory, made.export(directory, "server", made.cluster), made.export(directory, "client", made.desk)
        )


@pytest.fixture(scope="module")
def forward(paper: Paper) -> Running:
    """The user launches the server, and it waits for connections: the first half of Forward Connection."""
    place = f"{paper.stage.CLUSTER}:7500"
    return ready(server(paper.stage.cluster, paper.server, "--listen", place))


def visit(paper: Paper, name: str, who: Path | None = None) -> dict[str, Any]:
    """Connect from the desk, add the sphere ``name``, leave; return what was seen."""
    process = client(paper.stage.desk, who or paper.client, f"{paper.stage.CLUSTER}:7500")
    try:
        return sphere(paper.stage.desk, name, ready(process).connect_id)
    finally:
        process.stop()


def test_the_plain_path_shows_what_paraview_says(paper: Paper) -> None:
    """Without us, whoever owns the wire reads version and connect-id: the recorder of the other tests can see them."""
    host = paper.stage.cluster
    pvserver = host.start(program("pvserver"), "--no-mpi", "--server-port=12111", "--connect-id=4711")
    pvserver.expect("Accepting connection")
    tape = paper.stage.record(paper.stage.desk, "127.0.0.1:12112", f"{paper.stage.CLUSTER}:12111", "plain.tape")
    assert sphere(paper.stage.desk, "plain", 4711, port="12112") == {"remote": True, "before": [], "points": POINTS}
    assert spoken(tape)
    assert b"connect_id.4711." in tape.read_bytes()
    assert pvserver.wait() == 0  # its client has left: this is what the anchor is for


def test_forward_connection(paper: Paper, forward: Running) -> None:
    """The server waits, the client connects, both check the other's certificate, and the data comes."""
    assert visit(paper, "forward") == {"remote": True, "before": [], "points": POINTS}


def test_client_reconnects_to_server(paper: Paper, forward: Running) -> None:
    """The client has left, the server runs on; another client with the same files finds the pipeline as it was."""
    visit(paper, "left")
    assert "left" in visit(paper, "again")["before"]


def befriended(paper: Paper, file: Path, name: str) -> dict[str, Any]:
    """Let the friend connect with a file; return what was seen."""
    process = client(paper.stage.friend, file, f"{paper.stage.CLUSTER}:7500")
    try:
        return sphere(paper.stage.friend, name, ready(process).connect_id)
    finally:
        process.stop()


def test_friend_connects_to_running_server(paper: Paper, forward: Running) -> None:
    """The user gives the friend a copy of the client's file: the friend gets in, and to the user's pipeline."""
    visit(paper, "for-a-friend")
    copy = paper.stage.friend.put("copy.pem", paper.client.read_text())
    assert "for-a-friend" in befriended(paper, copy, "with-a-copy")["before"]


def test_friend_connects_to_running_server_alternate(paper: Paper, forward: Running) -> None:
    """The user makes a key and a certificate for the friend alone."""
    paper.stage.desk.handfast("session", "friend", "ann", "--dir", paper.directory)
    own = paper.stage.export(paper.directory, "ann", paper.stage.friend)
    visit(paper, "for-ann")
    assert "for-ann" in befriended(paper, own, "of-ann")["before"]


def test_a_client_of_another_session_never_reaches_pvserver(paper: Paper, forward: Running) -> None:
    """It is refused in TLS, with words; pvserver says nothing, because it has seen nothing."""
    other = paper.stage.export(paper.stage.session("other"), "client", paper.stage.desk)
    before = said(forward)
    done = paper.stage.desk.handfast(
        "session", "paraview", "client", "--session", other, f"{paper.stage.CLUSTER}:7500", code=5
    )
    assert "certificate" in done.stderr
    assert said(forward) == before


def said(running: Running) -> list[str]:
    """What pvserver itself has said so far."""
    return [line for line in running.process.lines if "pvserver: " in line]


def test_a_client_without_a_certificate_never_reaches_pvserver(paper: Paper, forward: Running) -> None:
    """A ParaView that talks to the session's port itself gets nowhere, and neither does its first sentence."""
    before = said(forward)
    script = f"from paraview.simple import Connect; assert Connect('{paper.stage.CLUSTER}', 7500, timeout=0) is None"
    paper.stage.desk.run(program("pvpython"), "--no-mpi", "-c", script)
    assert said(forward) == before


def test_on_the_wire_there_is_nothing_to_read(paper: Paper, forward: Running) -> None:
    """A recorder between the machines sees no word of ParaView's, nor the connect-id, nor the pipeline's names."""
    desk = paper.stage.desk
    tape = paper.stage.record(desk, "127.0.0.1:7501", f"{paper.stage.CLUSTER}:7500", "tls.tape")
    process = client(desk, paper.client, "127.0.0.1:7501")
    try:
        seen = sphere(desk, "a-secret-name", ready(process).connect_id)
    finally:
        process.stop()
    recorded = tape.read_bytes()
    assert seen["points"] == POINTS
    assert len(recorded) > 10_000
    assert not spoken(tape)
    assert str(forward.connect_id).encode() not in recorded
    assert b"a-secret-name" not in recorded


def test_a_silent_peer_blocks_nobody(paper: Paper, forward: Running) -> None:
    """pvserver would wait for it and for nobody else; the session does not let it that far."""
    held = "import socket, sys; c = socket.create_connection(('%s', 7500)); print('silent', flush=True); c.recv(1)"
    silent = paper.stage.desk.start("/usr/bin/python3", "-c", held % paper.stage.CLUSTER)
    silent.expect("silent")
    assert visit(paper, "beside-the-silent")["points"] == POINTS


def test_nobody_else_on_the_cluster_node_finds_a_port(paper: Paper, forward: Running) -> None:
    """The node has one listener, which is TLS; pvserver's own is in a network where nobody else is."""
    listening = paper.stage.cluster.run("ss", "-Hltn").stdout.split("\n")
    assert [line.split()[3] for line in listening if line] == [f"{paper.stage.CLUSTER}:7500"]


def test_another_version_is_said_before_paraview_starts(paper: Paper, forward: Running) -> None:
    """Whoever brings ParaView 5.12 reads that the server has 5.11, and pvserver does not notice."""
    desk, before = paper.stage.desk, said(forward)
    newer = desk.put("pvpython", "#!/bin/sh\necho paraview version 5.12.0\n")
    newer.chmod(0o700)
    done = desk.handfast(
        "session", "paraview", "client", "--session", paper.client, f"{paper.stage.CLUSTER}:7500", "--paraview", newer,
        code=3,
    )  # fmt: skip
    assert "the server runs ParaView '5.11.0', and this client is 5.12.0" in done.stderr
    assert said(forward) == before
