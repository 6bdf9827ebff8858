"""What a host's SSH certificate holds: what the registry says, as far as the rules of today let it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from handfast.core.flow import HostFinding, SshFinding, SshGrant, SshWish
from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey
from handfast.core.records import DISTRUST, REASONS, SshPast, SshRecord
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf
from handfast.core.sshoptions import UNLIMITED
from handfast.errors import PolicyRefused
from handfast.policy.rules import CertificateRules, HostRules, Rules
from handfast.policy.ssh import decide_ssh, principals
from tests.core.sshmaterial import key as made_of
from tests.registrar.hosts import signer

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
PLACE = Place.parse(["web1.lan", "www.lan", "10.0.0.7", "2001:db8::7"], aliases=["w1"], ports=(22, 2222))
NAMES = ("web1", "w1", "web1.lan", "www.lan", "10.0.0.7", "2001:db8::7")
Past = Mapping[SshKey, SshPast]
NEVER: Past = {}


def key(number: int) -> SshKey:
    """A key of the machine."""
    return signer(number).public


def known(keys: dict[int, tuple[How, ...]]) -> Host:
    """A machine and how its keys are known."""
    entries = tuple(
        HostKey(key(number), how, "", NOW - (9 if how.momentary else 90) * DAY)
        for number, ways in keys.items()
        for how in ways
    )
    return Host("web1", PLACE, entries)


BY_INVITATION = known({1: (How.INVITATION,)})


def found(*numbers: int, wish: SshWish = SshWish(), host: HostFinding | None = None) -> SshFinding:  # noqa: B008
    """What an introducer concluded."""
    return SshFinding(
        method="ssh-pop",
        kind=Kind.HOST,
        holder="web1",
        keys=tuple(map(key, numbers)),
        wish=wish,
        once=None,
        proof="a test",
        transcript=b"",
        host=host,
    )


def rules(*require: frozenset[How], accept: Grade = Grade.CHALLENGED, evidence: frozenset[How] | None = None) -> Rules:
    """Rules with these alternatives."""
    certificates = CertificateRules(require=require)
    ways = HostRules().evidence if evidence is None else evidence
    return Rules(reserved=frozenset({"home"}), ssh=HostRules(ways, accept, certificates=certificates))


def decide(
    finding: SshFinding,
    host: Host | None = BY_INVITATION,
    ruled: Rules | None = None,
    past: Past = NEVER,
    shared: frozenset[str] = frozenset(),
) -> SshGrant:
    """Decide now."""
    return decide_ssh(finding, ruled or rules(), known=host, shared=shared, past=past, now=NOW)


def reasons(
    finding: SshFinding,
    host: Host | None = BY_INVITATION,
    ruled: Rules | None = None,
    past: Past = NEVER,
    hint: str = "see `handfast host show web1`",
) -> tuple[str, ...]:
    """Why it is refused."""
    with pytest.raises(PolicyRefused) as caught:
        decide(finding, host, ruled, past)
    assert caught.value.hint == hint
    return caught.value.reasons


def barred(number: int, reason: str) -> Past:
    """Somebody has revoked one, and nobody has lifted that."""
    return {key(number): SshPast(barred=certificate(number, revoked=reason))}


def certificate(number: int, end: datetime = NOW + DAY, revoked: str | None = None) -> SshRecord:
    """What a key had before."""
    leaf = SshLeaf(
        kind=Kind.HOST,
        key=key(number),
        key_id="host web1",
        principals=("web1",),
        valid_after=end - 7 * DAY,
        valid_before=end,
    )
    return SshRecord(
        4711, "web1", leaf, "ssh-pop", NOW, (), b"", NOW, revoked_at=NOW if revoked else None, revoked_reason=revoked
    )


def before(number: int, end: datetime = NOW + DAY, introduced_at: datetime | None = None) -> Past:
    """It had a certificate until then."""
    return {key(number): SshPast(certificate(number, end), introduced_at=introduced_at)}


def test_it_says_what_the_registry_says() -> None:
    """Each key has one certificate: the machine's name, aliases, names and addresses, and nothing else."""
    grant = decide(found(1, 2), known({1: (How.INVITATION, How.RENEWAL), 2: (How.OPERATOR,)}))
    assert (grant.holder, grant.kind, grant.method, grant.host) == ("web1", Kind.HOST, "ssh-pop", None)
    assert [leaf.key for leaf in grant.leaves] == [key(1), key(2)]
    for leaf in grant.leaves:
        assert (leaf.kind, leaf.key_id, leaf.principals) == (Kind.HOST, "host web1", NAMES)
        assert (leaf.critical, leaf.permits) == (UNLIMITED, frozenset())
    assert [leaf.evidence for leaf in grant.leaves] == ["invitation+renewal proved", "operator reported"]
    assert grant.why == (
        "a test",
        f"{key(1).fingerprint}: invitation+renewal proved",
        f"{key(2).fingerprint}: operator reported",
    )


