"""Who may log in as whom: the first rule that fits, narrowed; or every reason against it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.flow import Once, Person, SshFinding, SshGrant, SshWish
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import issue
from handfast.core.sshoptions import Critical, Permit
from handfast.errors import PolicyRefused
from handfast.policy.rules import CertificateRules, HostRules, Own, Rules, UserRule
from handfast.policy.ssh_users import called, decide_user, written
from tests.core.sshmaterial import key as made_of
from tests.core.sshmaterial import signer

NOW = datetime(2026, 11, 22, 12, 0, 0, 500_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = signer().public
TOKEN = made_of("sk-ssh-ed25519@openssh.com", b"\1" * 32, b"ssh:")
ADA = Person("oidc:corp", "248289761001", "ada@example.org", frozenset({"admins", "staff"}))
NOBODY = Person("oidc:corp", "4711")
LAPTOP = Person("operator", "ada-laptop")
FLEET = UserRule(origins=frozenset({"oidc:corp"}), principals=("fleet",))


def decide(
    *rules: UserRule, person: Person = ADA, wish: SshWish | None = None, keys: tuple[SshKey, ...] = (KEY,), **more: Any
) -> SshGrant:
    """What these rules give."""
    finding = SshFinding(
        method="oidc",
        kind=Kind.USER,
        holder=person,
        keys=keys,
        wish=wish or SshWish(),
        once=Once("oidc:0"),
        proof="a proof",
        transcript=b"",
    )
    return decide_user(finding, Rules(ssh=HostRules(certificates=CertificateRules(users=rules, **more))), now=NOW)


def principals(*rules: UserRule, **more: Any) -> tuple[str, ...]:
    """Of the one certificate."""
    (leaf,) = decide(*rules, **more).leaves
    return leaf.principals


def refused(*rules: UserRule, match: str, **more: Any) -> tuple[str, ...]:
    """It is refused; the reasons."""
    with pytest.raises(PolicyRefused, match=match) as caught:
        decide(*rules, **more)
    return caught.value.reasons


def test_the_whole_content() -> None:
    """Every field comes from the rule, and the authority can sign it."""
    rule = replace(
        FLEET,
        critical=Critical("uptime", (ip_network("10.0.0.0/8"),)),
        permits=frozenset({Permit.PTY, Permit.PORT_FORWARDING}),
        lifetime=2 * HOUR,
    )
    grant = decide(rule)
    (leaf,) = grant.leaves
    assert (grant.holder, grant.kind, grant.method, grant.host) == (
        "ada@example.org by oidc:corp",
        Kind.USER,
        "oidc",
        None,
    )
    assert grant.why == ("a proof", "rule 1 of [[ssh.users]] fits")
    assert (leaf.kind, leaf.key, leaf.key_id) == (Kind.USER, KEY, "user ada@example.org by oidc:corp")
    assert leaf.principals == ("fleet",)
    assert leaf.valid_after == datetime(2026, 11, 22, 11, 55, tzinfo=UTC)
    assert leaf.valid_before == datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
    assert (leaf.critical, leaf.permits) == (rule.critical, rule.permits)
    assert issue(leaf, signer("p256"), serial=1).principals == ("fleet",)


def test_P41_without_rules_nobody_logs_in() -> None:
    """Empty means no; and the reason says what was looked for."""
    (reason,) = refused(match="no rule of 0")
    for said in ("'oidc:corp'", "'248289761001'", "ada@example.org", "admins, staff"):
        assert said in reason
    (reason,) = refused(replace(FLEET, names=frozenset({"else"})), person=NOBODY, match="no rule of 1")
    assert "e-mail none that is verified, groups none" in reason


def test_the_first_rule_that_fits_counts() -> None:
    """Also where a later one would give more."""
    rules = (
        replace(FLEET, origins=frozenset({"operator"}), principals=("a",)),
        replace(FLEET, groups=frozenset({"admins"}), principals=("b",)),
        replace(FLEET, principals=("c", "d")),
    )
    assert principals(*rules) == ("b",)
    assert principals(*rules, person=NOBODY) == ("c", "d")
    assert principals(*rules, person=LAPTOP) == ("a",)
    assert decide(*rules, person=NOBODY).why[1] == "rule 3 of [[ssh.users]] fits"


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({}, True),
        ({"origins": frozenset()}, False),
        ({"origins": frozenset({"oidc"})}, False),
        ({"origins": frozenset({"oidc:corp2"})}, False),
        ({"names": frozenset({"248289761001"})}, True),
        ({"names": frozenset({"248289761002"})}, False),
        ({"emails": frozenset({"ada@example.org"})}, True),
        ({"emails": frozenset({"Ada@Example.org"})}, True),
        ({"emails": frozenset({"*@example.org"})}, True),
        ({"emails": frozenset({"*@EXAMPLE.ORG"})}, True),
        ({"emails": frozenset({"*@org"})}, False),
        ({"emails": frozenset({"*@ple.org"})}, False),
        ({"emails": frozenset({"*"})}, False),
        ({"emails": frozenset({"*@sub.example.org"})}, False),
        ({"emails": frozenset({"eve@example.org", "*@example.com"})}, False),
        ({"groups": frozenset({"admins"})}, True),
        ({"groups": frozenset({"admin", "others"})}, False),
        ({"groups": frozenset({"a"})}, False),
        ({"names": frozenset({"248289761001"}), "groups": frozenset({"others"})}, False),
        ({"emails": frozenset({"*@example.org"}), "groups": frozenset({"staff"})}, True),
    ],
)
def test_P41_whom_a_rule_is_for(rule: dict[str, Any], fits: bool) -> None:
    """Of each list that is not empty one has to be the person's; a domain is the whole domain and nothing below it."""
    if fits:
        assert principals(replace(FLEET, **rule)) == ("fleet",)
    else:
        refused(replace(FLEET, **rule), match="no rule of 1")


