"""Steps 2 and 4 of the host-key challenge: what is looked at, what is signed, what is refused, and what is logged."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import msgspec
import pytest

from handfast.core.challenge import Challenge, Payload, Token, read
from handfast.core.flow import HostGrant
from handfast.core.hosts import How, Place
from handfast.core.look import Answered, Led, Seen
from handfast.core.names import ip_address
from handfast.errors import EvidenceRejected, Malformed, NotFound, PolicyRefused, Refused, TooMuch
from tests.introducers.challenges import ECDSA, ED25519, LOOK, OURS, THIEF, as_seen, changed, sha256, signer
from tests.introducers.stage import ed25519
from tests.registrar.challenging import Challenges
from tests.registrar.house import NOW, House


@pytest.fixture
def play(house: House) -> Challenges:
    """A registrar with the challenge enabled."""
    return Challenges(house).enabled()


def elsewhere() -> tuple[Seen, ...]:
    """The second name leads to another host as well."""
    (seen,) = as_seen()
    led = (seen.led[0], Led("www.web.lan", (*LOOK.addresses, ip_address("10.9.9.9"))))
    return (dataclasses.replace(seen, led=led),)


def nowhere() -> tuple[Seen, ...]:
    """The second name leads nowhere."""
    (seen,) = as_seen()
    return (dataclasses.replace(seen, led=(seen.led[0], Led("www.web.lan", (), "SERVFAIL from 10.0.0.53"))),)


def another(port: int = 2222) -> tuple[Seen, ...]:
    """Another host answers at one of the addresses and ports."""
    (seen,) = as_seen()
    last = Answered(LOOK.addresses[1], port, (THIEF.public,))
    kept = tuple(each for each in seen.answered if (each.address, each.port) != (last.address, port))
    return (dataclasses.replace(seen, answered=(*kept, last)),)


def silent() -> tuple[Seen, ...]:
    """At one address nobody answers."""
    (seen,) = as_seen()
    return (
        dataclasses.replace(
            seen,
            answered=(*seen.answered[:-1], Answered(LOOK.addresses[1], 2222, failed="connection refused")),
        ),
    )


def disagreeing() -> tuple[Seen, ...]:
    """A second place that looks sees somebody else."""
    (other,) = another()
    return (*as_seen(), dataclasses.replace(other, by="vantage"))


SIGHTS = {
    "DNS leads elsewhere": (elsewhere, "'www.web.lan' does not lead to the addresses given, or not only to these"),
    "DNS leads nowhere": (nowhere, "'www.web.lan' does not lead to the addresses given, or not only to these"),
    "another host": (another, f"2001:db8::7 at port 2222 did not show {ED25519.public.fingerprint}"),
    "silence": (silent, f"2001:db8::7 at port 2222 did not show {ED25519.public.fingerprint}"),
    "another place disagrees": (disagreeing, f"2001:db8::7 at port 2222 did not show {ECDSA.public.fingerprint}"),
    "nobody looked": (lambda: (), "nobody has looked"),
}


def test_an_honest_host(play: Challenges) -> None:
    """It is looked at twice, each time within what it was admitted to; payload and token say what was seen and when."""
    challenge = play.challenge()
    payload = read(challenge.payload, Payload, what="it")
    assert payload.trust_domain == play.house.authority.trust_domain
    assert (payload.pin, payload.newcomer_nonce) == (play.house.authority.pin, OURS)
    assert payload.names == list(LOOK.names)
    assert (payload.issued_at, payload.expires_at) == (NOW, NOW + timedelta(minutes=4))
    answer = play.token(play.proof(challenge))
    token = read(answer.token, Token, what="it")
    assert token.payload_sha256 == sha256(challenge.payload)
    assert token.keys == [ED25519.public.fingerprint, ECDSA.public.fingerprint]
    assert (token.issued_at, token.expires_at) == (NOW, NOW + timedelta(seconds=60))
    assert play.sights.asked == [LOOK, LOOK]
    assert play.admitted == ["look 0", "look 1"]
    assert play.house.kinds() == []


def test_every_nonce_is_another(play: Challenges) -> None:
    """What was asked twice are two challenges."""
    first, second = (read(play.challenge().payload, Payload, what="it") for _ in range(2))
    assert first.nonce != second.nonce
    assert first.marker != second.marker


@pytest.mark.parametrize("name", SIGHTS)
def test_P20_what_was_said_has_to_be_there(play: Challenges, name: str) -> None:
    """In step 2: refused with what of his own words was not so; our log alone has what was seen, the ledger nothing."""
    seen, reason = SIGHTS[name]
    play.sights.next = [seen()]
    with pytest.raises(PolicyRefused) as caught:
        play.challenge()
    assert caught.value.code == "policy-refused"
    assert reason in caught.value.reasons
    for private in ("10.9.9.9", "10.0.0.53", "connection refused", THIEF.public.fingerprint, "vantage"):
        assert private not in caught.value.message + caught.value.hint
    assert play.notes or name == "nobody looked"
    assert play.house.kinds() == []


@pytest.mark.parametrize("name", SIGHTS)
def test_P20_it_has_to_be_there_twice(play: Challenges, name: str) -> None:
    """Whoever was in the middle at the first look and is not at the second gets no token; the ledger's log has it."""
    seen, reason = SIGHTS[name]
    proof = play.proof(play.challenge())
    play.sights.next = [seen()]
    with pytest.raises(PolicyRefused) as caught:
        play.token(proof)
    assert reason in caught.value.reasons
    (event,) = play.house.ledger.events()
    assert (event.kind, event.subject) == ("introduction.refused", "web1.lan")
    assert event.fields["method"] == "ssh-hostkey"
    assert reason in event.fields["reason"]


