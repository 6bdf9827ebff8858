"""
Two registrars that look at one machine from two sides, and somebody in the middle on one of them.

    far 10.77.1.2 ---- 10.77.1.1  the machine  10.77.2.1 ---- 10.77.2.2 near, which is asked
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.hosts import HANDFAST, Done, Host, Registrar, network
from tests.interop.look_stage import WITH_DNS, ZONE, LookStage
from tests.interop.ssh_stage import Sshd

PEERS = ("ip", "knotd", "ssh", "sshd", "ssh-keygen")
pytestmark = [pytest.mark.peer(*PEERS), pytest.mark.root, pytest.mark.timeout(240)]
MACHINE, FAR, NEAR = "10.77.1.1", "10.77.1.2", "10.77.2.2"
_EVIDENCE = '[ssh]\nevidence = ["invitation", "renewal", "ssh-hostkey"]\n'
_SCAN = '[ssh.scan]\nallow = ["10.77.0.0/16"]\n'
_numbers = itertools.count()


class Node(Registrar):
    """``handfast up``, which asks for names on its own side."""

    def __init__(self, host: Host, address: str, config: str, *, nameserver: str, data: str) -> None:
        self.resolv = host.put(f"{data}.resolv", f"nameserver {nameserver}\noptions timeout:1 attempts:1\n")
        (host.directory / data).mkdir(mode=0o700)
        host.put(f"{data}/config.toml", config)
        super().__init__(host, f"{address}:7443", data=data)

    def up(
        self,
        listen: str | None = None,
        *,
        command: tuple[str, ...] = HANDFAST,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, with its name server."""
        super().up(listen, command=(*WITH_DNS, str(self.resolv), *command), env=env)

    @property
    def line(self) -> str:
        """Its address and pin."""
        return f"{self.ready['url']}#{self.ready['pin']}"


@dataclass(frozen=True, slots=True)
class Sides:
    """The machine, the registrar far from the one that is asked, and a way to start that one."""

    machine: Host
    office: Host
    far: Node
    sshd: Sshd
    credential: Path
    near: Callable[..., Node]


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    """Both registrars reach the machine and, through it, each other."""
    with network() as net:
        machine, other, office = net.registrar, net.server, net.office
        machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        other.run("ip", "route", "add", "default", "via", MACHINE)
        office.run("ip", "route", "add", "default", "via", "10.77.2.1")
        names = LookStage(net)
        names.names(f"db1 A {MACHINE}")
        far = Node(other, FAR, _SCAN, nameserver=MACHINE, data="far")
        sshd = Sshd(machine, "db1", port=22, address=MACHINE)
        credential = office.join(far.invite("near", "--role", "agent"), "at-far")

        def near(config: str) -> Node:
            return Node(office, NEAR, config, nameserver="10.77.2.1", data=f"near{next(_numbers)}")

        yield Sides(machine, office, far, sshd, credential, near)


@pytest.fixture
def in_the_middle(sides: Sides) -> Iterator[Sshd]:
    """Somebody who answers at the machine's address to whoever is in the office, with a key of his own."""
    sides.office.run("ip", "address", "add", f"{MACHINE}/32", "dev", "lo")
    thief = Sshd(sides.office, f"thief{next(_numbers)}", port=22, address=MACHINE)
    yield thief
    thief.process.stop()
    sides.office.run("ip", "address", "del", f"{MACHINE}/32", "dev", "lo")


def watched(sides: Sides, *, line: str | None = None, credential: Path | None = None) -> str:
    """The configuration of a registrar for which the far one looks."""
    point, directory = line or sides.far.line, credential or sides.credential
    return f'{_EVIDENCE}{_SCAN}vantage = ["{point}"]\ncredential = "{directory}"\n'


