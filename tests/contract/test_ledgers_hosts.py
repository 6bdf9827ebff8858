"""SSH host keys in every ledger: what is recorded, for whom, how often, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.core.flow import Credential, HostGrant, Once
from handfast.core.hosts import REMOVED, Grade, How, Place
from handfast.errors import AlreadySpent, InvitationCancelled, LogTampered, NotFound, Refused
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, grant, host_grant, invitation, signed_head, ssh_key

ONCE = Once("invitation:0000000000000001")


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> object:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    store.save_checkpoint(signed_head(store)).result()
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)
    with pytest.raises(LogTampered):
        audit.verify(store, Ed25519PrivateKey.generate().public_key(), ORIGIN)


def kinds(store: SqlLedger, machine: str = "web1.lan") -> list[str]:
    """What was logged of a machine."""
    return [event.kind for event in store.events(subject=machine)]


def test_what_is_recorded_is_found(store: SqlLedger) -> None:
    """By its name, by each spelling of its place, and by every part of what it is known by."""
    made = store.register(host_grant(1, 2, aliases=("www",), ports=(22, 2222)), ONCE, at=NOW).result()
    assert store.host("web1.lan") == made
    assert (made.grade, made.believed(Grade.REPORTED)) == (Grade.PROVED, (ssh_key(1), ssh_key(2)))
    for spelling in ("web1.lan", "10.0.0.1", "www", "[web1.lan]:2222", "[10.0.0.1]:2222", "[www]:2222"):
        assert store.host_at(spelling) == made
    for unknown in ("web2.lan", "[web1.lan]:22", "[web1.lan]:2223", "10.0.0.2"):
        assert store.host_at(unknown) is None
    for search in ("web1", "WWW", "0.0.1", ssh_key(2).fingerprint[10:20]):
        assert store.hosts(search=search) == [made]
    for search in ("web2", "%", "_", "!", "web_"):
        assert store.hosts(search=search) == []
    assert store.host("nobody") is None


def test_pages(store: SqlLedger) -> None:
    """Machines come by name, so many at a time, from the one after."""
    for number in range(1, 6):
        name = f"web{number}.lan"
        store.register(host_grant(number, machine=name, places=(name,)), None, at=NOW).result()
    assert [host.machine for host in store.hosts(most=2)] == ["web1.lan", "web2.lan"]
    assert [host.machine for host in store.hosts(after="web2.lan", most=2)] == ["web3.lan", "web4.lan"]
    assert [host.machine for host in store.hosts(after="web1.lan", search="web5")] == ["web5.lan"]


def test_the_same_keys_again_change_nothing(store: SqlLedger) -> None:
    """A lost answer is asked for again; neither log nor revision grows."""
    first = store.register(host_grant(1), ONCE, at=NOW).result()
    before = (store.head().size, store.hosts_revision())
    assert store.register(host_grant(1), ONCE, at=LATER).result() == first
    assert store.register(host_grant(1), None, at=LATER).result() == first
    assert (store.head().size, store.hosts_revision()) == before


def test_a_marker_is_for_one_set_of_keys(store: SqlLedger) -> None:
    """Other keys under a spent marker are refused, and an alarm; nothing else changes."""
    first = store.register(host_grant(1), ONCE, at=NOW).result()
    with pytest.raises(AlreadySpent, match="other host keys"):
        store.register(host_grant(2), ONCE, at=LATER).result()
    with pytest.raises(AlreadySpent):
        store.register(host_grant(1, 2), ONCE, at=LATER).result()
    assert store.host("web1.lan") == first
    assert kinds(store).count("alarm.second-key") == 2


def test_a_spent_invitation_is_seen_as_used(store: SqlLedger) -> None:
    """What was spent for host keys counts in the list of invitations."""
    invited = replace(invitation(1), method="bucket")
    store.invite(invited).result()
    store.register(host_grant(1, how=How.BUCKET), Once(invited.marker), at=NOW).result()
    found = store.invitation(invited.key_id)
    assert found is not None
    assert found.status(NOW) == "used"


def test_a_cancelled_one_is_refused(store: SqlLedger) -> None:
    """Cancelling closes the way; keys that came before stay, and may ask again."""
    store.invite(invitation(1)).result()
    store.register(host_grant(1), ONCE, at=NOW).result()
    store.cancel(invitation(1).key_id, reason="no", at=NOW).result()
    store.register(host_grant(1), ONCE, at=NOW).result()
    store.invite(invitation(2)).result()
    store.cancel(invitation(2).key_id, reason="no", at=NOW).result()
    with pytest.raises(InvitationCancelled):
        store.register(host_grant(3), Once(invitation(2).marker), at=NOW).result()


def test_P15_a_key_has_one_machine(store: SqlLedger) -> None:
    """A clone is refused and an alarm, and its marker is not spent by that."""
    store.register(host_grant(1), None, at=NOW).result()
    clone = host_grant(1, 2, machine="web2.lan", places=("web2.lan",))
    with pytest.raises(Refused, match=r"is 'web1\.lan''s"):
        store.register(clone, ONCE, at=NOW).result()
    assert store.host("web2.lan") is None
    assert kinds(store, "web2.lan") == ["alarm.same-host-key"]
    honest = host_grant(2, machine="web2.lan", places=("web2.lan",))
    assert store.register(honest, ONCE, at=NOW).result().believed(Grade.PROVED) == (ssh_key(2),)


def test_alarms_of_clones_are_bounded(store: SqlLedger) -> None:
    """A clone that asks for ever does not fill the log."""
    store.register(host_grant(1), None, at=NOW).result()
    for _ in range(30):
        with pytest.raises(Refused):
            store.register(host_grant(1, machine="web2.lan", places=None), None, at=NOW).result()
    assert kinds(store, "web2.lan") == ["alarm.same-host-key"]


def test_a_key_of_a_removed_machine_is_free(store: SqlLedger) -> None:
    """What a destroyed machine had may be another's: its disk, for example."""
    store.register(host_grant(1), None, at=NOW).result()
    store.remove_host("web1.lan", reason=REMOVED, at=NOW).result()
    moved = store.register(host_grant(1, machine="web2.lan", places=("web2.lan",)), None, at=NOW).result()
    assert moved.believed(Grade.PROVED) == (ssh_key(1),)


