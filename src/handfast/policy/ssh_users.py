"""Persons and rules in, the content of their SSH certificate out; or every reason why there is none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.core import span
from handfast.core.flow import Person, SshFinding, SshGrant
from handfast.core.sshcert import MAX_PRINCIPALS, Kind
from handfast.core.sshleaf import MAX_KEY_ID, SshLeaf, check_user
from handfast.errors import HandfastError, PolicyRefused
from handfast.policy.rules import SHORTEST, Own, Rules, UserRule

BACKDATE = timedelta(minutes=5)  # of a client's clock; what needs a longer life is renewed long before its end
_LONGEST = MAX_KEY_ID - len("user ")
_ROOT = "root"
_TOKEN = "sk-"
_PLAIN = re.compile(r"[A-Za-z0-9 .,:;@/_+-]", re.ASCII)


def decide_user(finding: SshFinding, rules: Rules, *, now: datetime) -> SshGrant:
    """
    Return what a person's certificates hold: by the first of ``[[ssh.users]]`` that fits, narrowed by what was wished.

    :raises PolicyRefused: no rule fits, or what is wished is not within it; with every reason.
    """
    person = finding.holder
    if not isinstance(person, Person):  # unreachable: users are persons, says every introducer
        raise PolicyRefused((f"{person!r} is a machine, and gets no user's certificate",))
    rule = _fitting(person, rules.ssh.certificates.users)
    own = _own(person, rule)
    entitled = tuple(dict.fromkeys((*rule.principals, *own.principals)))
    wish = finding.wish
    longest = rule.lifetime or rules.ssh.certificates.user_lifetime
    lifetime = min(longest, wish.lifetime) if wish.lifetime is not None else longest
    reasons = (
        *own.reasons,
        *_against_principals(entitled, wish.principals),
        *_against_life(lifetime),
        *_against_keys(finding, rule),
    )
    if reasons:
        raise PolicyRefused(reasons, hint="[[ssh.users]] of the registrar says who may log in as whom")
    who = called(str(person), person.origin, address=person.email is not None)
    principals = tuple(each for each in entitled if not wish.principals or each in wish.principals)
    start = now.replace(microsecond=0)
    leaves = tuple(
        SshLeaf(
            kind=Kind.USER,
            key=key,
            key_id=f"user {who}",
            principals=principals,
            valid_after=start - BACKDATE,
            valid_before=start + lifetime,
            critical=rule.critical,
            permits=rule.permits,
            evidence=person.origin,
        )
        for key in finding.keys
    )
    number = rules.ssh.certificates.users.index(rule) + 1
    return SshGrant(who, Kind.USER, leaves, finding.method, (finding.proof, f"rule {number} of [[ssh.users]] fits"))


def called(name: str, origin: str, *, address: bool = False) -> str:
    """
    Return a person of this origin (``core.flow.Person``) in words: the holder of certificates.

    A name that is no verified ``address`` cannot look like one: who may choose his name there would be anybody.
    """
    plain = written(name) if address else written(name).replace("@", "=40")
    who = f"{plain} by {origin}"
    if len(who) <= _LONGEST:
        return who
    return f"sha256=={hashlib.sha256(plain.encode()).hexdigest()} by {origin}"  # which ``written`` makes of no name


def written(name: str) -> str:
    """
    Return a person's name with every sign that must not stand in sshd's log as ``=`` and two hexadecimal digits.

    So two persons are never called the same there; ``=`` itself is ``=3D``.
    """
    return "".join(
        each if _PLAIN.fullmatch(each) else "".join(f"={byte:02X}" for byte in each.encode()) for each in name
    )


def _fitting(person: Person, rules: tuple[UserRule, ...]) -> UserRule:
    for rule in rules:
        if _fits(person, rule):
            return rule
    known = [f"origin {person.origin!r}", f"name {person.name!r}", f"e-mail {person.email or 'none that is verified'}"]
    groups = ", ".join(sorted(person.groups)[:20]) or "none"
    raise PolicyRefused(
        (f"no rule of {len(rules)} in [[ssh.users]] is for {', '.join(known)}, groups {groups}",),
        hint="the operator of the registrar adds one",
    )


def _fits(person: Person, rule: UserRule) -> bool:
    return (
        person.origin in rule.origins
        and (not rule.names or person.name in rule.names)
        and (not rule.emails or _email_fits(person.email, rule.emails))
        and (not rule.groups or not rule.groups.isdisjoint(person.groups))
    )


def _email_fits(email: str | None, patterns: frozenset[str]) -> bool:
    if email is None:
        return False
    return any(pattern.lower() in {email, f"*@{email.rpartition('@')[2]}"} for pattern in patterns)


@dataclass(frozen=True, slots=True)
class _Own:
    principals: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def _own(person: Person, rule: UserRule) -> _Own:
    """Return the principal that is the person's own name; a rule that asks for one and finds none refuses."""
    if rule.own is Own.NONE:
        return _Own()
    if rule.own is Own.NAME:
        name = person.name
    elif person.email is None:
        return _Own(reasons=(f"{person.name!r} has no verified e-mail address whose local part could be a principal",))
    elif not rule.emails:
        # Whoever has an address root@ of any domain in the world would be root here.
        return _Own(
            reasons=("the rule makes a principal of a local part, and does not say of which addresses: emails",)
        )
    else:
        name = person.email.rpartition("@")[0]
    if name == _ROOT:  # somebody chose that name, and nobody here did
        return _Own(reasons=(f"{name!r} is nobody's own principal: a rule has to list it",))
    try:
        return _Own((check_user(name),))
    except HandfastError as error:
        return _Own(reasons=(f"no principal of one's own: {error.message}",))


def _against_principals(entitled: tuple[str, ...], wished: tuple[str, ...]) -> Iterator[str]:
    if not entitled:
        yield "the rule that fits names no principal"
    if beyond := [each for each in wished if each not in entitled]:
        yield f"not entitled to the principals {', '.join(beyond)} (only {', '.join(entitled) or 'none'})"
    if len(entitled) > MAX_PRINCIPALS:
        yield f"{len(entitled)} principals, at most {MAX_PRINCIPALS}"


def _against_life(lifetime: timedelta) -> Iterator[str]:
    if lifetime < SHORTEST:
        yield f"a lifetime of {span.written(lifetime)} is under {span.written(SHORTEST)}"


def _against_keys(finding: SshFinding, rule: UserRule) -> Iterator[str]:
    for key in finding.keys:
        if rule.critical.verify_required and not key.algorithm.startswith(_TOKEN):
            # sshd asks it of tokens in hardware alone: on another key it would look like more than it is.
            yield f"verify_required is for keys in hardware tokens (sk-…), and {key.fingerprint} is {key.algorithm}"
