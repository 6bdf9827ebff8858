"""What the thief of one host key cannot keep once its operator has taken it back, in every ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from handfast.core.flow import HostGrant
from handfast.core.hosts import MAX_VOUCHED, REMOVED, How
from handfast.errors import Refused
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, host_grant, ssh_key
from tests.ledger.ssh_material import changed, known

LESS = [how for how in How if how is not How.OPERATOR]


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def vouched(*keys: int, by: int = 1) -> HostGrant:
    """Keys that were proved over a connection under another one."""
    return host_grant(*keys, how=How.HOSTKEYS_PROVE, places=None, complete=False, basis=(by,))


def left(store: SqlLedger, *, retired: int = 1) -> set[int]:
    """Which keys web1.lan has once an operator has taken one back."""
    host = store.retire("web1.lan", ssh_key(retired), reason="keyCompromise", at=LATER).result()
    return {number for number in range(10) if ssh_key(number) in host.current}


@pytest.mark.parametrize("how", [How.RENEWAL, How.REINTRODUCTION, How.SSH_HOSTKEY, How.X5C, How.BUCKET, How.CONSOLE])
def test_P15_what_a_stolen_key_vouched_for_goes_with_it(store: SqlLedger, how: How) -> None:
    """However many ways its thief has shown it in since: each says no more than that he holds it too."""
    known(store, 1)
    store.register(vouched(2), None, at=NOW).result()
    store.register(host_grant(1, 2, how=how, places=None, complete=False), None, at=LATER).result()
    assert left(store) == set()


@pytest.mark.parametrize("how", [How.OPERATOR, How.INVITATION])
def test_what_an_operator_has_said_stays(store: SqlLedger, how: How) -> None:
    """Of a key that was vouched for once, and entered or invited since; nor does one go that was there before."""
    known(store, 1, 3)
    store.register(vouched(2, 3), None, at=LATER).result()
    store.register(host_grant(2, how=how, places=None, complete=False), None, at=LATER).result()
    assert left(store) == {2, 3}


def test_what_a_person_accepted_stays(store: SqlLedger) -> None:
    """He has looked at that key."""
    known(store, 1)
    store.register(vouched(2), None, at=NOW).result()
    asked = store.ask(host_grant(1, 2, how=How.SSH_HOSTKEY), ("two keys",), at=NOW).result()
    store.approve(asked.approval_id, by="ann", reason="mine", at=NOW).result()
    store.register(vouched(4), None, at=LATER).result()
    assert left(store) == {2}


def test_P15_a_thief_fills_no_more_than_a_few_places(store: SqlLedger) -> None:
    """Of what a machine may have, little can rest upon its other keys; its operator has room for the rest."""
    known(store, 1)
    store.register(vouched(*range(2, 2 + MAX_VOUCHED)), None, at=NOW).result()
    with pytest.raises(Refused, match=f"over {MAX_VOUCHED} host keys of 'web1.lan' would rest upon its others alone"):
        store.register(vouched(9), None, at=NOW).result()
    store.register(vouched(2), None, at=LATER).result()
    store.register(host_grant(9, complete=False), None, at=LATER).result()
    assert left(store) == {9}


@pytest.mark.parametrize("how", LESS)
def test_P31_a_key_that_was_taken_back_is_nobody_s(store: SqlLedger, how: How) -> None:
    """Not a machine's of its thief either, by which it would leave the list of revoked keys; and there is an alarm."""
    known(store, 1)
    store.retire("web1.lan", ssh_key(1), reason="keyCompromise", at=NOW).result()
    known(store, 2, machine="evil.test", how=How.SCAN)
    basis = (2,) if how is How.HOSTKEYS_PROVE else ()
    mine = host_grant(1, 2, machine="evil.test", how=how, places=("evil.test",), complete=False, basis=basis)
    with pytest.raises(Refused, match=r"was retired as one of 'web1\.lan' \(keyCompromise\)") as caught:
        store.register(mine, None, at=LATER).result()
    assert "handfast host add" in caught.value.hint
    assert [event.kind for event in store.events(kind_prefix="alarm.")] == ["alarm.retired-host-key"]
    assert store.publish_krl("x", at=LATER).result().digests == {ssh_key(1).digest}


def test_an_operator_may_enter_it_all_the_same(store: SqlLedger) -> None:
    """It is his word that it is sound; from then on its machine shows it as any other."""
    known(store, 1)
    store.retire("web1.lan", ssh_key(1), reason="lost", at=NOW).result()
    place = ("web2.lan",)
    store.register(host_grant(1, machine="web2.lan", how=How.OPERATOR, places=place), None, at=LATER).result()
    store.register(host_grant(1, machine="web2.lan", places=place), None, at=LATER).result()
    assert store.publish_krl("x", at=LATER).result().digests == frozenset()


@pytest.mark.parametrize("reason", ["superseded", REMOVED])
def test_a_sound_key_is_free(store: SqlLedger, reason: str) -> None:
    """What its machine gave up for others, or was removed with: a disk may have moved."""
    known(store, 1)
    if reason == REMOVED:
        store.remove_host("web1.lan", reason=reason, at=NOW).result()
    else:
        store.register(host_grant(2), None, at=NOW).result()
    known(store, 1, machine="web2.lan")


@pytest.mark.parametrize("how", [How.SSH_HOSTKEY, How.X5C])
def test_P26_who_answers_where_a_key_was_taken_back_is_not_that_machine(store: SqlLedger, how: How) -> None:
    """What was decided while it had a key, or before it had one, is refused once it has none."""
    mine = replace(host_grant(2, how=how, complete=False), quiet=True)
    known(store, 1)
    store.retire("web1.lan", ssh_key(1), reason="stolen", at=NOW).result()
    with pytest.raises(Refused, match=r"the host keys of 'web1\.lan' were retired meanwhile"):
        store.register(mine, None, at=LATER).result()
    store.remove_host("web1.lan", reason="gone", at=LATER).result()
    store.register(mine, None, at=LATER).result()


@pytest.mark.parametrize("how", [how for how in LESS if how not in {How.RENEWAL, How.REINTRODUCTION}])
def test_P26_a_rejected_key_comes_by_no_other_way(store: SqlLedger, how: How) -> None:
    """Not when the machine has lost the keys that were in its way; unless an operator enters it."""
    known(store, 1)
    asked = store.ask(changed(2), ("other keys",), at=NOW).result()
    store.reject(asked.approval_id, by="ann", reason="not ours", at=NOW).result()
    basis = (1,) if how is How.HOSTKEYS_PROVE else ()
    if not basis:
        store.remove_host("web1.lan", reason=REMOVED, at=NOW).result()
    mine = host_grant(2, how=how, complete=False, basis=basis)
    with pytest.raises(Refused, match=r"were rejected on 2026-11-22 12:00 UTC by ann: not ours"):
        store.register(replace(mine, how=how if how is not How.SCAN else How.CONSOLE), None, at=LATER).result()
    entered = host_grant(2, how=How.OPERATOR, complete=False)
    assert ssh_key(2) in store.register(entered, None, at=LATER).result().current
    store.register(host_grant(2, complete=False), None, at=LATER).result()
