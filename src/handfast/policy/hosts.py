"""Which SSH host keys are recorded as a machine's: a finding and rules in, a grant or every reason against it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from handfast.core import sshsig
from handfast.core.flow import HostFinding, HostGrant
from handfast.core.hosts import MAX_VOUCHED, Host, How
from handfast.core.names import ip_address
from handfast.core.records import CredentialRecord, Machine
from handfast.core.sshkeys import MAX_KEYS, PROVABLE, SshKey
from handfast.errors import HandfastError, PolicyRefused
from handfast.policy.rules import Rules

MAX_DETAIL = 200  # characters
MAX_SHOWN = 4  # keys, or names, that a reason spells out
MAX_REASON = 400  # characters, of which four names can be more


def decide_host(finding: HostFinding, rules: Rules, *, known: Host | None) -> HostGrant:
    """
    Return what is recorded of a machine, given what is ``known`` of it.

    Weaker evidence than the best there is adds no key and retires none: it may only confirm.

    *Not* decided here, as only the ledger can in its transaction: whether a key is another machine's, or was retired.

    :raises PolicyRefused: with every reason at once, before anything is spent.
    """
    if reasons := tuple(against_host(finding, rules, known)):
        raise PolicyRefused(reasons, hint=f"see `handfast host show {finding.machine}`")
    quiet = finding.how in rules.ssh.certificates.approve  # see ``changes``, which comes before
    return _grant(finding, complete=finding.complete, quiet=quiet)


def _grant(finding: HostFinding, *, complete: bool, quiet: bool) -> HostGrant:
    return HostGrant(
        machine=finding.machine,
        keys=tuple(sorted(set(finding.keys))),
        how=finding.how,
        detail="".join(filter(str.isprintable, finding.detail))[:MAX_DETAIL],
        place=finding.place,
        complete=complete,
        basis=finding.basis,
        quiet=quiet,
    )


def changes(
    finding: HostFinding,
    rules: Rules,
    *,
    known: Host | None,
    others: Mapping[str, Host],
    introduced: Machine | None = None,
    credentials: Iterable[CredentialRecord] = (),
) -> tuple[str, ...]:
    """
    Return, where a person has to look first, what of that which is known these keys and this place would change.

    ``others`` are the living machines that are reached at what the finding claims anew, at whatever port, by how they
    are. ``introduced`` is who has a credential in the machine's name, ``credentials`` are the newest of these. Nothing
    is changed by the first keys of a machine that nobody knows, as something that nobody is reached as; nor by keys for
    which keys that are known vouch.
    """
    if finding.how not in rules.ssh.certificates.approve:
        return ()
    reasons = (
        *_of_keys(finding, known),
        *_of_name(finding, known, introduced, credentials),
        *_new_places(finding, rules, known),
        *_of_places(finding, others),
    )
    return tuple(reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…" for reason in reasons)


def propose(finding: HostFinding, rules: Rules, *, known: Host | None, others: Mapping[str, Host]) -> HostGrant:
    """
    Return what a person is asked about: that these are all the machine's keys, however well it had others.

    :raises PolicyRefused: with every reason that not even a person's yes would lift.
    """
    keys = set(finding.keys)
    retired = {each.key for each in known.retired} & keys if known is not None else set()
    reasons = (
        *_against(finding.machine, finding.how, rules),
        *_against_keys(keys),
        *(f"{key.fingerprint} was retired: only an operator brings it back" for key in sorted(retired)),
        *(f"{name!r} is itself a machine" for name in sorted(others) if others[name].machine == name),
    )
    if reasons:
        raise PolicyRefused(reasons, hint=f"see `handfast host show {finding.machine}`")
    return _grant(finding, complete=True, quiet=False)


def _of_keys(finding: HostFinding, known: Host | None) -> Iterator[str]:
    had = known.current if known is not None else frozenset()
    keys, machine = set(finding.keys), finding.machine
    if known is not None and known.bereft:
        yield f"the host keys of {machine!r} were retired, and it has none"  # of whom is it that someone answers there?
    if not had or (finding.basis and had >= set(finding.basis)):
        return
    if new := keys - had:
        yield f"new keys for {machine!r}: {_few(key.fingerprint for key in sorted(new))}"
    if (gone := had - keys) and (new or finding.complete):
        yield f"keys that {machine!r} has now, and would not have: {_few(key.fingerprint for key in sorted(gone))}"


def _of_name(
    finding: HostFinding, known: Host | None, introduced: Machine | None, credentials: Iterable[CredentialRecord]
) -> Iterator[str]:
    # Who was introduced makes its host keys known by its credential. To answer at its address is less than that; to
    # have another authority's certificate for its name is, where ours came from elsewhere.
    if introduced is None or (known is not None and known.current):
        return
    if finding.how is How.SSH_HOSTKEY or (finding.how is How.X5C and not _only_x5c(introduced, credentials)):
        yield f"{finding.machine!r} holds a credential as {introduced.role!s}, and by that no host keys"


def _only_x5c(introduced: Machine, credentials: Iterable[CredentialRecord]) -> bool:
    """Whether every credential came by x5c, the first one among them: these are the newest, and may not be all."""
    found = list(credentials)
    first = min((each.intended_at for each in found), default=None)
    return first is not None and first <= introduced.introduced_at and all(each.method == How.X5C for each in found)


def _new_places(finding: HostFinding, rules: Rules, known: Host | None) -> Iterator[str]:
    """
    Where evidence is required together, the weakest gives no name to a machine that is known better.

    Its key has the rest already: that would count for names which only the network has said.
    """
    if finding.how is not How.SSH_HOSTKEY or not rules.ssh.certificates.require or finding.place is None:
        return
    if known is None or known.grade is None or known.grade <= finding.how.grade:
        return
    if new := set(finding.place.hosts()) - {known.machine, *known.place.hosts()}:
        yield f"{known.machine!r} would be reached also as {_few(map(repr, sorted(new)))}, by {finding.how.value} alone"


def _of_places(finding: HostFinding, others: Mapping[str, Host]) -> Iterator[str]:
    for machine in sorted({host.machine for host in others.values()} - {finding.machine}):
        taken = sorted(each for each, host in others.items() if host.machine == machine)
        yield f"{machine!r} is reached now as {_few(map(repr, taken))}"


def _few(texts: Iterable[str]) -> str:
    found = list(texts)
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return ", ".join(found[:MAX_SHOWN]) + more


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
    yield from _new_places(finding, rules, known)
    yield from _against_vouched(finding, known)
    had = known.current if known is not None else frozenset()
    yield from _against_keys(set(finding.keys) if finding.complete else had | set(finding.keys))
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


def _against_vouched(finding: HostFinding, known: Host | None) -> Iterator[str]:
    new = set(finding.keys) - (known.current if known is not None else frozenset())
    vouched = new | (known.vouched if known is not None else frozenset())
    if finding.how is How.HOSTKEYS_PROVE and new and len(vouched) > MAX_VOUCHED:
        yield f"{len(vouched)} host keys would rest upon others of the machine alone, at most {MAX_VOUCHED} may"


def _against_keys(keys: AbstractSet[SshKey]) -> Iterator[str]:
    """Give every reason against these being all keys of a machine."""
    if len(keys) > MAX_KEYS:
        yield f"{len(keys)} host keys, at most {MAX_KEYS} are allowed"
    for key in sorted(keys):
        # OpenSSH takes some encodings for one key, which would be two here: one with another owner, or not retired.
        if key.algorithm in PROVABLE and (why := _unfit(key)):
            yield f"{key.fingerprint} ({key.algorithm}) is no fit host key: {why}"


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
