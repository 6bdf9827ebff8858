"""
What the holder of a key, of a marker or of an old word cannot make of SSH certificates, in every ledger.

P17: a host's certificate that is not over and not revoked says what is known of its machine; what ends that revokes it
in the same transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import pytest

from handfast.core.flow import HostGrant, Once, SshCredential
from handfast.core.hosts import How
from handfast.errors import AlreadySpent, Refused, Revoked
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, Place, host_grant, ssh_key
from tests.ledger.ssh_material import changed, get, host_leaf, known, ssh_grant, user_grant

ONCE = Once("test:1")


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def statuses(store: SqlLedger, *serials: int) -> list[str]:
    """What has become of certificates."""
    records = [store.ssh_certificate(serial) for serial in serials]
    return [record.status(LATER) for record in records if record is not None]


def revoked(store: SqlLedger) -> set[int]:
    """What the next list of revoked keys has."""
    return set(store.publish_krl("registrar", at=LATER).result().hosts)


CHANGES: dict[str, tuple[Callable[[SqlLedger], object], set[int]]] = {
    "a key is retired": (
        lambda store: store.retire("web1.lan", ssh_key(1), reason="stolen", at=LATER).result(),
        {0, 2},
    ),
    "other keys take its place": (lambda store: store.register(host_grant(2, 9), None, at=LATER).result(), {0, 2}),
    "it is removed": (lambda store: store.remove_host("web1.lan", reason="gone", at=LATER).result(), {0, 1, 2}),
    "an operator describes it anew": (
        lambda store: store.register(
            host_grant(1, 2, how=How.OPERATOR, places=("web1.lan", "10.0.0.9")), None, at=LATER
        ).result(),
        {0, 1},
    ),
    "its address is another's now": (
        lambda store: store.register(
            host_grant(5, machine="web2.lan", places=("web2.lan", "10.0.0.1")), None, at=LATER
        ).result(),
        {0, 1},
    ),
    "its key becomes known in one more way": (
        lambda store: store.register(host_grant(1, 2, how=How.OPERATOR), None, at=LATER).result(),
        set(),
    ),
    "it has one more key": (
        lambda store: store.register(host_grant(7, complete=False), None, at=LATER).result(),
        set(),
    ),
}


@pytest.mark.parametrize(("change", "gone"), CHANGES.values(), ids=CHANGES)
def test_P17_a_change_of_a_machine_revokes_what_is_not_so_any_more(
    store: SqlLedger, change: Callable[[SqlLedger], object], gone: set[int]
) -> None:
    """Whichever way it changes: that and nothing else is in the next list, also where it was only intended."""
    known(store, 1, 2)
    known(store, 6, machine="db.lan")
    serials = get(store, ssh_grant(host_leaf(1), host_leaf(2)))
    (named,) = store.intend_ssh(ssh_grant(host_leaf(1, "web1.lan")), None, at=NOW).result()
    other = get(store, ssh_grant(host_leaf(6, "db.lan"), holder="db.lan"))
    user = get(store, replace(user_grant(1), holder="web1.lan"), ONCE)  # a person may be called so
    change(store)
    everything = (*serials, named.serial)
    assert revoked(store) == {everything[each] for each in gone}
    assert statuses(store, *user, *other) == ["valid", "valid"]
    if 2 in gone:
        with pytest.raises(Revoked, match="superseded"):
            store.issued_ssh((SshCredential(named.serial, named.leaf, b"x"),), at=LATER).result()


def test_P17_a_removed_spelling_of_another_port_takes_nothing(store: SqlLedger) -> None:
    """Of two machines behind one address, at two ports, one that goes leaves the other's certificates alone."""
    store.register(host_grant(1, ports=(2201,)), None, at=NOW).result()
    behind = host_grant(2, machine="web2.lan", places=("web2.lan", "10.0.0.1"), ports=(2202,))
    store.register(behind, None, at=NOW).result()
    first, second = (
        get(store, ssh_grant(host_leaf(number, name), holder=name))[0]
        for number, name in ((1, "web1.lan"), (2, "web2.lan"))
    )
    store.remove_host("web2.lan", reason="gone", at=LATER).result()
    assert statuses(store, first, second) == ["valid", "revoked"]


def test_P17_a_key_that_moved_to_another_machine(store: SqlLedger) -> None:
    """Who has proved a key that was only reported has it, by his own names; the certificate for it is gone."""
    store.register(host_grant(1, how=How.CONSOLE), None, at=NOW).result()
    (first,) = get(store, ssh_grant(host_leaf(1)))
    mine = host_grant(1, machine="web2.lan", places=("web2.lan",))
    grant = ssh_grant(host_leaf(1, "web2.lan"), holder="web2.lan", host=mine)
    (second,) = get(store, grant, at=LATER)
    assert statuses(store, first, second) == ["revoked", "valid"]
    with pytest.raises(Refused, match=r"is no host key of 'web1\.lan': web2\.lan has proved"):
        store.intend_ssh(ssh_grant(host_leaf(1)), None, at=LATER).result()


