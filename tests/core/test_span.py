"""Lengths of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handfast.core.span import written


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=31), "31d"),
        (timedelta(days=1, hours=2), "1d 2h"),
        (timedelta(seconds=90), "1m 30s"),
        (timedelta(), "0s"),
        (timedelta(milliseconds=-3), "0s"),
        (timedelta(seconds=-61), "-1m 1s"),
        (timedelta(days=4000), "4000d"),
    ],
)
def test_a_length_is_written_in_its_units(span: timedelta, text: str) -> None:
    """Each unit stands where it counts, and no zeros behind."""
    assert written(span) == text
