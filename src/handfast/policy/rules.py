"""The operator's rules, as values. What no rule allows is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from handfast.core.hosts import Grade, How
from handfast.core.roles import GRANTABLE, Role
from handfast.core.sshoptions import UNLIMITED, Critical, Permit

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


class Own(StrEnum):
    """Which of a person's own names is a principal."""

    NONE = "none"
    NAME = "name"
    LOCAL_PART = "local-part"
    """Of the verified e-mail address: what is before the ``@``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRule:
    """
    Whom it is for, and what their SSH certificates hold. The first rule that fits counts.

    ``origins`` are as ``core.flow.Person`` has them. Where ``names``, ``emails`` or ``groups`` is not empty, one of it
    has to be the person's; of e-mail addresses ``*@example.org`` is everybody's there.
    """

    origins: frozenset[str]
    names: frozenset[str] = frozenset()
    emails: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    principals: tuple[str, ...] = ()
    own: Own = Own.NONE
    critical: Critical = UNLIMITED
    permits: frozenset[Permit] = frozenset({Permit.PTY})
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRules:
    """
    What SSH certificates hold, and on which evidence.

    ``require`` are alternatives: a host key is certified when it is known in every way that one of them lists; without
    any, every key that counts is. Where host keys became known by one of ``approve`` and would change what is known, a
    person has to look first. ``patterns`` limit the CA in lines for known_hosts; without any there are no such lines.
    """

    require: tuple[frozenset[How], ...] = ()
    approve: frozenset[How] = frozenset({How.SSH_HOSTKEY, How.X5C})
    lifetime: timedelta = timedelta(days=7)
    user_lifetime: timedelta = timedelta(hours=16)
    users: tuple[UserRule, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostRules:
    """
    What counts for SSH host keys.

    ``evidence`` are the ways in which a key may become known; a scan, which is trust on first use, and the host-key
    challenge, for which the network has to be honest twice, only where an operator has said so. Keys known less well
    than ``accept`` are shown, and believed by nobody. ``certificates`` is about those that we issue.
    """

    evidence: frozenset[How] = frozenset(How) - {How.SCAN, How.SSH_HOSTKEY}
    accept: Grade = Grade.CHALLENGED
    readers: Readers = Readers.HOLDERS
    certificates: CertificateRules = CertificateRules()


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
