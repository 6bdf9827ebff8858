"""A person looks first: what would change is neither refused nor taken, and a yes is for one set of keys alone."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from handfast.core.approvals import DecideRequest
from handfast.core.hosts import How, Place
from handfast.core.records import Approval
from handfast.errors import NotFound, PolicyRefused, Refused, UsageError, Waiting
from handfast.policy.rules import CertificateRules, HostRules, Rules
from tests.registrar.approvals import ASKING, approvals, ask, decide, entered, found, question
from tests.registrar.hosts import believed, check_log, host_of, operator, signer, ssh
from tests.registrar.house import House, Newcomer


@pytest.fixture(autouse=True)
def asking(house: House) -> None:
    """A registrar where a person looks at every change."""
    house.rules = ASKING


# --- the whole flow ---


def test_a_machine_that_comes_with_other_keys_waits(house: House) -> None:
    """It gets nothing and uses nothing up; after a yes the same request is granted, and the old key is out."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    line, who = house.invite(), Newcomer()
    with pytest.raises(
        Waiting, match=r"a person has to approve these host keys for 'web1.lan': approval [0-9a-f]{16}$"
    ):
        house.join(line, who, host=ssh(2))
    assert believed(house) == {1}
    assert "credential.intended" not in house.kinds()[-1:]
    (row,) = approvals(house).approvals()
    view = decide(house, approvals(house).approval(row.approval_id))
    assert (view.status, view.decided_by, view.decided_reason) == ("accepted", "alice", "seen on its console")
    assert believed(house) == {2}
    assert house.join(line, who, host=ssh(2)).credential.certificate
    with pytest.raises(Refused, match="was retired"):
        house.join(house.invite(), Newcomer(), host=ssh(1))
    check_log(house)


def test_a_machine_that_was_rejected_is_refused(house: House) -> None:
    """After a no the same keys are refused with the reason, and what is known stays; other keys ask anew."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    line = house.invite(uses=3)
    with pytest.raises(Waiting):
        house.join(line, Newcomer(), host=ssh(2))
    (row,) = approvals(house).approvals()
    decide(house, approvals(house).approval(row.approval_id), "rejected")
    with pytest.raises(Refused, match=r"were rejected on .* by alice: seen on its console"):
        house.join(line, Newcomer(), host=ssh(2))
    with pytest.raises(Waiting):
        house.join(line, Newcomer(), host=ssh(3))
    assert believed(house) == {1}
    check_log(house)


def test_the_first_keys_are_not_asked_about(house: House) -> None:
    """A name that nobody has, and keys that are known already, need no person; nor does what is not listed."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    house.join(house.invite(), Newcomer(), host=ssh(1))
    house.rules = Rules(ssh=HostRules(certificates=CertificateRules(approve=frozenset())))
    house.join(house.invite(), Newcomer(), host=ssh(2))
    assert believed(house) == {2}
    assert approvals(house).approvals(every=True) == []