def test_it_begins_a_little_before_now_and_ends_after_its_lifetime() -> None:
    """In whole seconds, for clocks that are behind; seven days where nothing else is set, less where it is wished."""
    (leaf,) = decide(found(1)).leaves
    start = NOW.replace(microsecond=0)
    assert (leaf.valid_after, leaf.valid_before) == (start - timedelta(minutes=5), start + 7 * DAY)
    for wished, got in ((DAY, DAY), (30 * DAY, 7 * DAY)):
        (leaf,) = decide(found(1, wish=SshWish(lifetime=wished))).leaves
        assert leaf.valid_before == start + got
    for short in (0, 59):
        wish = SshWish(lifetime=timedelta(seconds=short))
        assert reasons(found(1, wish=wish)) == (f"a lifetime of {short}s is under 1m",)


def test_a_wish_narrows_and_never_widens() -> None:
    """Fewer of the machine's names, in lower case; another one is refused, and which ones there are is said."""
    (leaf,) = decide(found(1, wish=SshWish(("WWW.lan", "10.0.0.7", "www.lan")))).leaves
    assert leaf.principals == ("www.lan", "10.0.0.7")
    (reason,) = reasons(found(1, wish=SshWish(("www.lan", "db1.lan", "*"))))
    assert reason == f"not entitled to the names db1.lan, * (only {', '.join(NAMES)})"


def test_P17_what_leads_to_others_too_is_left_out() -> None:
    """A certificate has no port: a host that is shared is no name to wish for either."""
    shared = frozenset({"www.lan", "10.0.0.7"})
    (leaf,) = decide(found(1), shared=shared).leaves
    assert leaf.principals == tuple(name for name in NAMES if name not in shared)
    with pytest.raises(PolicyRefused, match=r"not entitled to the names www\.lan"):
        decide(found(1, wish=SshWish(("www.lan",))), shared=shared)


def test_what_ssh_would_read_otherwise_is_left_out() -> None:
    """A name that ends in a number is an address to the C library; with no other there is no certificate."""
    odd = dataclasses.replace(BY_INVITATION, machine="rack.7")
    assert principals(odd, frozenset()) == NAMES[1:]
    bare = dataclasses.replace(odd, place=Place())
    assert "there is no name for 'rack.7' that a certificate can hold" in refused_as("rack.7", bare)


def refused_as(machine: str, host: Host) -> tuple[str, ...]:
    """Why a machine of this name gets none."""
    with pytest.raises(PolicyRefused) as caught:
        decide(dataclasses.replace(found(1), holder=machine), host)
    return caught.value.reasons


def test_the_registrar_certifies_nobody_under_its_own_name() -> None:
    """Whatever the registry says."""
    home = dataclasses.replace(BY_INVITATION, machine="home")
    assert refused_as("home", home) == ("'home' is the registrar's own name",)


def test_only_a_key_that_is_the_machine_s_now() -> None:
    """Neither an unknown one, nor one that was retired, nor one of a machine that was removed or never there."""
    unknown = f"{key(2).fingerprint} is not a host key that is known"
    assert reasons(found(1, 2)) == (unknown,)
    gone = dataclasses.replace(BY_INVITATION, retired=(RetiredKey(key(2), NOW, "stolen"),))
    assert reasons(found(2), gone) == (unknown,)
    assert unknown in reasons(found(2), Host("web1", Place(), (), (RetiredKey(key(2), NOW, "gone"),)))
    assert unknown in reasons(found(2), None)


@pytest.mark.parametrize(
    ("ways", "accept", "needed"),
    [
        ((How.SSH_HOSTKEY,), Grade.REPORTED, "reported"),
        ((How.SCAN,), Grade.CHALLENGED, "challenged"),
        ((How.OPERATOR, How.SCAN), Grade.PROVED, "proved"),
    ],
)
def test_what_is_known_less_well_than_accepted_is_not_certified(
    ways: tuple[How, ...], accept: Grade, needed: str
) -> None:
    """As nobody is told to believe it."""
    ruled = rules(accept=accept, evidence=frozenset(How))
    said = " and ".join(sorted(ways))
    assert reasons(found(1), known({1: ways}), ruled) == (
        f"{key(1).fingerprint} is known by {said} only; needed: what is {needed} at least ([ssh] accept)",
    )


