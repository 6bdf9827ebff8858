"""What nobody makes of a person's yes or no about host keys, in every ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from handfast.core.flow import HostGrant
from handfast.core.hosts import How, Place
from handfast.errors import Refused, TooMuch
from handfast.ledger import approvals, audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, host_grant
from tests.ledger.ssh_material import changed, get, host_leaf, known, ssh_grant

WHY = ("web1.lan has other host keys",)


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


@pytest.mark.parametrize("port", [22, 2222])
def test_P26_a_yes_takes_nothing_that_became_another_s_since(store: SqlLedger, port: int) -> None:
    """Whoever said yes was not shown that; asked again, it is another question, which shows it."""
    grant = changed(2, "web1.lan", "web1.lan", "10.0.0.50")
    asked = store.ask(grant, WHY, at=NOW).result()
    vault = host_grant(3, machine="vault", places=("10.0.0.50",), ports=(port,))
    store.register(vault, None, at=NOW).result()
    (serial,) = get(store, ssh_grant(host_leaf(3, "10.0.0.50"), holder="vault"))
    with pytest.raises(Refused, match=r"is where 'vault' is reached, which was not so when this was asked") as caught:
        store.approve(asked.approval_id, by="ann", reason="yes", at=LATER).result()
    assert "ask again" in caught.value.hint
    assert store.publish_krl("x", at=LATER).result().hosts == ()
    assert store.approval(asked.approval_id) == asked
    owners = store.hosts_reached(["10.0.0.50"])
    again = store.ask(grant, ("'vault' is reached there",), owners, at=LATER).result()
    assert (again.owners, again.approval_id != asked.approval_id) == (owners, True)
    store.approve(again.approval_id, by="ann", reason="yes", at=LATER).result()
    assert store.publish_krl("x", at=LATER).result().hosts == (serial,)


def test_what_was_another_s_when_asked_may_be_left_meanwhile(store: SqlLedger) -> None:
    """A yes to more than there is left to take is still a yes."""
    known(store, 1, machine="old.lan")
    grant = changed(2, "web1.lan", "web1.lan", "10.0.0.7")
    asked = store.ask(grant, WHY, frozenset({("10.0.0.7", "old.lan")}), at=NOW).result()
    store.approve(asked.approval_id, by="ann", reason="yes", at=LATER).result()


ELSEWHERE: dict[str, HostGrant] = {
    "another port": replace(changed(2), place=Place.parse(["web1.lan", "10.0.0.1"], ports=(22, 23))),
    "a name less": changed(2, "web1.lan", "web1.lan"),
    "no place": replace(changed(2), place=None),
    "one more key": host_grant(2, 3, how=How.SSH_HOSTKEY),
    "another way": replace(changed(2), how=How.X5C),
}


@pytest.mark.parametrize("grant", ELSEWHERE.values(), ids=ELSEWHERE)
def test_P26_a_rejection_is_of_the_keys(store: SqlLedger, grant: HostGrant) -> None:
    """What is asked about them besides does not make it another question."""
    asked = store.ask(changed(2), WHY, at=NOW).result()
    store.reject(asked.approval_id, by="ann", reason="not ours", at=NOW).result()
    with pytest.raises(Refused, match="were rejected on 2026-11-22 12:00 UTC by ann: not ours") as caught:
        store.ask(grant, WHY, at=LATER).result()
    assert "handfast host add" in caught.value.hint
    store.ask(changed(3), WHY, at=LATER).result()
    store.ask(changed(2, "web2.lan", "web2.lan"), WHY, at=LATER).result()


def test_an_operator_who_enters_a_key_takes_a_rejection_back(store: SqlLedger) -> None:
    """The newer word counts; a rejection after that counts again."""
    asked = store.ask(changed(2), WHY, at=NOW).result()
    store.reject(asked.approval_id, by="ann", reason="not ours", at=NOW).result()
    store.register(host_grant(2, how=How.OPERATOR), None, at=LATER).result()
    moved = changed(2, "web1.lan", "10.0.0.9")
    again = store.ask(moved, WHY, at=LATER).result()
    store.reject(again.approval_id, by="ann", reason="not there", at=LATER).result()
    with pytest.raises(Refused, match="by ann: not there"):
        store.ask(moved, WHY, at=LATER).result()


def test_P26_strangers_questions_leave_room_for_others(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions by ssh-hostkey cost a stranger nothing but machines of his own: they fill half of what there may be."""
    monkeypatch.setattr(approvals, "MAX_OPEN", 4)
    monkeypatch.setattr(approvals, "MAX_CHALLENGED", 2)
    for number in range(2):
        store.ask(changed(number, f"m{number}.test"), WHY, at=NOW).result()
    with pytest.raises(TooMuch, match="2 sets of host keys by ssh-hostkey wait for approval"):
        store.ask(changed(2, "m2.test"), WHY, at=NOW).result()
    for number in range(3, 5):
        store.ask(replace(changed(number), how=How.X5C), WHY, at=NOW).result()
    with pytest.raises(TooMuch, match="4 sets of host keys wait for approval"):
        store.ask(replace(changed(6), how=How.X5C), WHY, at=NOW).result()
