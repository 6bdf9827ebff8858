"""How often somebody may have something done, and how many at a time."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from handfast.errors import TooMuch


class Buckets:
    """
    Token buckets, one for each of something: source prefixes, or one-time markers.

    At most ``most`` are kept; a flood of more than that evicts the longest unused, so memory is bounded and the
    limit becomes softer, never harder, for the others.
    """

    def __init__(
        self, rate: float, burst: int, *, most: int = 10_000, now: Callable[[], float] = time.monotonic
    ) -> None:
        """``rate`` tokens a second flow into a bucket that holds ``burst``."""
        self._rate, self._burst, self._most, self._now = rate, burst, most, now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> int:
        """Return 0 if a token is there, else the whole seconds until one is. Nothing is taken."""
        tokens = self._level(key)
        return 0 if tokens >= 1 else math.ceil((1 - tokens) / self._rate)

    def take(self, key: str) -> None:
        """Take a token; the bucket may be empty afterwards, but not in debt."""
        self._buckets[key] = (max(0.0, self._level(key) - 1), self._now())
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)

    def _level(self, key: str) -> float:
        tokens, since = self._buckets.get(key, (float(self._burst), self._now()))
        return min(self._burst, tokens + (self._now() - since) * self._rate)


class Share:
    """So many places at a time, and no more than some of them for one source."""

    def __init__(self, most: int, each: int) -> None:
        self._most, self._each = most, each
        self._sources: Counter[str] = Counter()

    @contextmanager
    def place(self, source: str) -> Iterator[None]:
        """Have a place for the length of the block. :raises TooMuch: none is left, or none for this source."""
        if self._sources.total() >= self._most or self._sources[source] >= self._each:
            raise TooMuch("too many at a time", hint="try again in 1 s", after=1)
        self._sources[source] += 1
        try:
            yield
        finally:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]  # or the table would grow with every address ever seen