def test_what_does_not_count_any_more_is_no_evidence() -> None:
    """The rules of today judge what was recorded under those of yesterday."""
    host = known({1: (How.SSH_HOSTKEY,)})
    assert decide(found(1), host, rules(evidence=frozenset(How))).leaves
    assert reasons(found(1), host) == (
        f"{key(1).fingerprint} is known by nothing that counts as evidence here ([ssh] evidence)",
    )


BOTH = frozenset({How.INVITATION, How.SSH_HOSTKEY})
EVERY = frozenset(How)


def test_evidence_combined_is_known_in_every_way_of_one_alternative() -> None:
    """Invitation and host key, or another authority's certificate; one alone is refused: what is missing is said."""
    ruled = rules(BOTH, frozenset({How.X5C}), evidence=EVERY)
    half, whole, other = (
        known({1: ways})
        for ways in ((How.INVITATION, How.RENEWAL), (How.INVITATION, How.RENEWAL, How.SSH_HOSTKEY), (How.X5C,))
    )
    again = "on that machine: handfast join --ssh-hostkey URL#PIN --name web1"
    assert reasons(found(1), half, ruled, hint=again) == (
        f"{key(1).fingerprint} is known by invitation and renewal only; needed: invitation and ssh-hostkey, or x5c",
    )
    assert decide(found(1), whole, ruled).leaves[0].evidence == "invitation+ssh-hostkey proved"
    assert decide(found(1), other, ruled).leaves[0].evidence == "x5c proved"
    apart = known({1: (How.INVITATION,), 2: (How.SSH_HOSTKEY,)})
    assert len(reasons(found(1, 2), apart, ruled, hint=again)) == 2  # of one key each way is no key known both ways


def test_what_the_finding_adds_counts_with_what_is_known() -> None:
    """The second evidence completes the first in one request, and is recorded with it."""
    second = HostFinding("web1", (key(1),), How.SSH_HOSTKEY, "seen", place=PLACE, complete=False)
    grant = decide(found(1, host=second), BY_INVITATION, rules(BOTH, evidence=EVERY))
    assert grant.leaves[0].evidence == "invitation+ssh-hostkey proved"
    assert grant.host is not None
    assert (grant.host.keys, grant.host.how, grant.host.place) == ((key(1),), How.SSH_HOSTKEY, PLACE)
    assert reasons(found(1, host=second), BY_INVITATION, rules(BOTH)) == (
        f"{key(1).fingerprint} is known by invitation only; needed: invitation and ssh-hostkey",
        "'ssh-hostkey' does not count as evidence of a host key here ([ssh] evidence)",
    )


def test_a_machine_nobody_knew_is_called_as_its_evidence_says() -> None:
    """Its first evidence says where it is."""
    first = HostFinding("web1", (key(1),), How.SSH_HOSTKEY, "seen", place=PLACE)
    (leaf,) = decide(found(1, host=first), None, rules(evidence=EVERY)).leaves
    assert (leaf.principals, leaf.evidence) == (NAMES, "ssh-hostkey challenged")


def vouched(*numbers: int, by: tuple[int, ...] = (1,)) -> HostFinding:
    """New keys, and which known ones vouch for them."""
    basis = tuple(map(key, by))
    return HostFinding("web1", tuple(map(key, numbers)), How.HOSTKEYS_PROVE, "", complete=False, basis=basis)


def test_a_key_may_vouch_for_a_new_one() -> None:
    """It is recorded as proved over a known one, on which it rests."""
    grant = decide(found(1, 2, host=vouched(2)))
    assert [leaf.evidence for leaf in grant.leaves] == ["invitation proved", "hostkeys-prove proved"]
    assert grant.host is not None
    assert (grant.host.keys, grant.host.basis, grant.host.complete) == ((key(2),), (key(1),), False)


def test_a_new_key_is_not_what_its_voucher_is() -> None:
    """Where an invitation is required, a key that one with an invitation vouches for has none."""
    hint = "first join with an invitation: handfast join --ssh"
    assert reasons(found(1, 2, host=vouched(2)), ruled=rules(frozenset({How.INVITATION})), hint=hint) == (
        f"{key(2).fingerprint} is known by hostkeys-prove only; needed: invitation",
    )


def test_a_key_known_by_report_alone_vouches_for_none() -> None:
    """Somebody's word for one key is not a word for the next."""
    host = known({1: (How.OPERATOR,)})
    assert f"{key(2).fingerprint}: new, and vouched for by no key that is known as proved" in reasons(
        found(1, 2, host=vouched(2, by=())), host
    )


