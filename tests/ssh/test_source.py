"""Where machines are looked up: what a registrar answers is read as it is meant, and no further."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handfast import ledger
from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey
from handfast.core.names import IPAddress
from handfast.core.sshkeys import SshKey, from_blob
from handfast.core.views import host_view
from handfast.errors import Malformed, NotFound, Refused, Unreachable
from handfast.ssh import launcher, snapshot
from handfast.ssh.source import LedgerHosts, RegistrarHosts, SnapshotHosts, find, normal
from tests.ledger.material import host_grant

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def key(number: int) -> SshKey:
    """A key, which nobody has."""
    return from_blob(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes([number] * 32))


PROVED = (HostKey(key(1), How.INVITATION, "for web1", NOW), HostKey(key(1), How.CONSOLE, "", NOW))
WEB = Host(
    "web1",
    Place.parse(["web1.lan", "192.0.2.1"], aliases=["web"], ports=(22, 2222)),
    (*PROVED, HostKey(key(2), How.SCAN, "from here", NOW)),
    (RetiredKey(key(3), NOW, "stolen"),),
)


def answer(host: Host) -> bytes:
    """What the registrar sends."""
    return msgspec.json.encode(host_view(host, accept=Grade.REPORTED))


def test_a_machine_comes_over_whole_but_for_what_is_not_believed() -> None:
    """Place, evidence and retired keys are the registrar's; a key that it only shows is not there."""
    asked: list[str] = []

    def get(path: str, most: int) -> bytes:
        asked.append(path)
        return answer(WEB)

    found = RegistrarHosts(get).lookup("WEB1.lan.", 2222)
    assert found == Host(WEB.machine, WEB.place, PROVED, WEB.retired)
    assert asked == ["/v1/ssh/lookup?host=web1.lan&port=2222"]


def test_who_is_not_known_is_nobody() -> None:
    """Not found is an answer, being unreachable is none; what no machine can be called is not even asked."""

    def nobody(path: str, most: int) -> bytes:
        raise NotFound("no machine")

    def silent(path: str, most: int) -> bytes:
        raise Unreachable("no answer")

    assert RegistrarHosts(nobody).lookup("web1", 22) is None
    with pytest.raises(Unreachable):
        RegistrarHosts(silent).lookup("web1", 22)
    for name in ("", "-x", "a b", "a/b", "[x]", "10.0.0.1%eth0", "ü"):
        assert RegistrarHosts(silent).lookup(name, 22) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"machine":"web1"', b'"machine":"-o x"'),
        (b'"how":"invitation"', b'"how":"rumor"'),
        (b'"algorithm":"ssh-ed25519"', b'"algorithm":"ssh-rsa"'),
        (b'"keys":', b'"kays":'),
        (b"{", b"["),
    ],
)
def test_another_answer_is_refused(old: bytes, new: bytes) -> None:
    """A hostile name, evidence that nobody here knows, a key of another kind than it says, no JSON."""
    with pytest.raises(Malformed):
        RegistrarHosts(lambda path, most: answer(WEB).replace(old, new, 1)).lookup("web1", 22)


def test_a_snapshot_answers_likewise() -> None:
    """Offline the same machine is found by the same names."""
    hosts = SnapshotHosts(snapshot.build([WEB], least=Grade.REPORTED, registrar="home", pin=bytes(32)))
    found = hosts.lookup("web", 2222)
    assert found is not None
    assert found.believed(Grade.SEEN) == (key(1),)
    assert hosts.lookup("web1.lan", 23) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_ledger_and_its_snapshot_agree(tmp_path: Path, seed: int) -> None:
    """Whatever happens to machines, both find the same one anywhere; what is gone is refused by its own name alone."""
    chosen = random.Random(seed)
    names, ports = ["web1", "web2", "web3", "10.0.0.1", "www"], [22, 2222]
    with ledger.open_sqlite(tmp_path / "ledger.sqlite3") as store:
        for number in range(40):
            machine = chosen.choice(names[:3])
            with contextlib.suppress(Refused, NotFound):  # as another's own name
                if chosen.random() < 0.4:
                    store.remove_host(machine, reason="gone", at=NOW).result()
                else:
                    places, at = chosen.sample(names, 2), tuple(chosen.sample(ports, chosen.choice((1, 2))))
                    grant = host_grant(number, machine=machine, places=tuple(places), ports=at)
                    store.register(grant, None, at=NOW).result()
            known = store.hosts()
            offline = SnapshotHosts(snapshot.build(known, least=Grade.REPORTED, registrar="home", pin=bytes(32)))
            online = LedgerHosts(store.host_at)
            for host, port in ((host, port) for host in names for port in ports):
                there, here = find(online, host, port), find(offline, host, port)
                assert here == there


def test_names_are_compared_in_one_form() -> None:
    """Case, the root's dot and the spelling of IPv6 do not count."""
    assert normal("WEB1.Lan.") == "web1.lan"
    assert normal("2001:DB8:0:0::1") == "2001:db8::1"
    assert normal("10.0.0.1") == "10.0.0.1"
    assert normal("FE80::1%eth0") == "fe80::1"
    assert normal("::ffff:10.0.0.5") == normal("::FFFF:a00:5") == "10.0.0.5"


_ADDRESSES = st.ip_addresses() | st.integers(0, (1 << 49) - 1).map(IPv6Address)  # those with IPv4 in them, too
_FORMS = st.sampled_from([str, lambda ip: ip.exploded, lambda ip: str(ip).upper(), lambda ip: f"::{ip}"])


@given(_ADDRESSES, _FORMS, st.sampled_from(["", ".", "%eth0", "%eth0.7", "%"]))
@example(IPv6Address("fe80::1"), str, "%eth0")
@example(IPv6Address("::a00:5"), str, "")
@example(IPv4Address("10.0.0.5"), lambda ip: f"::ffff:{ip}", "")
def test_the_launcher_has_the_same_form(address: IPAddress, form: Callable[[IPAddress], str], after: str) -> None:
    """However an address is written, the program that ssh runs looks for what everybody else looks for."""
    text = form(address) + after
    assert launcher.normal(text.encode()).decode() == normal(text)
    if form is str and (after in {"", "."} or (after != "%" and address.version == 6)):
        assert normal(text) == str(*Place.parse([str(address)]).addresses)  # as it is registered


@given(st.text(st.characters(codec="ascii"), max_size=12))
def test_the_launcher_has_the_same_form_of_any_text(text: str) -> None:
    """Nor do they differ about what is no address."""
    assert launcher.normal(text.encode()).decode() == normal(text)
