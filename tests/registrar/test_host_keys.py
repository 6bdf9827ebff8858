"""SSH host keys through the one flow: what a machine proves when it joins and renews, and who cannot speak for it."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta

import pytest

from handfast.core.flow import Answer, Wish
from handfast.core.hostproof import HostKeys
from handfast.core.hosts import How, Place
from handfast.core.names import Names
from handfast.errors import AlreadySpent, PolicyRefused, Refused
from handfast.policy.rules import HostRules
from tests.registrar.hosts import believed, check_log, host_of, operator, renew, signer, ssh
from tests.registrar.house import HOUR, NOW, Crash, Faulty, House, Newcomer, crash

DAY = timedelta(days=1)


def test_a_machine_that_joins_is_known(house: House) -> None:
    """Its keys are known as proved, with the invitation that it was, and it is found by name and address."""
    line, who = house.invite(sans=("web1.lan", "10.0.0.7")), Newcomer()
    house.join(line, who, host=ssh(1, 2))
    host = host_of(house)
    assert believed(house) == {1, 2}
    assert {(each.how, each.detail, each.at) for each in host.keys} == {
        (How.INVITATION, f"invitation {line.key_id}", NOW)
    }
    assert host.place == Place.parse(["web1.lan", "10.0.0.7"])
    assert house.ledger.host_at("10.0.0.7") == house.ledger.host_at("web1.lan") == host
    assert house.kinds()[1:] == [
        "host.registered",
        "host.described",
        "hostkey.added",
        "hostkey.added",
        "credential.intended",
        "credential.issued",
    ]
    check_log(house)


def test_without_a_claim_nothing_is_known(house: House) -> None:
    """Who joins without host keys is no machine for SSH."""
    house.join(house.invite(), Newcomer())
    assert house.ledger.host("web1.lan") is None


def test_P4_a_lost_answer_is_asked_for_again(house: House) -> None:
    """The same keys get the same answer, and nothing is written; also after a crash between ledger and signature."""
    line, who = house.invite(), Newcomer()
    first = house.join(line, who, host=ssh(1))
    before = house.kinds()
    assert house.join(line, who, host=ssh(1)).credential == first.credential
    assert house.kinds() == before


def test_P4_a_crash_before_signing(house: House) -> None:
    """Host keys are recorded with the intent, in one transaction; the retry is answered, and records nothing again."""
    line, who = house.invite(), Newcomer()
    broken = house.registrar(authority=Faulty(house.authority, "issue", before=crash))
    with pytest.raises(Crash):
        house.join(line, who, registrar=broken, host=ssh(1))
    assert believed(house) == {1}
    house.join(line, who, host=ssh(1))
    assert house.kinds().count("hostkey.added") == 1


@pytest.mark.parametrize("before", [None, ssh(2)], ids=["none", "others"])
def test_P14_asking_again_adds_no_host_keys(house: House, before: HostKeys | None) -> None:
    """Whoever finds an old key with its line cannot have other host keys believed; nor is he told so."""
    line, who = house.invite(), Newcomer()
    house.join(line, who, host=before)
    with pytest.raises(Refused, match=r"'web1\.lan' has asked before, with(out| other) SSH host keys") as caught:
        house.join(line, who, host=ssh(1))
    assert "ask the operator for a new invitation" in caught.value.hint
    assert (house.ledger.host("web1.lan") is None) is (before is None)
    house.join(line, who)


def test_P3_a_thief_of_a_used_line_adds_no_host_keys(house: House) -> None:
    """A used invitation is used up for host keys as well."""
    line = house.invite()
    house.join(line, Newcomer(), host=ssh(1))
    with pytest.raises(AlreadySpent):
        house.join(line, Newcomer(), host=ssh(2))
    assert believed(house) == {1}


def test_P14_a_clone_is_refused_and_alarms(house: House) -> None:
    """A key that is another machine's is refused; the operator sees it, and the invitation is not spent by it."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    line, who = house.invite("web2.lan"), Newcomer()
    with pytest.raises(Refused, match=r"is 'web1\.lan''s: with one key each could pose as the other") as caught:
        house.join(line, who, host=ssh(1, 2))
    assert "rm /etc/ssh/ssh_host_*; ssh-keygen -A" in caught.value.hint
    view = house.administration.show("web2.lan")
    assert [(each.kind, each.fields["owner"]) for each in view.alarms] == [("alarm.same-host-key", "web1.lan")]
    assert (view.credentials, [each.spent for each in view.invitations]) == ((), [0])
    assert house.ledger.host("web2.lan") is None
    house.join(line, Newcomer(), host=ssh(2))
    assert (believed(house), believed(house, "web2.lan")) == ({1}, {2})


