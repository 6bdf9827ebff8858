"""What a person has to look at before host keys or a place are recorded, and what is refused without a person."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from handfast.core.flow import HostFinding
from handfast.core.hosts import MAX_VOUCHED, Host, HostKey, How, Place, RetiredKey, shared_hosts
from handfast.core.names import Names
from handfast.core.records import CredentialRecord, Machine
from handfast.core.roles import Role
from handfast.errors import PolicyRefused
from handfast.policy.hosts import changes, decide_host
from handfast.policy.rules import CertificateRules, HostRules, Rules
from tests.ledger.material import ssh_key

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BOTH = frozenset({How.INVITATION, How.SSH_HOSTKEY})
EVERY = Rules(ssh=HostRules(evidence=frozenset(How)))
REQUIRED = Rules(ssh=HostRules(evidence=frozenset(How), certificates=CertificateRules(require=(BOTH,))))
PLACE = Place.parse(["web1.lan"])


def host(*ways: tuple[int, How], place: Place = PLACE, retired: tuple[int, ...] = ()) -> Host:
    """A machine with these keys, each known so, one after the other."""
    keys = (HostKey(ssh_key(key), how, "x", NOW + timedelta(seconds=at)) for at, (key, how) in enumerate(ways))
    return Host("web1.lan", place, tuple(keys), tuple(RetiredKey(ssh_key(each), NOW, "stolen") for each in retired))


def found(*keys: int, how: How = How.SSH_HOSTKEY, places: tuple[str, ...] = ("web1.lan",)) -> HostFinding:
    """What an introducer would conclude."""
    basis = (ssh_key(1),) if how is How.HOSTKEYS_PROVE else ()
    return HostFinding("web1.lan", tuple(map(ssh_key, keys)), how, "x", None, Place.parse(places), False, basis)


@pytest.mark.parametrize("how", [How.SSH_HOSTKEY, How.X5C])
def test_P26_a_machine_that_has_lost_all_its_keys_is_asked_about(how: How) -> None:
    """Whoever answers in its place may be the thief of the last one; one that was removed leaves its name."""
    (reason,) = changes(found(2, how=how), EVERY, known=host(retired=(1,)), others={})
    assert reason == "the host keys of 'web1.lan' were retired, and it has none"
    assert changes(found(2, how=how), EVERY, known=host(retired=(1,), place=Place()), others={}) == ()
    assert changes(found(2, how=how), EVERY, known=host(), others={}) == ()  # a place that an operator has prepared


NAMED = found(1, places=("web1.lan", "payroll.corp"))
ALONE = "'web1.lan' would be reached also as 'payroll.corp', by ssh-hostkey alone"


def test_P26_required_evidence_is_required_of_each_name() -> None:
    """The key has the better half already: a name that only the network has said waits for a person."""
    invited = host((1, How.INVITATION))
    assert changes(NAMED, REQUIRED, known=invited, others={}) == (ALONE,)
    assert changes(found(1), REQUIRED, known=invited, others={}) == ()
    assert changes(NAMED, EVERY, known=invited, others={}) == ()
    assert changes(NAMED, REQUIRED, known=host((1, How.SSH_HOSTKEY)), others={}) == ()
    assert changes(NAMED, REQUIRED, known=None, others={}) == ()
    accepted = host((1, How.INVITATION), place=NAMED.place or PLACE)
    assert changes(NAMED, REQUIRED, known=accepted, others={}) == ()
    decide_host(NAMED, REQUIRED, known=accepted)


def test_P26_required_evidence_is_required_where_nobody_is_asked() -> None:
    """Without approvals such a name is refused."""
    certificates = CertificateRules(require=(BOTH,), approve=frozenset())
    rules = Rules(ssh=HostRules(evidence=frozenset(How), certificates=certificates))
    with pytest.raises(PolicyRefused) as caught:
        decide_host(NAMED, rules, known=host((1, How.INVITATION)))
    assert caught.value.reasons == (ALONE,)


MACHINE = Machine("web1.lan", Role.SERVER, NOW)


def credential(method: str, days: int) -> CredentialRecord:
    """One of the machine's."""
    at = NOW + timedelta(days=days)
    return CredentialRecord(days + 9, "web1.lan", Role.SERVER, method, "lan", "m", at, at, Names(), at, ())


HELD = "'web1.lan' holds a credential as server, and by that no host keys"


