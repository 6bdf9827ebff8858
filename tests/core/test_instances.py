"""Managed machines: what leads from one state to another, and that a wrong key leads to one that nothing leaves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.instances import (
    MOST_ROLLBACKS,
    Instance,
    Issued,
    Met,
    Shown,
    Silence,
    State,
    Stranger,
    Verified,
    confirmed,
    met,
    placed,
    released,
)
from handfast.errors import Refused

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATE = NOW + timedelta(hours=2)
KEY, OTHER = b"k" * 32, b"o" * 32
NEW = Instance(
    name="web1",
    instance_id="i-1",
    invitation="0123456789abcdef",
    deadline=NOW + timedelta(hours=1),
    since=NOW,
    address="10.0.0.9:7575",
    state=State.WAITING,
)
HELD = replace(NEW, expected=KEY, serial=7)


def at(state: State, **changes: object) -> Instance:
    """Return an instance in a state, introduced where the state says so."""
    base = HELD if state.introduced else NEW
    if state is State.VERIFYING:
        base = replace(NEW, issued_key=KEY, issued_serial=7)
    elif state is State.RENEWING:
        base = replace(HELD, issued_key=OTHER, issued_serial=8)
    return replace(base, state=state, **changes)  # type: ignore[arg-type]


ROWS: list[tuple[str, Instance, Met, State]] = [
    ("nobody there yet", at(State.WAITING), Silence("refused"), State.WAITING),
    ("gone while it was introduced", at(State.INTRODUCING), Silence("reset"), State.WAITING),
    ("somebody answers", at(State.WAITING), Shown(KEY), State.INTRODUCING),
    ("its evidence holds", at(State.INTRODUCING), Issued(KEY, 7), State.VERIFYING),
    ("it is verified", at(State.VERIFYING), Verified(KEY), State.RUNNING),
    ("it is well", at(State.RUNNING), Verified(KEY), State.RUNNING),
    ("it is silent", at(State.RUNNING), Silence("timeout"), State.UNREACHABLE),
    ("it is back", at(State.UNREACHABLE), Verified(KEY), State.RUNNING),
    ("it renews", at(State.RUNNING), Issued(OTHER, 8), State.RENEWING),
    ("the next is verified", at(State.RENEWING), Verified(OTHER), State.RUNNING),
    ("the next never came, and the old one answers", at(State.RENEWING), Verified(KEY), State.RUNNING),
    ("it has forgotten its first credential", at(State.VERIFYING), Shown(KEY), State.WAITING),
    (
        "it never got it, and was away meanwhile",
        at(State.UNREACHABLE, serial=None, expected=None, issued_key=KEY),
        Shown(KEY),
        State.WAITING,
    ),
    ("and again", at(State.VERIFYING, rollbacks=MOST_ROLLBACKS - 1), Shown(KEY), State.VERIFY_FAILED),
    ("and again, with one that holds", at(State.RENEWING, rollbacks=MOST_ROLLBACKS), Verified(KEY), State.RUNNING),
    ("a key was delivered to it, and is not kept", at(State.VERIFYING, expected=OTHER), Shown(OTHER), State.WAITING),
    ("another than a key was delivered to", at(State.VERIFYING, expected=OTHER), Shown(b"t" * 32), State.QUARANTINED),
    ("a third key while it renews", at(State.RENEWING), Verified(b"t" * 32), State.QUARANTINED),
    ("without a certificate while it renews", at(State.RENEWING), Shown(OTHER), State.QUARANTINED),
    ("another one while it is verified", at(State.VERIFYING), Shown(OTHER), State.QUARANTINED),
    ("a certificate before any was issued", at(State.WAITING), Verified(KEY), State.QUARANTINED),
    ("another key than was said", at(State.WAITING, expected=KEY), Shown(OTHER), State.QUARANTINED),
    ("the key that was said", at(State.WAITING, expected=KEY, needs_key=True), Shown(KEY), State.INTRODUCING),
    ("nobody has said its key", at(State.WAITING, needs_key=True), Shown(KEY), State.WAITING),
    ("a wrong proof", at(State.INTRODUCING), Stranger("a wrong proof", OTHER), State.QUARANTINED),
    ("no certificate of ours any more", at(State.RUNNING), Shown(OTHER), State.QUARANTINED),
    ("another certified key", at(State.VERIFYING), Verified(OTHER), State.QUARANTINED),
    ("another key in the middle of its life", at(State.RUNNING), Stranger("another", OTHER), State.QUARANTINED),
]


@pytest.mark.parametrize(("before", "what", "state"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_leads_where(before: Instance, what: Met, state: State) -> None:
    """Each meeting leads to one state, with the time at which it began."""
    after = met(before, what, at=NOW + timedelta(minutes=1))
    assert after.state is state
    assert after.since == (before.since if state is before.state else NOW + timedelta(minutes=1))


@pytest.mark.parametrize("what", [Silence("refused"), Shown(KEY)])
def test_a_secret_that_is_over_ends_the_wait(what: Met) -> None:
    """After the deadline nobody is introduced any more, whether somebody answers or not."""
    after = met(at(State.WAITING), what, at=LATE)
    assert (after.state, "its secret" in after.reason) == (State.TIMED_OUT, True)


def test_an_introduced_one_does_not_time_out() -> None:
    """The deadline is the secret's: who is introduced needs it no more."""
    assert met(at(State.RUNNING), Silence("timeout"), at=LATE).state is State.UNREACHABLE


