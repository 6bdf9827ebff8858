"""The use cases in which the server calls: reverse, phoning home, phoning a friend. With the real ParaView."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.hosts import Host
from tests.interop.paraview_stage import POINTS, Running, Stage, client, ready, server, sphere, stage

pytestmark = [
    pytest.mark.peer("pvserver", "pvpython", "ip"),
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


@dataclass(frozen=True, slots=True)
class Calling:
    """A session whose server calls the desk, and the client's file."""

    stage: Stage
    directory: Path
    client: Path
    server: Running
    port: int

    def meet(self, host: Host, address: str, file: Path, *flags: str) -> Running:
        """Wait on ``host`` for the server's call, and return when it has come."""
        return ready(client(host, file, "--wait", f"{address}:{self.port}", *flags))


@pytest.fixture(scope="module")
def machines() -> Iterator[Stage]:
    """The machines."""
    with stage() as made:
        yield made


def calling(made: Stage, name: str, port: int, *flags: str) -> Calling:
    """Make a session and start its server, which calls the desk; nobody waits there yet."""
    directory = made.session(name)
    files = made.export(directory, "server", made.cluster), made.export(directory, "client", made.desk)
    running = ready(server(made.cluster, files[0], "--dial", f"{made.DESK}:{port}", "--every", "1s", *flags))
    return Calling(made, directory, files[1], running, port)


@pytest.fixture(scope="module")
def reverse(machines: Stage) -> Calling:
    """The server that calls while nobody is there."""
    return calling(machines, "paper", 7600)


def test_reverse_connection(reverse: Calling) -> None:
    """The client waits, the server connects, both check; ParaView itself connects forward, at both ends."""
    waiting = reverse.meet(reverse.stage.desk, reverse.stage.DESK, reverse.client)
    try:
        seen = sphere(reverse.stage.desk, "reverse", waiting.connect_id)
        assert (seen["remote"], seen["points"]) == (True, POINTS)
    finally:
        waiting.process.stop()
    assert len(reverse.server.process.told("pvserver: Accepting connection", 2)) == 2  # its client has left, it goes on


def test_an_impostor_takes_no_call(reverse: Calling) -> None:
    """Who waits at the desk's address with another session's certificate gets neither a client nor pvserver."""
    stage, before = reverse.stage, said(reverse.server)
    other = stage.export(stage.session("impostor"), "client", stage.desk)
    waiting = client(stage.desk, other, "--wait", f"{stage.DESK}:{reverse.port}")
    try:
        reverse.server.process.expect("unknown ca")  # the impostor's own words: it trusts another session
    finally:
        waiting.stop()
    assert said(reverse.server) == before


def said(running: Running) -> list[str]:
    """What pvserver itself has said so far."""
    return [line for line in running.process.lines if "pvserver: " in line]


def phone(reverse: Calling, waiting: Running, host: Host, file: Path, to: str) -> None:
    """Tell the server, through a client that it has called, where to call next; the client leaves then."""
    host.handfast("session", "phone", "--session", file, to, "--every", "1s")
    assert waiting.process.wait() == 0


def test_server_phones_home(reverse: Calling) -> None:
    """On leaving, the client says where to call next and how often; another client there finds the pipeline."""
    stage, desk = reverse.stage, reverse.stage.desk
    waiting = reverse.meet(desk, stage.DESK, reverse.client)
    sphere(desk, "before-home", waiting.connect_id)
    phone(reverse, waiting, desk, reverse.client, f"{stage.DESK}:7601")
    home = ready(client(desk, reverse.client, "--wait", f"{stage.DESK}:7601"))
    try:
        assert "before-home" in sphere(desk, "home", home.connect_id)["before"]
        phone(reverse, home, desk, reverse.client, f"{stage.DESK}:{reverse.port}")  # as it was
    finally:
        home.process.stop()


def test_server_phones_a_friend(reverse: Calling) -> None:
    """The friend has a copy of the client's file, takes the next call, and has the first user's pipeline."""
    copy = reverse.stage.friend.put("copy.pem", reverse.client.read_text())
    phoned(reverse, copy, "for-the-copy")


def test_server_phones_a_friend_alternate(reverse: Calling) -> None:
    """The friend has a key and a certificate of an own."""
    reverse.stage.desk.handfast("session", "friend", "ann", "--dir", reverse.directory)
    phoned(reverse, reverse.stage.export(reverse.directory, "ann", reverse.stage.friend), "for-ann")


def phoned(reverse: Calling, file: Path, name: str) -> None:
    """The user makes ``name``, hands over to the friend, who sees it and hands back."""
    stage = reverse.stage
    waiting = reverse.meet(stage.desk, stage.DESK, reverse.client)
    sphere(stage.desk, name, waiting.connect_id)
    phone(reverse, waiting, stage.desk, reverse.client, f"{stage.FRIEND}:7602")
    friend = ready(client(stage.friend, file, "--wait", f"{stage.FRIEND}:7602"))
    try:
        assert name in sphere(stage.friend, f"{name}-seen", friend.connect_id)["before"]
        phone(reverse, friend, stage.friend, file, f"{stage.DESK}:{reverse.port}")
    finally:
        friend.process.stop()


def test_reverse_connection_of_paraview_itself(machines: Stage) -> None:
    """The other kind: pvserver opens no port and ParaView listens, over a session that is reversed too."""
    native = calling(machines, "native", 7700, "--native-reverse")
    waiting = native.meet(machines.desk, machines.DESK, native.client, "--native-reverse", "--local", "127.0.0.1:11122")
    try:
        seen = sphere(machines.desk, "native", waiting.connect_id, port="11122", how="csrc")
        assert (seen["remote"], seen["points"]) == (True, POINTS)
        native.server.process.expect("the pipeline is lost")
        again = sphere(machines.desk, "again", waiting.connect_id, port="11122", how="csrc")
        assert (again["before"], again["points"]) == ([], POINTS)
    finally:
        waiting.process.stop()


def test_a_client_that_dials_a_server_that_calls_is_told(machines: Stage) -> None:
    """ParaView's two directions do not fit each other; the client says so, and its port never opens."""
    made = calling(machines, "misfit", 7800, "--native-reverse")
    waiting = client(machines.desk, made.client, "--wait", f"{machines.DESK}:7800")
    assert waiting.wait() == 3
    assert "start the client with --native-reverse" in str(waiting)