@pytest.mark.parametrize(
    ("methods", "asked"),
    [
        (["x5c"], False),
        (["x5c", "x5c"], False),
        (["invitation"], True),
        (["invitation", "x5c"], True),  # whoever has the other authority's certificate gets one of ours first
        (["x5c", "renewal"], True),
        ([], True),
    ],
)
def test_P26_x5c_makes_no_keys_known_of_who_came_otherwise(methods: list[str], asked: bool) -> None:
    """Another authority's word for a name is not ours for the machine that we have introduced by that name."""
    credentials = [credential(method, days) for days, method in enumerate(methods)]
    by_x5c = found(2, how=How.X5C)
    reasons = changes(by_x5c, EVERY, known=None, others={}, introduced=MACHINE, credentials=credentials)
    assert reasons == ((HELD,) if asked else ())
    has = host((2, How.INVITATION))
    assert changes(by_x5c, EVERY, known=has, others={}, introduced=MACHINE, credentials=credentials) == ()
    by_challenge = changes(found(2), EVERY, known=None, others={}, introduced=MACHINE, credentials=credentials)
    assert by_challenge == (HELD,)


def test_P26_x5c_and_a_first_credential_that_is_not_shown() -> None:
    """Of many credentials only the newest are looked at: where the first is not among them, a person looks."""
    late = [credential("x5c", 1), credential("x5c", 2)]
    by_x5c = found(2, how=How.X5C)
    assert changes(by_x5c, EVERY, known=None, others={}, introduced=MACHINE, credentials=late) == (HELD,)
    assert changes(by_x5c, EVERY, known=None, others={}) == ()


def test_P15_few_keys_rest_upon_others_alone() -> None:
    """The thief of one key has no more of his own recorded; what is known already may be proved again."""
    most = range(2, 2 + MAX_VOUCHED)
    before = host((1, How.INVITATION), *((key, How.HOSTKEYS_PROVE) for key in most))
    decide_host(found(2, how=How.HOSTKEYS_PROVE), EVERY, known=before)
    with pytest.raises(PolicyRefused) as caught:
        decide_host(found(99, how=How.HOSTKEYS_PROVE), EVERY, known=before)
    assert caught.value.reasons == ("5 host keys would rest upon others of the machine alone, at most 4 may",)
    decide_host(found(99, how=How.INVITATION), EVERY, known=before)


@pytest.mark.parametrize(
    ("ways", "vouched"),
    [
        ([How.HOSTKEYS_PROVE], True),
        ([How.HOSTKEYS_PROVE, How.RENEWAL, How.SSH_HOSTKEY, How.X5C], True),
        ([How.HOSTKEYS_PROVE, How.OPERATOR], False),
        ([How.HOSTKEYS_PROVE, How.INVITATION], False),
        ([How.SSH_HOSTKEY, How.HOSTKEYS_PROVE], False),
    ],
)
def test_what_a_key_rests_upon(ways: list[How], vouched: bool) -> None:
    """Its first way, or an operator's word; of two at one moment the weaker one."""
    made = host(*((1, how) for how in ways))
    assert made.vouched == ({ssh_key(1)} if vouched else frozenset())
    at_once = [dataclasses.replace(each, at=NOW) for each in made.keys]
    strong = {How.OPERATOR, How.INVITATION} & set(ways)
    assert bool(dataclasses.replace(made, keys=tuple(at_once)).vouched) is not bool(strong)


GW = [("gw.lan", "gw"), ("10.0.0.1", "gw")]


@pytest.mark.parametrize(
    ("ports", "reached", "shared"),
    [
        ((22,), [("[gw.lan]:2222", "ci")], set()),
        ((2222,), GW, {"gw.lan", "10.0.0.1"}),
        ((2222,), [("[gw.lan]:2222", "web1.lan")], set()),
        ((2222,), [("[10.0.0.1]:2022", "ci")], {"10.0.0.1"}),
        ((2222, 2223), [("[other.lan]:2222", "ci"), ("[2001:db8::1]:2022", "ci")], {"2001:db8::1"}),
        ((22, 2222), [("[gw.lan]:2022", "ci")], set()),
    ],
)
def test_P17_whose_a_host_is(ports: tuple[int, ...], reached: list[tuple[str, str]], shared: set[str]) -> None:
    """Who is there at port 22, else the only one who is there at all; its own name is a machine's in any case."""
    place = Place.parse(["web1.lan", "gw.lan", "10.0.0.1", "2001:db8::1"], ports=ports)
    assert shared_hosts("web1.lan", place, [*reached, ("web1.lan", "web1.lan")]) == shared
