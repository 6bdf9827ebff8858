"""What a machine, its credential or a stolen key cannot make of SSH host keys, in every ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handfast.core.flow import Once
from handfast.core.hosts import MAX_PLACES, Grade, How, Place
from handfast.errors import AlreadySpent, Refused
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, NOW, grant, host_grant, ssh_key

ONCE = Once("invitation:0000000000000001", 3)
BY_CREDENTIAL = (How.RENEWAL, How.REINTRODUCTION)


def alarms(store: SqlLedger) -> list[str]:
    """The kinds of all alarms."""
    return [event.kind for event in store.events(kind_prefix="alarm.")]


@pytest.mark.parametrize("how", BY_CREDENTIAL)
def test_a_credential_alone_makes_no_host_key_known(store: SqlLedger, how: How) -> None:
    """Not for a machine without any, nor in the place of an operator's, nor for one that was removed."""
    evil = host_grant(9, how=how, places=None)
    with pytest.raises(Refused, match="does not vouch for them"):
        store.register(evil, None, at=NOW).result()
    store.register(host_grant(1, how=How.OPERATOR), None, at=NOW).result()
    with pytest.raises(Refused, match="does not vouch for them"):
        store.register(evil, None, at=NOW).result()
    store.remove_host("web1.lan", reason="stolen", at=NOW).result()
    with pytest.raises(Refused, match="does not vouch for them"):
        store.register(evil, None, at=LATER).result()
    host = store.host("web1.lan")
    assert host is not None
    assert host.keys == ()
    assert alarms(store) == ["alarm.foreign-host-key"]  # once for this key


@pytest.mark.parametrize("how", BY_CREDENTIAL)
def test_a_key_that_was_seen_vouches_for_nothing(store: SqlLedger, how: How) -> None:
    """Whoever sat in the middle of a scan does not become the machine by its credential."""
    store.register(host_grant(1, how=How.SCAN), None, at=NOW).result()
    with pytest.raises(Refused, match="does not vouch for them"):
        store.register(host_grant(1, how=how), None, at=NOW).result()


@pytest.mark.parametrize("how", BY_CREDENTIAL)
def test_one_known_key_vouches_for_the_others(store: SqlLedger, how: How) -> None:
    """A rotation proves an old key beside the new ones; then the old one may go."""
    store.register(host_grant(1, how=How.OPERATOR), None, at=NOW).result()
    store.register(host_grant(1, 2, how=how, places=None), None, at=NOW).result()
    host = store.register(host_grant(2, how=how, places=None), None, at=LATER).result()
    assert host.believed(Grade.PROVED) == (ssh_key(2),)
    assert alarms(store) == []


def test_a_credential_takes_nobodys_place(store: SqlLedger) -> None:
    """An operator called another machine by the name of this one: a renewal does not take that back."""
    web = host_grant(1, machine="web", places=("web1.lan",), how=How.OPERATOR)
    store.register(web, None, at=NOW).result()
    with pytest.raises(Refused):
        store.register(host_grant(9, how=How.RENEWAL, places=None), None, at=LATER).result()
    assert store.host_at("web1.lan") == store.host("web")


@pytest.mark.parametrize("change", ["remove", "retire", "rotate", "none"])
def test_what_was_learned_rests_upon_keys_that_count(store: SqlLedger, change: str) -> None:
    """A key of the connection was retired, or the machine removed, before the report arrived: it is refused."""
    store.register(host_grant(1), None, at=NOW).result()
    if change == "remove":
        store.remove_host("web1.lan", reason="gone", at=NOW).result()
    elif change == "retire":
        store.retire("web1.lan", ssh_key(1), reason="stolen", at=NOW).result()
    elif change == "rotate":
        store.register(host_grant(2), None, at=NOW).result()
    basis = () if change == "none" else (1,)
    learned = host_grant(3, how=How.HOSTKEYS_PROVE, places=None, complete=False, basis=basis)
    with pytest.raises(Refused, match="does not count any more"):
        store.register(learned, None, at=LATER).result()