def join(host: Host, near: Node, sshd: Sshd, *, code: int = 0) -> Done:
    """Ask the near registrar for certificates as the machine."""
    etc = host.directory / f"etc{next(_numbers)}"
    etc.mkdir()
    for suffix in ("", ".pub"):
        (etc / f"ssh_host_ed25519_key{suffix}").write_bytes((sshd.directory / f"ed25519{suffix}").read_bytes())
    (etc / "ssh_host_ed25519_key").chmod(0o600)
    where = ("--name", f"db1.{ZONE}", "--address", MACHINE)
    command = ("join", "--ssh-hostkey", near.line, *where, "--ssh-dir", etc, "--out", f"{etc.name}.id")
    return host.handfast(*command, code=code)


def test_both_see_the_machine(sides: Sides) -> None:
    """A machine that is what it says from both sides gets its certificate; the far registrar was asked each time."""
    near = sides.near(watched(sides))
    join(sides.machine, near, sides.sshd)
    near.process.stop()
    asked = [line for line in sides.far.process.lines if "/v1/ssh/look" in line]
    assert len(asked) == 2, asked


def test_P28_in_the_middle_of_one_path(sides: Sides, in_the_middle: Sshd) -> None:
    """
    Who sits before one registrar, and enrols himself as the machine, is refused, for the other sees the machine.

    Without the other he would have a certificate in its name.
    """
    near = sides.near(watched(sides))
    refused = join(sides.office, near, in_the_middle, code=3)
    assert f"{MACHINE} at port 22 did not show {in_the_middle.key.fingerprint}" in refused.stderr
    assert "10.77.1.2" not in refused.stderr, "he hears what was not seen, and not by whom"
    near.process.stop()
    assert any(f"{FAR}:7443: {MACHINE} at port 22" in line for line in near.process.lines)
    alone = sides.near(_EVIDENCE + _SCAN)
    join(sides.office, alone, in_the_middle)
    alone.process.stop()


def test_P28_the_machine_itself_while_somebody_is_in_the_middle(sides: Sides, in_the_middle: Sshd) -> None:
    """The machine is refused as well: what one of them does not see has no certificate."""
    near = sides.near(watched(sides))
    refused = join(sides.machine, near, sides.sshd, code=3)
    assert f"did not show {sides.sshd.key.fingerprint}" in refused.stderr
    near.process.stop()


def test_P28_who_cannot_be_asked_disagrees(sides: Sides) -> None:
    """While the far registrar is down nobody gets a certificate; our log says that it was that."""
    near = sides.near(watched(sides))
    sides.far.process.stop()
    refused = join(sides.machine, near, sides.sshd, code=3)
    near.process.stop()
    sides.far.up()
    assert f"{MACHINE} at port 22 did not show" in refused.stderr
    assert FAR not in refused.stderr
    assert any(f"cannot reach {FAR}:7443" in line for line in near.process.lines)


def test_P28_a_credential_that_was_revoked(sides: Sides) -> None:
    """A vantage point that does not let us in any more has not seen anything."""
    lent = sides.office.join(sides.far.invite("lent", "--role", "agent"), f"lent{next(_numbers)}")
    near = sides.near(watched(sides, credential=lent))
    sides.far.revoke("lent")
    join(sides.machine, near, sides.sshd, code=3)
    near.process.stop()
    assert any("the agent credential of 'lent' is revoked" in line for line in near.process.lines)


def test_a_registrar_without_the_credential_does_not_start(sides: Sides) -> None:
    """A vantage point for which there is no credential, or one for another role, is a mistake in the configuration."""
    host = sides.office
    server = host.join(sides.far.invite("a-server"), f"server{next(_numbers)}")
    other = sides.far.line.replace(sides.far.ready["pin"], "00" * 32)
    for config, mistake in (
        (watched(sides, line=other), f"no credential for {FAR}:7443#0000000000000000…"),
        (watched(sides, credential=server), "is for role server"),
        (watched(sides, credential=host.directory / "nowhere"), "nothing has joined into"),
    ):
        data = host.directory / f"near{next(_numbers)}"
        data.mkdir(mode=0o700)
        host.put(f"{data.name}/config.toml", config)
        refused = host.handfast("up", "--data", data, "--listen", f"{NEAR}:7443", code=2)
        assert mistake in refused.stderr
        assert "handfast join" in refused.stderr
