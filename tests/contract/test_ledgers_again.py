"""What every ledger promises to a key that comes again after its intent was abandoned, and to the second key."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handfast.core.flow import Credential, Once
from handfast.errors import AlreadySpent, InvitationCancelled, Revoked
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, grant, invitation


def test_P4_an_abandoned_key_comes_back_under_another_serial(store: SqlLedger) -> None:
    """Who asks again after his intent was abandoned gets a credential; the old serial stays revoked."""
    once = Once(invitation(1).marker)
    store.invite(invitation(1)).result()
    first = store.intend(grant(1), once, at=NOW).result()
    store.abandon_intents(LATER, at=LATER).result()
    with pytest.raises(AlreadySpent):
        store.intend(grant(2), once, at=LATER).result()
    again = store.intend(grant(1), once, at=LATER).result()
    assert again.serial != first.serial
    assert store.intend(grant(1), once, at=LATER).result() == again
    store.issued(Credential(again.serial, again.grant, b"late"), at=LATER).result()
    assert store.intend(grant(1), once, at=LATER).result().certificate == b"late"
    assert [revocation.serial for revocation in store.revocations()] == [first.serial]
    found = store.invitation(invitation(1).key_id)
    assert found is not None
    assert found.spent == 1
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def test_P3_an_abandoned_key_is_not_spared_what_the_operator_took_back(store: SqlLedger) -> None:
    """Neither a closed marker nor a revoked credential is opened again by an abandoned intent."""
    once = Once(invitation(1).marker)
    store.invite(invitation(1)).result()
    store.intend(grant(1), once, at=NOW).result()
    store.abandon_intents(LATER, at=LATER).result()
    again = store.intend(grant(1), once, at=LATER).result()
    store.revoke(again.serial, reason="keyCompromise", at=LATER).result()
    with pytest.raises(Revoked, match="keyCompromise"):
        store.intend(grant(1), once, at=LATER).result()
    other = Once(invitation(2).marker)
    store.invite(invitation(2)).result()
    store.intend(grant(2), other, at=NOW).result()
    store.abandon_intents(LATER, at=LATER).result()
    store.cancel(invitation(2).key_id, reason="lost", at=LATER).result()
    with pytest.raises(InvitationCancelled):
        store.intend(grant(2), other, at=LATER).result()


def test_P3_two_keys_of_a_marker_count_as_two_whatever_was_abandoned(store: SqlLedger) -> None:
    """A key that had two serials is one use; the uses that are left are for other keys."""
    once = Once("test:twice", uses=2)
    store.intend(grant(1), once, at=NOW).result()
    store.abandon_intents(LATER, at=LATER).result()
    store.intend(grant(1), once, at=LATER).result()
    store.intend(grant(2), once, at=LATER).result()
    with pytest.raises(AlreadySpent):
        store.intend(grant(3), once, at=LATER).result()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("successor:" + "0" * 31 + "7", f"credential {7:032x} already has a successor with another key"),
        ("test:1", "'test:1' was already used with another key"),
    ],
)
def test_the_second_key_is_told_what_happened(store: SqlLedger, marker: str, message: str) -> None:
    """The refusal says what was used, in words that its honest owner understands, and whom to tell."""
    store.intend(grant(1), Once(marker), at=NOW).result()
    with pytest.raises(AlreadySpent) as caught:
        store.intend(grant(2), Once(marker), at=LATER).result()
    assert caught.value.message == message
    assert "tell the operator" in caught.value.hint


def test_renewals_of_a_machine_are_counted_by_time(store: SqlLedger) -> None:
    """What credentials of this machine introduced since then, without the own successor; the count is bounded."""
    first = store.intend(grant(1), Once(invitation(1).marker), at=NOW).result()
    record = store.credential(first.serial)
    assert record is not None
    before = NOW - timedelta(seconds=1)
    assert store.renewals_since(record, before) == 0  # it was invited
    store.intend(grant(2), Once(record.successor_marker), at=NOW).result()
    assert store.renewals_since(record, before) == 0  # a retry gets this one again
    store.intend(grant(3), Once("successor:1"), at=NOW).result()
    store.intend(grant(4, machine="web2.lan"), Once("successor:2"), at=NOW).result()
    assert store.renewals_since(record, before) == 1
    assert store.renewals_since(record, NOW) == 0
    for future in [store.intend(grant(5), Once(f"successor:{i}"), at=NOW) for i in range(10, 130)]:
        future.result()
    assert store.renewals_since(record, before) == 100
