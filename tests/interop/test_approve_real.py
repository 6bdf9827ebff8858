"""Another machine answers for a name that is known: it waits for a person, whose yes moves the name, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.interop.challenge_stage import OFFICE, SERVER, Fleet, certificate
from tests.interop.hosts import Done, network
from tests.interop.look_stage import ZONE

PEERS = ("ip", "knotd", "ssh", "sshd", "ssh-keygen")
pytestmark = [pytest.mark.peer(*PEERS), pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A registrar and two machines, of which one is called db1 in DNS, for now."""
    with network() as machines:
        fleet = Fleet(machines)
        fleet.names.names(f"db1 A {SERVER}")
        yield fleet


def approve(fleet: Fleet, *arguments: str, code: int = 0) -> Done:
    """Act as the operator."""
    return fleet.client.handfast("approve", *arguments, "--data", fleet.registrar.data, code=code)


def test_P26_a_name_that_moved(fleet: Fleet) -> None:
    """
    DNS leads to another machine by now: it gets nothing, and the first one stays what it was, until a person says so.

    Then the new one is certified, and what the first one had is in the list of revoked keys.
    """
    first = fleet.sshd(fleet.network.server)
    fleet.join(first, "db1")
    second = fleet.sshd(fleet.network.office, address=OFFICE)
    fleet.names.names(f"db1 A {OFFICE}")
    waiting = fleet.join(second, "db1", code=6).stderr
    assert f"a person has to approve these host keys for 'db1.{ZONE}'" in waiting
    assert not second.certificate_file().exists()
    shown = fleet.client.handfast("host", "show", f"db1.{ZONE}", "--data", fleet.registrar.data, "--json").json()
    assert [key["fingerprint"] for key in shown["keys"]] == [first.keys["ed25519"].fingerprint]

    (asked,) = approve(fleet, "list", "--json").json()
    assert f"`handfast approve show {asked['approval_id']}`" in waiting
    text = approve(fleet, "show", asked["approval_id"]).stdout
    for sshd in (first, second):
        assert sshd.keys["ed25519"].fingerprint in text
    assert f"to be reached as db1.{ZONE}, {OFFICE}" in text
    approve(fleet, "accept", asked["approval_id"], "--reason", "db1 has a new board")

    fleet.join(second, "db1")
    assert certificate(second).principals == (f"db1.{ZONE}", OFFICE)
    assert fleet.login("db1").stdout == "in it\n"
    krl = fleet.client.directory / "krl"
    fleet.client.handfast("ca", "krl", "--data", fleet.registrar.data, "-o", krl)
    for sshd, code in ((first, 1), (second, 0)):
        for public in (sshd.certificate_file(), sshd.key_file().with_name("ssh_host_ed25519_key.pub")):
            fleet.client.run("ssh-keygen", "-Q", "-f", krl, public, code=code)
    fleet.names.names(f"db1 A {SERVER}")
    assert "was retired" in fleet.join(first, "db1", install=False, code=3).stderr


def test_P26_a_thief_of_the_name(fleet: Fleet) -> None:
    """Who takes over DNS and an address waits as well; after a no he is refused, and the machine goes on as before."""
    machine = fleet.sshd(fleet.network.server)
    fleet.join(machine, "db1")
    thief = fleet.sshd(fleet.network.office, address=OFFICE)
    fleet.names.names(f"db1 A {OFFICE}")
    assert fleet.join(thief, "db1", install=False, code=6).stdout == ""
    (asked,) = json.loads(approve(fleet, "list", "--json").stdout)
    approve(fleet, "reject", asked["approval_id"], "--reason", "nobody has moved it")
    assert "nobody has moved it" in fleet.join(thief, "db1", install=False, code=3).stderr
    fleet.names.names(f"db1 A {SERVER}")
    fleet.join(machine, "db1")
    assert fleet.login("db1").stdout == "in it\n"
    approve(fleet, "accept", asked["approval_id"], "--reason", "changed my mind", code=3)