def test_a_man_in_the_middle_of_both_signs_nothing(play: Challenges) -> None:
    """Who shows the host's keys by passing the connection on cannot sign the payload with them."""
    challenge = play.challenge()
    play.signers = (THIEF, ECDSA)
    with pytest.raises(EvidenceRejected, match="is by"):
        play.token(play.proof(challenge))
    assert len(play.sights.asked) == 1
    assert play.house.kinds() == []


def test_a_stale_payload(play: Challenges) -> None:
    """After 5 min and 1 s: refused before anything is looked at."""
    proof = play.proof(play.challenge())
    play.house.clock.time += timedelta(minutes=5, seconds=1)
    with pytest.raises(Refused, match="the payload is over since") as caught:
        play.token(proof)
    assert caught.value.code == "refused"
    assert len(play.sights.asked) == 1


def test_a_changed_payload(play: Challenges) -> None:
    """The names exchanged behind the CA's signature."""
    challenge = play.challenge()
    other = Challenge(changed(challenge.payload, names=["db.lan"]), challenge.ca_signature)
    with pytest.raises(EvidenceRejected, match="not signed by our SSH host CA"):
        play.token(play.proof(other))
    assert len(play.sights.asked) == 1


def test_a_replayed_proof(play: Challenges) -> None:
    """It gives another token for the same payload: whoever redeems it needs the keys, and both are one use."""
    proof = play.proof(play.challenge())
    first, second = play.token(proof), play.token(proof)
    assert read(first.token, Token, what="it").payload_sha256 == read(second.token, Token, what="it").payload_sha256
    assert len(play.sights.asked) == 3


def test_it_is_off_by_default(house: House) -> None:
    """Nothing is looked at, and nothing read, where the operator has not enabled it."""
    play = Challenges(house)
    for body in (None, b""):
        with pytest.raises(NotFound, match="no host-key challenge here") as caught:
            play.challenge(body)
        assert caught.value.code == "not-found"
        assert '"ssh-hostkey" in [ssh] evidence' in caught.value.hint
    with pytest.raises(NotFound, match="no host-key challenge here"):
        play.token(play.proof(Challenge(b"", b"")))
    assert play.sights.asked == []
    assert play.admitted == []


def test_names_for_which_the_ca_does_not_speak(play: Challenges) -> None:
    """Refused before anything is looked at, in both steps: whoever has a domain of his own cannot fill the registry."""
    proof = play.proof(play.challenge())
    ssh = play.house.rules.ssh
    certificates = dataclasses.replace(ssh.certificates, patterns=("*.example.org",))
    play.house.rules = dataclasses.replace(play.house.rules, ssh=dataclasses.replace(ssh, certificates=certificates))
    with pytest.raises(PolicyRefused, match="is not a name for which this authority speaks"):
        play.challenge()
    with pytest.raises(PolicyRefused, match="is not a name for which this authority speaks"):
        play.token(proof)
    assert len(play.sights.asked) == 1
    assert play.admitted == ["look 0", "look 1", "look 1"]


def test_nothing_is_judged_before_it_is_admitted(play: Challenges) -> None:
    """Who has asked too often is told that, and not whether our CA speaks for his names: that is work."""
    ssh = play.house.rules.ssh
    certificates = dataclasses.replace(ssh.certificates, patterns=("*.example.org",))
    play.house.rules = dataclasses.replace(play.house.rules, ssh=dataclasses.replace(ssh, certificates=certificates))
    play.full = True
    with pytest.raises(TooMuch, match="asked too often"):
        play.challenge()
    assert play.sights.asked == []


def test_10000_addresses(play: Challenges) -> None:
    """Refused as malformed: nobody is admitted for it, and no name resolved."""
    tree = msgspec.json.decode(msgspec.json.encode(play.asked()))
    tree["addresses"] = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(10_000)]
    with pytest.raises(Malformed, match=r"addresses"):
        play.challenge(msgspec.json.encode(tree))
    assert play.sights.asked == []
    assert play.admitted == []


def test_strangers_do_not_fill_the_log(play: Challenges) -> None:
    """Keys cost nothing: of all refusals to keys that nobody knows a day has a few, whatever they are."""
    for number in range(14):
        key = signer(ed25519(100 + number))
        play.signers, play.wanted = (key,), dataclasses.replace(LOOK, keys=(key.public,))
        proof = play.proof(play.challenge())
        play.sights.next = [()]
        with pytest.raises(PolicyRefused):
            play.token(proof)
    assert len(play.house.kinds()) == 10


def test_what_strangers_are_refused_hides_nothing_of_a_machine(play: Challenges) -> None:
    """A machine that is known has a count of its own, also when strangers have used theirs up."""
    test_strangers_do_not_fill_the_log(play)
    grant = HostGrant("web1", (ED25519.public,), How.OPERATOR, "", Place())
    play.house.ledger.register(grant, None, at=NOW).result()
    play.signers, play.wanted = (ED25519,), dataclasses.replace(LOOK, keys=(ED25519.public,))
    proof = play.proof(play.challenge())
    play.sights.next = [another()]
    with pytest.raises(PolicyRefused):
        play.token(proof)
    event = play.house.ledger.events()[-1]
    assert (event.kind, event.subject) == ("introduction.refused", "web1")
