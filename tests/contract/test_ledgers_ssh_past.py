"""
What became of a host key before counts, in every ledger: what bars it, what lifts that, and how much it may have.

P17: a key that somebody distrusts gets no certificate. P33: nobody makes the list of revoked keys too long to be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from handfast.core.flow import Once
from handfast.core.hosts import How
from handfast.core.records import DISTRUST, SshPast
from handfast.errors import Revoked, TooMuch
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, host_grant, ssh_key
from tests.ledger.ssh_material import WEEK, get, host_leaf, known, ssh_grant, user_grant, user_leaf

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ONCE = Once("test:1")


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def distrusted(store: SqlLedger, reason: str = "keyCompromise") -> int:
    """Key 1 of web1.lan, of which somebody revokes a certificate later; return its serial."""
    known(store, 1)
    (serial,) = get(store, ssh_grant(host_leaf(1)))
    store.revoke_ssh(serial, reason=reason, at=LATER).result()
    return serial


def barred(store: SqlLedger, at: datetime) -> int | None:
    """Which serial bars key 1, as policy hears it; and the ledger says the same."""
    found = store.ssh_past(ssh_key(1), at=at).barred
    grant = ssh_grant(host_leaf(1, "web1.lan"))
    if found is None:
        store.intend_ssh(grant, None, at=at).result()
        return None
    with pytest.raises(Revoked, match=f"{found.serial} of .* was revoked") as caught:
        store.intend_ssh(grant, None, at=at).result()
    assert "or an operator retires this one, and enters it anew" in caught.value.hint
    return found.serial


@pytest.mark.parametrize("reason", sorted(DISTRUST))
def test_P17_a_key_that_is_distrusted_is_barred(store: SqlLedger, reason: str) -> None:
    """Whatever the reason, but for the two that say that it is sound."""
    assert distrusted(store, reason) == barred(store, LATER)


@pytest.mark.parametrize("how", sorted(set(How) - {How.OPERATOR, How.SCAN}))
def test_P17_nothing_that_a_thief_can_do_lifts_distrust(store: SqlLedger, how: How) -> None:
    """Not the honest machine's renewal either: the thief has the key all the same."""
    serial = distrusted(store)
    basis = (1,) if how is How.HOSTKEYS_PROVE else ()
    newer = host_grant(1, how=how, places=None, complete=False, basis=basis)
    store.register(newer, None, at=LATER + HOUR).result()
    assert barred(store, LATER + 2 * HOUR) == serial


def test_P17_an_operator_lifts_it_by_a_word_that_is_newer(store: SqlLedger) -> None:
    """Not the one of before, nor of the same moment, nor one from a time to come, when our clock was wrong."""
    serial = distrusted(store)
    entered = host_grant(1, how=How.OPERATOR, complete=False)
    store.register(entered, None, at=LATER).result()
    assert barred(store, LATER + HOUR) == serial
    ahead = LATER + 400 * DAY
    for at, lifts in ((ahead, False), (LATER + HOUR, True)):
        store.retire("web1.lan", ssh_key(1), reason="entered anew", at=LATER).result()
        store.register(entered, None, at=at).result()
        assert barred(store, LATER + 2 * HOUR) == (None if lifts else serial)
    (again,) = store.ssh_certificates("web1.lan", after=LATER)[:1]
    store.revoke_ssh(again.serial, reason="unspecified", at=LATER + 3 * HOUR).result()
    assert barred(store, LATER + 4 * HOUR) == again.serial


@pytest.mark.parametrize("reason", ["superseded", "affiliationChanged"])
def test_a_sound_key_gets_the_next(store: SqlLedger, reason: str) -> None:
    """As the reason says nothing against the key."""
    distrusted(store, reason)
    assert barred(store, LATER) is None


def test_P17_what_a_change_or_a_crash_took_back_bars_nobody(store: SqlLedger) -> None:
    """The ledger's own words for what is not so any more say nothing against the key."""
    known(store, 1)
    get(store, ssh_grant(host_leaf(1)))
    store.register(host_grant(2, machine="web2.lan", places=("web2.lan", "10.0.0.1")), None, at=NOW).result()
    store.intend_ssh(ssh_grant(host_leaf(1, "web1.lan")), None, at=NOW).result()
    assert store.abandon_intents(LATER, at=LATER).result() == 1
    assert barred(store, LATER) is None


def test_P17_distrust_is_not_forgotten_under_newer_certificates(store: SqlLedger) -> None:
    """However many came before the revocation, or people have had certificates for the same key."""
    known(store, 1)
    (first,) = get(store, ssh_grant(host_leaf(1)))
    starts = [number * DAY for number in range(1, 25)]
    others = [host_leaf(1, "web1.lan", start=start, life=HOUR) for start in starts]
    last = [get(store, ssh_grant(leaf), at=NOW + start) for leaf, start in zip(others, starts, strict=True)][-1][0]
    for number in range(25):
        get(store, user_grant(1), Once(f"login:{number}"), at=NOW)
    newest = store.ssh_certificate(last)
    assert store.ssh_past(ssh_key(1), at=NOW) == SshPast(last=newest)
    store.revoke_ssh(first, reason="keyCompromise", at=NOW).result()
    past = store.ssh_past(ssh_key(1), at=NOW)
    assert (past.last, past.barred) == (newest, store.ssh_certificate(first))


