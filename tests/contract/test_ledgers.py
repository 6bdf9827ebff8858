"""What every ledger promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network
from pathlib import Path
from threading import Barrier

import pytest

from handfast.core.flow import Credential, Grant, Intent, Once
from handfast.core.merkle import root_of
from handfast.core.ports import Ledger
from handfast.core.records import Event
from handfast.core.roles import Role
from handfast.errors import (
    AlreadySpent,
    ConfigError,
    Fault,
    HandfastError,
    InvitationCancelled,
    LogTampered,
    Malformed,
    NotFound,
    Refused,
    Revoked,
)
from handfast.ledger import audit, open_postgres
from handfast.ledger.operations import MAX_ALARMS
from handfast.ledger.store import SqlLedger
from tests.ledger import postgres, workers
from tests.ledger.material import (
    LATER,
    LOG_KEY,
    NOW,
    ORIGIN,
    Place,
    grant,
    invitation,
    join,
    set_head,
    signed_head,
    tamper,
)


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """One PostgreSQL for all tests."""
    with postgres.running() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an empty ledger can be opened."""
    if request.param == "sqlite":
        return Place("sqlite", str(tmp_path / "ledger.sqlite3"))
    return Place("postgresql", request.getfixturevalue("server").database())


@pytest.fixture
def store(place: Place) -> Iterator[SqlLedger]:
    """An empty ledger."""
    with place.open() as opened:
        yield opened


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
    with pytest.raises(AlreadySpent, match="has no use left for another key") as caught:
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


def test_P3_of_many_threads_with_one_marker_one_wins(store: SqlLedger) -> None:
    """However many keys arrive at the same moment, one gets the intent."""
    together = Barrier(8)

    def attempt(key: int) -> Intent | HandfastError:
        together.wait()
        try:
            return store.intend(grant(key), Once("test:1"), at=NOW).result()
        except AlreadySpent as refusal:
            return refusal

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(attempt, range(8)))
    assert sum(isinstance(result, Intent) for result in results) == 1
    assert len(store.credentials()) == 1


def test_P3_of_two_processes_with_one_marker_one_wins(place: Place) -> None:
    """Two registrars on one store never give a marker to two keys."""
    place.open().close()
    start, pipes, running = workers.processes.Barrier(2), [], []
    for key in (1, 2):
        ours, theirs = workers.processes.Pipe()
        process = workers.processes.Process(target=workers.race, args=(place, "test:1", key, start, theirs))
        process.start()
        pipes.append(ours)
        running.append(process)
    answers = [pipe.recv() for pipe in pipes]
    for process in running:
        process.join()
    assert sum(answer is not None for answer in answers) == 1
    with place.open() as store:
        assert [record.serial for record in store.credentials()] == [a for a in answers if a is not None]
        assert len(store.events(kind_prefix="alarm.")) == 1


# --- crashes: rule 11 ---


def test_P4_killed_between_intend_and_issued(place: Place) -> None:
    """The registrar is killed after the intent: the same key gets the same serial from the next one."""
    ours, theirs = workers.processes.Pipe()
    process = workers.processes.Process(target=workers.intend_then_hang, args=(place, "test:1", 1, theirs))
    process.start()
    serial = ours.recv()
    process.kill()
    process.join()
    with place.open() as store:
        again = store.intend(grant(1), Once("test:1"), at=LATER).result()
        assert again == Intent(serial, grant(1))
        with pytest.raises(AlreadySpent):
            store.intend(grant(2), Once("test:1"), at=LATER).result()
        assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).credentials == 1


def test_killed_while_writing(place: Place) -> None:
    """Killed at any moment, everything that was answered is there and the log proves itself."""
    ours, theirs = workers.processes.Pipe()
    process = workers.processes.Process(target=workers.intend_without_end, args=(place, theirs))
    process.start()
    theirs.close()
    answered = {ours.recv() for _ in range(20)}
    process.kill()
    process.join()
    with place.open() as store:
        kept = {record.serial for record in store.credentials()}
        assert answered <= kept
        assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).credentials == len(kept)


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
        store.intend(grant(1), Once("test:1"), at=LATER).result()
    with pytest.raises(Revoked):
        store.issued(Credential(stale.serial, stale.grant, b"late"), at=LATER).result()
    assert store.issued(Credential(fresh.serial, fresh.grant, b"in time"), at=LATER).result() == b"in time"
    record = store.credential(done.serial)
    assert record is not None
    assert record.status(NOW) == "valid"


