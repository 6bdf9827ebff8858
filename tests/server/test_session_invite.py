"""From an invitation to a session file: two directories, real processes, the real registrar between them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.roles import Role
from handfast.errors import Revoked
from handfast.server import session
from handfast.sessions import party
from handfast.sessions.party import Party
from handfast.sessions.trust import Trust
from tests.interop.cable import cable
from tests.interop.hosts import HANDFAST, Host, Process, clock, scratch
from tests.ports import free_port

LISTEN = ("--listen", "127.0.0.1:0")
pytestmark = pytest.mark.timeout(120)  # several starts of Python each, on a machine that may be busy


def now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Inviting:
    """`session invite` at work, with the line that it printed."""

    process: Process
    line: str

    @property
    def port(self) -> int:
        """Where it waits, as the line says."""
        return int(self.line.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Owner:
    """Who made the session."""

    host: Host

    @property
    def directory(self) -> Path:
        """The session's."""
        return self.host.directory / "D"

    def invite(self, who: str, *flags: str) -> Inviting:
        """Start `session invite`, and return when it can be used. Its stdout holds one line, and nothing before it."""
        out = self.host.directory / f"line-{len(os.listdir(self.host.directory))}"
        command = " ".join((*HANDFAST, "session", "invite", who, "--dir", "D", *(flags or LISTEN)))
        process = self.host.start("/bin/sh", "-c", f"exec {command} > {out}")
        process.expect("waiting at 127.0.0.1:")
        printed = out.read_text()
        assert printed.startswith("handfast1_"), printed
        assert printed.count("\n") == 1
        return Inviting(process, printed.strip())

    def party(self, who: str) -> dict[str, Any]:
        """What `show --json` says of a party."""
        shown = self.host.handfast("session", "show", "--dir", "D", "--json").json()
        (found,) = (each for each in shown["parties"] if each["name"] == who)
        return dict(found)


@pytest.fixture
def owner() -> Iterator[Owner]:
    """The machine where the session was made."""
    with scratch() as directory:
        host = Host(directory / "desk")
        session.new("paper", host.directory / "D", lifetime=session.LONGEST)
        session.friend(host.directory / "D", "bob")
        try:
            yield Owner(host)
        finally:
            host.close()


@pytest.fixture
def node(owner: Owner) -> Host:
    """The other machine."""
    return Host(owner.host.directory.parent / "node")


def read(host: Host, name: str = "session.pem") -> Party:
    """The party in a file on a host."""
    return party.read(host.directory / name, now=now())


