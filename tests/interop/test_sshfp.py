"""`handfast host dns` before Knot, which signs, and what OpenSSH makes of it through Unbound, which validates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handfast.core.hosts import How, Place
from handfast.core.knownhosts import sshfp
from handfast.core.sshkeys import SshKey
from tests.interop.dns_stage import ZONE, Zone
from tests.interop.hosts import clock, network
from tests.interop.ssh_stage import Sshd, Stage, make_key

PEERS = ("ip", "kdig", "keymgr", "knotd", "unbound", "ssh", "sshd", "ssh-keygen", "faketime")
pytestmark = [pytest.mark.peer(*PEERS), pytest.mark.root, pytest.mark.timeout(180)]
NAMES = ("web1", "bare", "web2", "web3", "moved", "gone", "weak")


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    """A registry, a signed zone with the addresses of machines, and an office that asks for them."""
    with network() as machines:
        yield Zone(machines, Stage(machines.registrar), NAMES)


@pytest.fixture
def web(zone: Zone, request: pytest.FixtureRequest) -> Iterator[Sshd]:
    """A machine whose sshd runs, registered under its name in the zone; the test says which."""
    name = request.param
    sshd = Sshd(zone.stage.host, name, address="10.77.1.1", kinds=("ed25519", "ecdsa", "rsa"))
    zone.stage.register(name, *sshd.keys.values(), at=(f"{name}.{ZONE}",), ports=(sshd.port,))
    yield sshd
    sshd.process.stop()


def of(*keys: SshKey) -> set[str]:
    """The records of these keys."""
    return {str(sshfp(key)) for key in keys}


# --- what ssh makes of it ---


@pytest.mark.parametrize("web", ["web1"], indirect=True)
def test_ssh_accepts_what_a_signed_zone_says(zone: Zone, web: Sshd) -> None:
    """The first connection of a plain ssh needs no question, no known_hosts, and no Handfast on the client."""
    # Another name, as a resolver may keep that there is no record to the end of the second.
    assert "Host key verification failed" in zone.ssh("bare", f"-p{web.port}", code=255).stderr
    zone.publish("web1")
    assert zone.records("web1") == of(*web.keys.values())
    assert zone.ssh("web1", f"-p{web.port}", "-oStrictHostKeyChecking=yes").stdout == "web1\n"


@pytest.mark.parametrize("web", ["web2"], indirect=True)
def test_ssh_refuses_another_key(zone: Zone, web: Sshd) -> None:
    """Whoever answers with a key of his own is refused, and ssh says that DNS says otherwise."""
    zone.publish("web2")
    thief = Sshd(zone.stage.host, "thief", address="10.77.1.1")
    done = zone.ssh("web2", f"-p{thief.port}", "-oStrictHostKeyChecking=yes", code=255)
    thief.process.stop()
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert "SSHFP" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("web", ["web3"], indirect=True)
def test_limit_dns_only_adds(zone: Zone, web: Sshd) -> None:
    """Records do not bind ssh: without DNSSEC's word it asks, and with accept-new it takes another key."""
    zone.publish("web3")
    unsure = zone.ssh("web3", f"-p{web.port}", "-oStrictHostKeyChecking=ask", resolver=zone.careful, code=255)
    assert "Host key verification failed" in unsure.stderr
    thief = Sshd(zone.stage.host, "thief-of-web3", address="10.77.1.1")
    taken = zone.ssh("web3", f"-p{thief.port}", "-oStrictHostKeyChecking=accept-new")
    thief.process.stop()
    assert taken.stdout == "thief-of-web3\n"
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in taken.stderr


# --- the registry's changes reach the zone ---


@pytest.mark.parametrize("web", ["gone"], indirect=True)
def test_retired_and_removed_keys_leave_the_zone(zone: Zone, web: Sshd) -> None:
    """A retired key goes with the next run; a removed machine's go from the name that it had; others' stay there."""
    zone.publish("gone", key=zone.longer)
    zone.stage.retire("gone", web.key)
    assert "2 SSHFP records at gone.fleet.example" in zone.publish("gone").stderr
    assert zone.records("gone") == of(web.keys["ecdsa"], web.keys["rsa"])
    assert zone.ssh("gone", f"-p{web.port}", "-oHostKeyAlgorithms=ssh-ed25519", code=255).stdout == ""
    zone.stage.run("handfast", "host", "remove", "gone")
    printed = zone.publish("gone", "--json").stdout
    assert '"records":{},"removed":["gone.fleet.example"]' in printed
    assert zone.records("gone") == set()


