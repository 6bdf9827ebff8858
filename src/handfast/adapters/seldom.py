"""Warnings of what strangers can cause: a flood of it must not become a flood of lines."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE = 60.0  # seconds between two lines on one topic


class Seldom:
    """Says whether it is time for a line on a topic, of which there are a few, and counts those that were left out."""

    def __init__(self, *, pause: float = PAUSE, now: Callable[[], float] = time.monotonic) -> None:
        """``pause`` is in seconds."""
        self._pause, self._now = pause, now
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def due(self, topic: str) -> int | None:
        """Return how many were left out since the last line, or None: this one is to be left out, too."""
        now = self._now()
        if now < self._next.get(topic, now):
            self._left_out[topic] = self._left_out.get(topic, 0) + 1
            return None
        self._next[topic] = now + self._pause
        return self._left_out.pop(topic, 0)
