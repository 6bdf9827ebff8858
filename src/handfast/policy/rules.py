"""The operator's rules, as values. What no rule allows is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from handfast.core.hosts import Grade, How
from handfast.core.roles import GRANTABLE, Role

SHORTEST = timedelta(minutes=1)  # less than this is over before the answer is installed
# In a 24th of the life, by one line of successors: an hour by default. A person may try a few times; a thief of a key
# must not fill ledger, log and revocation list, in which every successor is an entry for good.
MOST_RENEWALS = 10


class Readers(StrEnum):
    """Who may read which machines there are, and their host keys."""

    OPERATORS = "operators"
    HOLDERS = "holders"
    """Whoever holds a credential of this authority."""
    ANYBODY = "anybody"


@dataclass(frozen=True, slots=True)
class HostRules:
    """
    What counts for SSH host keys.

    ``evidence`` are the ways in which a key may become known; a scan, which is trust on first use, only where an
    operator has said so. Keys known less well than ``accept`` are shown, and believed by nobody.
    """

    evidence: frozenset[How] = frozenset(How) - {How.SCAN}
    accept: Grade = Grade.REPORTED
    readers: Readers = Readers.HOLDERS


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What this registrar grants.

    ``methods`` maps an introducer's name to the roles it may lead to; a method that is not in it is not
    enabled. ``lifetimes`` are per role, ``lifetime`` for the others. ``return_within`` is how long after
    its end a credential may still be succeeded by reintroduction. ``reserved`` names are the registrar's
    own: whatever a method proves, no machine is called so. ``ssh`` is about host keys.
    """

    methods: dict[str, frozenset[Role]] = field(
        default_factory=lambda: {
            "invitation": GRANTABLE,
            "renewal": GRANTABLE,
            # A backup of an operator's directory must not open the registrar a month later.
            "reintroduction": GRANTABLE - {Role.OPERATOR},
        }
    )
    lifetime: timedelta = timedelta(hours=24)
    lifetimes: dict[Role, timedelta] = field(default_factory=dict)
    return_within: timedelta = timedelta(days=30)
    reserved: frozenset[str] = frozenset()
    ssh: HostRules = HostRules()

    def lifetime_of(self, role: Role) -> timedelta:
        """Return how long a credential of ``role`` lives."""
        return self.lifetimes.get(role, self.lifetime)