@pytest.mark.parametrize("state", [state for state in State if not state.asks])
@given(what=st.sampled_from([row[2] for row in ROWS]))
def test_what_failed_stays(state: State, what: Met) -> None:
    """Nothing that is met leads out of a failure: above all not out of quarantine, whatever answers later."""
    before = at(state, reason="so it was")
    assert met(before, what, at=NOW) is before


@given(st.lists(st.sampled_from([row[2] for row in ROWS]), max_size=12))
def test_running_means_the_expected_key(story: list[Met]) -> None:
    """Whatever happens in whatever order, what runs has the key that was certified, and a serial."""
    instance = NEW
    issued: set[tuple[bytes, int]] = set()
    for what in story:
        instance = met(instance, what, at=NOW)
        if isinstance(what, Issued) and instance.state.asks:
            issued.add((what.key, what.serial))
        if instance.state in {State.RUNNING, State.RENEWING}:
            assert (instance.expected, instance.serial) in issued


def test_a_successor_is_held_when_it_answers() -> None:
    """The old key counts until the new one has answered, and not any more then."""
    renewing = met(at(State.RUNNING), Issued(OTHER, 8), at=NOW)
    assert (renewing.expected, renewing.serial) == (KEY, 7)
    after = met(renewing, Verified(OTHER), at=NOW)
    assert (after.expected, after.serial, after.issued_key) == (OTHER, 8, None)
    assert met(after, Verified(KEY), at=NOW).state is State.QUARANTINED


def test_nothing_new_is_the_same_value() -> None:
    """What changes nothing writes nothing."""
    running = at(State.RUNNING)
    assert met(running, Verified(KEY), at=LATE) is running


def test_a_stranger_is_remembered() -> None:
    """Quarantine says which key was met, on one line that can be printed."""
    after = met(at(State.RUNNING), Stranger("a \x1b[2Jlie\n" + "x" * 1000, OTHER), at=NOW)
    assert (after.seen, after.expected) == (OTHER, KEY)
    assert after.reason.startswith("a [2Jliexxx")
    assert len(after.reason) == 300


# --- people ---


def test_an_address_begins_the_wait() -> None:
    """An instance that nobody has placed is not asked; placed, it is."""
    assert placed(at(State.PENDING, address=None), "10.0.0.1:7575", at=NOW).state is State.WAITING
    moved = placed(at(State.RUNNING), "10.0.0.2:7575", at=NOW)
    assert (moved.state, moved.address, moved.expected) == (State.RUNNING, "10.0.0.2:7575", KEY)


def test_who_dials_has_no_address() -> None:
    """An agent that dials is nowhere to be asked."""
    with pytest.raises(Refused, match=r"'web1' dials the controller, and cannot be placed at 10\.0\.0\.1:7575"):
        placed(at(State.WAITING, dials=True, address=None), "10.0.0.1:7575", at=NOW)


def test_quarantine_is_left_by_a_person() -> None:
    """Neither a new address nor a key leads out of it, but a release, which tries again what was before."""
    caught = met(at(State.RUNNING), Stranger("a wrong key", OTHER), at=NOW)
    elsewhere = placed(caught, "10.0.0.9:7575", at=LATE)
    assert elsewhere == replace(caught, address="10.0.0.9:7575")
    with pytest.raises(Refused, match="'web1' is quarantined: a wrong key") as refused:
        confirmed(caught, OTHER, at=NOW)
    assert refused.value.hint == "find out who it was; then: handfast instance release web1 --reason …"
    free = released(caught, at=LATE)
    assert (free.state, free.expected, free.seen) == (State.UNREACHABLE, KEY, None)


def test_a_release_needs_a_secret() -> None:
    """Who was never introduced, and whose secret is over, is added anew; and what has not failed is not released."""
    caught = met(at(State.INTRODUCING), Stranger("a wrong proof", OTHER), at=NOW)
    assert released(caught, at=NOW).state is State.WAITING
    with pytest.raises(Refused, match="the secret of 'web1' is over"):
        released(caught, at=LATE)
    with pytest.raises(Refused, match="'web1' is neither quarantined nor failed"):
        released(at(State.RUNNING), at=NOW)


def test_a_key_is_confirmed() -> None:
    """The key that somebody says is expected from then on, and cannot be changed once it is certified."""
    waiting = met(at(State.WAITING, needs_key=True), Shown(KEY), at=NOW)
    assert met(confirmed(waiting, KEY, at=NOW), Shown(KEY), at=NOW).state is State.INTRODUCING
    assert confirmed(at(State.RUNNING), KEY, at=NOW) == at(State.RUNNING)
    with pytest.raises(Refused, match="'web1' is introduced with another key"):
        confirmed(at(State.RUNNING), OTHER, at=NOW)
