"""Instances that dial, and those that are known by less than an introduction: what leads where."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from handfast.core.instances import (
    Answered,
    Instance,
    Issued,
    Met,
    Mode,
    Shown,
    Silence,
    State,
    Stranger,
    Unproved,
    Verified,
    lasting,
    met,
    placed,
)
from handfast.errors import UsageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY, OTHER = bytes(32), bytes([1]) * 32
WAITING = Instance(
    name="a", instance_id="i", invitation="k", deadline=NOW + timedelta(hours=1), since=NOW, state=State.WAITING
)
DIALS = replace(WAITING, dials=True)
RUNNING = replace(DIALS, state=State.RUNNING, expected=KEY, serial=7)
PLAIN = replace(WAITING, mode=Mode.PLAIN, address="127.0.0.1:7575")


@pytest.mark.parametrize(
    ("before", "what", "after"),
    [
        (WAITING, Unproved("x", OTHER), State.QUARANTINED),
        (DIALS, Unproved("x", OTHER), State.WAITING),
        (RUNNING, Unproved("x", OTHER), State.UNREACHABLE),
        (RUNNING, Shown(OTHER), State.UNREACHABLE),
        (replace(DIALS, expected=KEY), Shown(OTHER), State.WAITING),
        (replace(DIALS, expected=KEY), Shown(KEY), State.INTRODUCING),
        (DIALS, Stranger("x", OTHER), State.QUARANTINED),
        (RUNNING, Stranger("x", OTHER), State.QUARANTINED),
        (RUNNING, Verified(OTHER), State.QUARANTINED),
        (PLAIN, Answered(), State.RUNNING),
        (WAITING, Answered(), State.QUARANTINED),
        (replace(PLAIN, state=State.RUNNING), Silence("x"), State.UNREACHABLE),
        (replace(WAITING, mode=Mode.LEGACY), Shown(KEY), State.INTRODUCING),
        (replace(WAITING, mode=Mode.LEGACY), Issued(KEY, 7), State.VERIFYING),
    ],
)
def test_what_follows(before: Instance, what: Met, after: State) -> None:
    """Where anybody can call, only who has the secret or a certificate is an alarm; where we dial, everybody is."""
    assert met(before, what, at=NOW).state is after


def test_somebody_elses_call_says_so() -> None:
    """An operator sees that another calls by the name, and nothing else changes for good."""
    after = met(RUNNING, Unproved("it is nobody", OTHER), at=NOW)
    assert after.reason == "somebody else calls by its name: it is nobody"
    assert lasting(after) == lasting(RUNNING)


def test_a_plain_one_has_no_secret_that_ends() -> None:
    """It waits for as long as somebody develops."""
    late = NOW + timedelta(days=3)
    assert met(PLAIN, Silence("x"), at=late).state is State.WAITING
    assert met(WAITING, Silence("x"), at=late).state is State.TIMED_OUT


def test_a_plain_one_stays_on_this_machine() -> None:
    """It cannot be placed where somebody could listen on the way."""
    assert placed(PLAIN, "127.0.0.1:7576", at=NOW).address == "127.0.0.1:7576"
    with pytest.raises(UsageError, match="not a loopback address"):
        placed(PLAIN, "192.0.2.1:7575", at=NOW)
