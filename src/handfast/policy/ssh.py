"""
What SSH certificates hold: a finding, rules and what is known in; a grant, or every reason against it, out.

A host certificate says what the registry says: that this key is that machine's, and what the machine is called. So
evidence is judged where it is recorded (``policy.hosts``), and here only whether what is recorded is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from handfast.core import span
from handfast.core.flow import SshFinding, SshGrant
from handfast.core.hosts import Host, HostKey, How, described, placed, with_key
from handfast.core.records import SshPast
from handfast.core.sshcert import CERTIFICATES, MAX_PRINCIPALS, Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import MAX_KEY_ID, SshLeaf, is_host
from handfast.errors import PolicyRefused
from handfast.policy.hosts import against_host, decide_host
from handfast.policy.rules import SHORTEST, CertificateRules, Rules
from handfast.policy.ssh_users import BACKDATE, decide_user

_NOTHING = SshPast()


def decide_ssh(
    finding: SshFinding,
    rules: Rules,
    *,
    known: Host | None,
    shared: frozenset[str],
    past: Mapping[SshKey, SshPast],
    now: datetime,
) -> SshGrant:
    """
    Return the grant for what was found: one certificate for each key, by the same names.

    ``known`` is the machine as the ledger has it, without what the finding adds, and ``shared`` those of its hosts that
    are not its alone (``core.hosts.shared_hosts``); ``past`` is what became of the keys.

    *Not* decided here, as only the ledger can in its transaction: whether a key is another machine's, or was retired.

    :raises PolicyRefused: with every reason at once, before anything is spent.
    """
    if finding.kind is Kind.USER:
        return decide_user(finding, rules, now=now)
    machine, certificates = finding.subject, rules.ssh.certificates
    host = _with_finding(finding, known, now)
    entitled = principals(host, shared) if host is not None else ()
    wished = tuple(dict.fromkeys(name.lower() for name in finding.wish.principals)) or entitled
    lifetime = min(each for each in (certificates.lifetime, finding.wish.lifetime) if each is not None)
    ways = {key: _ways(host, key, rules) for key in finding.keys}
    reasons = (
        *_against_names(machine, rules, wished, entitled),
        *(reason for key in finding.keys for reason in _against_key(key, host, ways[key], rules)),
        *(reason for key in finding.keys for reason in _against_age(key, host, rules, now)),
        *(reason for key in finding.keys for reason in _against_past(key, host, rules, past.get(key, _NOTHING), now)),
        *_against_new_keys(finding, known, rules),
        *_against_life(lifetime),
    )
    if reasons:
        raise PolicyRefused(reasons, hint=_hint(machine, ways, rules, reasons))
    begin = now.replace(microsecond=0)
    leaves = tuple(
        _leaf(machine, key, wished, begin=begin, life=lifetime, said=_evidence(by, certificates))
        for key, by in ways.items()
    )
    return SshGrant(
        holder=machine,
        kind=Kind.HOST,
        leaves=leaves,
        method=finding.method,
        why=(finding.proof, *(f"{leaf.key.fingerprint}: {leaf.evidence}" for leaf in leaves)),
        host=None if finding.host is None else decide_host(finding.host, rules, known=known),
    )


def principals(host: Host, shared: frozenset[str]) -> tuple[str, ...]:
    """
    Return all that a machine may be called in a certificate.

    What ssh would take for something else is left out, and what leads to others too: a certificate knows no port.
    """
    names = dict.fromkeys((host.machine, *host.place.hosts()))
    return tuple(name for name in names if is_host(name) and name not in shared)


def _leaf(machine: str, key: SshKey, names: tuple[str, ...], *, begin: datetime, life: timedelta, said: str) -> SshLeaf:
    return SshLeaf(
        kind=Kind.HOST,
        key=key,
        key_id=f"host {machine}"[:MAX_KEY_ID],
        principals=names,
        valid_after=begin - BACKDATE,
        valid_before=begin + life,
        evidence=said,
    )


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


def _hint(machine: str, ways: Mapping[SshKey, frozenset[How]], rules: Rules, reasons: tuple[str, ...]) -> str:
    """Return what the machine itself can do, where one way more is all that its keys lack."""
    require = rules.ssh.certificates.require
    short = [by for by in ways.values() if by and require and not any(each <= by for each in require)]
    lacking = {tuple(each - by) for by in short for each in require}
    if len(reasons) == len(short):  # each is about one of these keys, and there are no others
        if (How.SSH_HOSTKEY,) in lacking and How.SSH_HOSTKEY in rules.ssh.evidence:
            return f"on that machine: handfast join --ssh-hostkey URL#PIN --name {machine}"
        if (How.INVITATION,) in lacking:
            return "first join with an invitation: handfast join --ssh"
    return f"see `handfast host show {machine}`"


def _against_age(key: SshKey, host: Host | None, rules: Rules, now: datetime) -> Iterator[str]:
    """Give the reason against a key that is known by what was so at one moment, and has not been repeated for long."""
    counting = rules.ssh.evidence - {How.HOSTKEYS_PROVE}  # what was vouched for rests upon the machine's other keys
    entries = [each for each in host.keys if each.how in counting] if host is not None else []
    grounds = [each for each in entries if each.key == key] or entries
    if not grounds or not all(each.how.momentary for each in grounds):
        return
    last = max((each.at for each in grounds if each.at <= now), default=None)  # a clock may have been ahead
    if last is None or now > last + rules.return_within:
        # An address, or a name, may be somebody else's by now, and the key still signs.
        said, limit = _list(frozenset(each.how for each in grounds)), span.written(rules.return_within)
        yield f"{key.fingerprint} is known by {said} only, which is good for {limit}: show it again"


def _against_past(key: SshKey, host: Host | None, rules: Rules, past: SshPast, now: datetime) -> Iterator[str]:
    """Give every reason in what became of a key's certificates."""
    if past.barred is not None:
        # Else whoever stole the key would have the next one within the minute.
        revoked = f"certificate {past.barred.serial} of {key.fingerprint} was revoked ({past.barred.revoked_reason})"
        yield f"{revoked}: use another key, or an operator retires this one and enters it anew"
    last = past.last
    if last is None:
        return
    ways = [each.at for each in host.keys if each.key == key and each.at <= now] if host is not None else []
    vouched = max(filter(None, (last.leaf.valid_before, past.introduced_at, *ways)))
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
