"""The log of every ledger: order, root, checkpoints, audit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from handfast.core.flow import Once
from handfast.core.merkle import root_of
from handfast.core.records import Event
from handfast.errors import (
    AlreadySpent,
    LogTampered,
    Malformed,
)
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import (
    LATER,
    LOG_KEY,
    NOW,
    ORIGIN,
    grant,
    invitation,
    join,
    set_head,
    signed_head,
    tamper,
)

# --- the log ---


def test_events_come_back_in_order(store: SqlLedger) -> None:
    """What is noted is read as it was: text of any script, a time of any zone as the same instant."""
    zoned = datetime(2026, 11, 22, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    noted = [
        Event("test.one", NOW, "web1.lan", {"text": 'quote " backslash \\ \N{SNOWMAN}'}),
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
        b'{"at":"2026-11-22T12:00:00.123456Z","fields":{"text":"quote \\" backslash \\\\ \xe2\x98\x83"},'
        b'"kind":"test.one","subject":"web1.lan"}'
    )


def test_what_cannot_be_logged_is_refused(store: SqlLedger) -> None:
    """An event in the name of the ledger, or with half a character, is refused and leaves no trace."""
    with pytest.raises(Malformed, match=r"credential\.issued"):
        store.note(Event("credential.issued", NOW, "web1.lan")).result()
    for text in ("a\nb", "\x1b[2K", "\u202ereversed", "\u2028", "\x00"):
        for event in (Event("test.one", NOW, text), Event("test.one", NOW, "x", {"text": text}), Event(text, NOW, "x")):
            with pytest.raises(Malformed, match="not printable"):
                store.note(event).result()
    with pytest.raises(Malformed, match="not printable"):
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


def test_no_two_revocation_lists_have_one_number(store: SqlLedger) -> None:
    """Lists published at once have numbers of their own, and each lists all that was revoked before it."""
    joined = join(store, 1)
    assert store.revocation_count() == 0
    futures = [store.publish("registrar", at=NOW) for _ in range(3)]
    store.revoke(joined.serial, reason="superseded", at=LATER)
    futures += [store.publish("registrar", at=NOW) for _ in range(3)]
    states = [future.result() for future in futures]
    numbers = [state.number for state in states]
    assert numbers == sorted(set(numbers))
    assert [len(state.revocations) for state in states] == [0, 0, 0, 1, 1, 1]
    assert store.revocation_count() == 1
    (revocation,) = states[-1].revocations
    assert (revocation.serial, revocation.not_after) == (joined.serial, joined.grant.not_after)
    assert [event.fields["revocations"] for event in store.events(kind_prefix="crl.")] == ["0"] * 3 + ["1"] * 3


def test_refusals_of_one_marker_are_bounded(store: SqlLedger) -> None:
    """Who holds evidence that policy refuses fills no log with it: ten entries for each marker."""
    futures = [
        store.note(Event("introduction.refused", NOW, "web1.lan", {"marker": marker, "reason": str(n)}))
        for n in range(15)
        for marker in ("test:1", "test:2")
    ]
    for future in futures:
        future.result()
    store.note(Event("introduction.refused", NOW, "web1.lan", {"marker": "test:1"})).result()
    markers = [event.fields["marker"] for event in store.events(kind_prefix="introduction.")]
    assert (markers.count("test:1"), markers.count("test:2")) == (10, 10)
    store.note(Event("introduction.refused", NOW, "web2.lan", {"marker": "test:1"})).result()
    assert store.events(subject="web2.lan") == []  # a marker is one holder's, whatever names he gets refused under


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