def test_who_has_no_host_keys_is_not_asked_about(house: House) -> None:
    """Introductions without host keys go on as ever."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    assert house.join(house.invite(), Newcomer()).credential.certificate


# --- what is asked ---


def test_what_a_person_is_shown(house: House) -> None:
    """Both sides, how each became known, and why it is asked; nothing that a terminal would act on."""
    entered(house, 1, 2, places=("web1.lan", "10.0.0.1"))
    view = question(house, found(2, 3, places=("web1.lan", "10.0.0.9")))
    one, three = (signer(number).public.fingerprint for number in (1, 3))
    assert view.reasons == [
        f"new keys for 'web1.lan': {three}",
        f"keys that 'web1.lan' has now, and would not have: {one}",
    ]
    assert [(key.fingerprint, key.known) for key in view.keys] == sorted(
        [(three, False), (signer(2).public.fingerprint, True)],
        key=lambda each: [k.fingerprint for k in view.keys].index(each[0]),
    )
    assert (view.how, view.grade, view.detail) == ("ssh-hostkey", "challenged", "a [2Jtest")
    assert (view.names, view.addresses, view.ports) == (["web1.lan"], ["10.0.0.9"], [22])
    assert view.now is not None
    assert {key.fingerprint for key in view.now.keys} == {one, signer(2).public.fingerprint}
    assert (view.now.addresses, view.status) == (["10.0.0.1"], "open")


@pytest.mark.parametrize("places", [("db1.lan",), ("10.0.0.7",), ("db",)], ids=["name", "address", "alias"])
def test_what_another_machine_is_reached_as(house: House, places: tuple[str, ...]) -> None:
    """A place of another living machine is not taken without a person; with his yes it moves."""
    place = Place.parse(("db1.lan", "10.0.0.7", "db"))
    public = (signer(1).public,)
    operator(house).register("one", public, how=How.OPERATOR, detail="by root", place=place)
    view = question(house, found(2, machine="web1.lan", places=("web1.lan", *places)))
    assert view.reasons == [f"'one' is reached now as {places[0]!r}"]
    decide(house, view)
    ask(house, found(2, machine="web1.lan", places=("web1.lan", *places)))
    assert places[0] not in host_of(house, "one").place.hosts()
    assert believed(house, "one") == {1}
    check_log(house)


def test_a_machine_whose_name_is_anothers(house: House) -> None:
    """Who calls himself what another machine is reached as is asked about, whatever his places."""
    entered(house, 1, machine="one", places=("web1.lan",))
    assert question(house, found(2, places=("10.0.0.1",))).reasons == ["'one' is reached now as 'web1.lan'"]


def test_a_machine_that_was_introduced_has_a_better_way(house: House) -> None:
    """A holder of a credential publishes its host keys by it; that somebody answers at its name is less."""
    house.join(house.invite(), Newcomer())
    view = question(house, found(1))
    assert view.reasons == ["'web1.lan' holds a credential as server, and by that no host keys"]
    assert view.now is None


def test_keys_that_known_ones_vouch_for(house: House) -> None:
    """Rotation on the word of a key that is known is no change that a person has to look at."""
    entered(house, 1)
    ask(house, found(2, how=How.HOSTKEYS_PROVE, basis=(1,)))
    assert question(house, found(2, how=How.HOSTKEYS_PROVE, basis=(3,))).reasons


def test_fewer_keys(house: House) -> None:
    """Part of what is known changes nothing, unless it is said to be all."""
    entered(house, 1, 2)
    ask(house, found(1))
    assert question(house, found(1, complete=True)).reasons == [
        f"keys that 'web1.lan' has now, and would not have: {signer(2).public.fingerprint}"
    ]


def test_a_machine_that_was_removed_leaves_its_name(house: House) -> None:
    """What is gone has nothing to change; its keys stay refused."""
    entered(house, 1)
    operator(house).remove("web1.lan", reason="gone")
    ask(house, found(2))


def test_reasons_stay_short(house: House) -> None:
    """However much would change, a reason fits on a line of the log."""
    entered(house, *range(1, 33))
    names = tuple(f"{number:03}.{'x' * 60}.{'y' * 60}.{'z' * 60}.lan" for number in range(9))
    entered(house, 40, machine="two", places=names)
    view = question(house, found(50, places=names))
    assert "and 28 more" in view.reasons[1]
    assert view.reasons[2].endswith("…")
    assert max(map(len, view.reasons)) == 400


# --- what not even a person may say ---


def test_what_is_refused_at_once(house: House) -> None:
    """There is no question where a yes could not be carried out, and every reason is given."""
    entered(house, 1)
    operator(house).register("web1.lan", (signer(2).public,), how=How.OPERATOR, detail="by root")
    operator(house).retire("web1.lan", signer(2).public.fingerprint, reason="stolen")
    entered(house, 5, machine="db1.lan", places=("db1.lan",))
    with pytest.raises(PolicyRefused) as caught:
        ask(house, found(2, places=("web1.lan", "db1.lan")))
    assert caught.value.reasons == (
        f"{signer(2).public.fingerprint} was retired: only an operator brings it back",
        "'db1.lan' is itself a machine",
    )
    house.rules = dataclasses.replace(
        ASKING,
        ssh=dataclasses.replace(ASKING.ssh, evidence=frozenset({How.INVITATION})),
        reserved=frozenset({"web1.lan"}),
    )
    with pytest.raises(PolicyRefused, match=r"registrar's own name; 'ssh-hostkey' does not count as evidence"):
        ask(house, found(3))
    assert approvals(house).approvals(every=True) == []


def test_another_machines_key(house: House) -> None:
    """A person's yes does not give one machine the key of another: it fails, and the question stays open."""
    entered(house, 1)
    entered(house, 5, machine="db1.lan", places=("db1.lan",))
    view = question(house, found(5))
    with pytest.raises(Refused, match=r"is 'db1\.lan''s"):
        decide(house, view)
    assert believed(house) == {1}
    assert approvals(house).approval(view.approval_id).status == "open"


@pytest.mark.parametrize("approval_id", ["", "0" * 15, "G" * 16, "../../etc", "\x1b[2J", "0" * 16])
def test_ids_that_are_none(house: House, approval_id: str) -> None:
    """An id that is none, or of nothing, is not found; it is not printed as it came."""
    request = DecideRequest(decision="accepted", reason="x")
    with pytest.raises(NotFound, match="no approval '") as caught:
        approvals(house).approval(approval_id)
    assert caught.value.message.isprintable()
    with pytest.raises(NotFound, match="no approval '"):
        approvals(house).decide(approval_id, request)


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines", "\x1b]0;hi\x07"])
def test_reasons_that_are_none(house: House, reason: str) -> None:
    """A reason that would forge a line of the log is refused before anything is decided."""
    entered(house, 1)
    view = question(house, found(2))
    with pytest.raises(UsageError, match="not a reason"):
        approvals(house).decide(view.approval_id, DecideRequest(decision="accepted", reason=reason))
    assert approvals(house).approval(view.approval_id).status == "open"


def test_lists_are_in_the_order_of_asking(house: House) -> None:
    """The oldest is first; what was decided is there on request only."""
    entered(house, 1)
    entered(house, 2, machine="web2.lan", places=("web2.lan",))
    first = question(house, found(3))
    house.clock.time += timedelta(minutes=1)
    second = question(house, found(4, machine="web2.lan", places=("web2.lan",)))
    assert [row.approval_id for row in approvals(house).approvals()] == [first.approval_id, second.approval_id]
    assert approvals(house).approvals()[0].reason == first.reasons[0]
    decide(house, first, "rejected")
    assert [row.machine for row in approvals(house).approvals()] == ["web2.lan"]
    assert [row.status for row in approvals(house).approvals(every=True)] == ["rejected", "open"]


def test_the_log_says_who_and_why(house: House) -> None:
    """Question and decision are in the log, and the audit makes the rows of them again."""
    entered(house, 1)
    decide(house, question(house, found(2)))
    asked, accepted = (house.ledger.events(kind_prefix=f"approval.{word}")[0] for word in ("asked", "accepted"))
    assert asked.fields["keys"] == signer(2).public.fingerprint
    assert (accepted.fields["by"], accepted.fields["reason"]) == ("alice", "seen on its console")
    assert isinstance(house.ledger.approval(asked.fields["approval"]), Approval)
    check_log(house)
