"""Finding and rules in, grant out: the whole content of the credential, or every reason against it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from handfast.core.flow import Finding, Grant
from handfast.core.names import IPAddress, Names
from handfast.core.roles import GRANTABLE, Role, spiffe_id
from handfast.errors import PolicyRefused
from handfast.policy.rules import BACKDATE, SHORTEST, Rules


def decide(
    finding: Finding,
    rules: Rules,
    *,
    trust_domain: str,
    excluded: Callable[[Names], tuple[str, ...]],
    source: IPAddress | None,
    now: datetime,
) -> Grant:
    """
    Return the grant for what was found, narrowed by what was wished and what the rules allow.

    ``source`` is the address the newcomer called from, None where the transport has none. ``excluded`` tells
    which names the issuing CA's name constraints leave out: asked before anything is spent.

    :raises PolicyRefused: with every reason at once.
    """
    entitled, wish = finding.entitlement, finding.wish
    reasons: list[str] = []
    role = wish.role if wish.role is not None else _only(entitled.roles)
    if role is None:
        reasons.append(f"{entitled.machine!r} may be one of {_list(entitled.roles)}: say which")
    elif role not in entitled.roles:
        reasons.append(f"role {role!s} is not what {entitled.machine!r} was introduced for ({_list(entitled.roles)})")
    allowed = rules.methods.get(finding.method, frozenset())
    if not allowed:
        reasons.append(f"method {finding.method!r} is not enabled")
    elif role is not None and role not in allowed & GRANTABLE:
        reasons.append(f"method {finding.method!r} does not lead to role {role!s}")
    beyond = wish.names.beyond(entitled.names)
    if beyond:
        reasons.append(f"not entitled to the names {', '.join(beyond)} (only {', '.join(entitled.names.texts())})")
    names = wish.names or entitled.names
    if outside := excluded(names):
        reasons.append(f"the authority's name constraints exclude {', '.join(outside)}")
    if entitled.sources is not None and not any(source is not None and source in net for net in entitled.sources):
        reasons.append(f"the call comes from {source}, not from {', '.join(map(str, entitled.sources))}")
    if finding.expired_at is not None and now > finding.expired_at + rules.return_within:
        reasons.append(f"its credential ended at {finding.expired_at:%Y-%m-%d %H:%M}Z, over {rules.return_within} ago")
    lifetime = rules.lifetime_of(role) if role is not None else rules.lifetime
    if wish.lifetime is not None:
        lifetime = min(lifetime, wish.lifetime)
    if lifetime < SHORTEST:
        reasons.append(f"a lifetime of {lifetime} is under {SHORTEST}")
    if reasons or role is None:
        raise PolicyRefused(tuple(reasons), hint="ask the operator for an invitation that allows this")
    return Grant(
        machine=entitled.machine,
        role=role,
        spiffe_id=spiffe_id(trust_domain, role, entitled.machine),
        names=names,
        public_key=finding.public_key,
        not_before=now - BACKDATE,
        not_after=now + lifetime,
        method=finding.method,
        why=(finding.proof, f"policy allows {finding.method} to lead to role {role!s}"),
        reintroduction_key=finding.reintroduction_key,
    )


def serving(*, machine: str, names: Names, trust_domain: str, public_key: bytes, rules: Rules, now: datetime) -> Grant:
    """
    Return the grant for the registrar's own TLS certificate: the only way to the role ``registrar``.

    Newcomers know the registrar by its role under the pinned root, so that it may move; ``names`` are
    there for browsers and curl.
    """
    return Grant(
        machine=machine,
        role=Role.REGISTRAR,
        spiffe_id=spiffe_id(trust_domain, Role.REGISTRAR, machine),
        names=names,
        public_key=public_key,
        not_before=now - BACKDATE,
        not_after=now + rules.lifetime_of(Role.REGISTRAR),
        method="self",
        why=("this is the registrar itself",),
    )


def _only(roles: frozenset[Role]) -> Role | None:
    return next(iter(roles)) if len(roles) == 1 else None


def _list(roles: frozenset[Role]) -> str:
    return ", ".join(sorted(roles)) or "nothing"
