"""
A registrar and the agent of a managed machine of its own, which look at one host from two sides.

    agent 10.77.1.2 ---- 10.77.1.1  the host  10.77.2.1 ---- 10.77.2.2 the registrar, its controller
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.interop.hosts import HANDFAST, Host, Process, network
from tests.interop.look_stage import WITH_DNS, LookStage
from tests.interop.ssh_stage import Sshd
from tests.interop.test_vantage_real import MACHINE, NEAR, Node, join

PEERS = ("ip", "knotd", "ssh", "sshd", "ssh-keygen")
pytestmark = [pytest.mark.peer(*PEERS), pytest.mark.root, pytest.mark.timeout(240)]
FAR, NAMES = "10.77.1.2", "10.77.2.1"
CONFIG = """\
[ssh]
evidence = ["invitation", "renewal", "ssh-hostkey"]
[ssh.scan]
allow = ["10.77.0.0/16"]
vantage = ["agent:app1.lan"]
[instances]
watch = true
"""
GIVEN = 'looks = true\nlooks_allow = ["10.77.0.0/16"]\n'
TRIES = 100  # of a command that takes half a second
_numbers = itertools.count()


@dataclass
class Agent:
    """A managed machine's agent, which asks for names beyond the host: nobody in its place there answers for them."""

    host: Host
    near: Node
    name: str
    port: int
    given: str = GIVEN
    process: Process = field(init=False)
    policy: Path = field(init=False)

    def __post_init__(self) -> None:
        """Add it, start it, and wait until it runs."""
        self.policy = self.host.put(f"{self.name}.policy", self.given)
        self.resolv = self.host.put(f"{self.name}.resolv", f"nameserver {NAMES}\noptions timeout:1 attempts:1\n")
        self.host.put(f"{self.name}.data", self.operator("add", "--format", "json").stdout)
        self.start()
        self.operator("place", self.where)
        self.until("running")

    @property
    def where(self) -> str:
        """Its address."""
        return f"{FAR}:{self.port}"

    def operator(self, command: str, *arguments: str) -> Any:
        """Type a command of `instance` at the registrar."""
        return self.near.host.handfast("instance", command, self.name, *arguments, "--data", self.near.data)

    def start(self) -> None:
        """Start it, also again."""
        files = ("--user-data", f"{self.name}.data", "--state", f"{self.name}.state", "--policy", str(self.policy))
        command = (*WITH_DNS, self.resolv, *HANDFAST, "agent", "run", *files, "--listen", self.where, "--json")
        self.process = self.host.start(*command)
        self.process.expect('{"instance"')

    def until(self, state: str) -> None:
        """Wait until its controller says so of it."""
        shown: dict[str, Any] = {}
        for _ in range(TRIES):
            shown = self.operator("show", "--json").json()
            if shown["watched"] and shown["state"] == state:
                return
        raise AssertionError(f"{shown}\n{self.process}\n{self.near.process}")

    @property
    def looked(self) -> int:
        """How often it was asked to look."""
        return sum("/v1/look" in line for line in self.process.lines)

    @contextmanager
    def under(self, policy: str) -> Iterator[None]:
        """Have another policy for a while."""
        for text in (policy, self.given):
            self.policy.write_text(text)
            self.process.kill_with(signal.SIGHUP)
            self.process.expect("reloaded")
            if text == policy:
                yield


@dataclass(frozen=True, slots=True)
class Sides:
    """The host that is looked at, and who looks."""

    machine: Host
    far: Host
    office: Host
    sshd: Sshd
    near: Node
    agent: Agent


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    """The registrar reaches its agent through the host."""
    with network() as net:
        machine, far, office = net.registrar, net.server, net.office
        machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        far.run("ip", "route", "add", "default", "via", MACHINE)
        office.run("ip", "route", "add", "default", "via", NAMES)
        names = LookStage(net)
        names.names(f"db1 A {MACHINE}")
        # Each end of the cables knows the other's: a thief who takes the host's address does not take its cable, too.
        for one, device, other, address in ((machine, "eth1", far, FAR), (far, "eth0", machine, MACHINE)):
            seen = other.run("cat", f"/sys/class/net/{'eth0' if other is far else 'eth1'}/address").stdout.strip()
            one.run("ip", "neighbor", "replace", address, "lladdr", seen, "dev", device, "nud", "permanent")
        sshd = Sshd(machine, "db1", port=22, address=MACHINE)
        near = Node(office, NEAR, CONFIG, nameserver=NAMES, data="near")
        yield Sides(machine, far, office, sshd, near, Agent(far, near, "app1.lan", 7575))