def test_a_person_s_certificate_is_no_host_s(store: SqlLedger) -> None:
    """A login with a host's key says nothing of the host, and to take it back says nothing either."""
    known(store, 1)
    (serial,) = get(store, user_grant(1), ONCE)
    store.revoke_ssh(serial, reason="keyCompromise", at=NOW).result()
    assert store.ssh_past(ssh_key(1), at=NOW) == SshPast()
    assert store.ssh_past(ssh_key(9), at=NOW) == SshPast()


def test_who_comes_second_with_distrust_hears_what_helps(store: SqlLedger) -> None:
    """A thief may take it back first, for a reason that leaves him the key."""
    known(store, 1)
    (serial,), (user,) = get(store, ssh_grant(host_leaf(1))), get(store, user_grant(2), ONCE)
    for each in (serial, user):
        store.revoke_ssh(each, reason="superseded", at=NOW).result()
    retire = f"its key is certified still: handfast host retire web1.lan {ssh_key(1).fingerprint}"
    for each, reason, hint in (
        (serial, "keyCompromise", retire),
        (serial, "affiliationChanged", "nothing is left to do"),
        (user, "keyCompromise", "nothing is left to do"),  # a login is no word for the next
    ):
        with pytest.raises(Revoked, match=r"revoked before, on 2026-11-22 12:00 UTC \(superseded\)") as caught:
            store.revoke_ssh(each, reason=reason, at=LATER).result()
        assert caught.value.hint == hint


# --- how much ---


def test_P33_a_key_has_few_certificates_at_once(store: SqlLedger) -> None:
    """Whoever asks for ever other names gets ten in a 24th of their life; what he has is still the answer."""
    known(store, 1, 2)
    wanted = [host_leaf(1, *names, life=life) for names in (("web1.lan",), ("10.0.0.1",)) for life in lives(5)]
    serials = [get(store, ssh_grant(leaf)) for leaf in wanted]
    late = host_leaf(1, life=DAY)
    for at in (NOW, NOW + timedelta(minutes=59)):
        with pytest.raises(TooMuch, match="had 10 certificates of late") as caught:
            store.intend_ssh(ssh_grant(late), None, at=at).result()
        assert caught.value.after == 3600
        assert get(store, ssh_grant(wanted[3]), at=at) == serials[3]
    get(store, ssh_grant(late), at=NOW + HOUR)  # a 24th of a day
    with pytest.raises(TooMuch):
        store.intend_ssh(ssh_grant(host_leaf(1, "web1.lan", life=2 * DAY)), None, at=NOW + HOUR).result()
    get(store, ssh_grant(host_leaf(2)))
    for number in range(12):  # a person spends something for each
        get(store, replace(user_grant(1), leaves=(user_leaf(1, life=DAY),)), Once(f"test:{number}"))


def lives(count: int) -> list[timedelta]:
    """So many lives, the longest first: what is good for longer is no answer."""
    return [WEEK - number * DAY for number in range(count)]


def test_P33_a_machine_retires_few_keys_in_a_day(store: SqlLedger) -> None:
    """Those stay on the list for good: who brings ever new ones is refused, and an operator is not."""
    known(store, *range(1, 33))
    for step in range(1, 3):
        store.register(host_grant(*range(1 + 32 * step, 33 + 32 * step)), None, at=NOW).result()
    third = host_grant(*range(97, 129))
    for at in (NOW, NOW + DAY - timedelta(seconds=1)):
        with pytest.raises(TooMuch, match=r"'web1\.lan' would have retired over 64 host keys within a day"):
            store.register(third, None, at=at).result()
        asked = store.ask(replace(third, how=How.SSH_HOSTKEY), ("other keys",), at=at).result()
        with pytest.raises(TooMuch):
            store.approve(asked.approval_id, by="ann", reason="yes", at=at).result()
    assert len(store.publish_krl("x", at=NOW).result().digests) == 64
    store.register(replace(third, how=How.OPERATOR), None, at=NOW).result()
    store.register(host_grant(*range(129, 161)), None, at=NOW + DAY).result()


def test_P31_a_certificate_leaves_the_list_a_day_after_its_end(store: SqlLedger) -> None:
    """A host whose clock is behind ours believes it a while longer."""
    known(store, 1)
    (serial,) = get(store, ssh_grant(host_leaf(1)))
    store.revoke_ssh(serial, reason="keyCompromise", at=NOW).result()
    end = host_leaf(1).valid_before
    assert store.publish_krl("x", at=end + DAY - timedelta(seconds=1)).result().hosts == (serial,)
    assert store.publish_krl("x", at=end + DAY).result().hosts == ()


@pytest.mark.parametrize("how", [How.SSH_HOSTKEY, How.X5C, How.CONSOLE])
def test_what_shows_a_moment_counts_from_the_last_time(store: SqlLedger, how: How) -> None:
    """It may be repeated, and is on record once a day at most; other ways stay as of when they came."""

    def at_last(after: timedelta) -> datetime:
        host = store.register(host_grant(1, how=how), None, at=NOW + after).result()
        (entry,) = host.keys
        return entry.at

    assert at_last(timedelta(0)) == NOW
    assert at_last(DAY - timedelta(seconds=1)) == NOW
    assert at_last(DAY) == (NOW if how is How.CONSOLE else NOW + DAY)
    assert at_last(timedelta(hours=1)) == (NOW if how is How.CONSOLE else NOW + HOUR)  # our clock was ahead
