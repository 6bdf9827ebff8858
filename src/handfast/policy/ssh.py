"""
What SSH certificates hold: a finding, rules and what is known in; a grant, or every reason against it, out.

A host certificate says what the registry says: that this key is that machine's, and what the machine is called. So
evidence is judged where it is recorded (``policy.hosts``), and here only whether what is recorded is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.core import span
from handfast.core.flow import SshFinding, SshGrant
from handfast.core.hosts import Host, HostKey, How, described, placed, with_key
from handfast.core.records import REASONS, SshRecord
from handfast.core.sshcert import CERTIFICATES, MAX_PRINCIPALS, Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import MAX_KEY_ID, SshLeaf, is_host
from handfast.errors import PolicyRefused
from handfast.policy.hosts import against_host, decide_host
from handfast.policy.rules import SHORTEST, CertificateRules, Rules
from handfast.policy.ssh_users import BACKDATE, decide_user

DISTRUST = frozenset(REASONS) - {"superseded", "affiliationChanged"}
"""
Why somebody takes a certificate back and does not want the key certified again (RFC 5280 §5.3.1).

The ledger has words of its own for those that it takes back when what they say is true no more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Previously:
    """
    What the ledger has of a machine besides its host keys.

    ``certificates`` are each key's last, or one that was revoked in distrust. ``introduced_at`` is when the machine
    last got a credential of ours, None where it never did.
    """

    certificates: Mapping[SshKey, SshRecord]
    introduced_at: datetime | None = None


def decide_ssh(
    finding: SshFinding, rules: Rules, *, known: Host | None, previous: Previously, now: datetime
) -> SshGrant:
    """
    Return the grant for what was found: one certificate for each key, by the same names.

    ``known`` is the machine as the ledger has it, without what the finding adds.

    *Not* decided here, as only the ledger can in its transaction: whether a key is another machine's, or was retired.

    :raises PolicyRefused: with every reason at once, before anything is spent.
    """
    if finding.kind is Kind.USER:
        return decide_user(finding, rules, now=now)
    machine, certificates = finding.subject, rules.ssh.certificates
    host = _with_finding(finding, known, now)
    entitled = principals(host) if host is not None else ()
    wished = tuple(dict.fromkeys(name.lower() for name in finding.wish.principals)) or entitled
    lifetime = min(each for each in (certificates.lifetime, finding.wish.lifetime) if each is not None)
    ways = {key: _ways(host, key, rules) for key in finding.keys}
    reasons = (
        *_against_names(machine, rules, wished, entitled),
        *(reason for key in finding.keys for reason in _against_key(key, host, ways[key], rules)),
        *_against_past(finding.keys, host, rules, previous, now),
        *_against_new_keys(finding, known, rules),
        *_against_life(lifetime),
    )
    if reasons:
        raise PolicyRefused(reasons, hint=f"see `handfast host show {machine}`")
    begin = now.replace(microsecond=0)
    leaves = tuple(
        SshLeaf(
            kind=Kind.HOST,
            key=key,
            key_id=f"host {machine}"[:MAX_KEY_ID],
            principals=wished,
            valid_after=begin - BACKDATE,
            valid_before=begin + lifetime,
            evidence=_evidence(ways[key], certificates),
        )
        for key in finding.keys
    )
    return SshGrant(
        holder=machine,
        kind=Kind.HOST,
        leaves=leaves,
        method=finding.method,
        why=(finding.proof, *(f"{leaf.key.fingerprint}: {leaf.evidence}" for leaf in leaves)),
        host=None if finding.host is None else decide_host(finding.host, rules, known=known),
    )


def principals(host: Host) -> tuple[str, ...]:
    """Return all that a machine may be called in a certificate; what ssh would take for something else is left out."""
    return tuple(name for name in dict.fromkeys((host.machine, *host.place.hosts())) if is_host(name))


def _with_finding(finding: SshFinding, known: Host | None, now: datetime) -> Host | None:
    """Return the machine as it will be on record, once what was found is recorded."""
    host, found = known, finding.host
    if found is None:
        return host
    if found.place is not None:
        host = described(host, found.machine, placed(host, found.place, found.how))
    for key in found.keys:
        host = with_key(host, found.machine, HostKey(key, found.how, found.detail, now))
    return host