@contextmanager
def in_the_middle(host: Host) -> Iterator[Sshd]:
    """Somebody who answers at the host's address to whoever is here, with a key of his own."""
    host.run("ip", "address", "add", f"{MACHINE}/32", "dev", "lo")
    try:
        thief = Sshd(host, f"thief{next(_numbers)}", port=22, address=MACHINE)
        try:
            yield thief
        finally:
            thief.process.stop()
    finally:
        host.run("ip", "address", "del", f"{MACHINE}/32", "dev", "lo")


def refused(sides: Sides, note: str, *, host: Host | None = None, key: Sshd | None = None) -> None:
    """Ask as a host with these keys: it is refused, hears nothing of who did not see it, and our log has the note."""
    key = key or sides.sshd
    told = join(host or sides.machine, sides.near, key, code=3).stderr
    assert f"{MACHINE} at port 22 did not show {key.key.fingerprint}" in told
    assert not any(secret in told for secret in (FAR, "app1", "agent:")), told
    assert note in sides.near.process.expect("agent:app1.lan: "), sides.near.process


def test_both_see_the_host(sides: Sides) -> None:
    """A host that is what it says from both sides gets its certificate; the agent was asked each time, and saw it."""
    before = sides.agent.looked
    join(sides.machine, sides.near, sides.sshd)
    assert len(sides.agent.process.told("/v1/look", before + 2)) == before + 2


def test_P28_in_the_middle_of_the_registrars_path(sides: Sides) -> None:
    """Who sits before the registrar, and enrols himself as the host, is refused, for the agent sees the host."""
    with in_the_middle(sides.office) as thief:
        refused(sides, f"{MACHINE} at port 22 shows none of the keys", host=sides.office, key=thief)


def test_P28_in_the_middle_of_the_agents_path(sides: Sides) -> None:
    """Who sits before the agent keeps the host from its certificate, and has none himself, as the registrar sees it."""
    before = sides.agent.looked
    with in_the_middle(sides.far) as thief:
        refused(sides, f"{MACHINE} at port 22 shows none of the keys")
        assert sides.agent.process.told(thief.key.fingerprint), "in the agent's own log"
        before = len(sides.agent.process.told("/v1/look", before + 1))
        told = join(sides.far, sides.near, thief, code=3).stderr
        assert f"did not show {thief.key.fingerprint}" in told
        assert sides.agent.looked == before, "it is asked only for what the registrar has seen"


@pytest.mark.parametrize("policy", ["", "looks = false\n", 'looks_allow = ["10.77.0.0/16"]\n'])
def test_P28_an_agent_without_the_permission(sides: Sides, policy: str) -> None:
    """The machine's own policy does not have it look: nothing is certified, until it does."""
    with sides.agent.under(policy):
        refused(sides, "the policy of this machine does not let it look at hosts")
    join(sides.machine, sides.near, sides.sshd)


def test_P28_an_agent_that_may_not_look_there(sides: Sides) -> None:
    """It goes by its own guard: a network that is open for the registrar is not for its agents."""
    with sides.agent.under("looks = true\n"):
        refused(sides, f"{MACHINE!r} is not one to scan: private")


def test_P28_an_agent_that_is_gone(sides: Sides) -> None:
    """Nothing is certified until it is back; and another instance's agent, which may look, is not asked for it."""
    other = Agent(sides.far, sides.near, "app2.lan", 7576)
    sides.agent.process.stop()
    refused(sides, f"{sides.agent.where} does not answer")
    assert other.looked == 0
    sides.agent.start()
    join(sides.machine, sides.near, sides.sshd)
    assert (len(sides.agent.process.told("/v1/look", 2)), other.looked) == (2, 0)


def test_P28_somebody_else_at_the_agents_place(sides: Sides) -> None:
    """Another agent, with a genuine certificate of ours for its own name, is asked nothing, and has seen nothing."""
    sides.agent.process.stop()
    liar = Agent(sides.far, sides.near, "app3.lan", 7577)
    liar.process.stop()
    liar.port = sides.agent.port
    liar.start()
    refused(sides, "'app1.lan' ")  # has another key; or is quarantined by now, as its controller has met it as well
    assert liar.looked == 0
    liar.process.stop()


def test_a_registrar_that_is_nobodys_controller_does_not_start(sides: Sides) -> None:
    """It could not ask: that is a mistake in the configuration."""
    data = sides.office.directory / "nobody"
    data.mkdir(mode=0o700)
    sides.office.put("nobody/config.toml", CONFIG.replace("watch = true", "watch = false"))
    told = sides.office.handfast("up", "--data", data, "--listen", f"{NEAR}:7444", code=2).stderr
    assert "ssh.scan.vantage: 'agent:app1.lan' is asked by its controller: [instances] watch = true" in told
