"""How often, and how many at a time, others may have us look at hosts: they may ask before anything is proved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from handfast.adapters.buckets import Buckets, Share
from handfast.adapters.callers import prefix
from handfast.core.names import IPAddress
from handfast.errors import TooMuch
from handfast.server.limits import Limits

_ALL = "all"


@dataclass(frozen=True, slots=True)
class Looks:
    """What each source may, and all of them together: who has many addresses is bounded by the second."""

    of_source: Buckets
    of_all: Buckets
    at_once: Share
    of_holder: Buckets
    of_holders: Share

    @classmethod
    def within(cls, limits: Limits) -> Looks:
        """Return it before anybody has asked."""
        return cls(
            Buckets(limits.looks, limits.looks_burst),
            Buckets(limits.looks_of_all, limits.looks_of_all_burst),
            Share(limits.looking, limits.looking_per_source),
            Buckets(limits.looks_of_holder, limits.looks_of_holder_burst),
            Share(limits.looking, limits.looking_per_holder),
        )

    @contextmanager
    def admit(self, source: IPAddress | None) -> Iterator[None]:
        """
        Look for this source, for the length of the block.

        :raises TooMuch: it, or all together, had us look too often, or too many look at the moment.
        """
        key = prefix(source)
        # Whoever is refused takes nothing: of what all have together, least of all.
        if wait := max(self.of_source.wait(key), self.of_all.wait(_ALL)):
            raise _too_often(wait)
        with self.at_once.place(key):
            self.of_source.take(key)
            self.of_all.take(_ALL)
            yield

    @contextmanager
    def admit_holder(self, machine: str) -> Iterator[None]:
        """Look for the holder of a credential, apart from strangers, who cannot crowd him out. :raises TooMuch:"""
        if wait := self.of_holder.wait(machine):
            raise _too_often(wait)
        with self.of_holders.place(machine):
            self.of_holder.take(machine)
            yield


def _too_often(wait: int) -> TooMuch:
    return TooMuch("asked to look at hosts too often", hint=f"try again in {wait} s", after=wait)