def test_P17_names_that_another_took_between_decision_and_transaction(store: SqlLedger) -> None:
    """What policy decided on is looked at again where nobody else can write."""
    known(store, 1)
    decided = ssh_grant(host_leaf(1))
    store.register(host_grant(2, machine="web2.lan", places=("web2.lan", "10.0.0.1")), None, at=NOW).result()
    with pytest.raises(Refused, match=r"'web1\.lan' is not reached as '10\.0\.0\.1'"):
        store.intend_ssh(decided, ONCE, at=NOW).result()
    assert store.ssh_certificates() == []


@pytest.mark.parametrize(
    "evil",
    [
        changed(9, "evil.lan", "evil.lan", "10.0.0.1"),
        changed(9, "evil.lan", "www.lan"),
        changed(9, "alias"),
        changed(9, "web1.lan", "web1.lan", "10.0.0.9"),
    ],
    ids=["address", "name", "alias as its name", "other keys"],
)
def test_P17_what_answers_on_the_network_takes_nothing_from_others(store: SqlLedger, evil: HostGrant) -> None:
    """Whoever has an address for two moments gets neither the address nor the machine, registered or certified."""
    place = host_grant(1, places=("web1.lan", "10.0.0.1", "www.lan"), aliases=("alias",))
    before = store.register(place, None, at=NOW).result()
    (serial,) = get(store, ssh_grant(host_leaf(1)))
    with pytest.raises(Refused, match=r"is where 'web1\.lan' is reached|became known better"):
        store.register(evil, ONCE, at=LATER).result()
    leaf = host_leaf(9, evil.machine, machine=evil.machine)
    with pytest.raises(Refused, match=r"is where 'web1\.lan' is reached|became known better"):
        store.intend_ssh(ssh_grant(leaf, holder=evil.machine, host=evil), Once("x"), at=LATER).result()
    assert store.host("web1.lan") == before
    assert statuses(store, serial) == ["valid"]


def test_a_free_name_is_taken_without_asking(store: SqlLedger) -> None:
    """First key for a name nobody has, also where its machine was removed; the same once more is the same."""
    known(store, 1)
    store.remove_host("web1.lan", reason="gone", at=NOW).result()
    fresh = changed(2, "new.lan", "new.lan", "10.0.0.1")
    leaf = host_leaf(2, "new.lan", "10.0.0.1")
    (serial,) = get(store, ssh_grant(leaf, holder="new.lan", host=fresh), ONCE)
    assert get(store, ssh_grant(leaf, holder="new.lan", host=fresh), Once("test:2")) == (serial,)


@pytest.mark.parametrize("reason", ["keyCompromise", "privilegeWithdrawn"])
def test_P17_a_revoked_key_does_not_get_the_next_one_by_itself(store: SqlLedger, reason: str) -> None:
    """Nor has it others vouched for; it takes an operator's new word, or other keys by other evidence."""
    known(store, 1)
    (serial,) = get(store, ssh_grant(host_leaf(1)))
    store.revoke_ssh(serial, reason=reason, at=LATER).result()
    vouched = host_grant(2, how=How.HOSTKEYS_PROVE, places=None, complete=False, basis=(1,))
    moved = host_grant(1, how=How.CONSOLE, machine="web2.lan", places=("web2.lan",))
    for grant in (
        ssh_grant(host_leaf(1), host=changed(1)),  # nor by evidence that comes with it
        ssh_grant(host_leaf(1)),
        ssh_grant(host_leaf(1, "web1.lan")),
        ssh_grant(host_leaf(1), host_leaf(2), host=vouched),
    ):
        with pytest.raises(Revoked, match=f"the SSH certificate {serial} of .* was revoked \\({reason}\\)"):
            store.intend_ssh(grant, None, at=LATER).result()
    host = store.host("web1.lan")
    assert host is not None
    assert host.current == {ssh_key(1)}
    store.register(host_grant(1, how=How.OPERATOR), None, at=LATER + timedelta(minutes=1)).result()
    get(store, ssh_grant(host_leaf(1)), at=LATER + timedelta(minutes=2))
    store.remove_host("web1.lan", reason="removed", at=LATER).result()
    elsewhere = ssh_grant(host_leaf(1, "web2.lan"), holder="web2.lan", host=moved)
    with pytest.raises(Revoked):  # nor at another machine
        store.intend_ssh(elsewhere, None, at=LATER).result()


def test_P17_what_a_change_took_back_is_issued_anew(store: SqlLedger) -> None:
    """A machine that lost a name, or whose certificate was replaced, gets another by what is left."""
    known(store, 1)
    (first,) = get(store, ssh_grant(host_leaf(1)))
    store.register(host_grant(2, machine="web2.lan", places=("web2.lan", "10.0.0.1")), None, at=NOW).result()
    (second,) = get(store, ssh_grant(host_leaf(1, "web1.lan")))
    store.revoke_ssh(second, reason="superseded", at=NOW).result()
    (third,) = get(store, ssh_grant(host_leaf(1, "web1.lan")))
    assert statuses(store, first, second, third) == ["revoked", "revoked", "valid"]


