"""The flow over a real ledger and a real authority: what is answered, what is refused, what is on record."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from handfast.core import chain, keys
from handfast.core.flow import Wish
from handfast.core.names import Names, ip_address, network
from handfast.core.roles import Role
from handfast.errors import (
    AlreadySpent,
    EvidenceRejected,
    InvitationCancelled,
    InvitationExpired,
    NotFound,
    PolicyRefused,
    Refused,
    Revoked,
)
from handfast.policy.rules import Rules
from tests.registrar.house import HOUR, NOW, Faulty, House, Newcomer


def test_an_honest_newcomer_is_introduced(house: House) -> None:
    """The leaf chains to the pin for the role, the names and the key; ledger and log know all of it."""
    line, who = house.invite(sans=("web1.lan", "10.0.0.7")), Newcomer()
    answer = house.join(line, who)
    leaf = chain.load_certificate(answer.credential.certificate)
    identity = chain.verify_chain(
        leaf,
        [chain.load_certificate(der) for der in answer.chain],
        [chain.load_certificate(der) for der in answer.trust],
        pin=line.pin,
        role=Role.SERVER,
        at=NOW,
    )
    assert keys.spki(leaf.public_key()) == keys.spki(who.key.public_key())
    assert identity.names == Names.parse(["web1.lan", "10.0.0.7"])
    assert identity.machine == "web1.lan"
    assert answer.time == NOW
    record = house.ledger.credential(answer.credential.serial)
    assert record is not None
    assert record.certificate == answer.credential.certificate
    assert record.reintroduction_key == who.way_back.public_key().public_bytes_raw()
    assert house.kinds() == ["invitation.created", "credential.intended", "credential.issued"]


def test_P4_the_same_key_gets_the_same_answer(house: House) -> None:
    """A lost answer can be asked for again, over another connection too: the same certificate, nothing new signed."""
    line, who = house.invite(), Newcomer()
    first = house.join(line, who)
    house.clock.time += timedelta(minutes=30)
    authority = Faulty(house.authority, "issue")
    again = house.join(line, who, registrar=house.registrar(authority=authority))
    assert again.credential == first.credential
    assert authority.calls == 0
    assert again.time == first.time + timedelta(minutes=30)
    assert again.proof != first.proof
    assert house.kinds().count("credential.issued") == 1


def test_P3_a_second_key_is_refused_and_alarms(house: House) -> None:
    """Somebody else holds the secret: refused, logged, and shown to the operator under the machine's name."""
    line, thief = house.invite(), Newcomer()
    house.join(line, Newcomer())
    with pytest.raises(AlreadySpent) as caught:
        house.join(line, thief)
    assert caught.value.hint
    view = house.administration.show("web1.lan")
    (alarm,) = view.alarms
    assert alarm.kind == "alarm.second-key"
    assert alarm.fields["marker"] == f"invitation:{line.key_id}"
    assert len(view.credentials) == 1


def test_an_invitation_for_three_serves_three_keys(house: House) -> None:
    """Each as often as it likes; the fourth is an alarm."""
    line, three = house.invite(uses=3), [Newcomer() for _ in range(3)]
    first = [house.join(line, who).credential.certificate for who in three]
    assert [house.join(line, who).credential.certificate for who in three] == first
    assert len(set(first)) == 3
    with pytest.raises(AlreadySpent):
        house.join(line, Newcomer())


def test_a_refusal_is_logged_with_every_reason(house: House) -> None:
    """Nothing is spent by it: the newcomer may come back with a wish that is allowed."""
    line, who = house.invite(sources=(network("10.0.0.0/24"),)), Newcomer()
    wish = Wish(Role.OPERATOR, Names.parse(["other.lan"]))
    evidence, _ = house.joining(line, who, wish=wish, source=ip_address("192.0.2.1"))
    with pytest.raises(PolicyRefused) as caught:
        house.introduce(evidence)
    assert len(caught.value.reasons) == 3
    (event,) = house.ledger.events(kind_prefix="introduction.")
    assert event.subject == "web1.lan"
    assert event.fields == {
        "method": "invitation",
        "marker": f"invitation:{line.key_id}",
        "code": "policy-refused",
        "reason": caught.value.message[:500],
    }
    honest, signed = house.joining(line, Newcomer(), source=ip_address("10.0.0.9"))
    house.check_proof(house.introduce(honest), signed)


def test_a_stranger_writes_nothing(house: House) -> None:
    """What proves nothing reaches neither the ledger nor its log: the disk is not a stranger's."""
    line = house.invite()
    before = house.ledger.head().size
    evidence, _ = house.joining(line, Newcomer())
    flipped = dataclasses.replace(evidence, payload=evidence.payload.replace(b'"nonce":"AAAA', b'"nonce":"BAAA'))
    for attempt in (flipped, dataclasses.replace(evidence, payload=b"{}")):
        with pytest.raises(Refused):
            house.introduce(attempt)
    other = dataclasses.replace(line, seed=type(line.seed)(b"x" * 32))
    with pytest.raises(EvidenceRejected, match="unknown"):
        house.join(other, Newcomer())
    assert house.ledger.head().size == before