def test_P41_an_address_that_nobody_verified_fits_no_rule() -> None:
    """Without a verified address a rule about addresses is for somebody else."""
    refused(replace(FLEET, emails=frozenset({"*@example.org", "none", "*@"})), person=NOBODY, match="no rule of 1")


def test_ones_own_names() -> None:
    """The local part of an address that the rule is about, or the name where the person comes from."""
    by_email = replace(FLEET, emails=frozenset({"*@example.org"}), own=Own.LOCAL_PART)
    assert principals(by_email) == ("fleet", "ada")
    assert principals(replace(by_email, principals=())) == ("ada",)
    assert principals(replace(by_email, principals=("ada",))) == ("ada",)
    assert principals(replace(FLEET, own=Own.NAME)) == ("fleet", "248289761001")
    operators = UserRule(origins=frozenset({"operator"}), own=Own.NAME)
    assert principals(operators, person=LAPTOP) == ("ada-laptop",)


def test_P41_no_own_name_where_anybody_could_choose_it() -> None:
    """Without saying of which addresses, root@ of any domain in the world would be root; and root is nobody's own."""
    refused(replace(FLEET, own=Own.LOCAL_PART), match="does not say of which addresses")
    refused(replace(FLEET, own=Own.LOCAL_PART), person=NOBODY, match="no verified e-mail address")
    everybody = replace(FLEET, emails=frozenset({"*@example.org"}), own=Own.LOCAL_PART)
    refused(everybody, person=replace(ADA, email="root@example.org"), match="'root' is nobody's own principal")
    refused(replace(FLEET, own=Own.NAME), person=replace(ADA, name="root"), match="'root' is nobody's own principal")
    assert principals(replace(everybody, own=Own.NONE, principals=("root",))) == ("root",)


@pytest.mark.parametrize("name", ["ada,root", "*", "ada|1", "ada root", "!root", "-oX", "", "a" * 300, "ada\n", "ä"])
def test_P41_own_names_that_are_no_principals(name: str) -> None:
    """What sshd could read as a list, a pattern or an option is refused, and not cut to fit."""
    refused(replace(FLEET, own=Own.NAME), person=replace(ADA, name=name), match="no principal of one's own")


