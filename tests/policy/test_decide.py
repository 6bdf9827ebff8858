"""Policy narrows, gives every reason at once, and takes emptiness for no."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.flow import Entitlement, Finding, Grant, Once, Wish
from handfast.core.names import IPAddress, Names, ip_address, network
from handfast.core.roles import GRANTABLE, Role, spiffe_id
from handfast.core.x509 import BACKDATE
from handfast.errors import PolicyRefused
from handfast.policy.decide import decide, serving
from handfast.policy.rules import MOST_RENEWALS, SHORTEST, Rules

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DOMAIN = "abc.handfast"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NAMES = Names.parse(["web1.lan", "10.0.0.7"])
ROLES = st.sampled_from(sorted(Role))
NAME_SETS = st.lists(st.sampled_from(["a.lan", "b.lan", "c.lan", "10.0.0.1", "fd00::1"])).map(Names.parse)
SPANS = st.timedeltas(timedelta(seconds=1), timedelta(days=400))


def finding(entitlement: dict[str, Any] | None = None, wish: Wish = Wish(), **changes: Any) -> Finding:  # noqa: B008
    """An honest server's finding, with changes."""
    base: dict[str, Any] = {"machine": "web1.lan", "roles": frozenset({Role.SERVER}), "names": NAMES}
    whole = Finding(
        method="invitation",
        public_key=b"spki",
        entitlement=Entitlement(**(base | (entitlement or {}))),
        wish=wish,
        once=Once("invitation:00"),
        proof="it signed with the key of invitation 00",
        transcript=b"t",
        reintroduction_key=b"r" * 32,
    )
    return dataclasses.replace(whole, **changes)


@dataclass
class Ca:
    """A ``core.ports.Issuer``."""

    trust_domain: str = DOMAIN
    not_before: datetime = NOW - 400 * DAY
    not_after: datetime = NOW + 4000 * DAY
    outside: tuple[str, ...] = ()

    def excluded(self, names: Names) -> tuple[str, ...]:
        """Those that it may not certify."""
        return tuple(name for name in names.texts() if name in self.outside)


def decided(
    what: Finding,
    rules: Rules | None = None,
    *,
    source: str | None = "10.0.0.7",
    ca: Ca | None = None,
    located: tuple[str, ...] = (),
) -> Grant:
    """The decision at NOW."""
    address: IPAddress | None = None if source is None else ip_address(source)
    found = Names.parse(located)
    return decide(what, rules or Rules(), issuer=ca or Ca(), source=address, now=NOW, located=found)