def join(host: Host, line: str, *flags: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """`session join` with the line on stdin; what it said on stderr. Its stdout is for data, and there is none."""
    done = host.handfast("session", "join", *flags, stdin=line, code=code, env=env)
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(("who", "role"), [("server", Role.SERVER), ("client", Role.CLIENT), ("bob", Role.CLIENT)])
def test_an_invitation_becomes_a_file(owner: Owner, node: Host, who: str, role: Role) -> None:
    """The key is made there, the file is for its owner, and the invitation ends at once and well."""
    inviting = owner.invite(who)
    told = join(node, inviting.line, "-o", "f.pem")
    assert f"joined the session paper as {who} ({role}), until " in told
    assert inviting.process.wait() == 0
    made = read(node, "f.pem")
    assert (made.session, made.name, made.role, made.home) == ("paper", who, role, None)
    assert owner.party(who)["serials"] == [f"{made.serial:032x}"]
    assert any(f"{who} has joined, with the credential {made.serial:032x}" in each for each in inviting.process.lines)
    assert sorted(os.listdir(node.directory)) == ["f.pem", "f.pem.crl"]
    assert {path.stat().st_mode & 0o777 for path in node.directory.iterdir()} == {0o600}


def test_they_know_each_other(owner: Owner, node: Host) -> None:
    """A server that joined and a client that was exported accept each other; then the friend is cut, and only it."""
    inviting = owner.invite("server")
    join(node, inviting.line)
    assert inviting.process.wait() == 0
    client, bob = (session.export(owner.directory, who, owner.host.directory / who) for who in ("client", "bob"))
    trust = Trust(read(node), now=now, path=node.directory / "session.pem")
    leaves = [each.leaf.public_bytes(Encoding.DER) for each in (client, bob)]
    assert [trust.verify(leaf, now()).machine for leaf in leaves] == ["client", "bob"]
    session.revoke(owner.directory, "bob")
    trust.adopt((owner.directory / "session.crl").read_bytes())
    assert trust.verify(leaves[0], now()).machine == "client"
    with pytest.raises(Revoked, match="'bob' was revoked"):
        trust.verify(leaves[1], now())


def test_as_json(owner: Owner, node: Host) -> None:
    """One value each, for programs: the line with where and until, and what was joined."""
    command = " ".join((*HANDFAST, "session", "invite", "bob", "--dir", "D", "--json", *LISTEN))
    process = owner.host.start("/bin/sh", "-c", f"exec {command} > told")
    process.expect("waiting at")
    told = json.loads((owner.host.directory / "told").read_text())
    assert (told["name"], told["role"]) == ("bob", "client")
    assert told["line"].endswith(f"@{told['listen']}")
    joined = node.handfast("session", "join", "--json", stdin=told["line"]).json()
    assert (joined["session"], joined["name"], joined["file"]) == ("paper", "bob", "session.pem")
    assert process.wait() == 0


def test_the_same_line_again(owner: Owner, node: Host) -> None:
    """A boot script that runs twice is no thief: the file is there, and nobody has to be asked."""
    inviting = owner.invite("client")
    join(node, inviting.line)
    assert inviting.process.wait() == 0
    before = (node.directory / "session.pem").read_bytes()
    assert "joined the session paper as client" in join(node, inviting.line)
    assert (node.directory / "session.pem").read_bytes() == before


def test_a_lost_answer(owner: Owner, node: Host) -> None:
    """Cut at any point, the same line goes on with the same key, and the ledger knows one credential."""
    port = free_port()
    with cable(port) as laid:
        inviting = owner.invite("client", "--listen", f"127.0.0.1:{port}", "--address", f"127.0.0.1:{laid.port}")
        keys = set()
        for limit in (10, 1500, 3000, 4500, 5500):
            laid.cut(down=limit)
            join(node, inviting.line, code=4)
            assert not (node.directory / "session.pem").exists()
            keys.add((node.directory / ".session.pem.join/.pending").read_bytes())
        assert owner.party("client")["status"] == "valid"  # issued, and lost on the way
        laid.cut()
        join(node, inviting.line)
    assert len(keys) == 1
    assert inviting.process.wait() == 0
    assert owner.party("client")["serials"] == [f"{read(node).serial:032x}"]
    assert sorted(os.listdir(node.directory)) == ["session.pem", "session.pem.crl"]


def test_somebody_else_comes_too_late(owner: Owner, node: Host) -> None:
    """The line is spent by a key. Whoever joins with `handfast join` is served too, and a while longer."""
    inviting = owner.invite("client")
    node.join(inviting.line, "identity")
    thief = Host(node.directory.parent / "thief")
    assert "was already used with another key" in join(thief, inviting.line, code=3)
    assert not (thief.directory / "session.pem").exists()
    assert inviting.process.stop() == 0  # it was used; nobody asked again
    assert owner.party("client")["alarms"] == 1


def test_nobody_comes(owner: Owner, node: Host) -> None:
    """It ends with 3 when its time is over, and the line is worth nothing."""
    inviting = owner.invite("client", *LISTEN, "--for", "1s")
    assert inviting.process.wait() == 3
    assert any("nobody used the invitation of 'client' until " in line for line in inviting.process.lines)
    assert owner.party("client")["status"] != "invited"
    assert "cannot reach 127.0.0.1" in join(node, inviting.line, code=4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_owner_ends_it(owner: Owner, node: Host, number: signal.Signals) -> None:
    """Interrupted, it cancels the invitation: the next one, on the same port, does not serve the old line."""
    inviting = owner.invite("client")
    os.kill(inviting.process.pid, number)
    assert inviting.process.wait() == 3
    assert any("ended before 'client' had joined" in line for line in inviting.process.lines)
    again = owner.invite("bob", "--listen", f"127.0.0.1:{inviting.port}")
    assert "was cancelled" in join(node, inviting.line, code=3)
    join(node, again.line)
    assert again.process.wait() == 0
    assert read(node).name == "bob"


def test_the_owner_takes_it_back(owner: Owner) -> None:
    """`session revoke` of somebody who has not come yet ends the waiting."""
    inviting = owner.invite("bob")
    done = owner.host.handfast("session", "revoke", "bob", "--dir", "D")
    assert "bob held no credential; its open invitations are cancelled" in done.stderr
    assert inviting.process.wait() == 3
    assert any("the invitation of 'bob' was cancelled" in line for line in inviting.process.lines)


def test_one_at_a_time(owner: Owner) -> None:
    """A second one on the same directory, or a registrar, is told who is there; the owner's other commands go on."""
    inviting = owner.invite("bob")
    for command in (("session", "invite", "client", "--dir", "D", *LISTEN), ("up", "--data", "D", *LISTEN)):
        assert f"is in use by process {inviting.process.pid}" in owner.host.handfast(*command, code=1).stderr
    owner.host.handfast("session", "friend", "carol", "--dir", "D")
    owner.host.handfast("session", "export", "carol", "--dir", "D", "-o", "carol.pem")
    owner.host.handfast("session", "revoke", "carol", "--dir", "D")
    os.kill(inviting.process.pid, signal.SIGTERM)
    assert inviting.process.wait() == 3


def test_a_port_in_use(owner: Owner) -> None:
    """It says so before it prints anything, and leaves no open invitation."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = owner.host.handfast("session", "invite", "bob", "--dir", "D", "--listen", place, code=1)
    assert done.stdout == ""
    assert f"'{place}' is in use by another program" in done.stderr
    assert owner.party("bob")["status"] == "new"


def test_a_file_in_the_way(owner: Owner, node: Host) -> None:
    """It is seen before anything is sent: the invitation is still good."""
    inviting = owner.invite("bob")
    node.put("session.pem", "precious")
    assert "'session.pem' exists" in join(node, inviting.line, code=3).replace(f"{node.directory}/", "")
    assert (node.directory / "session.pem").read_text() == "precious"
    join(node, inviting.line, "-o", "other.pem")
    assert inviting.process.wait() == 0


@pytest.mark.peer("faketime")
@pytest.mark.parametrize("offset", ["+2d", "-2d"])
def test_a_clock_two_days_off(owner: Owner, node: Host, offset: str) -> None:
    """Both clocks are named, before the invitation is spent; with the right time the same line goes through."""
    inviting = owner.invite("bob")
    told = join(node, inviting.line, code=3, env=clock(offset))
    assert "the two clocks are " in told
    assert " apart: " in told
    join(node, inviting.line)
    assert inviting.process.wait() == 0


def test_another_kind_of_invitation(owner: Owner, node: Host) -> None:
    """A registrar's invitation for another role makes no party: nothing is written."""
    up = owner.host.start(*HANDFAST, "up", "--data", "other", "--json", *LISTEN)
    up.expect('"url"')
    line = owner.host.handfast("invite", "boss", "--role", "operator", "--data", "other").stdout
    assert "it is for the role operator" in join(node, line, code=3)
    assert not (node.directory / "session.pem").exists()


def test_a_session_serves_two_roles(owner: Owner) -> None:
    """The directory is a registrar's, but its rules lead to no other role."""
    with session.opened(owner.directory) as opened:
        pin = opened.authority.pin.hex()
    up = owner.host.start(*HANDFAST, "up", "--data", "D", "--json", *LISTEN)
    assert json.loads(up.expect('"url"'))["pin"] == pin
    line = owner.host.handfast("invite", "boss", "--role", "operator", "--data", "D").stdout
    refused = owner.host.handfast("join", "--out", "boss", stdin=line, code=3)
    assert "method 'invitation' does not lead to role operator" in refused.stderr
