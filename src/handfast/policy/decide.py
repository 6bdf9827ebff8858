"""Finding and rules in, grant out: the whole content of the credential, or every reason against it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from handfast.core import dn, span
from handfast.core.flow import Finding, Grant
from handfast.core.hosts import Host
from handfast.core.names import IPAddress, Names
from handfast.core.ports import Issuer
from handfast.core.roles import GRANTABLE, Role, spiffe_id
from handfast.core.x509 import BACKDATE
from handfast.errors import PolicyRefused
from handfast.policy.hosts import against_host, decide_host
from handfast.policy.rules import MOST_RENEWALS, SHORTEST, Rules

_BY_INVITATION = "ask the operator for an invitation that allows this"
_BY_ADDRESS = "have the CA allow it: --allow-dn, --allow-san; names lead to an address by its DNS or its /etc/hosts"
_OWN_ADDRESS = "what leads to its address"


def decide(
    finding: Finding,
    rules: Rules,
    *,
    issuer: Issuer,
    source: IPAddress | None,
    now: datetime,
    located: Names = Names(),
    known: Host | None = None,
) -> Grant:
    """
    Return the grant for what was found, narrowed by what was wished, what the rules allow and what the issuer can.

    ``source`` is the address the newcomer called from, None where the transport has none. ``located`` are those of
    the wished names that lead to it; they count only where the entitlement says so. ``known`` are the machine's SSH
    host keys so far, where the finding has some.

    :raises PolicyRefused: with every reason at once, before anything is spent.
    """
    entitled, wish = finding.entitlement, finding.wish
    role = wish.role if wish.role is not None else _only(entitled.roles)
    names = wish.names or entitled.names
    lifetime = _lifetime(finding, rules.lifetime_of(role) if role is not None else rules.lifetime, now)
    reasons = (
        *_against_role(finding, rules, role),
        *_against_names(finding, issuer, names, located),
        *_against_subject(finding, located),
        *_against_place_and_time(finding, rules, source, now),
        *_against_life(lifetime, issuer, now),
        *(() if finding.host is None else against_host(finding.host, rules, known)),
    )
    _refuse(reasons, finding)
    if role is None:  # unreachable: it is among the reasons
        raise PolicyRefused(("no role",))
    return Grant(
        machine=entitled.machine,
        role=role,
        spiffe_id=spiffe_id(issuer.trust_domain, role, entitled.machine),
        names=names,
        public_key=finding.public_key,
        not_before=max(now - BACKDATE, issuer.not_before),
        not_after=min(now + lifetime, issuer.not_after),
        method=finding.method,
        why=(finding.proof, f"policy allows {finding.method} to lead to role {role!s}"),
        reintroduction_key=finding.reintroduction_key,
        subject=wish.subject,
        host=None if finding.host is None else decide_host(finding.host, rules, known=known),
    )


def _lifetime(finding: Finding, longest: timedelta, now: datetime) -> timedelta:
    wished, until = finding.wish.lifetime, finding.entitlement.until
    if wished is not None:
        longest = min(longest, wished)
    return longest if until is None else min(longest, until - now)


def _refuse(reasons: tuple[str, ...], finding: Finding) -> None:
    if finding.renewals >= MOST_RENEWALS:
        raise PolicyRefused(
            (*reasons, f"renewed {finding.renewals} times within a 24th of its life"),
            hint="wait a while; `handfast renew --if-due` renews when it is time",
        )
    if reasons:
        raise PolicyRefused(reasons, hint=_BY_ADDRESS if finding.entitlement.own_address else _BY_INVITATION)


def to_locate(finding: Finding) -> Names:
    """Return the names to look up before ``decide``: those that only the address they lead to could allow."""
    wish, entitled = finding.wish, finding.entitlement
    if not entitled.own_address:
        return Names()
    if wish.subject != entitled.subject:
        return wish.names
    beyond = set(wish.names.beyond(entitled.names))
    return Names(
        tuple(name for name in wish.names.dns if name in beyond),
        tuple(ip for ip in wish.names.ips if str(ip) in beyond),
    )


def _against_role(finding: Finding, rules: Rules, role: Role | None) -> Iterator[str]:
    machine, roles = finding.entitlement.machine, finding.entitlement.roles
    if machine in rules.reserved:
        yield f"{machine!r} is the registrar's own name"
    if role is None:
        yield f"{machine!r} may be one of {_list(roles)}: say which"
    elif role not in roles:
        yield f"role {role!s} is not what {machine!r} was introduced for ({_list(roles)})"
    allowed = rules.methods.get(finding.method, frozenset())
    if not allowed:
        yield f"method {finding.method!r} is not enabled"
    elif role is not None and role not in allowed & GRANTABLE:
        yield f"method {finding.method!r} does not lead to role {role!s}"


def _against_names(finding: Finding, issuer: Issuer, names: Names, located: Names) -> Iterator[str]:
    entitled = finding.entitlement
    if finding.entitlement.own_address:
        allowed, only = (*entitled.names.texts(), *located.texts()), (*entitled.names.texts(), _OWN_ADDRESS)
    else:
        allowed, only = entitled.names.texts(), entitled.names.texts() or ("none",)
    if beyond := [name for name in finding.wish.names.texts() if name not in allowed]:
        yield f"not entitled to the names {', '.join(beyond)} (only {', '.join(only)})"
    if outside := issuer.excluded(names):
        yield f"the authority's name constraints exclude {', '.join(outside)}"


def _against_subject(finding: Finding, located: Names) -> Iterator[str]:
    wished, entitled = finding.wish.subject, finding.entitlement
    if wished is None or wished == entitled.subject:
        return
    subject = dn.from_der(wished)
    if not (entitled.own_address and dn.of_node(subject) in located.texts()):
        yield f"not entitled to the subject {dn.written(subject)!r}"


def _against_place_and_time(finding: Finding, rules: Rules, source: IPAddress | None, now: datetime) -> Iterator[str]:
    networks = finding.entitlement.sources
    if networks is not None and not any(source is not None and source in network for network in networks):
        verdict = f"not from {', '.join(map(str, networks))}" if networks else "and no network at all is allowed"
        yield f"the call comes from {source}, {verdict}"
    if finding.expired_at is not None and now > finding.expired_at + rules.return_within:
        limit = span.written(rules.return_within)
        yield f"its credential ended at {finding.expired_at:%Y-%m-%d %H:%M}Z, over {limit} ago"


def _against_life(lifetime: timedelta, issuer: Issuer, now: datetime) -> Iterator[str]:
    if lifetime < SHORTEST:
        yield f"a lifetime of {span.written(lifetime)} is under {span.written(SHORTEST)}"
    if issuer.not_after - now < SHORTEST:
        yield f"the issuing CA ends at {issuer.not_after:%Y-%m-%d %H:%M}Z"


def serving(*, machine: str, names: Names, public_key: bytes, rules: Rules, issuer: Issuer, now: datetime) -> Grant:
    """
    Return the grant for the registrar's own TLS certificate: the only way to the role ``registrar``.

    Newcomers know the registrar by its role under the pinned root, so that it may move; ``names`` are
    there for browsers and curl.
    """
    return Grant(
        machine=machine,
        role=Role.REGISTRAR,
        spiffe_id=spiffe_id(issuer.trust_domain, Role.REGISTRAR, machine),
        names=names,
        public_key=public_key,
        not_before=max(now - BACKDATE, issuer.not_before),
        not_after=min(now + rules.lifetime_of(Role.REGISTRAR), issuer.not_after),
        method="self",
        why=("this is the registrar itself",),
    )


def by_operator(
    *,
    machine: str,
    role: Role,
    subject: bytes | None = None,
    names: Names,
    public_key: bytes,
    lifetime: timedelta,
    issuer: Issuer,
    now: datetime,
) -> Grant:
    """
    Return the grant for what an operator asked for on the authority's own machine.

    That is NiFi's ``standalone``, and a session's export. ``subject`` (DER) None is the machine's own.

    *Not* checked: possession of the key, which that mode makes itself.

    :raises PolicyRefused: the issuer cannot certify it.
    """
    reasons = [f"the authority's name constraints exclude {name}" for name in issuer.excluded(names)]
    reasons += _against_life(lifetime, issuer, now)
    if reasons:
        raise PolicyRefused(tuple(reasons), hint="ask for other names, or make a new authority")
    return Grant(
        machine=machine,
        role=role,
        spiffe_id=spiffe_id(issuer.trust_domain, role, machine),
        names=names,
        public_key=public_key,
        not_before=max(now - BACKDATE, issuer.not_before),
        not_after=min(now + lifetime, issuer.not_after),
        method="operator",
        why=("an operator asked for it on the authority's own machine",),
        subject=subject,
    )


def _only(roles: frozenset[Role]) -> Role | None:
    return next(iter(roles)) if len(roles) == 1 else None


def _list(roles: frozenset[Role]) -> str:
    return ", ".join(sorted(roles)) or "nothing"