def test_rotation(store: SqlLedger) -> None:
    """A complete set retires what is not in it; an incomplete one adds."""
    store.register(host_grant(1, 2), None, at=NOW).result()
    host = store.register(host_grant(2, 3), None, at=LATER).result()
    assert host.believed(Grade.PROVED) == (ssh_key(2), ssh_key(3))
    assert [(each.key, each.reason) for each in host.retired] == [(ssh_key(1), "superseded")]
    learned = host_grant(4, how=How.HOSTKEYS_PROVE, places=None, complete=False, basis=(2, 3))
    host = store.register(learned, None, at=LATER).result()
    assert host.believed(Grade.PROVED) == (ssh_key(2), ssh_key(3), ssh_key(4))


def test_P15_a_retired_key_stays_retired(store: SqlLedger) -> None:
    """Whoever has a stolen key cannot have it believed again; an operator can."""
    store.register(host_grant(1), None, at=NOW).result()
    store.retire("web1.lan", ssh_key(1), reason="stolen", at=NOW).result()
    for how in How:
        if how is not How.OPERATOR:
            with pytest.raises(Refused, match=r"was retired on 2026-11-22 \(stolen\)"):
                store.register(host_grant(1, how=how), None, at=LATER).result()
    host = store.register(host_grant(1, how=How.OPERATOR), None, at=LATER).result()
    assert (host.believed(Grade.REPORTED), host.retired) == ((ssh_key(1),), ())


