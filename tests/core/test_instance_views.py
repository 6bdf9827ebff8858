"""Managed machines as they are shown: fingerprints that come back, and no state that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.fingerprint_words import words
from handfast.core.instance_views import ago, fingerprint, instance_view, parse_fingerprint
from handfast.core.instances import State
from handfast.errors import Malformed
from tests.core.test_instances import KEY, NEW, NOW, OTHER, at


@given(st.binary(min_size=32, max_size=32))
def test_a_fingerprint_comes_back(key: bytes) -> None:
    """As it was written, with its padding, and in hexadecimal digits."""
    text = fingerprint(key)
    assert parse_fingerprint(text) == parse_fingerprint(f" {text}=\n") == parse_fingerprint(key.hex()) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SHA256:",
        fingerprint(KEY)[:-1],
        fingerprint(KEY) + "A",
        fingerprint(KEY).removeprefix("SHA256:"),
        fingerprint(KEY).lower(),
        "MD5:" + "00:" * 16,
        KEY.hex()[:16],
        fingerprint(bytes(32))[:-1] + "B",  # the same key, in bits that nobody reads
    ],
)
def test_what_is_no_fingerprint(text: str) -> None:
    """Never a part of one, nor a second way to write it."""
    with pytest.raises(Malformed, match="not a fingerprint"):
        parse_fingerprint(text)


def test_one_that_is_watched() -> None:
    """All that is known, keys as people compare them."""
    view = instance_view(at(State.RUNNING, seen=OTHER), watched=True)
    assert (view.name, view.state, view.since, view.watched) == ("web1", "running", "2026-11-22T12:00:00Z", True)
    assert (view.key, view.seen, view.serial) == (fingerprint(KEY), fingerprint(OTHER), f"{7:032x}")
    assert (view.words, view.seen_words) == (words(KEY), words(OTHER))
    assert (view.until, view.contact) == (None, None)
    assert view.secret_until == "2026-11-22T13:00:00Z"


def test_its_end_and_its_last_contact() -> None:
    """Both where they are known; what has no credential has proved nothing, so that it was never met."""
    later = NOW + timedelta(hours=1)
    view = instance_view(at(State.RUNNING), watched=True, until=later, contact=NOW)
    assert (view.until, view.contact) == ("2026-11-22T13:00:00Z", "2026-11-22T12:00:00Z")
    assert instance_view(at(State.WAITING), watched=True, contact=NOW).contact is None


def test_a_time_that_nobody_wrote_down_is_none() -> None:
    """What was read from the ledger is of no known age until it changes: its deadline is no time that has been."""
    waiting = at(State.WAITING)
    assert instance_view(replace(waiting, since=waiting.deadline), watched=True).since is None
    assert instance_view(waiting, watched=True).since == "2026-11-22T12:00:00Z"


@pytest.mark.parametrize(
    ("state", "reason", "since"),
    [
        (State.WAITING, "nobody watches it now", None),
        (State.UNREACHABLE, "nobody watches it now", None),
        (State.PENDING, "nobody has said where it is", "2026-11-22T12:00:00Z"),
        (State.TIMED_OUT, "", "2026-11-22T12:00:00Z"),
        (State.QUARANTINED, "", "2026-11-22T12:00:00Z"),
        (State.VERIFY_FAILED, "", "2026-11-22T12:00:00Z"),
    ],
)
def test_one_that_nobody_watches(state: State, reason: str, since: str | None) -> None:
    """What lasts is said as it is, and of the rest that nobody knows."""
    view = instance_view(replace(NEW, state=state), watched=False)
    assert (view.state, view.reason, view.since, view.watched) == (state.value, reason, since, False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (86400 * 3, "3d"), (-5, "0s")],
)
def test_how_long_ago(seconds: int, text: str) -> None:
    """In the largest unit; a clock that was set back is no time before now."""
    assert ago("2026-11-22T12:00:00Z", NOW + timedelta(seconds=seconds)) == text
