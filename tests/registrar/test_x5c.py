"""Certificates of other authorities in the flow: one key each, no way around the person who looks, and their end."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography import x509 as pyca

from handfast.core.flow import Answer, Channel, Evidence, Wish
from handfast.core.hostproof import HostKeys
from handfast.core.hosts import How
from handfast.core.names import NamePattern
from handfast.core.roles import Role
from handfast.errors import AlreadySpent, NotFound, PolicyRefused, Refused, Waiting
from handfast.introducers import x5c
from handfast.newcomer.x5c import KeyFile
from handfast.policy.rules import Rules
from handfast.registrar.introduce import Registrar
from tests.introducers.x5c_material import DAY, site
from tests.registrar.hosts import believed, check_log, host_of, ssh
from tests.registrar.house import HOUR, NOW, House, Newcomer

THEIRS = site("web1.lan")
RULES = x5c.X5cRules(
    roots=(THEIRS.root.certificate,), roles=frozenset({Role.SERVER}), names=(NamePattern.parse("*.lan"),)
)
METHODS = Rules().methods | {"x5c": frozenset({Role.SERVER})}


@pytest.fixture
def trusting(house: House) -> House:
    """A registrar where x5c is enabled."""
    house.rules = dataclasses.replace(house.rules, methods=METHODS)
    return house


def registrar(house: House, **changes: object) -> Registrar:
    """The flow, with their root."""
    plain = house.registrar()
    half = x5c.X5cIntroducer(dataclasses.replace(RULES, **changes))  # type: ignore[arg-type]
    return dataclasses.replace(plain, introducers={**plain.introducers, "x5c": half})


def join(
    house: House,
    who: Newcomer,
    *,
    leaf: pyca.Certificate = THEIRS.leaf,
    host: HostKeys | None = None,
    role: Role | None = None,
    **changes: object,
) -> Answer:
    """Join with a certificate."""
    body, signed = x5c.present(
        (leaf, THEIRS.ca.certificate),
        KeyFile(THEIRS.key),
        pin=house.authority.pin,
        csr_der=who.csr,
        next_key=who.way_back.public_key().public_bytes_raw(),
        wish=Wish(role),
        nonce=house.context.new_nonce(),
        server_spki=house.tls.spki,
        host=host,
    )
    evidence = Evidence("x5c", body, Channel(house.tls.spki))
    answer = house.introduce(evidence, registrar=registrar(house, **changes))
    house.check_proof(answer, signed)
    return answer


def test_a_certificate_leads_to_a_credential(trusting: House) -> None:
    """For its names, for a day, logged with what was proved."""
    grant = join(trusting, Newcomer()).credential.grant
    assert (grant.machine, grant.role, grant.method) == ("web1.lan", Role.SERVER, "x5c")
    assert grant.names.texts() == ("web1.lan",)
    assert grant.not_after == NOW + DAY
    assert any("it signed with the key of the certificate" in each for each in grant.why)


def test_it_is_off_unless_it_is_enabled(house: House) -> None:
    """A registrar that nobody has told so takes no other authority's word."""
    with pytest.raises(NotFound, match="no introduction method 'x5c' here"):
        join(house, Newcomer())


def test_only_the_configured_role_is_given(trusting: House) -> None:
    """A certificate says nothing of roles."""
    with pytest.raises(PolicyRefused, match="role operator is not what"):
        join(trusting, Newcomer(), role=Role.OPERATOR)


def test_P3_P24_the_same_key_may_ask_again_and_another_may_not(trusting: House) -> None:
    """A lost answer costs nothing; a second key with the same certificate is refused, and an alarm."""
    who = Newcomer()
    first = join(trusting, who).credential
    assert join(trusting, who).credential.serial == first.serial
    with pytest.raises(AlreadySpent):
        join(trusting, Newcomer())
    assert [event.subject for event in trusting.ledger.events(kind_prefix="alarm.")] == ["web1.lan"]


