"""Host keys that wait for a person, in every ledger: asked once, decided once, about exactly these keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from handfast.core.flow import HostGrant, Once
from handfast.core.hosts import How
from handfast.errors import Malformed, NotFound, Refused, TooMuch
from handfast.ledger import approvals, audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, host_grant, ssh_key
from tests.ledger.ssh_material import changed, get, host_leaf, known, ssh_grant

WHY = ("web1.lan has other host keys",)
WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def kinds(store: SqlLedger, machine: str = "web1.lan") -> list[str]:
    """What was logged of approvals for a machine."""
    return [event.kind for event in store.events(subject=machine) if event.kind.startswith("approval.")]


def test_a_question_is_asked_once(store: SqlLedger) -> None:
    """The same keys for the same machine and place are the same question; anything else is another."""
    grant = changed(2)
    asked = store.ask(grant, WHY, at=NOW).result()
    assert (asked.grant, asked.reasons, asked.asked_at, asked.expires_at) == (grant, WHY, NOW, NOW + WEEK)
    assert (asked.status(NOW), asked.status(NOW + WEEK)) == ("open", "expired")
    assert len(asked.approval_id) == 16
    assert store.ask(replace(grant, detail="again"), ("another reason",), at=LATER).result() == asked
    assert store.approvals() == [asked]
    assert store.approval(asked.approval_id) == asked
    assert store.approval("0" * 16) is None
    assert kinds(store) == ["approval.asked"]
    others = {
        store.ask(each, WHY, at=NOW).result().approval_id
        for each in (changed(3), changed(2, "web2.lan"), changed(2, "web1.lan", "10.0.0.2"))
    }
    assert len(others | {asked.approval_id}) == 4
    assert store.host("web1.lan") is None


def test_acceptance_takes_the_place_of_what_was_there(store: SqlLedger) -> None:
    """The keys are the machine's, the others retired and their certificates revoked, all in one transaction."""
    known(store, 1)
    (old,) = get(store, ssh_grant(host_leaf(1)))
    with pytest.raises(Refused):
        store.register(changed(2), None, at=NOW).result()
    asked = store.ask(replace(changed(2), complete=False), WHY, at=NOW).result()
    size = store.head().size
    decided = store.approve(asked.approval_id, by="ann", reason="reinstalled", at=LATER).result()
    assert (decided.decision, decided.decided_at, decided.decided_by) == ("accepted", LATER, "ann")
    assert store.approval(asked.approval_id) == decided
    assert store.approvals() == []
    assert store.approvals(open_only=False) == [decided]
    host = store.host("web1.lan")
    assert host is not None
    assert host.current == {ssh_key(2)}
    assert [(each.key, each.reason) for each in host.retired] == [(ssh_key(1), "superseded")]
    assert [event.kind for event in store.events()][size:] == [
        "approval.accepted",
        "hostkey.added",
        "hostkey.retired",
        "sshcert.withdrawn",
    ]
    (event,) = store.events(kind_prefix="approval.accepted")
    assert (event.fields["by"], event.fields["reason"]) == ("ann", "reinstalled")
    assert store.publish_krl("x", at=LATER).result().hosts == (old,)
    grant = ssh_grant(host_leaf(2), method="ssh-hostkey", host=changed(2))  # the newcomer asks again
    (new,) = get(store, grant, Once("ssh-hostkey:1"), at=LATER)
    assert new != old
    with pytest.raises(Refused, match=f"the approval {asked.approval_id} is accepted by ann"):
        store.approve(asked.approval_id, by="bob", reason="too", at=LATER).result()
    with pytest.raises(Refused, match="is accepted by ann"):
        store.reject(asked.approval_id, by="bob", reason="no", at=LATER).result()


def test_acceptance_takes_an_address_from_another(store: SqlLedger) -> None:
    """That is what a person was asked; the other's certificate by it is revoked."""
    known(store, 1)
    (old,) = get(store, ssh_grant(host_leaf(1)))
    owners = frozenset({("10.0.0.1", "web1.lan")})
    asked = store.ask(changed(2, "web2.lan", "web2.lan", "10.0.0.1"), WHY, owners, at=NOW).result()
    store.approve(asked.approval_id, by="ann", reason="moved", at=LATER).result()
    moved = store.host_at("10.0.0.1")
    assert moved is not None
    assert moved.machine == "web2.lan"
    assert store.publish_krl("x", at=LATER).result().hosts == (old,)


def test_a_rejection_is_for_good(store: SqlLedger) -> None:
    """Asked again, also after a year, the keys are refused, by whose word and when; others can be asked about."""
    asked = store.ask(changed(2), WHY, at=NOW).result()
    store.reject(asked.approval_id, by="ann", reason="not ours", at=LATER).result()
    for at in (LATER, NOW + timedelta(days=365)):
        with pytest.raises(Refused, match="were rejected on 2026-11-22 13:00 UTC by ann: not ours"):
            store.ask(changed(2), WHY, at=at).result()
    with pytest.raises(Refused, match="is rejected by ann") as caught:
        store.approve(asked.approval_id, by="eve", reason="yes", at=LATER).result()
    assert caught.value.hint == "if the keys are right: handfast host add"  # asking again is refused
    assert store.ask(changed(3), WHY, at=LATER).result().status(LATER) == "open"
    assert kinds(store) == ["approval.asked", "approval.rejected", "approval.asked"]