@pytest.mark.parametrize("method", ["parchment", "", "Invitation", "invitation/../renewal", "x" * 1000])
def test_an_unknown_method_is_not_found(house: House, method: str) -> None:
    """Its name is repeated, but not at length."""
    evidence, _ = house.joining(house.invite(), Newcomer())
    with pytest.raises(NotFound, match="no introduction method") as caught:
        house.introduce(dataclasses.replace(evidence, method=method))
    assert len(caught.value.message) < 100


def test_a_method_that_is_not_enabled_is_not_there(house: House) -> None:
    """Known is not enabled: evidence for it is not even read."""
    house.rules = Rules(methods={"renewal": frozenset({Role.SERVER})})
    with pytest.raises(NotFound):
        house.join(house.invite(), Newcomer())


@pytest.mark.parametrize(
    ("late", "error"), [(HOUR, InvitationExpired), (HOUR - timedelta(seconds=1), None), (HOUR * 24, InvitationExpired)]
)
def test_the_registrar_holds_the_end(house: House, late: timedelta, error: type[Refused] | None) -> None:
    """Whatever the newcomer's own check says, an invitation ends for the registrar at its end."""
    line = house.invite()
    house.clock.time += late
    if error is None:
        house.join(line, Newcomer())
        return
    with pytest.raises(error):
        house.join(line, Newcomer())


def test_a_cancelled_invitation_is_over(house: House) -> None:
    """Before the first use, and for another key after it."""
    line = house.invite()
    house.administration.cancel(line.key_id, reason="lost")
    with pytest.raises(InvitationCancelled):
        house.join(line, Newcomer())


def test_an_invitation_cancelled_meanwhile_is_over(house: House) -> None:
    """The cancellation comes between verifying and spending: the transaction decides, and the refusal is logged."""
    line = house.invite()
    ledger = Faulty(house.ledger, "intend", before=lambda: house.administration.cancel(line.key_id, reason="lost"))
    with pytest.raises(InvitationCancelled):
        house.join(line, Newcomer(), registrar=house.registrar(ledger=ledger))
    assert house.kinds()[-1] == "introduction.refused"
    assert house.ledger.credentials() == []


def test_what_was_revoked_meanwhile_is_not_delivered(house: House) -> None:
    """The revocation comes between the signature and its record: nothing is answered."""
    line = house.invite()

    def revoke() -> None:
        (record,) = house.ledger.credentials()
        house.ledger.revoke(record.serial, reason="keyCompromise", at=NOW).result()

    with pytest.raises(Revoked):
        house.join(line, Newcomer(), registrar=house.registrar(ledger=Faulty(house.ledger, "issued", before=revoke)))
    (record,) = house.ledger.credentials()
    assert record.certificate is None


def test_a_credential_introduces_its_successor_once(house: House) -> None:
    """Renewal keeps machine, role and names; the same new key gets the same answer, another one an alarm."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential
    house.clock.time += HOUR * 12
    second = house.introduce(house.renewing(old, first.serial, new)).credential
    assert second.grant.names == first.grant.names
    assert second.grant.role == first.grant.role
    assert second.grant.not_after == first.grant.not_after + HOUR * 12
    assert house.introduce(house.renewing(old, first.serial, new)).credential == second
    with pytest.raises(AlreadySpent):
        house.introduce(house.renewing(old, first.serial, Newcomer()))
    assert len(house.administration.show("web1.lan").alarms) == 1


def test_who_slept_comes_back_within_the_limit(house: House) -> None:
    """After the end renewal is refused and reintroduction is not, until the operator's limit."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential
    house.clock.time = first.grant.not_after
    with pytest.raises(PolicyRefused, match="expired"):
        house.introduce(house.renewing(old, first.serial, new))
    house.clock.time = first.grant.not_after + timedelta(days=30)
    second = house.introduce(house.returning(old, first.serial, new)).credential
    assert second.grant.method == "reintroduction"
    house.clock.time = second.grant.not_after + timedelta(days=30, seconds=1)
    with pytest.raises(PolicyRefused, match="ended at"):
        house.introduce(house.returning(new, second.serial, Newcomer()))


def test_renewal_and_return_share_one_successor(house: House) -> None:
    """Who stole a backup with the old keys meets the marker that the machine's own renewal has spent."""
    old = Newcomer()
    first = house.join(house.invite(), old).credential
    house.introduce(house.renewing(old, first.serial, Newcomer()))
    house.clock.time = first.grant.not_after + HOUR
    with pytest.raises(AlreadySpent):
        house.introduce(house.returning(old, first.serial, Newcomer()))


def test_a_revoked_credential_has_no_successor(house: House) -> None:
    """Neither by renewal at once, nor by sleeping past its end."""
    old = Newcomer()
    first = house.join(house.invite(), old).credential
    house.administration.revoke("web1.lan", reason="keyCompromise")
    with pytest.raises(Revoked):
        house.introduce(house.renewing(old, first.serial, Newcomer()))
    house.clock.time = first.grant.not_after + HOUR
    with pytest.raises(Revoked):
        house.introduce(house.returning(old, first.serial, Newcomer()))
