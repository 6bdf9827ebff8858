"""Managed machines in every ledger: what lasts is kept, nobody's change is lost, and removing takes everything back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from handfast.core.flow import Credential, Once
from handfast.core.instances import Instance, Silence, State, Stranger, confirmed, lasting, met, placed, released
from handfast.core.records import Event
from handfast.core.roles import Role
from handfast.errors import AlreadySpent, InvitationCancelled, Malformed, NotFound, Refused, Revoked
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.instance_material import KEY, OTHER, instance, running
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, Place, grant, host_grant
from tests.ledger.ssh_material import get, host_leaf, ssh_grant


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def kinds(store: SqlLedger, name: str = "app1.lan") -> list[str]:
    """What was logged of an instance."""
    return [event.kind for event in store.events(subject=name)]


def test_what_is_added_is_found(store: SqlLedger, place: Place) -> None:
    """By its name, and in order; and so it is for another process."""
    second, invited = instance(2, address=None, dials=True, needs_key=True, expected=KEY)
    store.add_instance(second, invited).result()
    first, invited = instance(1, state=State.PENDING, address=None)
    store.add_instance(first, invited).result()
    assert store.instances() == [first, lasting(second)]
    assert store.instance("app1.lan") == first
    assert store.instance("nobody") is None
    assert store.invitation(invited.key_id) == invited
    with place.open() as other:
        assert other.instances() == store.instances()
    assert kinds(store) == ["invitation.created", "instance.added"]


def test_a_name_is_one_instances(store: SqlLedger) -> None:
    """A second one of that name is refused, and its invitation is not kept either."""
    store.add_instance(*instance(1)).result()
    again, invited = instance(2, name="app1.lan")
    with pytest.raises(Refused, match=r"there is an instance 'app1\.lan'"):
        store.add_instance(again, invited).result()
    assert store.invitation(invited.key_id) is None
    other, _ = instance(3)
    with pytest.raises(Refused, match="exists already"):
        store.add_instance(replace(other, invitation=f"{1:016x}"), instance(1, name="app3.lan")[1]).result()
    assert len(store.instances()) == 1


@pytest.mark.parametrize(
    "changes",
    [{"machine": "b"}, {"role": Role.SERVER}, {"key_id": "f" * 16}, {"expires_at": NOW}, {"method": "invitation"}],
    ids=str,
)
def test_an_instance_comes_with_its_own_invitation(store: SqlLedger, changes: dict[str, object]) -> None:
    """One for another machine, another role, or another time is refused, and nothing is kept."""
    made, invited = instance(1)
    with pytest.raises(Malformed, match="is not that of the instance"):
        store.add_instance(made, replace(invited, **changes)).result()  # type: ignore[arg-type]
    assert (store.instances(), store.invitations()) == ([], [])


def test_what_lasts_is_kept_and_no_more(store: SqlLedger) -> None:
    """That somebody did not answer for a while is not written down; which key was certified is."""
    made = running(store)
    assert made.state is State.RUNNING
    kept = store.instance("app1.lan")
    assert kept == lasting(made)
    assert kept is not None
    assert (kept.state, kept.expected, kept.serial) == (State.UNREACHABLE, KEY, 7)
    before = store.head().size
    silent = met(made, Silence("refused"), at=LATER)
    assert store.change_instance(made, silent, at=LATER).result() is silent
    assert store.head().size == before
    assert kinds(store) == ["invitation.created", "instance.added", "instance.changed", "instance.changed"]


def test_a_change_says_what_has_changed(store: SqlLedger) -> None:
    """An entry has the fields that are other than before, and those alone."""
    made, invited = instance(1, address=None, state=State.PENDING)
    store.add_instance(made, invited).result()
    store.change_instance(made, placed(made, "10.0.0.7:7575", at=NOW), at=NOW).result()
    event = store.events(subject="app1.lan")[-1]
    assert (event.kind, event.fields["address"], event.fields["state"]) == (
        "instance.changed",
        "10.0.0.7:7575",
        "waiting",
    )
    assert event.fields.keys() <= {"address", "state", "since"}


def test_quarantine_is_an_alarm(store: SqlLedger) -> None:
    """Once, however often it is written down; a release says why."""
    made = running(store)
    bad = met(made, Stranger("another key", OTHER), at=LATER)
    assert store.change_instance(made, bad, at=LATER).result() == bad
    assert store.change_instance(bad, bad, at=LATER).result() == bad
    (alarm,) = store.events(kind_prefix="alarm.", subject="app1.lan")
    assert alarm == Event(
        "alarm.quarantined",
        LATER,
        "app1.lan",
        {"reason": "another key", "seen": OTHER.hex(), "expected": KEY.hex()},
    )
    assert store.instance("app1.lan") == bad
    store.change_instance(bad, released(bad, at=LATER), at=LATER, why="a restored disk").result()
    event = store.events(subject="app1.lan")[-1]
    assert (event.kind, event.fields["why"]) == ("instance.released", "a restored disk")


def test_who_comes_second_is_told_what_is_there(store: SqlLedger) -> None:
    """A change to an instance that somebody has changed since is not made."""
    made, invited = instance(1)
    store.add_instance(made, invited).result()
    placed_there = placed(made, "10.0.0.7:7575", at=NOW)
    store.change_instance(made, placed_there, at=NOW).result()
    quarantined = met(made, Stranger("a wrong proof", OTHER), at=NOW)
    assert store.change_instance(made, quarantined, at=NOW).result() == lasting(placed_there)
    assert store.events(kind_prefix="alarm.") == []
    assert store.instance("app1.lan") == lasting(placed_there)


def test_of_many_at_once_one_wins(store: SqlLedger, place: Place) -> None:
    """Whoever changes it from the same state: one change is kept, and everybody is told which."""
    made, invited = instance(1)
    store.add_instance(made, invited).result()

    def change(number: int) -> Instance:
        with place.open() as other:
            return other.change_instance(made, confirmed(made, bytes([number]) * 32, at=NOW), at=NOW).result()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(change, range(8)))
    assert len({each.expected for each in found}) == 1
    assert kinds(store).count("instance.changed") == 1


def test_what_is_not_an_instances(store: SqlLedger) -> None:
    """Neither another name, nor text that would forge a line of the log, nor an instance that is not there."""
    made, invited = instance(1)
    store.add_instance(made, invited).result()
    with pytest.raises(Malformed, match="cannot become"):
        store.change_instance(made, replace(made, name="b"), at=NOW).result()
    with pytest.raises(Malformed, match="not printable"):
        store.change_instance(made, replace(made, address="a\nb"), at=NOW).result()
    with pytest.raises(Malformed, match="not a reason"):
        store.change_instance(made, placed(made, "10.0.0.7:1", at=NOW), at=NOW, why="\x1b[2J").result()
    absent, _ = instance(2)
    with pytest.raises(NotFound, match=r"no instance 'app2\.lan'"):
        store.change_instance(absent, placed(absent, "10.0.0.7:1", at=NOW), at=NOW).result()
    with pytest.raises(Malformed, match="written with their row"):
        store.note(Event("instance.changed", NOW, "app1.lan", {})).result()
    assert store.instance("app1.lan") == lasting(made)


def test_removed_before_it_came(store: SqlLedger) -> None:
    """Its one-time secret is worth nothing from that moment, and the name is free."""
    made, invited = instance(1)
    store.add_instance(made, invited).result()
    assert store.remove_instance("app1.lan", reason="a typo", at=NOW).result() == lasting(made)
    assert store.instances() == []
    with pytest.raises(InvitationCancelled):
        store.intend(grant(1, machine="app1.lan"), Once(invited.marker), at=NOW).result()
    with pytest.raises(NotFound):
        store.remove_instance("app1.lan", reason="again", at=NOW).result()
    store.add_instance(*instance(2, name="app1.lan")).result()
    assert store.events(subject="app1.lan")[1].kind == "instance.added"
    assert kinds(store).count("instance.removed") == 1


def test_removed_when_it_held_something(store: SqlLedger) -> None:
    """Its credentials, intents and SSH certificates are revoked with it; nobody else's, and none of our own."""
    made = running(store)
    once = Once(f"invitation:{made.invitation}")
    held = store.intend(grant(1, machine="app1.lan", role=Role.AGENT), once, at=NOW).result()
    store.issued(Credential(held.serial, held.grant, b"certificate"), at=NOW).result()
    intended = store.intend(grant(2, machine="app1.lan"), Once("other"), at=NOW).result()
    others = store.intend(grant(3, machine="app2.lan"), Once("third"), at=NOW).result()
    ours = store.intend(grant(4, machine="app1.lan", role=Role.CONTROLLER), Once("fourth"), at=NOW).result()
    store.register(host_grant(1, machine="app1.lan", places=("app1.lan",)), None, at=NOW).result()
    leaf = host_leaf(1, "app1.lan", machine="app1.lan")
    (serial,) = get(store, replace(ssh_grant(leaf), holder="app1.lan"))
    store.remove_instance("app1.lan", reason="it is gone", at=LATER).result()
    revoked = {each.serial: each.reason for each in store.revocations()}
    assert revoked == dict.fromkeys((held.serial, intended.serial), "cessationOfOperation")
    assert others.serial not in revoked
    assert ours.serial not in revoked
    certificate = store.ssh_certificate(serial)
    assert certificate is not None
    assert certificate.revoked_reason == "cessationOfOperation"
    with pytest.raises(Revoked):
        store.intend(grant(1, machine="app1.lan", role=Role.AGENT), once, at=LATER).result()
    with pytest.raises(AlreadySpent):
        store.intend(grant(9, machine="app1.lan", role=Role.AGENT), once, at=LATER).result()