def reasons(
    what: Finding, rules: Rules | None = None, *, source: str | None = "10.0.0.7", located: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Why it is refused."""
    with pytest.raises(PolicyRefused) as caught:
        decided(what, rules, source=source, located=located)
    assert caught.value.hint
    assert caught.value.message == "; ".join(caught.value.reasons)
    return caught.value.reasons


def test_the_grant_is_the_whole_content() -> None:
    """Without wishes the newcomer gets what it is entitled to, and the grant says why."""
    assert decided(finding()) == Grant(
        machine="web1.lan",
        role=Role.SERVER,
        spiffe_id=spiffe_id(DOMAIN, Role.SERVER, "web1.lan"),
        names=NAMES,
        public_key=b"spki",
        not_before=NOW - BACKDATE,
        not_after=NOW + DAY,
        method="invitation",
        why=("it signed with the key of invitation 00", "policy allows invitation to lead to role server"),
        reintroduction_key=b"r" * 32,
    )


def test_P3_a_line_of_renewals_has_a_limit() -> None:
    """A few in a short time are a person's; more is refused, beside every other reason."""
    assert decided(finding(renewals=MOST_RENEWALS - 1)) == decided(finding())
    assert reasons(finding(renewals=MOST_RENEWALS)) == ("renewed 10 times within a 24th of its life",)
    assert len(reasons(finding(wish=Wish(Role.CLIENT), renewals=MOST_RENEWALS))) == 2


def test_a_wish_narrows() -> None:
    """Fewer names, one of several roles, a shorter life."""
    wish = Wish(Role.CLIENT, Names.parse(["web1.lan"]), HOUR)
    grant = decided(finding({"roles": frozenset({Role.SERVER, Role.CLIENT})}, wish))
    assert (grant.role, grant.names.texts(), grant.not_after) == (Role.CLIENT, ("web1.lan",), NOW + HOUR)


def test_a_longer_life_is_not_granted() -> None:
    """A wish for more time gets what the rules give."""
    assert decided(finding(wish=Wish(lifetime=DAY * 400))).not_after == NOW + DAY


def test_lifetimes_are_per_role() -> None:
    """A role's own figure counts before the general one."""
    rules = Rules(lifetimes={Role.SERVER: HOUR})
    assert decided(finding(), rules).not_after == NOW + HOUR
    assert decided(finding({"roles": frozenset({Role.CLIENT})}), rules).not_after == NOW + DAY


def test_one_of_several_roles_has_to_be_chosen() -> None:
    """Nothing is picked for the newcomer."""
    (reason,) = reasons(finding({"roles": frozenset({Role.SERVER, Role.CLIENT})}))
    assert reason == "'web1.lan' may be one of client, server: say which"


def test_another_role_is_refused() -> None:
    """An invitation for a server makes no operator."""
    (reason,) = reasons(finding(wish=Wish(Role.OPERATOR)))
    assert reason == "role operator is not what 'web1.lan' was introduced for (server)"


@pytest.mark.parametrize("entitled", [frozenset({Role.REGISTRAR}), frozenset(Role)])
def test_nobody_becomes_a_registrar(entitled: frozenset[Role]) -> None:
    """Not by evidence that says so, not by a wish, not by a rule that says so."""
    rules = Rules(methods={"invitation": frozenset(Role)})
    assert "does not lead to role registrar" in reasons(finding({"roles": entitled}, Wish(Role.REGISTRAR)), rules)[0]


def test_only_the_registrar_itself_is_a_registrar() -> None:
    """Its own grant says that no method led to it."""
    grant = serving(machine="registrar", names=Names(), public_key=b"k", rules=Rules(), issuer=Ca(), now=NOW)
    assert (grant.role, grant.method) == (Role.REGISTRAR, "self")
    assert (grant.not_before, grant.not_after) == (NOW - BACKDATE, NOW + DAY)
    assert grant.reintroduction_key is None


def test_a_name_beyond_is_refused_by_name() -> None:
    """Each one that is too much is named; suffixes and parents do not count."""
    wish = Wish(names=Names.parse(["web1.lan", "lan", "x.web1.lan", "10.0.0.8"]))
    (reason,) = reasons(finding(wish=wish))
    assert reason == "not entitled to the names lan, x.web1.lan, 10.0.0.8 (only web1.lan, 10.0.0.7)"


def test_what_the_authority_may_not_certify_is_refused_before_it_is_spent() -> None:
    """A name outside the name constraints is named; a wish that leaves it out is granted."""
    with pytest.raises(PolicyRefused, match=r"name constraints exclude 10\.0\.0\.7"):
        decided(finding(), ca=Ca(outside=("10.0.0.7",)))
    wish = Wish(names=Names.parse(["web1.lan"]))
    assert decided(finding(wish=wish), ca=Ca(outside=("10.0.0.7",))).names.texts() == ("web1.lan",)


@pytest.mark.parametrize("source", ["10.0.1.1", "fd00::1", "::ffff:10.0.0.7", None])
def test_a_call_from_elsewhere_is_refused(source: str | None) -> None:
    """Another network, the other family, or an unknown source where the invitation names networks."""
    (reason,) = reasons(finding({"sources": (network("10.0.0.0/24"),)}), source=source)
    assert reason.startswith("the call comes from ")
    assert reason.endswith("not from 10.0.0.0/24")


def test_any_of_the_networks_will_do() -> None:
    """Two networks are alternatives; none named means not bound."""
    both = {"sources": (network("192.0.2.0/24"), network("10.0.0.0/24"))}
    assert decided(finding(both)).machine == "web1.lan"
    assert decided(finding({"sources": None}), source=None).machine == "web1.lan"


def test_who_comes_back_too_late_is_refused() -> None:
    """The limit is inclusive, and counts from the end of the credential."""
    rules = Rules(return_within=DAY)
    assert decided(finding(expired_at=NOW - DAY), rules).not_after == NOW + DAY
    (reason,) = reasons(finding(expired_at=NOW - DAY - timedelta(seconds=1)), rules)
    assert reason == "its credential ended at 2026-11-21 11:59Z, over 1d ago"


@pytest.mark.parametrize("lifetime", [timedelta(0), -DAY, SHORTEST - timedelta(seconds=1)])
def test_a_life_that_is_over_at_once_is_refused(lifetime: timedelta) -> None:
    """Zero is not unlimited, and negative is not clever."""
    (reason,) = reasons(finding(wish=Wish(lifetime=lifetime)))
    assert "is under" in reason
    assert "is under" in reasons(finding(), Rules(lifetime=lifetime))[0]


def test_a_credential_does_not_outlive_its_issuer() -> None:
    """Nor begin before it; and one that would be over at once is refused before anything is spent."""
    grant = decided(finding(), ca=Ca(not_before=NOW, not_after=NOW + HOUR))
    assert (grant.not_before, grant.not_after) == (NOW, NOW + HOUR)
    for left in (timedelta(seconds=59), timedelta(0), -DAY):
        with pytest.raises(PolicyRefused, match="the issuing CA ends at"):
            decided(finding(), ca=Ca(not_after=NOW + left))


def test_every_reason_is_given_at_once() -> None:
    """Who has six mistakes learns of six."""
    wish = Wish(Role.OPERATOR, Names.parse(["other.lan"]), timedelta(seconds=1))
    what = finding({"sources": (network("192.0.2.0/24"),)}, wish, method="parchment", expired_at=NOW - DAY * 400)
    found = reasons(what)
    expected = (
        "role operator is not",
        "method 'parchment' is not enabled",
        "not entitled to the names other.lan",
        "the call comes from",
        "its credential ended",
        "a lifetime of 1s",
    )
    assert len(found) == len(expected)
    for reason, start in zip(found, expected, strict=True):
        assert reason.startswith(start)


# Rule 8: empty means no.


@pytest.mark.parametrize("methods", [{}, {"invitation": frozenset()}, {"renewal": GRANTABLE}])
def test_no_methods_enable_nothing(methods: dict[str, frozenset[Role]]) -> None:
    """No rules, an empty rule and a rule for another method are the same: no."""
    assert reasons(finding(), Rules(methods=methods)) == ("method 'invitation' is not enabled",)


def test_no_roles_are_no_role() -> None:
    """Evidence that entitles to nothing leads to nothing, with and without a wish."""
    assert "may be one of nothing" in reasons(finding({"roles": frozenset()}))[0]
    assert "introduced for (nothing)" in reasons(finding({"roles": frozenset()}, Wish(Role.SERVER)))[0]


def test_no_names_are_no_name() -> None:
    """Without names to be entitled to every wish is beyond, and no wish gets none."""
    assert "not entitled to the names web1.lan" in reasons(finding({"names": Names()}, Wish(names=NAMES)))[0]
    assert decided(finding({"names": Names()})).names == Names()


def test_no_networks_are_nowhere() -> None:
    """An empty list of networks allows no call; it is not the same as not being bound."""
    assert reasons(finding({"sources": ()})) == ("the call comes from 10.0.0.7, and no network at all is allowed",)


def test_no_method_leads_to_more_than_its_roles() -> None:
    """A method that is enabled for clients makes no servers."""
    rules = Rules(methods={"invitation": frozenset({Role.CLIENT})})
    assert reasons(finding(), rules) == ("method 'invitation' does not lead to role server",)


def test_the_defaults_enable_the_three_methods_and_never_the_registrar() -> None:
    """What a registrar without configuration grants; an operator's old backup does not come back."""
    back = GRANTABLE - {Role.OPERATOR}
    assert Rules().methods == {"invitation": GRANTABLE, "renewal": GRANTABLE, "reintroduction": back}
    assert (Rules().lifetime, Rules().return_within, BACKDATE) == (DAY, timedelta(days=30), HOUR)


@given(
    st.frozensets(ROLES),
    NAME_SETS,
    st.none() | ROLES,
    NAME_SETS,
    st.none() | SPANS,
    st.dictionaries(st.sampled_from(["invitation", "renewal"]), st.frozensets(ROLES)),
    SPANS,
    st.none() | st.lists(st.sampled_from(["10.0.0.0/24", "fd00::/64"])).map(lambda n: tuple(map(network, n))),
    st.none() | st.sampled_from(["10.0.0.7", "fd00::7", "192.0.2.1"]),
)
def test_a_grant_is_never_more_than_anybody_allowed(
    roles: frozenset[Role],
    names: Names,
    role: Role | None,
    wished: Names,
    lifetime: timedelta | None,
    methods: dict[str, frozenset[Role]],
    longest: timedelta,
    sources: tuple[Any, ...] | None,
    source: str | None,
) -> None:
    """Whatever is found, wished and ruled: a grant lies within all three, or there is none."""
    rules = Rules(methods=methods, lifetime=longest)
    what = finding({"roles": roles, "names": names, "sources": sources}, Wish(role, wished, lifetime))
    try:
        grant = decided(what, rules, source=source)
    except PolicyRefused:
        return
    assert grant.role in roles & methods["invitation"] & GRANTABLE
    assert role in {None, grant.role}
    assert grant.names.beyond(names) == ()
    assert not wished or grant.names == wished
    assert SHORTEST <= grant.not_after - NOW <= min(longest, lifetime or longest)
    assert grant.not_before == NOW - BACKDATE
    assert grant.public_key == what.public_key
    assert grant.machine == what.entitlement.machine
    if sources is not None:
        assert source is not None
        assert any(ip_address(source) in net for net in sources)


def test_the_registrars_own_name_is_nobody_elses() -> None:
    """Whatever a method proves: a credential of that name would speak for the registrar in lists and logs."""
    found = reasons(finding(), rules=Rules(reserved=frozenset({"web1.lan"})))
    assert found == ("'web1.lan' is the registrar's own name",)