def test_a_stolen_key_does_not_vouch_after_it_was_retired(store: SqlLedger) -> None:
    """What policy saw of it counts only while it is the machine's in the transaction."""
    known(store, 1, 2)
    store.retire("web1.lan", ssh_key(1), reason="stolen", at=NOW).result()
    for how in (How.HOSTKEYS_PROVE, How.INVITATION):
        late = host_grant(9, how=how, places=None, complete=False, basis=(1,))
        with pytest.raises(Refused, match=r"host key that does not count|rest upon one that does not count"):
            store.intend_ssh(ssh_grant(host_leaf(9), host=late), ONCE, at=NOW).result()


def test_P17_two_that_race_for_one_key_get_one_certificate(place: Place, store: SqlLedger) -> None:
    """Whether they come with one marker or with their own, in one process or in several connections."""
    known(store, 1)
    together = Barrier(8)
    with place.open() as other, ThreadPoolExecutor(8) as threads:

        def attempt(number: int) -> tuple[int, ...]:
            ledger = store if number % 2 else other
            together.wait()
            return get_intents(ledger, number)

        serials = set(threads.map(attempt, range(8)))
    assert len(serials) == 1
    assert len(store.ssh_certificates()) == 1


def get_intents(store: SqlLedger, number: int) -> tuple[int, ...]:
    """Intend for key 1, as another process would."""
    once = Once(f"test:{number // 4}") if number < 6 else None
    intents = store.intend_ssh(ssh_grant(host_leaf(1)), once, at=NOW).result()
    return tuple(intent.serial for intent in intents)


def test_P17_of_many_keys_with_one_marker_one_wins(store: SqlLedger) -> None:
    """A token is one key's, however many present it at one moment."""
    together = Barrier(4)

    def attempt(number: int) -> int:
        together.wait()
        try:
            return len(store.intend_ssh(user_grant(number), ONCE, at=NOW).result())
        except AlreadySpent:
            return 0

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(attempt, range(4))) == 1
    alarms = [event.kind for event in store.events(kind_prefix="alarm.")]
    assert alarms == ["alarm.second-key"] * 3


def test_a_serial_that_is_taken_is_drawn_again(store: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two certificates share one, and none has 0, which OpenSSH cannot revoke."""
    drawn = iter([7, 7, 0, 7, 8])
    monkeypatch.setattr(secrets, "randbits", lambda _bits: next(drawn))
    assert get(store, user_grant(1), Once("a")) == (7,)
    assert get(store, user_grant(2), Once("b")) == (8,)


def test_what_was_over_before_the_change_is_left_alone(store: SqlLedger) -> None:
    """Nobody has to be told of it."""
    known(store, 1)
    (serial,) = get(store, ssh_grant(host_leaf(1)))
    after = host_leaf(1).valid_before + timedelta(seconds=1)
    store.remove_host("web1.lan", reason="gone", at=after).result()
    record = store.ssh_certificate(serial)
    assert record is not None
    assert record.status(after) == "expired"
    assert store.publish_krl("x", at=after).result().hosts == ()


def test_P17_all_of_what_a_machine_holds_is_taken_back(store: SqlLedger) -> None:
    """However many it has collected under however many combinations of its names."""
    known(store, 1)
    for number in range(60):
        leaf = host_leaf(1, *(("web1.lan",) if number % 2 else ("10.0.0.1",)), start=timedelta(days=5 * number))
        get(store, ssh_grant(leaf), at=NOW + timedelta(days=5 * number))
    before = {each.serial for each in store.ssh_certificates("web1.lan", after=NOW)}
    assert len(before) == 60
    store.remove_host("web1.lan", reason="gone", at=NOW).result()
    assert set(store.publish_krl("registrar", at=NOW).result().hosts) == before


def test_P17_what_answers_on_the_network_leaves_out_nothing_better(store: SqlLedger) -> None:
    """It adds free names to a machine known by better evidence; one that it knows alone, it describes anew."""
    place = host_grant(1, places=("web1.lan", "10.0.0.1"), aliases=("www",), ports=(22, 2222))
    store.register(place, None, at=NOW).result()
    (serial,) = get(store, ssh_grant(host_leaf(1)))
    more = changed(1, "web1.lan", "web1.lan", "10.0.0.9")
    host = store.register(more, None, at=LATER).result()
    assert host.place.hosts() == ("www", "web1.lan", "10.0.0.1", "10.0.0.9")
    assert host.place.ports == (22, 2222)
    assert statuses(store, serial) == ["valid"]
    for address in ("10.0.1.1", "10.0.1.2"):
        host = store.register(changed(2, "new.lan", "new.lan", address), None, at=LATER).result()
        assert host.place.hosts() == ("new.lan", address)
    full = [f"10.1.0.{number}" for number in range(64)]
    with pytest.raises(Refused, match="over 64 names"):
        store.register(changed(1, "web1.lan", *full), None, at=LATER).result()
