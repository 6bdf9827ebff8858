"""Which SSH host keys are recorded as a machine's: a finding and rules in, a grant or every reason against it out."""

from __future__ import annotations

from collections.abc import Iterator

from handfast.core import sshsig
from handfast.core.flow import HostFinding, HostGrant
from handfast.core.hosts import Host, How
from handfast.core.names import ip_address
from handfast.core.sshkeys import MAX_KEYS, PROVABLE, SshKey
from handfast.errors import HandfastError, PolicyRefused
from handfast.policy.rules import Rules

MAX_DETAIL = 200  # characters


def decide_host(finding: HostFinding, rules: Rules, *, known: Host | None) -> HostGrant:
    """
    Return what is recorded of a machine, given what is ``known`` of it.

    Weaker evidence than the best there is adds no key and retires none: it may only confirm.

    *Not* decided here, as only the ledger can in its transaction: whether a key is another machine's, or was retired.

    :raises PolicyRefused: with every reason at once, before anything is spent.
    """
    if reasons := tuple(against_host(finding, rules, known)):
        raise PolicyRefused(reasons, hint=f"see `handfast host show {finding.machine}`")
    return HostGrant(
        machine=finding.machine,
        keys=tuple(sorted(set(finding.keys))),
        how=finding.how,
        detail="".join(filter(str.isprintable, finding.detail))[:MAX_DETAIL],
        place=finding.place,
        complete=finding.complete,
        basis=finding.basis,
    )


def expect_host(machine: str, how: How, rules: Rules, *, known: Host | None) -> None:
    """
    Refuse to prepare a machine for a way of making its host keys known by which no new key would be taken.

    Asked before anything is handed out: whoever boots the machine with it would hear of that from a log, if at all.

    :raises PolicyRefused: with every reason.
    """
    reasons = list(_against(machine, how, rules))
    hint = "choose another name, or another way"
    if known is not None and known.grade is not None and known.grade > how.grade:
        reasons.append(f"what is known of {machine!r} was {known.grade.name.lower()}, which {how.value} is not")
        hint = f"if that machine is gone: handfast host remove {machine}"
    if reasons:
        raise PolicyRefused(tuple(reasons), hint=hint)


def _against(machine: str, how: How, rules: Rules) -> Iterator[str]:
    """Give every reason against any keys of a machine that become known so."""
    if machine in rules.reserved:
        yield f"{machine!r} is the registrar's own name"
    if _is_address(machine):
        yield f"{machine!r} is an address: SSH would take the machine for whatever is there"
    if how not in rules.ssh.evidence:
        yield f"{how.value!r} does not count as evidence of a host key here ([ssh] evidence)"


def against_host(finding: HostFinding, rules: Rules, known: Host | None) -> Iterator[str]:
    """Give every reason against believing these keys."""
    yield from _against(finding.machine, finding.how, rules)
    had = known.current if known is not None else frozenset()
    keys = set(finding.keys) if finding.complete else had | set(finding.keys)
    if len(keys) > MAX_KEYS:
        yield f"{len(keys)} host keys, at most {MAX_KEYS} are allowed"
    for key in sorted(keys):
        # OpenSSH takes some encodings for one key, which would be two here: one with another owner, or not retired.
        if key.algorithm in PROVABLE and (why := _unfit(key)):
            yield f"{key.fingerprint} ({key.algorithm}) is no fit host key: {why}"
    best = known.grade if known is not None else None
    if best is not None and known is not None and finding.how.grade < best:
        # An operator takes back what he, or a rotation, has retired: nobody else can.
        old = {each.key for each in known.retired} if finding.how is How.OPERATOR else set()
        for key in sorted(set(finding.keys) - had - old):
            yield (
                f"{key.fingerprint} ({key.algorithm}) is new, and what is known of {finding.machine!r} was"
                f" {best.name.lower()}, which {finding.how.value} is not"
            )
        if finding.complete and (missing := had - set(finding.keys)):
            yield f"{', '.join(sorted(key.fingerprint for key in missing))} is known better than by {finding.how.value}"


def _unfit(key: SshKey) -> str | None:
    try:
        sshsig.load_public(key)
    except HandfastError as error:
        return error.message
    return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