def test_two_clones_at_once(house: House) -> None:
    """Of two machines that join with one key in the same moment one has it, and the other is refused and alarms."""
    lines = [house.invite(name) for name in ("a.lan", "b.lan")]
    registrar = house.registrar()

    async def both() -> list[Answer | BaseException]:
        shown = [house.joining(line, Newcomer(), host=ssh(1))[0] for line in lines]
        return await asyncio.gather(*(registrar.introduce(each, house.tls) for each in shown), return_exceptions=True)

    refused = [each for each in asyncio.run(both()) if isinstance(each, BaseException)]
    assert [type(each) for each in refused] == [Refused]
    assert house.kinds().count("alarm.same-host-key") == house.kinds().count("hostkey.added") == 1


def test_P14_names_beyond_the_invitation_are_no_places(house: House) -> None:
    """A machine is reached as it was invited: what it wishes beyond is refused, and it cannot claim a name besides."""
    line = house.invite(sans=("web1.lan",))

    evidence, _ = house.joining(line, Newcomer(), wish=Wish(names=Names.parse(["db.lan"])), host=ssh(1))
    with pytest.raises(PolicyRefused, match=r"not entitled to the names db\.lan"):
        house.introduce(evidence)
    assert house.ledger.host("web1.lan") is None
    house.join(line, Newcomer(), host=ssh(1))
    assert host_of(house).place.hosts() == ("web1.lan",)


def test_P14_a_name_that_is_a_machine_is_refused(house: House) -> None:
    """Not even an invitation makes one machine reached as another that lives."""
    house.join(house.invite("db.lan"), Newcomer(), host=ssh(1))
    line = house.invite("evil.lan", sans=("evil.lan", "db.lan"))
    with pytest.raises(Refused, match=r"'db\.lan' is itself a machine with host keys"):
        house.join(line, Newcomer(), host=ssh(2))
    assert house.ledger.host_at("db.lan") == host_of(house, "db.lan")
    operator(house).remove("db.lan", reason="gone")
    house.join(line, Newcomer(), host=ssh(2))
    assert house.ledger.host_at("db.lan") == host_of(house, "evil.lan")


def test_an_address_goes_to_the_newest(house: House) -> None:
    """A destroyed machine's address is the next one's, who was invited for it: nobody sees a banner."""
    house.join(house.invite("old.lan", sans=("old.lan", "10.0.0.7")), Newcomer(), host=ssh(1))
    house.join(house.invite("new.lan", sans=("new.lan", "10.0.0.7")), Newcomer(), host=ssh(2))
    assert house.ledger.host_at("10.0.0.7") == host_of(house, "new.lan")
    assert host_of(house, "old.lan").place == Place.parse(["old.lan"])
    check_log(house)


def test_P14_a_retired_key_is_refused(house: House) -> None:
    """A key that an operator took back does not come with the next invitation; the operator's own word brings it."""
    house.join(house.invite(), Newcomer(), host=ssh(1, 2))
    key = signer(1).public
    operator(house).retire("web1.lan", key.fingerprint, reason="it leaked")
    line = house.invite()
    with pytest.raises(Refused, match=r"was retired on 2026-11-22 \(it leaked\)"):
        house.join(line, Newcomer(), host=ssh(1, 2))
    assert house.administration.ledger.invitation(line.key_id).spent == 0  # type: ignore[union-attr]
    assert believed(house) == {2}
    operator(house).register("web1.lan", (key,), how=How.OPERATOR, detail="by me")
    assert believed(house) == {1, 2}
    house.join(line, Newcomer(), host=ssh(1, 2))


def test_a_renewal_rotates(house: House) -> None:
    """New host keys become known with the next renewal, those that are gone retire, and the place stays."""
    who = Newcomer()
    answer = house.join(house.invite(sans=("web1.lan", "10.0.0.7")), who, host=ssh(1, 2))
    place = Place.parse(["web1.lan"], aliases=["web"], ports=(2222,))
    operator(house).register("web1.lan", (), how=How.OPERATOR, detail="by me", place=place)
    house.clock.time += HOUR
    renew(house, who, answer, ssh(2, 3))
    host = host_of(house)
    assert believed(house) == {2, 3}
    assert [(each.key, each.reason) for each in host.retired] == [(signer(1).public, "superseded")]
    assert {each.how for each in host.keys if each.key == signer(2).public} == {How.INVITATION, How.RENEWAL}
    assert host.place == place
    check_log(house)


def test_a_renewal_without_a_claim_retires_nothing(house: House) -> None:
    """Who renews and says nothing of host keys leaves them as they are."""
    who = Newcomer()
    answer = house.join(house.invite(), who, host=ssh(1))
    renew(house, who, answer, None)
    assert believed(house) == {1}