@pytest.mark.parametrize("how", [How.OPERATOR, How.CONSOLE])
def test_a_rotation_is_no_better_than_what_it_rests_upon(store: SqlLedger, how: How) -> None:
    """Over a key that was only reported nothing is proved."""
    store.register(host_grant(1, how=how), None, at=NOW).result()
    learned = host_grant(3, how=How.HOSTKEYS_PROVE, places=None, complete=False, basis=(1,))
    with pytest.raises(Refused, match="does not count any more"):
        store.register(learned, None, at=LATER).result()


def test_a_port_takes_nobodys_place(store: SqlLedger) -> None:
    """Which ports it has is a machine's own claim. An operator's word may move one."""
    prod = store.register(host_grant(1, machine="prod", places=("10.0.0.5",), ports=(2222,)), None, at=NOW).result()
    guest = host_grant(2, machine="guest", places=("10.0.0.5",), ports=(22, 2222))
    with pytest.raises(Refused, match=r"'\[10\.0\.0\.5\]:2222' is where 'prod' is reached"):
        store.register(guest, ONCE, at=NOW).result()
    assert store.host_at("[10.0.0.5]:2222") == prod
    assert store.host("guest") is None
    moved = store.register(replace(guest, how=How.OPERATOR), None, at=LATER).result()
    assert store.host_at("[10.0.0.5]:2222") == moved


def test_an_invitation_brings_host_keys_once(store: SqlLedger) -> None:
    """For several keys of one machine, and one set of host keys: later ones are refused, and an alarm."""
    store.intend(replace(grant(1), host=host_grant(1)), ONCE, at=NOW).result()
    store.intend(replace(grant(2), host=host_grant(1)), ONCE, at=NOW).result()
    with pytest.raises(AlreadySpent):
        store.intend(replace(grant(3), host=host_grant(9)), ONCE, at=NOW).result()
    host = store.host("web1.lan")
    assert host is not None
    assert host.believed(Grade.PROVED) == (ssh_key(1),)
    assert alarms(store) == ["alarm.second-key"]
    assert len(store.credentials()) == 2


@pytest.mark.parametrize("how", [How.PHONE_HOME, How.CONSOLE, How.OPERATOR, How.SCAN])
def test_a_public_key_that_is_only_claimed_keeps_nobody_out(store: SqlLedger, how: How) -> None:
    """Anybody can report another machine's public key as his own; its owner proves it, and has it, with an alarm."""
    store.register(host_grant(1, machine="cheap", places=("cheap.lan",), how=how), None, at=NOW).result()
    owner = store.register(host_grant(1), ONCE, at=LATER).result()
    assert owner.believed(Grade.PROVED) == (ssh_key(1),)
    cheap = store.host("cheap")
    assert cheap is not None
    assert (cheap.keys, [each.reason for each in cheap.retired]) == ((), ["web1.lan has proved to have it"])
    assert alarms(store) == ["alarm.same-host-key"]


def test_places_are_merged_when_they_are_written(store: SqlLedger) -> None:
    """What was decided before an alias moved away does not take it back."""
    store.register(host_grant(1, aliases=("db",)), None, at=NOW).result()
    joins = host_grant(1, how=How.PHONE_HOME, places=("web1.lan",))  # decided while it had the alias
    other = host_grant(2, machine="web2.lan", places=("web2.lan",), aliases=("db",))
    moved = store.register(other, None, at=NOW).result()
    store.register(replace(joins, complete=False), None, at=LATER).result()
    assert store.host_at("db") == moved


def test_a_machine_stays_within_what_can_be_read(store: SqlLedger) -> None:
    """Names come from several words; together they are no more than one word may have."""
    half = MAX_PLACES // 2 + 1
    names, aliases = tuple(f"n{i}.lan" for i in range(half)), tuple(f"a{i}" for i in range(half))
    store.register(host_grant(1, places=(), aliases=aliases), None, at=NOW).result()
    with pytest.raises(Refused, match=f"over {MAX_PLACES} names"):
        store.register(host_grant(1, how=How.PHONE_HOME, places=names), None, at=LATER).result()
    host = store.host("web1.lan")
    assert host is not None
    assert host.place == Place((), (), tuple(sorted(aliases)))