def _ways(host: Host | None, key: SshKey, rules: Rules) -> frozenset[How]:
    """Return how a key is known, as far as that counts today."""
    keys = host.keys if host is not None else ()
    return frozenset(each.how for each in keys if each.key == key) & rules.ssh.evidence


def _against_names(machine: str, rules: Rules, wished: tuple[str, ...], entitled: tuple[str, ...]) -> Iterator[str]:
    if machine in rules.reserved:
        yield f"{machine!r} is the registrar's own name"
    if not entitled:
        yield f"there is no name for {machine!r} that a certificate can hold"
    if beyond := [name for name in wished if name not in entitled]:
        yield f"not entitled to the names {', '.join(beyond)} (only {', '.join(entitled) or 'none'})"
    if len(wished) > MAX_PRINCIPALS:
        yield f"{len(wished)} names, at most {MAX_PRINCIPALS} are allowed"


def _against_key(key: SshKey, host: Host | None, ways: frozenset[How], rules: Rules) -> Iterator[str]:
    """Give every reason against certifying a key that is known in these ways."""
    if key.algorithm not in CERTIFICATES:
        yield f"{key.fingerprint} ({key.algorithm}) is of a type that is not certified"
    if host is None or key not in host.current:
        yield f"{key.fingerprint} is not a host key that is known"
        return
    if not ways:
        yield f"{key.fingerprint} is known by nothing that counts as evidence here ([ssh] evidence)"
        return
    said, least = f"{key.fingerprint} is known by {_list(ways)} only", rules.ssh.accept
    if max(how.grade for how in ways) < least:
        yield f"{said}; needed: what is {least.name.lower()} at least ([ssh] accept)"
    require = rules.ssh.certificates.require
    if require and not any(alternative <= ways for alternative in require):
        yield f"{said}; needed: {', or '.join(map(_list, require))}"


def _against_past(
    keys: tuple[SshKey, ...], host: Host | None, rules: Rules, previous: Previously, now: datetime
) -> Iterator[str]:
    """Give every reason in what became of the last certificates of these keys."""
    for key in keys:
        last = previous.certificates.get(key)
        if last is None:
            continue
        if last.revoked_reason in DISTRUST:
            # Else whoever stole the key would have the next one within the minute.
            yield f"certificate {last.serial} of {key.fingerprint} was revoked ({last.revoked_reason}): use another key"
        at = [each.at for each in host.keys if each.key == key] if host is not None else []
        vouched = max(filter(None, (last.leaf.valid_before, previous.introduced_at, *at)))
        if now > vouched + rules.return_within:
            limit = span.written(rules.return_within)
            yield f"certificate {last.serial} of {key.fingerprint} ended over {limit} ago, and nothing came since"


def _against_new_keys(finding: SshFinding, known: Host | None, rules: Rules) -> Iterator[str]:
    """Give every reason against recording what the finding adds."""
    found = finding.host
    if found is None:
        return
    yield from against_host(found, rules, known)
    for key in sorted({each.key for each in known.retired} & set(found.keys)) if known is not None else ():
        yield f"{key.fingerprint} was retired: only an operator brings it back"
    if found.how is How.HOSTKEYS_PROVE and not found.basis:
        yield f"{_fingerprints(found.keys)}: new, and vouched for by no key that is known as proved"


def _against_life(lifetime: timedelta) -> Iterator[str]:
    if lifetime < SHORTEST:
        yield f"a lifetime of {span.written(lifetime)} is under {span.written(SHORTEST)}"


def _evidence(ways: frozenset[How], rules: CertificateRules) -> str:
    """Return in one line on which evidence a key is certified, and how good that is."""
    enough = [alternative for alternative in rules.require if alternative <= ways]
    chosen = max(enough, key=len) if enough else ways
    return f"{'+'.join(sorted(chosen))} {max(how.grade for how in chosen).name.lower()}"


def _list(ways: frozenset[How]) -> str:
    return " and ".join(sorted(ways))


def _fingerprints(keys: tuple[SshKey, ...]) -> str:
    return ", ".join(key.fingerprint for key in keys)
