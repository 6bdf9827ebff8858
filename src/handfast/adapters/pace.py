"""How often a peer that is not there is tried, and how often people are told."""

from __future__ import annotations

import secrets
from collections.abc import Callable

_MOST_EVERY = 8  # times the interval: how rarely a peer is tried that has been away for long
_chance = secrets.SystemRandom()


def pause(every: float, failures: int) -> float:
    """Return the seconds until the next try: jittered, so that not all servers call at once, and rarer with time."""
    return _chance.uniform(0.75, 1.25) * every * min(1 << min(failures // 4, 10), _MOST_EVERY)


def sparing(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a ``say`` that does not repeat itself: a peer may be away for days."""
    last = ""

    def once(text: str) -> None:
        nonlocal last
        if text != last:
            say(text)
        last = text

    return once