# --- the log ---


def test_events_come_back_in_order(store: SqlLedger) -> None:
    """What is noted is read as it was: text of any script, a time of any zone as the same instant."""
    zoned = datetime(2026, 11, 22, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    noted = [
        Event("test.one", NOW, "web1.lan", {"text": 'quote " backslash \\ newline \n \N{SNOWMAN}'}),
        Event("test.two", zoned, "web2.lan"),
        Event("other.one", NOW, "web1.lan", {"": ""}),
    ]
    for event in noted:
        store.note(event).result()
    assert store.events() == noted
    assert store.events()[1].at.tzinfo is UTC
    assert store.events(kind_prefix="test.") == noted[:2]
    assert store.events(subject="web1.lan") == [noted[0], noted[2]]
    assert store.events(kind_prefix="test.", subject="web1.lan") == [noted[0]]
    assert next(store.entries()) == (
        b'{"at":"2026-11-22T12:00:00.123456Z","fields":{"text":"quote \\" backslash \\\\ newline \\n \xe2\x98\x83"},'
        b'"kind":"test.one","subject":"web1.lan"}'
    )


def test_what_cannot_be_logged_is_refused(store: SqlLedger) -> None:
    """An event in the name of the ledger, or with half a character, is refused and leaves no trace."""
    with pytest.raises(Malformed, match=r"credential\.issued"):
        store.note(Event("credential.issued", NOW, "web1.lan")).result()
    with pytest.raises(Malformed, match="not Unicode"):
        store.note(Event("test.one", NOW, "web1.lan", {"text": "\ud800"})).result()
    with pytest.raises(ValueError, match="without a zone"):
        store.note(Event("test.one", NOW.replace(tzinfo=None), "web1.lan")).result()
    assert store.events() == []
    assert store.head().size == 0


def test_the_head_is_the_root_of_the_entries(store: SqlLedger) -> None:
    """The kept frontier has the root that all entries have together, whatever was committed with what."""
    entries: list[bytes] = []
    for count in (1, 2, 5, 13):
        futures = [store.note(Event("test.one", NOW, "x", {"i": str(i)})) for i in range(count)]
        for future in futures:
            future.result()
        entries = list(store.entries())
        assert (store.head().size, store.head().root()) == (len(entries), root_of(entries))
    assert list(store.entries(3, 5)) == entries[3:5]


def test_the_crl_number_grows(store: SqlLedger) -> None:
    """Two CRLs with an event between them never have the same number."""
    before = store.crl_number()
    store.note(Event("crl.published", NOW, "registrar")).result()
    assert store.crl_number() > before


def test_checkpoints(store: SqlLedger) -> None:
    """The newest checkpoint comes back; one size has one checkpoint; what is none is refused."""
    assert store.last_checkpoint() is None
    empty = signed_head(store)
    store.save_checkpoint(empty).result()
    assert store.last_checkpoint() == empty
    store.note(Event("test.one", NOW, "x")).result()
    one = signed_head(store)
    store.save_checkpoint(one).result()
    store.save_checkpoint(one).result()
    store.save_checkpoint(empty).result()
    assert store.last_checkpoint() == one
    with pytest.raises(Malformed):
        store.save_checkpoint("nothing").result()


def test_two_processes_write_one_log(place: Place) -> None:
    """Registrar and command line may write at the same time: all of it arrives, and the tree is right."""
    place.open().close()
    start = workers.processes.Barrier(2)
    running = [
        workers.processes.Process(target=workers.note_many, args=(place, number, 40, start)) for number in (1, 2)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    with place.open() as store:
        for number in (1, 2):
            noted = store.events(subject=f"process{number}")
            assert [event.fields["i"] for event in noted] == [str(i) for i in range(40)]
        assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).size == 80


def test_two_processes_make_one_ledger(place: Place) -> None:
    """Opened for the first time twice at the same moment, the tables are made once and both can write."""
    start = workers.processes.Barrier(2)
    running = [workers.processes.Process(target=workers.open_first, args=(place, start)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    with place.open() as store:
        assert len(store.events()) == 2


# --- the audit, on both dialects; tests/ledger/test_audit.py tampers more ---


def test_the_audit_of_a_used_ledger(store: SqlLedger) -> None:
    """Everything the ledger does leaves it provable."""
    first, second = join(store, 1), join(store, 2, machine="web2.lan")
    store.save_checkpoint(signed_head(store)).result()
    outside = signed_head(store)
    store.intend(grant(3), Once("test:1"), at=NOW).result()
    store.revoke(first.serial, reason="superseded", at=LATER).result()
    store.invite(invitation(4)).result()
    store.cancel(invitation(4).key_id, reason="no", at=LATER).result()
    store.abandon_intents(LATER, at=LATER).result()
    with pytest.raises(AlreadySpent):
        store.intend(grant(4), Once(invitation(2).marker), at=LATER).result()
    steps: list[tuple[int, int]] = []
    report = audit.verify(
        store, LOG_KEY.public_key(), ORIGIN, outside, progress=lambda done, total: steps.append((done, total))
    )
    assert report.size == store.head().size
    assert report.root == store.head().root()
    assert (report.checkpoints, report.credentials, report.invitations, report.external_size) == (1, 3, 3, 6)
    assert steps == [(report.size, report.size)]
    assert second.certificate == b"certificate 2"


def test_a_truncated_log_is_noticed(store: SqlLedger) -> None:
    """A store put back to an earlier state, right in itself, is shorter than the checkpoint kept elsewhere."""
    join(store, 1)
    earlier = store.head()
    store.note(Event("test.one", NOW, "x")).result()
    outside = signed_head(store)
    assert audit.verify(store, LOG_KEY.public_key(), ORIGIN, outside).external_size == 4
    tamper(store, "DELETE FROM events WHERE leaf_index = 3")
    with pytest.raises(LogTampered, match="entry 3 of 4 is missing"):
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)
    set_head(store, earlier)
    assert audit.verify(store, LOG_KEY.public_key(), ORIGIN).size == 3
    with pytest.raises(LogTampered, match="truncated: it has 3 entries, a checkpoint of 4 was signed"):
        audit.verify(store, LOG_KEY.public_key(), ORIGIN, outside)


# --- all callers ---


async def test_asynchronous_callers(store: SqlLedger) -> None:
    """Many coroutines wait for their own answer, and a refusal reaches only its own."""

    async def attempt(key: int, marker: str) -> Intent:
        return await asyncio.wrap_future(store.intend(grant(key), Once(marker), at=NOW))

    attempts = [attempt(i, f"test:{i % 50}") for i in range(100)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, Intent) for result in results) == 50
    assert sum(isinstance(result, AlreadySpent) for result in results) == 50


def test_a_closed_ledger(place: Place) -> None:
    """After closing, reads and writes fail with a name; closing twice is nothing; what was submitted is done."""
    store = place.open()
    submitted = [store.note(Event("test.one", NOW, "x")) for _ in range(10)]
    store.close()
    assert all(future.exception() is None for future in submitted)
    with pytest.raises(Fault, match="is closed"):
        store.events()
    with pytest.raises(Fault, match="is closed"):
        store.note(Event("test.one", NOW, "x"))
    store.close()
    with place.open() as again:
        assert len(again.events()) == 10


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


# --- PostgreSQL alone ---


@pytest.mark.peer("postgresql")
def test_a_dropped_connection_is_made_anew(server: postgres.Server) -> None:
    """After the server closed every connection, the next read and the next write succeed."""
    import psycopg

    url = server.database()
    with open_postgres(url) as store:
        store.note(Event("test.one", NOW, "x")).result()
        assert len(store.events()) == 1
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'ledger%'")
        assert len(store.events()) == 1
        store.note(Event("test.one", NOW, "x")).result()
        assert len(store.events()) == 2


@pytest.mark.peer("postgresql")
def test_a_server_that_is_not_there() -> None:
    """A wrong URL or an absent server is a clear error, and the password is never shown."""
    with pytest.raises(Fault, match="failed") as caught:
        open_postgres("postgresql://user:hunter2@/db?host=/nonexistent")
    assert "hunter2" not in caught.value.message
    assert "check that the server runs" in caught.value.hint
    for url in ("mysql://user:hunter2@host/db", "nonsense hunter2"):
        with pytest.raises(ConfigError, match="not a PostgreSQL URL") as wrong:
            open_postgres(url)
        assert "hunter2" not in wrong.value.message + wrong.value.hint