def test_a_machine_that_lost_its_key_gets_a_new_certificate(trusting: House) -> None:
    """From its own authority, which is what would be asked for again; no operator of ours is needed."""
    join(trusting, Newcomer())
    renewed = THEIRS.ca.leaf(THEIRS.key, "web1.lan", serial=7)
    assert join(trusting, Newcomer(), leaf=renewed).credential.grant.machine == "web1.lan"


def test_the_end_of_the_certificate_counts_where_that_is_said(trusting: House) -> None:
    """``cut``: an hour is left, and an hour is given; when next to nothing is left, nothing is."""
    leaf = THEIRS.ca.leaf(THEIRS.key, "web1.lan", end=NOW + HOUR)
    assert join(trusting, Newcomer(), leaf=leaf, cut=True).credential.grant.not_after == NOW + HOUR
    short = THEIRS.ca.leaf(THEIRS.key, "web1.lan", end=NOW + timedelta(seconds=30))
    with pytest.raises(PolicyRefused, match="a lifetime of 30s is under 1m"):
        join(trusting, Newcomer(), leaf=short, cut=True)
    assert join(trusting, Newcomer(), leaf=short).credential.grant.not_after == NOW + DAY


def test_the_name_of_the_registrar_is_nobodys(trusting: House) -> None:
    """Whatever another authority certifies."""
    trusting.rules = dataclasses.replace(trusting.rules, reserved=frozenset({"web1.lan"}))
    with pytest.raises(PolicyRefused, match="is the registrar's own name"):
        join(trusting, Newcomer())


def test_P14_first_host_keys_are_believed(trusting: House) -> None:
    """Of a machine that nobody knows, as of every other method."""
    join(trusting, Newcomer(), host=ssh(1))
    assert believed(trusting) == {1}
    assert {each.how for each in host_of(trusting).keys} == {How.X5C}


def test_P14_other_host_keys_wait_for_a_person(trusting: House) -> None:
    """Who has stolen a web server's key is not its sshd for that."""
    trusting.join(trusting.invite(), Newcomer(), host=ssh(1))
    thief = Newcomer()
    with pytest.raises(Waiting, match="a person has to approve"):
        join(trusting, thief, host=ssh(2))
    assert believed(trusting) == {1}
    [asked] = trusting.ledger.approvals()
    trusting.ledger.approve(asked.approval_id, by="anna", reason="new board", at=NOW).result()
    join(trusting, thief, host=ssh(2))
    assert believed(trusting) == {2}
    assert {each.how for each in host_of(trusting).keys} == {How.X5C}
    check_log(trusting)


def test_P14_renewing_is_no_way_around_that_person(trusting: House) -> None:
    """Who leaves his host keys away when he comes with a certificate cannot bring them when he renews or returns."""
    trusting.join(trusting.invite(), Newcomer(), host=ssh(1))
    thief, next_thief, last = Newcomer(), Newcomer(), Newcomer()
    serial = join(trusting, thief).credential.serial
    with pytest.raises(Refused, match="its credential does not vouch for them"):
        trusting.introduce(trusting.renewing(thief, serial, next_thief, host=ssh(2)))
    serial = trusting.introduce(trusting.renewing(thief, serial, next_thief)).credential.serial
    with pytest.raises(Refused, match="its credential does not vouch for them"):
        trusting.introduce(trusting.renewing(next_thief, serial, last, host=ssh(2)))
    trusting.clock.time = NOW + 2 * DAY
    with pytest.raises(Refused, match="its credential does not vouch for them"):
        trusting.introduce(trusting.returning(next_thief, serial, last, host=ssh(2)))
    assert believed(trusting) == {1}


def test_a_name_that_is_another_machines_waits_for_a_person(trusting: House) -> None:
    """A certificate for a name that somebody else is reached as does not move it by itself."""
    trusting.join(trusting.invite("lb.lan", sans=("lb.lan", "web1.lan")), Newcomer(), host=ssh(1))
    with pytest.raises(Waiting, match="a person has to approve"):
        join(trusting, Newcomer(), host=ssh(2))
    assert trusting.ledger.host("web1.lan") is None
    assert believed(trusting, "lb.lan") == {1}
