"""What every ledger promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network

import pytest

from handfast.core.flow import Credential, Grant, Intent, Once
from handfast.core.ports import Ledger
from handfast.core.roles import Role
from handfast.errors import (
    AlreadySpent,
    InvitationCancelled,
    Malformed,
    NotFound,
    Refused,
    Revoked,
)
from handfast.ledger.alarms import MAX_ALARMS
from handfast.ledger.store import SqlLedger
from tests.ledger.material import (
    LATER,
    NOW,
    grant,
    invitation,
    join,
)


def kinds(store: SqlLedger) -> list[str]:
    """The kinds of all events."""
    return [event.kind for event in store.events()]


# --- invitations ---


def test_is_the_port(store: SqlLedger) -> None:
    """Inner code can use it through the port, without knowing the class."""
    port: Ledger = store
    assert port.invitations() == []
    assert port.machines() == []
    assert port.credentials() == []
    assert port.revocations() == []
    assert port.events() == []


def test_an_invitation_comes_back_as_it_was(store: SqlLedger) -> None:
    """Every field survives, with and without a bound network."""
    plain = invitation(1)
    bound = replace(invitation(2), sources=(ip_network("10.0.0.0/24"), ip_network("fd00::/64")), uses=3)
    nowhere = replace(invitation(3), sources=())
    for each in (plain, bound, nowhere):
        store.invite(each).result()
    assert store.invitation(plain.key_id) == plain
    assert store.invitation("ffffffffffffffff") is None
    assert store.invitations() == [plain, bound, nowhere]


def test_invitations_of_one_method_are_found_while_their_time_lasts(store: SqlLedger) -> None:
    """Those of no other method, the oldest first, used and cancelled ones too; each has its subject with it."""
    ours = [replace(invitation(n), method="nifi", subject=b"\x30\x00", created_at=NOW) for n in (3, 1, 2)]
    ended = replace(invitation(4), method="nifi", expires_at=NOW)
    for each in (*ours, ended, invitation(5)):
        store.invite(each).result()
    store.intend(grant(), Once(ours[0].marker), at=NOW).result()
    store.cancel(ours[1].key_id, reason="lost", at=NOW).result()
    expected = [replace(ours[1], cancelled="lost"), ours[2], replace(ours[0], spent=1)]
    assert store.public_halves("nifi", after=NOW) == [(each.key_id, each.public_half) for each in expected]
    assert [store.invitation(each.key_id) for each in expected] == expected
    assert [key_id for key_id, _ in store.public_halves("invitation", after=NOW)] == [invitation(5).key_id]
    assert store.public_halves("nifi", after=LATER) == store.public_halves("renewal", after=NOW) == []


def test_a_credential_says_which_authority_it_is_of(store: SqlLedger) -> None:
    """One ledger may hold those of several: the trust domain of its grant is with the record and its revocation."""
    other = replace(grant(2), spiffe_id="spiffe://other.lan/server/web1.lan", subject=b"\x30\x00")
    for number, each in enumerate((grant(1), other)):
        intent = store.intend(each, Once(f"test:{number}"), at=NOW).result()
        assert intent.grant == each
        record = store.credential(intent.serial)
        assert record is not None
        assert record.trust_domain == each.trust_domain
        store.revoke(intent.serial, reason="superseded", at=NOW).result()
    assert sorted(each.trust_domain for each in store.revocations()) == ["other.lan", "test.lan"]


def test_an_invitation_exists_once(store: SqlLedger) -> None:
    """A second invitation with the same key id is refused and not logged."""
    store.invite(invitation()).result()
    with pytest.raises(Refused, match="exists already"):
        store.invite(invitation(machine="other.lan")).result()
    assert kinds(store) == ["invitation.created"]


def test_cancelling_closes_an_invitation(store: SqlLedger) -> None:
    """A cancelled invitation admits nobody, says why, and cannot be cancelled twice."""
    invited = invitation(uses=2)
    store.invite(invited).result()
    store.cancel(invited.key_id, reason="sent to the wrong person", at=NOW).result()
    cancelled = store.invitation(invited.key_id)
    assert cancelled is not None
    assert cancelled.status(NOW) == "cancelled"
    assert cancelled.cancelled == "sent to the wrong person"
    with pytest.raises(InvitationCancelled, match="sent to the wrong person"):
        store.intend(grant(), Once(invited.marker, 2), at=NOW).result()
    with pytest.raises(InvitationCancelled, match="cancelled before"):
        store.cancel(invited.key_id, reason="again", at=NOW).result()
    with pytest.raises(NotFound, match="no invitation 'feed'"):
        store.cancel("feed", reason="", at=NOW).result()
    assert kinds(store) == ["invitation.created", "invitation.cancelled"]


def test_cancelling_stops_an_intent_but_not_a_delivery(store: SqlLedger) -> None:
    """What was not issued yet is refused after cancelling; what was issued is delivered again until revoked."""
    invited = invitation(uses=2)
    store.invite(invited).result()
    pending = store.intend(grant(1), Once(invited.marker, 2), at=NOW).result()
    done = store.intend(grant(2), Once(invited.marker, 2), at=NOW).result()
    store.issued(Credential(done.serial, done.grant, b"certificate"), at=NOW).result()
    store.cancel(invited.key_id, reason="enough", at=NOW).result()
    with pytest.raises(InvitationCancelled):
        store.intend(grant(1), Once(invited.marker, 2), at=NOW).result()
    assert store.intend(grant(2), Once(invited.marker, 2), at=NOW).result().certificate == b"certificate"
    assert pending.serial != done.serial


# --- intend: P3 and P4 ---


def test_an_intent_is_written_down_before_anything_is_signed(store: SqlLedger) -> None:
    """After `intend` the serial is known, pending, and in the log."""
    intent = store.intend(grant(), Once("test:1"), at=NOW).result()
    assert intent == Intent(intent.serial, grant())
    assert 0 < intent.serial < 2**127
    record = store.credential(intent.serial)
    assert record is not None
    assert record.status(NOW) == "intended"
    assert (record.machine, record.role, record.names) == ("web1.lan", Role.SERVER, grant().names)
    assert (record.why, record.intended_at, record.marker) == (grant().why, NOW, "test:1")
    assert record.reintroduction_key == grant().reintroduction_key
    assert kinds(store) == ["credential.intended"]
    assert store.machine("web1.lan") is None


def test_P4_the_same_key_gets_the_same_intent(store: SqlLedger) -> None:
    """Asking again with the same key gives the first grant and serial, whatever is wished now; nothing is logged."""
    first = store.intend(grant(), Once("test:1"), at=NOW).result()
    changed = replace(grant(), not_after=NOW + timedelta(days=9), why=("another reason",))
    assert store.intend(changed, Once("test:1"), at=LATER).result() == first
    assert kinds(store) == ["credential.intended"]


def test_P4_the_same_key_gets_the_same_certificate(store: SqlLedger) -> None:
    """After a lost answer the certificate comes back, and nothing new is to be signed."""
    intent = join(store, 1)
    assert store.intend(grant(1), Once(invitation(1).marker), at=LATER).result() == intent
    assert intent.certificate == b"certificate 1"


def test_P3_a_second_key_is_refused_and_raises_an_alarm(store: SqlLedger) -> None:
    """Another key gets nothing, and the operator can see that it tried."""
    join(store, 1)
    with pytest.raises(AlreadySpent, match=r"^invitation [0-9a-f]{16} was already used with another key$") as caught:
        store.intend(grant(2), Once(invitation(1).marker), at=LATER).result()
    assert caught.value.hint
    (alarm,) = store.events(kind_prefix="alarm.")
    assert (alarm.kind, alarm.subject, alarm.at) == ("alarm.second-key", "web1.lan", LATER)
    assert alarm.fields["marker"] == invitation(1).marker
    assert alarm.fields["method"] == "invitation"
    assert alarm.fields["machine"] == "web1.lan"
    assert re.fullmatch("[0-9a-f]{64}", alarm.fields["key"])
    assert store.events(kind_prefix="alarm.", subject="web1.lan") == [alarm]
    assert store.events(kind_prefix="alarm.", subject="web2.lan") == []
    assert len(store.credentials()) == 1


def test_alarms_do_not_fill_the_log(store: SqlLedger) -> None:
    """A stolen invitation cannot be used to write without end: ten alarms, one for each key; others still alarm."""
    join(store, 1)
    join(store, 2)
    for key in [*range(100, 100 + 2 * MAX_ALARMS), 100, 100]:
        with pytest.raises(AlreadySpent):
            store.intend(grant(key), Once(invitation(1).marker), at=NOW).result()
    assert len(store.events(kind_prefix="alarm.")) == MAX_ALARMS
    with pytest.raises(AlreadySpent):
        store.intend(grant(200), Once(invitation(2).marker), at=NOW).result()
    assert len(store.events(kind_prefix="alarm.")) == MAX_ALARMS + 1


def test_alarms_in_one_transaction_are_bounded_too(store: SqlLedger) -> None:
    """Many refusals that are committed together leave no more alarms than one after the other."""
    join(store, 1)
    futures = [store.intend(grant(100 + i % 30), Once(invitation(1).marker), at=NOW) for i in range(60)]
    assert all(isinstance(future.exception(), AlreadySpent) for future in futures)
    assert len(store.events(kind_prefix="alarm.")) == MAX_ALARMS


def test_uses_are_counted_by_key(store: SqlLedger) -> None:
    """An invitation for three machines admits three keys, each as often as it asks, and no fourth."""
    invited = invitation(uses=3)
    store.invite(invited).result()
    for key in (1, 2, 3, 1, 2, 3):
        store.intend(grant(key), Once(invited.marker, 3), at=NOW).result()
    with pytest.raises(AlreadySpent):
        store.intend(grant(4), Once(invited.marker, 3), at=NOW).result()
    used = store.invitation(invited.key_id)
    assert used is not None
    assert (used.spent, used.status(NOW)) == (3, "used")


def test_no_uses_means_nobody(store: SqlLedger) -> None:
    """A marker with no use admits no key at all."""
    with pytest.raises(AlreadySpent):
        store.intend(grant(), Once("test:1", 0), at=NOW).result()


# --- issued ---


def test_issuing_introduces_the_machine(store: SqlLedger) -> None:
    """With its certificate the credential is valid, and the machine is known with its newest role."""
    intent = join(store, 1)
    record = store.credential(intent.serial)
    assert record is not None
    assert (record.status(NOW), record.certificate, record.issued_at) == ("valid", b"certificate 1", NOW)
    assert record.status(record.not_after) == "expired"
    known = store.machine("web1.lan")
    assert known is not None
    assert (known.role, known.introduced_at) == (Role.SERVER, NOW)
    peer = store.intend(grant(9, role=Role.PEER), Once(record.successor_marker), at=LATER).result()
    store.issued(Credential(peer.serial, peer.grant, b"successor"), at=LATER).result()
    assert store.machines() == [replace(known, role=Role.PEER)]
    assert [each.certificate for each in store.credentials("web1.lan")] == [b"certificate 1", b"successor"]
    assert store.credentials("web2.lan") == []


def test_the_first_certificate_is_the_one(store: SqlLedger) -> None:
    """When two signed for one intent, both deliver what was kept first, and it is logged once."""
    intent = store.intend(grant(), Once("test:1"), at=NOW).result()
    first = store.issued(Credential(intent.serial, intent.grant, b"first"), at=NOW)
    second = store.issued(Credential(intent.serial, intent.grant, b"second"), at=NOW)
    assert (first.result(), second.result()) == (b"first", b"first")
    assert kinds(store) == ["credential.intended", "credential.issued"]


def test_what_was_never_intended_is_not_issued(store: SqlLedger) -> None:
    """No certificate enters the ledger without its intent."""
    with pytest.raises(NotFound, match=r"no credential 0{31}7"):
        store.issued(Credential(7, grant(), b"certificate"), at=NOW).result()
    assert kinds(store) == []


# --- revoking ---


def test_revoking(store: SqlLedger) -> None:
    """A revoked credential is listed, its key gets nothing any more, and it introduces no successor."""
    intent = join(store, 1)
    store.revoke(intent.serial, reason="keyCompromise", at=LATER).result()
    record = store.credential(intent.serial)
    assert record is not None
    assert (record.status(LATER), record.revoked_at, record.revoked_reason) == ("revoked", LATER, "keyCompromise")
    (revocation,) = store.revocations()
    assert (revocation.serial, revocation.at, revocation.reason) == (intent.serial, LATER, "keyCompromise")
    with pytest.raises(Revoked, match="keyCompromise"):
        store.intend(grant(1), Once(invitation(1).marker), at=LATER).result()
    with pytest.raises(Revoked, match="was closed"):
        store.intend(grant(5), Once(record.successor_marker), at=LATER).result()
    assert kinds(store)[-1] == "credential.revoked"


def test_revoking_is_refused(store: SqlLedger) -> None:
    """Twice, unknown, or for a reason that no CRL can carry: refused with a hint, and not logged."""
    intent = join(store, 1)
    with pytest.raises(Malformed, match="not a reason to revoke: 'because'") as caught:
        store.revoke(intent.serial, reason="because", at=NOW).result()
    assert "keyCompromise" in caught.value.hint
    with pytest.raises(Malformed):
        store.revoke(intent.serial, reason="certificateHold", at=NOW).result()
    with pytest.raises(NotFound):
        store.revoke(1, reason="superseded", at=NOW).result()
    store.revoke(intent.serial, reason="superseded", at=NOW).result()
    with pytest.raises(Revoked, match="revoked before, on 2026-11-22 12:00 UTC") as again:
        store.revoke(intent.serial, reason="superseded", at=LATER).result()
    assert again.value.hint
    assert kinds(store).count("credential.revoked") == 1


def test_a_certificate_that_comes_after_its_revocation_is_not_delivered(store: SqlLedger) -> None:
    """Revoked between intend and issued: the signature that was made meanwhile goes nowhere."""
    intent = store.intend(grant(), Once("test:1"), at=NOW).result()
    store.revoke(intent.serial, reason="superseded", at=NOW).result()
    with pytest.raises(Revoked):
        store.issued(Credential(intent.serial, intent.grant, b"late"), at=LATER).result()
    record = store.credential(intent.serial)
    assert record is not None
    assert record.certificate is None


def test_stale_intents_are_abandoned(store: SqlLedger) -> None:
    """Intents that were never issued are revoked after a time: a signature may exist. Others are left alone."""
    stale = store.intend(grant(1), Once("test:1"), at=NOW).result()
    fresh = store.intend(grant(2), Once("test:2"), at=LATER).result()
    done = join(store, 3)
    assert store.abandon_intents(LATER, at=LATER).result() == 1
    assert [revocation.serial for revocation in store.revocations()] == [stale.serial]
    assert kinds(store)[-1] == "credential.abandoned"
    assert store.abandon_intents(LATER, at=LATER).result() == 0
    with pytest.raises(Revoked):
        store.issued(Credential(stale.serial, stale.grant, b"late"), at=LATER).result()
    assert store.issued(Credential(fresh.serial, fresh.grant, b"in time"), at=LATER).result() == b"in time"
    record = store.credential(done.serial)
    assert record is not None
    assert record.status(NOW) == "valid"


def test_newest_credentials(store: SqlLedger) -> None:
    """A machine with a long past is read in part: the last twenty, the newest first."""
    for number in range(25):
        store.intend(grant(number + 1), Once(f"test:{number}"), at=NOW + timedelta(seconds=number)).result()
    newest = store.newest_credentials("web1.lan")
    assert [record.marker for record in newest] == [f"test:{number}" for number in range(24, 4, -1)]
    assert store.newest_credentials("web2.lan") == []


def test_grants_of_every_shape(store: SqlLedger) -> None:
    """Whatever a grant holds, the repeat gets an equal one."""
    shapes: list[Grant] = [
        replace(grant(1), reintroduction_key=None, why=()),
        replace(grant(2), names=type(grant().names)()),
        replace(grant(3), why=('"quoted" \N{SNOWMAN}\n',), method=""),
    ]
    for each in shapes:
        store.intend(each, Once(f"test:{each.public_key.hex()}"), at=NOW).result()
        again = store.intend(each, Once(f"test:{each.public_key.hex()}"), at=NOW).result()
        assert again.grant == each