def test_a_reintroduction_rotates(house: House) -> None:
    """A machine that comes back late proves its host keys as well."""
    who = Newcomer()
    answer = house.join(house.invite(), who, host=ssh(1))
    house.clock.time += 2 * DAY
    house.introduce(house.returning(who, answer.credential.serial, Newcomer(), host=ssh(1, 2)))
    assert believed(house) == {1, 2}
    assert {each.how for each in host_of(house).keys} == {How.INVITATION, How.REINTRODUCTION}


def test_P15_a_credential_alone_makes_no_host_key_known(house: House) -> None:
    """
    A service's key is not root's: who renews proves a key that is known already, if only by an operator's word.

    The machine is known by its own name then; where else it is reached only an operator can say.
    """
    who = Newcomer()
    answer = house.join(house.invite(sans=("web1.lan", "10.0.0.7")), who)
    with pytest.raises(Refused, match=r"none of these host keys is known as one of 'web1\.lan'"):
        renew(house, who, answer, ssh(1, 2))
    assert house.ledger.host("web1.lan") is None
    operator(house).register("web1.lan", (signer(1).public,), how=How.OPERATOR, detail="by me")
    renew(house, who, answer, ssh(1, 2, ports=(2222,)))
    assert (believed(house), host_of(house).place) == ({1, 2}, Place())
    assert house.ledger.host_at("web1.lan") == host_of(house)
    assert house.ledger.host_at("10.0.0.7") is None


@pytest.mark.parametrize("spoil", ["retired", "another machine's"])
def test_a_refused_renewal_can_be_asked_without(house: House, spoil: str) -> None:
    """A host key that is refused spends nothing: the same new key renews when it leaves the claim out."""
    who = Newcomer()
    answer = house.join(house.invite(), who, host=ssh(1))
    if spoil == "retired":
        operator(house).retire("web1.lan", signer(1).public.fingerprint, reason="x")
    else:
        house.join(house.invite("web2.lan"), Newcomer(), host=ssh(2))
    new, claim = Newcomer(), ssh(1) if spoil == "retired" else ssh(1, 2)
    with pytest.raises(Refused):
        house.introduce(house.renewing(who, answer.credential.serial, new, host=claim))
    house.introduce(house.renewing(who, answer.credential.serial, new))
    assert house.kinds().count("credential.issued") == (2 if spoil == "retired" else 3)


def test_P14_a_renewal_speaks_for_its_own_machine(house: House) -> None:
    """Host keys go to the machine of the credential on record, whatever else somebody holds."""
    house.join(house.invite("db.lan"), Newcomer(), host=ssh(1))
    who = Newcomer()
    answer = house.join(house.invite("evil.lan"), who, host=ssh(2))
    renew(house, who, answer, ssh(2, 3))
    assert (believed(house, "db.lan"), believed(house, "evil.lan")) == ({1}, {2, 3})


@pytest.mark.parametrize("how", [How.CONSOLE, How.PHONE_HOME, How.SCAN])
def test_weaker_evidence_adds_nothing(house: House, how: How) -> None:
    """What the operator read or saw beside keys that were proved is refused; the same keys it confirms."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    rules = dataclasses.replace(house.rules, ssh=HostRules(evidence=frozenset(How)))
    side = operator(house, rules)
    with pytest.raises(PolicyRefused, match="is new"):
        side.register("web1.lan", (signer(2).public,), how=how, detail="")
    side.register("web1.lan", (signer(1).public,), how=how, detail="")
    assert believed(house) == {1}


def test_weaker_evidence_that_was_decided_before(house: House) -> None:
    """A report that is decided while the machine joins comes too late: it retires nothing that was proved meanwhile."""

    def join() -> None:
        house.join(house.invite(), Newcomer(), host=ssh(1))

    joined = Faulty(house.ledger, "register", before=join)
    late = dataclasses.replace(operator(house), ledger=joined)
    with pytest.raises(Refused, match="became known better than by console meanwhile"):
        late.register("web1.lan", (signer(2).public,), how=How.CONSOLE, detail="", complete=True)
    assert believed(house) == {1}


def test_what_does_not_count_is_refused_before_anything_is_spent(house: House) -> None:
    """Where an operator took invitations out of the evidence, joining with host keys is refused, and without is not."""
    house.rules = dataclasses.replace(house.rules, ssh=HostRules(evidence=frozenset({How.OPERATOR})))
    line, who = house.invite(), Newcomer()
    with pytest.raises(PolicyRefused, match=r"'invitation' does not count as evidence of a host key here"):
        house.join(line, who, host=ssh(1))
    house.join(line, who)
    assert house.ledger.host("web1.lan") is None
