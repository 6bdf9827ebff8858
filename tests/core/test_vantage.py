"""What one registrar says to another of what it saw: of what was asked, and whoever lies can only take away."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest

from handfast.core import vantage, wire
from handfast.core.challenge import to_look
from handfast.core.look import Answered, Led, Look, Seen
from handfast.core.vantage import HostSeen, LookRequest, SeenAnswer
from handfast.errors import Malformed
from handfast.policy.look import against_look
from tests.ssh.fake import KEYS, certificate, public

ED, EC, OTHER = (public(KEYS[name]) for name in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"))
A, B, INTERNAL = map(ipaddress.ip_address, ("192.0.2.1", "2001:db8::1", "10.0.0.9"))
LOOK = Look(("db1.example", "db2.example"), (A, B), (ED, EC), (22, 2222))
LED = (Led("db1.example", (A, B)), Led("db2.example", (B,)))
ALL = Seen(LED, tuple(Answered(address, port, (ED, EC)) for address in (A, B) for port in (22, 2222)))


def told(seen: Seen, look: Look = LOOK) -> Seen:
    """What arrives at the other side."""
    said = wire.decode(msgspec.json.encode(vantage.answer(look, seen)), SeenAnswer)
    return vantage.seen(look, said, by="far.lan:7443")


def test_a_request_arrives_as_it_was() -> None:
    """What is asked is what is looked at."""
    assert to_look(wire.decode(msgspec.json.encode(vantage.request(LOOK)), LookRequest)) == LOOK


def test_what_was_seen_arrives() -> None:
    """All that speaks for a host does, from wherever it was seen."""
    heard = told(ALL)
    assert against_look(LOOK, (heard,)) == ()
    assert heard.by == "far.lan:7443"


def test_P28_nothing_else_is_said() -> None:
    """Where a name leads, which other keys answer, why nobody does, and certificates: none of it leaves the network."""
    seen = Seen(
        (Led("db1.example", (INTERNAL,)), Led("db2.example", (A, INTERNAL))),
        (Answered(A, 22, (OTHER, ED), (certificate(KEYS["ssh-ed25519"]),)), Answered(B, 22, failed="refused at eth7")),
    )
    said = msgspec.json.encode(vantage.answer(LOOK, seen)).decode()
    assert vantage.answer(LOOK, seen) == SeenAnswer(
        [], [HostSeen("192.0.2.1", 22, [ED.fingerprint]), HostSeen("2001:db8::1", 22, [])]
    )
    assert all(word not in said for word in (str(INTERNAL), OTHER.fingerprint, "eth7", "cert"))
    assert against_look(LOOK, (told(seen),)) == against_look(LOOK, (seen,))


@pytest.mark.parametrize(
    "said",
    [
        SeenAnswer([], []),
        SeenAnswer(["db1.example", "db2.example"], []),
        SeenAnswer(["db1.example", "evil.example"], [HostSeen("192.0.2.1", 22, [ED.fingerprint, EC.fingerprint])]),
        SeenAnswer(["db1.example", "db2.example"], [HostSeen("192.0.2.1", 22, [OTHER.fingerprint, "x"])] * 4),
        SeenAnswer(["db1.example", "db2.example"], [HostSeen("10.0.0.9", 22, [ED.fingerprint, EC.fingerprint])] * 9),
    ],
)
def test_P28_an_answer_to_something_else_speaks_against_it(said: SeenAnswer) -> None:
    """Whatever is missing or other than what was asked is not as it should be."""
    assert against_look(LOOK, (ALL, vantage.seen(LOOK, said, by="far")))


def test_P28_what_could_not_be_seen_speaks_against_all_of_it() -> None:
    """A registrar that cannot be asked disagrees about every name and every host."""
    assert len(against_look(LOOK, (ALL, vantage.unseen(LOOK, "unreachable", by="far")))) == 2 + 8


@pytest.mark.parametrize("address", ["", "x", "192.0.2.1%eth0", "192.0.2.256"])
def test_addresses_that_are_none(address: str) -> None:
    """What is no address is refused."""
    with pytest.raises(Malformed, match="not an IP address"):
        vantage.seen(LOOK, SeenAnswer([], [HostSeen(address, 22, [])]), by="far")


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["x.example"] * 65},
        {"addresses": []},
        {"addresses": ["192.0.2.1"] * 17},
        {"ports": [0]},
        {"ports": [1, 2, 3, 4, 5]},
        {"keys": []},
        {"keys": ["AAAA"], "more": 1},
    ],
)
def test_requests_that_are_none(change: dict[str, object]) -> None:
    """More than a look may have, or something else, is refused where it is read."""
    good = msgspec.json.decode(msgspec.json.encode(vantage.request(LOOK)))
    with pytest.raises(Malformed, match="not a LookRequest"):
        wire.decode(msgspec.json.encode(good | change), LookRequest)


def test_an_answer_without_end_is_refused() -> None:
    """Whoever answers with more hosts than were asked for is not read."""
    body = msgspec.json.encode({"names": [], "hosts": [{"address": "192.0.2.1", "port": 22, "keys": []}] * 65})
    with pytest.raises(Malformed, match="not a SeenAnswer"):
        wire.decode(body, SeenAnswer)