def test_a_question_that_is_over(store: SqlLedger) -> None:
    """Nobody accepts it any more; it may be asked again, and so may one whose answer was undone meanwhile."""
    first = store.ask(changed(2), WHY, at=NOW).result()
    late = NOW + WEEK
    with pytest.raises(Refused, match=r"is expired$"):
        store.approve(first.approval_id, by="ann", reason="yes", at=late).result()
    with pytest.raises(Refused, match=r"is expired$"):
        store.reject(first.approval_id, by="ann", reason="no", at=late).result()
    second = store.ask(changed(2), WHY, at=late).result()
    assert (second.approval_id, second.asked_at) == (first.approval_id, late)
    assert store.approval(first.approval_id) == second
    assert store.approvals(after=late) == [second]
    store.approve(first.approval_id, by="ann", reason="yes", at=late).result()
    third = store.ask(changed(2), WHY, at=late).result()  # at the same moment, even
    assert third.decision is None
    assert kinds(store) == ["approval.asked", "approval.asked", "approval.accepted", "approval.asked"]
    assert len(store.approvals(open_only=False)) == 3


def test_there_is_room_for_few(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one machine, and of all: whoever has many keys does not bury the honest question; what is over leaves room."""
    monkeypatch.setattr(approvals, "MAX_OPEN", 6)
    for number in range(4):
        store.ask(changed(number), WHY, at=NOW).result()
    with pytest.raises(TooMuch, match=r"4 sets of host keys wait for approval as those of 'web1\.lan'"):
        store.ask(changed(4), WHY, at=NOW).result()
    assert store.ask(changed(3), WHY, at=NOW).result().status(NOW) == "open"  # it was asked before
    for number in (5, 6):
        store.ask(changed(number, f"web{number}.lan"), WHY, at=NOW).result()
    with pytest.raises(TooMuch, match=r"^6 sets of host keys wait for approval$"):
        store.ask(changed(7, "web7.lan"), WHY, at=NOW).result()
    store.reject(store.approvals()[0].approval_id, by="ann", reason="no", at=NOW).result()
    store.ask(changed(7, "web7.lan"), WHY, at=NOW).result()
    store.ask(changed(4), WHY, at=NOW + WEEK).result()
    assert len(store.approvals()) == 7


def test_what_no_person_can_accept(store: SqlLedger) -> None:
    """A key that is another machine's, one that was retired, a name that is itself a machine: nothing is decided."""
    known(store, 1)
    known(store, 5, machine="web5.lan")
    store.retire("web1.lan", ssh_key(1), reason="stolen", at=NOW).result()
    for grant, why in (
        (changed(5, "web1.lan"), r"is 'web5\.lan''s"),
        (changed(1), r"was retired on 2026-11-22 \(stolen\)"),
        (changed(2, "web1.lan", "web1.lan", "web5.lan"), r"'web5\.lan' is itself a machine"),
    ):
        asked = store.ask(grant, WHY, at=NOW).result()
        with pytest.raises(Refused, match=why):
            store.approve(asked.approval_id, by="ann", reason="yes", at=NOW).result()
        assert store.approval(asked.approval_id) == asked
    assert "approval.accepted" not in kinds(store)


def test_one_id_for_two_questions(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds other keys with the same id does not have them accepted, nor asked about, in place of these."""
    first = approvals.identity(changed(2))
    monkeypatch.setattr(approvals, "identity", lambda _grant, _owners: first)
    store.ask(changed(2), WHY, at=NOW).result()
    with pytest.raises(Refused, match=f"other host keys have the approval {first}"):
        store.ask(changed(3), WHY, at=NOW).result()
    monkeypatch.undo()


@pytest.mark.parametrize("text", ["", " ", "a\nb", "\x1b[31m", "a" * 500])
def test_words_that_would_forge_a_line(store: SqlLedger, text: str) -> None:
    """Whoever decides, why, and why it is asked, are one printable line each."""
    asked = store.ask(changed(2), WHY, at=NOW).result()
    for by, reason in ((text, "x"), ("ann", text)):
        for decide in (store.approve, store.reject):
            with pytest.raises(Malformed):
                decide(asked.approval_id, by=by, reason=reason, at=NOW).result()
    with pytest.raises(Malformed):
        store.ask(changed(3), (text,), at=NOW).result()
    assert kinds(store) == ["approval.asked"]


def test_an_approval_that_nobody_asked_for(store: SqlLedger) -> None:
    """There is none."""
    for decide in (store.approve, store.reject):
        with pytest.raises(NotFound, match="no approval 'x'"):
            decide("x", by="ann", reason="yes", at=NOW).result()


def test_a_port_is_taken_by_a_persons_word_alone(store: SqlLedger) -> None:
    """Two machines behind one address: neither takes the other's port without."""
    store.register(host_grant(1, ports=(2222,)), None, at=NOW).result()
    moved = host_grant(2, machine="web2.lan", how=How.SSH_HOSTKEY, places=("10.0.0.1",), ports=(2222,))
    with pytest.raises(Refused, match=r"'\[10\.0\.0\.1\]:2222' is where 'web1\.lan' is reached"):
        store.register(moved, None, at=NOW).result()
    asked = store.ask(moved, WHY, frozenset({("[10.0.0.1]:2222", "web1.lan")}), at=NOW).result()
    store.approve(asked.approval_id, by="ann", reason="moved", at=NOW).result()
    found = store.host_at("[10.0.0.1]:2222")
    assert found is not None
    assert found.machine == "web2.lan"


@pytest.mark.parametrize("grant", [host_grant(2, how=How.X5C), host_grant(2, how=How.X5C, places=None)])
def test_of_other_evidence(store: SqlLedger, grant: HostGrant) -> None:
    """Where policy asks about it, keys that came with a certificate of another authority wait in the same way."""
    known(store, 1)
    asked = store.ask(grant, WHY, at=NOW).result()
    store.approve(asked.approval_id, by="ann", reason="yes", at=NOW).result()
    host = store.host("web1.lan")
    assert host is not None
    assert host.current == {ssh_key(2)}
    assert len(host.place.hosts()) == 2