def test_a_stolen_key_takes_with_it_what_rests_on_it(store: SqlLedger) -> None:
    """Its thief may have had a key of his own proved over a connection: that one goes too, others stay."""
    store.register(host_grant(1, 2), None, at=NOW).result()
    learned = host_grant(2, 3, how=How.HOSTKEYS_PROVE, places=None, complete=False, basis=(1,))
    store.register(learned, None, at=NOW).result()
    host = store.retire("web1.lan", ssh_key(1), reason="stolen", at=LATER).result()
    assert host.believed(Grade.PROVED) == (ssh_key(2),)
    assert [(each.key, each.reason) for each in host.retired] == [(ssh_key(1), "stolen"), (ssh_key(3), "stolen")]


def test_an_address_moves_to_the_newest(store: SqlLedger) -> None:
    """A cloud gives an address again: it leads to the new machine, and the old one keeps its name."""
    store.register(host_grant(1), None, at=NOW).result()
    new = store.register(host_grant(2, machine="web2.lan", places=("web2.lan", "10.0.0.1")), None, at=LATER).result()
    assert store.host_at("10.0.0.1") == new
    old = store.host("web1.lan")
    assert old is not None
    assert (old.place.addresses, store.host_at("web1.lan")) == ((), old)


def test_a_port_is_another_place(store: SqlLedger) -> None:
    """Two machines behind one address, at two ports, do not take it from each other."""
    first = store.register(host_grant(1, ports=(2201,)), None, at=NOW).result()
    behind = host_grant(2, machine="web2.lan", places=("10.0.0.1",), ports=(2202,))
    second = store.register(behind, None, at=NOW).result()
    assert (store.host_at("[10.0.0.1]:2201"), store.host_at("[10.0.0.1]:2202")) == (first, second)
    assert store.host_at("10.0.0.1") is None


def test_a_machines_name_is_its_own(store: SqlLedger) -> None:
    """No machine is called by another's name while that lives; an alias gives way to a machine of that name."""
    store.register(host_grant(1), None, at=NOW).result()
    for taken in (
        host_grant(2, machine="evil", places=("web1.lan",)),
        host_grant(2, machine="evil", places=("x.lan",), aliases=("web1.lan",)),
    ):
        with pytest.raises(Refused, match="is itself a machine"):
            store.register(taken, ONCE, at=NOW).result()
    assert store.host("evil") is None
    store.register(host_grant(3, machine="gw", places=("gw.lan",), aliases=("db",)), ONCE, at=NOW).result()
    db = store.register(host_grant(4, machine="db", places=("db.lan",)), None, at=NOW).result()
    gw = store.host("gw")
    assert gw is not None
    assert (store.host_at("db"), gw.place.aliases) == (db, ())


def test_removal(store: SqlLedger) -> None:
    """All keys retire at once, the place is free, and what it had can still be explained."""
    store.register(host_grant(1, 2), None, at=NOW).result()
    gone = store.remove_host("web1.lan", reason="destroyed", at=LATER).result()
    assert (gone.keys, gone.place, gone.grade) == ((), Place(), None)
    assert {each.key for each in gone.retired} == {ssh_key(1), ssh_key(2)}
    assert store.host_at("web1.lan") == store.host("web1.lan") == gone  # nobody else has its name
    assert (store.host_at("10.0.0.1"), store.host_at("[web1.lan]:2222")) == (None, None)
    with pytest.raises(NotFound):
        store.remove_host("web1.lan", reason="x", at=LATER).result()
    with pytest.raises(NotFound):
        store.remove_host("nobody", reason="x", at=LATER).result()
    with pytest.raises(NotFound):
        store.retire("web1.lan", ssh_key(1), reason="x", at=LATER).result()


def test_host_keys_come_with_a_credential(store: SqlLedger) -> None:
    """What a joining machine proves is recorded with its intent; a refusal spends nothing."""
    store.register(host_grant(9, machine="other", places=("other.lan",)), None, at=NOW).result()
    cloned = replace(grant(1), host=host_grant(9))
    with pytest.raises(Refused, match="'other''s"):
        store.intend(cloned, ONCE, at=NOW).result()
    assert store.credentials() == []
    intent = store.intend(replace(grant(1), host=host_grant(1)), ONCE, at=NOW).result()
    again = store.intend(replace(grant(1), host=host_grant(1)), ONCE, at=NOW).result()
    assert (again.serial, again.grant) == (intent.serial, intent.grant)
    host = store.host("web1.lan")
    assert host is not None
    assert host.believed(Grade.PROVED) == (ssh_key(1),)