def test_P41_a_wish_narrows() -> None:
    """Fewer principals and a shorter life; more is refused, longer is cut to what the rule has."""
    rule = replace(FLEET, principals=("a", "b", "c"))
    assert principals(rule, wish=SshWish(("c", "a"))) == ("a", "c")
    (reason,) = refused(rule, wish=SshWish(("a", "root", "d")), match="not entitled")
    assert reason == "not entitled to the principals root, d (only a, b, c)"
    refused(replace(rule, principals=()), match="names no principal")

    def life(wish: timedelta | None, rule_: UserRule = rule, **more: Any) -> timedelta:
        (leaf,) = decide(rule_, wish=SshWish(lifetime=wish), **more).leaves
        return leaf.valid_before - NOW.replace(microsecond=0)

    assert life(None) == 16 * HOUR
    assert life(None, user_lifetime=HOUR) == HOUR
    assert life(None, replace(rule, lifetime=30 * HOUR)) == 30 * HOUR
    assert life(2 * HOUR) == 2 * HOUR
    assert life(100 * HOUR) == 16 * HOUR
    assert life(100 * HOUR, replace(rule, lifetime=HOUR)) == HOUR
    refused(rule, wish=SshWish(lifetime=timedelta(seconds=59)), match="a lifetime of 59s is under 1m")


def test_every_reason_at_once() -> None:
    """Whoever is refused learns all of it, and not one each time."""
    rule = replace(FLEET, own=Own.LOCAL_PART, critical=Critical(verify_required=True))
    reasons = refused(rule, wish=SshWish(("x",), timedelta(seconds=1)), match="verify_required")
    assert len(reasons) == 4


def test_what_only_a_token_can_do() -> None:
    """sshd asks a token in hardware who its user is, and lets every other key pass: so it is refused for others."""
    rule = replace(FLEET, critical=Critical(verify_required=True))
    refused(rule, match="verify_required is for keys in hardware tokens")
    assert decide(rule, keys=(TOKEN,)).leaves[0].critical.verify_required
    refused(rule, keys=(TOKEN, KEY), match="verify_required")


def test_one_certificate_for_each_key() -> None:
    """They differ by the key alone."""
    first, second = decide(FLEET, keys=(KEY, TOKEN)).leaves
    assert replace(first, key=TOKEN) == second


def test_a_machine_is_no_person() -> None:
    """Whatever came so far by mistake."""
    finding = SshFinding(
        method="x", kind=Kind.USER, holder="web1", keys=(KEY,), wish=SshWish(), once=None, proof="", transcript=b""
    )
    with pytest.raises(PolicyRefused, match="is a machine"):
        decide_user(finding, Rules(), now=NOW)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ada@example.org", "ada@example.org"),
        ("auth0|5f7c8ec7", "auth0=7C5f7c8ec7"),
        ("a=b", "a=3Db"),
        ('ada" (serial 0) CA x', "ada=22 =28serial 0=29 CA x"),
        ("a\x1b[2J\n", "a=1B=5B2J=0A"),
    ],
)
def test_P41_names_in_sshd_s_log(name: str, shown: str) -> None:
    """Nothing of a name can look like another part of the line, or act on a terminal."""
    assert written(name) == shown


@given(st.text(max_size=400), st.text(max_size=400))
def test_P41_two_persons_are_never_called_the_same(one: str, other: str) -> None:
    """Each name has its own spelling, and the longest has a hash, which a key id has room for."""
    assert (called(one, "oidc:corp") == called(other, "oidc:corp")) == (one == other)
    assert called(one, "oidc:corp") != called(f"sha256=={hashlib.sha256(one.encode()).hexdigest()}", "oidc:corp")
    assert len(f"user {called(one, 'oidc:' + 'p' * 32)}") <= 255


def test_P41_a_name_cannot_look_like_an_address() -> None:
    """Who chooses his own `sub` at a provider could be called as Ada is, in sshd's log and in our lists."""
    ada = called("ada@example.org", "oidc:corp", address=True)
    assert (ada, called("ada@example.org", "oidc:corp")) == (
        "ada@example.org by oidc:corp",
        "ada=40example.org by oidc:corp",
    )
    long = f"{'a' * 200}@{'b' * 50}.example"
    assert called(long, "oidc:corp", address=True) != called(long, "oidc:corp")
