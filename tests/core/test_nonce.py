"""A nonce is ours, whole and young, or it is nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import nonce
from handfast.core.secret import Secret

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = Secret(b"k" * 32)
MADE = nonce.make(KEY, NOW, b"r" * 16)


@given(st.integers(-10_000, 10_000))
def test_a_nonce_is_fresh_for_five_minutes(seconds: int) -> None:
    """Neither older, nor from the future: a clock that was set back revives none."""
    later = NOW + timedelta(seconds=seconds)
    assert nonce.is_fresh(KEY, MADE, later) is (0 <= seconds <= nonce.LIFETIME)


def test_another_key_made_another_nonce() -> None:
    """What another registrar, or this one before its restart, has made is not ours."""
    assert not nonce.is_fresh(Secret(b"j" * 32), MADE, NOW)


@pytest.mark.parametrize("position", range(nonce.LENGTH))
def test_every_byte_counts(position: int) -> None:
    """A nonce with one bit changed, the time's bits included, is not ours."""
    changed = bytearray(MADE)
    changed[position] ^= 1
    assert not nonce.is_fresh(KEY, bytes(changed), NOW)


@pytest.mark.parametrize("value", [b"", MADE[:-1], MADE + b"\x00", bytes(nonce.LENGTH), MADE[:24]])
def test_nothing_of_another_length_is_a_nonce(value: bytes) -> None:
    """Empty, truncated, extended and zero values are refused without an exception."""
    assert not nonce.is_fresh(KEY, value, NOW)


def test_two_nonces_of_one_second_differ() -> None:
    """Freshness is in the random part too, and its length is not negotiable."""
    assert nonce.make(KEY, NOW, b"s" * 16) != MADE
    assert len(MADE) == nonce.LENGTH
    with pytest.raises(ValueError, match="16 random bytes"):
        nonce.make(KEY, NOW, b"s" * 15)


def test_the_time_is_the_only_thing_a_nonce_tells() -> None:
    """Its first eight bytes are the time it was made, as documented; the key does not show."""
    assert int.from_bytes(MADE[:8], "big") == int(NOW.timestamp())
    assert KEY.reveal() not in MADE