def test_the_log_keeps_no_more_than_it_must(store: SqlLedger) -> None:
    """One entry for the marker, one for the place, one for each key."""
    store.register(host_grant(1, 2), ONCE, at=NOW).result()
    assert kinds(store) == ["host.registered", "host.described", "hostkey.added", "hostkey.added"]
    assert store.hosts_revision() == 3


def test_many_rotations_stay_small(store: SqlLedger) -> None:
    """Of the retired keys the newest are kept with the machine: its row does not grow for ever."""
    for number in range(80):
        store.register(host_grant(number), None, at=NOW + timedelta(hours=number)).result()
    host = store.host("web1.lan")
    assert host is not None
    assert [each.key for each in host.retired] == [ssh_key(number) for number in range(15, 79)]
    with pytest.raises(Refused, match="was retired"):  # which is not forgotten with it
        store.register(host_grant(0), None, at=LATER).result()


def test_a_removed_machine_gives_its_own_name_away(store: SqlLedger) -> None:
    """Also where nothing but its name was known: it leads to a machine that is gone, and may be another's alias."""
    store.register(host_grant(1, machine="web_1", places=()), None, at=NOW).result()
    gone = store.remove_host("web_1", reason="gone", at=NOW).result()
    assert store.host_at("web_1") == gone
    alias = host_grant(2, machine="gw", places=("gw.lan",), aliases=("web_1",))
    assert store.register(alias, None, at=NOW).result() == store.host_at("web_1")
    store.remove_host("gw", reason="gone", at=NOW).result()
    assert store.host_at("web_1") == gone


def test_a_removed_machine_is_found_by_its_name_again(store: SqlLedger) -> None:
    """As soon as it has a key, even if nothing says where it is."""
    store.register(host_grant(1), None, at=NOW).result()
    store.remove_host("web1.lan", reason="gone", at=NOW).result()
    again = host_grant(2, how=How.OPERATOR, places=None)
    assert store.register(again, None, at=NOW).result() == store.host_at("web1.lan")
    assert store.host_at("10.0.0.1") is None


@pytest.mark.parametrize("how", [How.CONSOLE, How.PHONE_HOME, How.SCAN])
def test_what_was_decided_before_better_evidence_came(store: SqlLedger, how: How) -> None:
    """Weaker evidence neither adds nor retires, though policy had not seen the better one; it confirms, and spends."""
    store.register(host_grant(1, 2), None, at=NOW).result()
    for late in (host_grant(3, how=how, complete=False), host_grant(1, how=how), host_grant(1, 3, how=how)):
        with pytest.raises(Refused, match=f"became known better than by {how.value} meanwhile"):
            store.register(late, ONCE, at=LATER).result()
    assert store.register(host_grant(1, 2, how=how), ONCE, at=LATER).result().believed(Grade.PROVED) == (
        ssh_key(1),
        ssh_key(2),
    )


@pytest.mark.parametrize("before", [None, host_grant(2)], ids=["none", "others"])
def test_asking_again_adds_no_host_keys(store: SqlLedger, before: HostGrant | None) -> None:
    """The same key gets the same credential, and never other host keys with it, issued or not."""
    intent = store.intend(replace(grant(1), host=before), ONCE, at=NOW).result()
    for _ in range(2):
        with pytest.raises(Refused, match="has asked before") as caught:
            store.intend(replace(grant(1), host=host_grant(1)), ONCE, at=LATER).result()
        assert "new invitation" in caught.value.hint
        assert store.intend(grant(1), ONCE, at=LATER).result().serial == intent.serial
        store.issued(Credential(intent.serial, intent.grant, b"certificate"), at=NOW).result()
    assert (store.host("web1.lan") is None) is (before is None)