def test_a_name_that_moved_has_the_new_machines_keys(zone: Zone) -> None:
    """Publishing the machine that had the name before touches nothing of the one that has it now."""
    old, new = (make_key(zone.here / name) for name in ("old", "new"))
    zone.stage.register("old", old, at=(f"moved.{ZONE}",))
    zone.publish("old")
    zone.stage.register("new", new, at=(f"moved.{ZONE}",), how=How.OPERATOR)
    assert zone.stage.known("old").place == Place()
    zone.publish("new")
    assert "has no name in 'fleet.example'" in zone.publish("old", code=3).stderr
    assert zone.records("moved") == of(new)
    zone.publish("new", "--remove")
    assert zone.records("moved") == set()


def test_what_is_not_believed_is_not_published(zone: Zone) -> None:
    """A key that was only seen gives no record; a record that stood there goes."""
    zone.stage.register("weak", make_key(zone.here / "weak"), at=(f"weak.{ZONE}",), how=How.SCAN)
    assert "0 SSHFP records" in zone.publish("weak").stderr
    assert zone.records("weak") == set()


def test_of_several_machines_those_without_a_name_are_told(zone: Zone) -> None:
    """One machine of another zone keeps nobody else's records back; alone, it is an error."""
    key = make_key(zone.here / "several")
    zone.stage.register("several", key, at=(f"several.{ZONE}",))
    zone.stage.register("elsewhere", make_key(zone.here / "elsewhere"), at=("web.elsewhere",))
    done = zone.publish("elsewhere", "several")
    assert "warning: 'elsewhere' has no name in 'fleet.example'" in done.stderr
    assert zone.records("several") == of(key)
    assert "hint: handfast host add elsewhere --san NAME.fleet.example" in zone.publish("elsewhere", code=3).stderr


def test_what_cannot_be_meant_is_refused_before_anything_is_sent(zone: Zone) -> None:
    """A time that would keep retired keys alive, a machine nobody knows, and a key file that is none."""
    assert "resolvers may not keep them for 2 days" in zone.publish("several", "--ttl", "2d", code=2).stderr
    assert "no host keys of 'nobody' are known" in zone.publish("several", "nobody", code=3).stderr
    assert "no TSIG key can be read in" in zone.publish("several", key=zone.stage.host.put("none", ""), code=3).stderr


# --- the server's no ---


@pytest.fixture
def known(zone: Zone) -> str:
    """A machine with a key, whose records nobody looks at."""
    zone.stage.register("known", make_key(zone.here / f"known-{len(list(zone.here.iterdir()))}"), at=(f"known.{ZONE}",))
    return "known"


def test_a_key_that_may_not_is_refused(zone: Zone, known: str) -> None:
    """BADKEY ends with 3: to Knot it is one whether it never heard of the key, or does not let it do this."""
    for key in (zone.make_key("strange"), zone.idle):
        done = zone.publish(known, key=key, code=3)
        assert f"10.77.1.1:53 does not know the TSIG key '{key.stem}' with hmac-sha256" in done.stderr
        assert "hint: its configuration has to have the key as this file has it" in done.stderr
    assert zone.records(known) == set()


def test_another_secret_is_refused(zone: Zone, known: str) -> None:
    """BADSIG ends with 3: a key of that name, and not that key."""
    other = zone.stage.host.put("other", zone.make_key("third").read_text().replace("third", "handfast"))
    assert "has another secret under the name 'handfast' (BADSIG)" in zone.publish(known, key=other, code=3).stderr


def test_a_wrong_clock_is_named(zone: Zone, known: str) -> None:
    """BADTIME ends with 3 and names the clocks, not the key."""
    options = ("--server", "10.77.1.1", "--zone", ZONE, "--key-file", zone.key)
    done = zone.stage.run("handfast", "host", "dns", known, *options, code=3, **clock("-2d"))
    assert "the clocks of 10.77.1.1:53 and of this machine differ" in done.stderr
    assert "BADTIME" in done.stderr


def test_a_zone_that_is_not_there_is_named(zone: Zone) -> None:
    """NOTAUTH ends with 3: another zone's name, or a server that is not its primary."""
    zone.stage.register("far", make_key(zone.here / "far"), at=("far.example",))
    assert "is not the primary server of a zone 'example'" in zone.publish("far", zone="example", code=3).stderr


def test_an_alias_is_named(zone: Zone) -> None:
    """Beside a CNAME a server drops records without a word, so that is asked first."""
    zone.stage.register("alias", make_key(zone.here / "alias-key"), at=(f"alias.{ZONE}",))
    assert "an alias (CNAME) stands at one of alias.fleet.example" in zone.publish("alias", code=3).stderr