def test_what_was_retired_does_not_come_back_as_new() -> None:
    """A key that was stolen lies on the machine's disk still: that it signs means nothing."""
    host = dataclasses.replace(BY_INVITATION, retired=(RetiredKey(key(2), NOW, "stolen"),))
    assert reasons(found(1, 2, host=vouched(2)), host) == (
        f"{key(2).fingerprint} was retired: only an operator brings it back",
    )


@pytest.mark.parametrize("reason", sorted(DISTRUST))
def test_P17_a_key_that_is_distrusted_is_not_certified_again(reason: str) -> None:
    """Else whoever stole it would have the next certificate at once."""
    revoked = f"certificate 4711 of {key(1).fingerprint} was revoked ({reason})"
    anew = "use another key, or an operator retires this one and enters it anew"
    assert reasons(found(1), past=barred(1, reason)) == (f"{revoked}: {anew}",)
    assert set(REASONS) - DISTRUST == {"superseded", "affiliationChanged"}


def test_a_key_that_is_not_distrusted_gets_the_next() -> None:
    """Its certificate was taken back for what it said, and not for its key: which one bars it, the ledger says."""
    assert decide(found(1), past={key(1): SshPast(certificate(1, revoked="superseded"))}).leaves


def test_P17_after_its_end_a_certificate_has_a_successor_for_a_while() -> None:
    """As long as credentials have theirs; then only what became known since helps, and not what is yet to come."""
    month = Rules().return_within
    assert decide(found(1), past=before(1, NOW - month)).leaves
    over = NOW - month - timedelta(seconds=1)
    why = (f"certificate 4711 of {key(1).fingerprint} ended over 30d ago, and nothing came since",)
    assert reasons(found(1), past=before(1, over)) == why
    assert decide(found(1), past=before(1, over, NOW - DAY)).leaves
    recent, ahead = (
        dataclasses.replace(BY_INVITATION, keys=(HostKey(key(1), How.OPERATOR, "", at),))
        for at in (NOW - DAY, NOW + DAY)
    )
    assert decide(found(1), recent, past=before(1, over)).leaves
    assert reasons(found(1), ahead, past=before(1, over)) == why


@pytest.mark.parametrize("how", [How.SSH_HOSTKEY, How.X5C])
def test_P17_what_was_so_at_one_moment_is_good_for_a_while(how: How) -> None:
    """The address is another's in a year: by the same evidence again, or by better one, it goes on."""
    ruled, month = rules(evidence=EVERY), Rules().return_within

    def host(*entries: tuple[int, How, datetime]) -> Host:
        return Host("web1", PLACE, tuple(HostKey(key(number), by, "", at) for number, by, at in entries))

    over = NOW - month - timedelta(seconds=1)
    why = f"{key(1).fingerprint} is known by {how} only, which is good for 30d: show it again"
    assert decide(found(1), host((1, how, NOW - month)), ruled).leaves
    assert reasons(found(1), host((1, how, over)), ruled) == (why,)
    assert reasons(found(1), host((1, how, NOW + DAY)), ruled) == (why,)  # a clock was ahead
    assert decide(found(1), host((1, how, over), (1, How.RENEWAL, over)), ruled).leaves
    # A key for which such a key vouched, and one which was only seen besides, are no better.
    assert reasons(found(2), host((1, how, over), (2, How.HOSTKEYS_PROVE, NOW)), ruled) == (
        f"{key(2).fingerprint} is known by {how} only, which is good for 30d: show it again",
    )
    seen = rules(evidence=EVERY - {How.SCAN})
    assert reasons(found(1), host((1, how, over), (1, How.SCAN, over)), seen) == (why,)
    assert decide(found(2), host((1, How.INVITATION, over), (2, How.HOSTKEYS_PROVE, over)), ruled).leaves
    again = HostFinding("web1", (key(1),), how, "seen", place=PLACE, complete=False)
    assert decide(found(1, host=again), host((1, how, over)), ruled).leaves


def test_a_type_that_is_not_certified() -> None:
    """A key that the registry keeps like any other."""
    odd = made_of("ssh-ed448", b"x" * 57)
    host = dataclasses.replace(BY_INVITATION, keys=(HostKey(odd, How.OPERATOR, "", NOW),))
    assert reasons(dataclasses.replace(found(1), keys=(odd,)), host) == (
        f"{odd.fingerprint} (ssh-ed448) is of a type that is not certified",
    )


def test_every_reason_at_once() -> None:
    """Nobody has to come five times."""
    wish = SshWish(("db1.lan",), timedelta(seconds=1))
    finding = found(1, 2, 3, wish=wish, host=vouched(3, by=()))
    got = reasons(finding, ruled=rules(BOTH, accept=Grade.PROVED), past=barred(1, "keyCompromise"))
    assert len(got) == 7
