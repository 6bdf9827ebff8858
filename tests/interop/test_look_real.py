"""Looking at real machines: OpenSSH behind cables, names from Knot, and everything that is not as it was said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from handfast.core import sshkeys
from tests.interop.hosts import network
from tests.interop.look_stage import ZONE, LookStage, answer_slowly
from tests.interop.ssh_stage import Sshd

PEERS = ("ip", "knotd", "ssh", "sshd", "ssh-keygen")
pytestmark = [pytest.mark.peer(*PEERS), pytest.mark.root, pytest.mark.timeout(180)]
SERVER, SERVER6, OFFICE = "10.77.1.2", "fd77:1::2", "10.77.2.2"
KINDS = ("ed25519", "ecdsa", "rsa")


@dataclass(frozen=True, slots=True)
class Fleet:
    """A machine that is looked at, and another one."""

    stage: LookStage
    sshd: Sshd
    other: Sshd


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """The machine listens at both of its addresses and at two ports, the other one at its own."""
    with network() as machines:
        stage = LookStage(machines)
        more = f"Port 2222\nListenAddress {SERVER6}\n"
        sshd = Sshd(machines.server, "db1", port=22, address=SERVER, kinds=KINDS, settings=more)
        certified = f"HostCertificate {machines.office.directory}/other/ed25519-cert.pub\n"  # not there yet
        yield Fleet(stage, sshd, Sshd(machines.office, "other", port=22, address=OFFICE, settings=certified))


def did_not_lead(name: str) -> str:
    """What is said of such a name."""
    return f"'{name}.{ZONE}' does not lead to the addresses given, or not only to these"


def test_a_machine_as_it_was_said(fleet: Fleet) -> None:
    """All of a machine's keys at both of its addresses and ports, and A and AAAA records that lead there."""
    fleet.stage.names(f"db1 A {SERVER}", f"db1 AAAA {SERVER6}", f"db A {SERVER}", "alias CNAME db1")
    keys = tuple(fleet.sshd.keys.values())
    looked = fleet.stage.look(SERVER, SERVER6, keys=keys, names=("db1", "db", "alias"), ports=(22, 2222))
    assert (looked.against, looked.notes, looked.refused) == ([], [], [])


def test_a_name_that_leads_elsewhere(fleet: Fleet) -> None:
    """A name that leads to another machine is refused; our log has where it leads, the refusal has not."""
    fleet.stage.names(f"db1 A {OFFICE}")
    looked = fleet.stage.look(SERVER, keys=(fleet.sshd.keys["rsa"],), names=("db1",))
    assert looked.against == [did_not_lead("db1")]
    assert looked.notes == [f"registrar: 'db1.{ZONE}' leads to {OFFICE}"]


@pytest.mark.parametrize("record", [f"db1 A {OFFICE}", f"db1 AAAA {SERVER6}", "db1 AAAA 2001:db8::9"])
def test_a_name_with_one_more_address(fleet: Fleet, record: str) -> None:
    """An address that was not given, of either kind, is one that nobody looked at: the name is refused."""
    fleet.stage.names(f"db1 A {SERVER}", record)
    looked = fleet.stage.look(SERVER, keys=(fleet.sshd.keys["ecdsa"],), names=("db1",))
    assert looked.against == [did_not_lead("db1")]


def test_a_name_that_leads_nowhere(fleet: Fleet) -> None:
    """A name that is not there reads as one that leads elsewhere."""
    fleet.stage.names(f"db1 A {SERVER}")
    looked = fleet.stage.look(SERVER, keys=(fleet.sshd.keys["ed25519"],), names=("db1", "gone"))
    assert looked.against == [did_not_lead("gone")]
    assert f"no address of 'gone.{ZONE}' was found" in looked.notes[0]


def test_another_machine_at_one_of_the_addresses(fleet: Fleet) -> None:
    """Where a machine with keys of its own answers at one of the addresses, the key is refused for all of them."""
    key = fleet.sshd.keys["ed25519"]
    looked = fleet.stage.look(SERVER, OFFICE, keys=(key,))
    assert looked.against == [f"{OFFICE} at port 22 did not show {key.fingerprint}"]
    shown = fleet.other.keys["ed25519"].fingerprint
    assert looked.notes == [f"registrar: {OFFICE} at port 22 shows {shown}"]


@pytest.mark.parametrize("pace", [0.0, 1.0], ids=["silent", "a byte a second"])
def test_a_machine_that_does_not_answer(fleet: Fleet, pace: float) -> None:
    """Whoever says nothing, or a byte a second, costs a scan's time, and reads as one that showed another key."""
    fleet.stage.network.office.run("ip", "address", "add", "10.77.2.3/24", "dev", "eth0", code=None)
    slow = answer_slowly(fleet.stage.network.office, "10.77.2.3", pace=pace)
    key = fleet.other.keys["ed25519"]
    looked = fleet.stage.look(OFFICE, "10.77.2.3", "10.77.2.77", keys=(key,))
    slow.stop()
    assert looked.against == [f"10.77.2.{last} at port 22 did not show {key.fingerprint}" for last in (3, 77)]
    assert any("within 15 s" in note for note in looked.notes)


def test_private_addresses_are_listed_or_refused(fleet: Fleet) -> None:
    """Without the operator's word a private address is not looked at; the hint names the setting."""
    looked = fleet.stage.look(SERVER, SERVER6, keys=(fleet.sshd.keys["rsa"],), ports=(22, 24), allow=("10.78.0.0/16",))
    assert looked.refused == [
        f"'{SERVER}' is not one to scan: private",
        "port 24 is not one to scan",
        f"'{SERVER6}' is not one to scan: private",
    ]
    assert "[ssh.scan] allow" in looked.hint


def test_a_certificate_is_noted(fleet: Fleet) -> None:
    """A host that already shows a certificate of somebody is looked at all the same, and our log has whose."""
    host, directory = fleet.other.host, fleet.other.directory
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "ca")
    host.run("ssh-keygen", "-q", "-s", directory / "ca", "-I", "x", "-h", "-n", "x.lan", directory / "ed25519.pub")
    fleet.other.restart("ed25519")
    looked = fleet.stage.look(OFFICE, keys=(fleet.other.key,))
    assert looked.against == []
    ca = sshkeys.parse((directory / "ca.pub").read_text())
    shown = f"shows a certificate: {fleet.other.key.fingerprint} as 'x.lan' until"
    (note,) = looked.notes
    assert f"{OFFICE} at port 22 {shown}" in note
    assert f"by {ca.fingerprint} (not verified)" in note
