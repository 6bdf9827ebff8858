"""Subjects and located names: what a foreign protocol's newcomers may be called, and what their address gives them."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import dn
from handfast.core.flow import Finding, Wish
from handfast.core.names import Names, network
from handfast.core.roles import Role
from handfast.errors import PolicyRefused
from handfast.policy.decide import to_locate
from tests.policy.test_decide import decided, finding, reasons

NODE, OTHER = (dn.parse(text).public_bytes() for text in ("CN=node1.lan, OU=NIFI", "CN=admin, OU=NIFI"))
NODE_NAMES = Names.parse(["node1.lan", "lb.lan"])


def asking(
    *names: str, subject: bytes | None = NODE, entitled: tuple[str, ...] = (), own_address: bool = True, **more: Any
) -> Finding:
    """A finding of a method whose newcomers bring a subject and names, and are entitled to their own address."""
    bounds = {"names": Names.parse(entitled), "own_address": own_address} | more
    return finding(bounds, Wish(names=Names.parse(names), subject=subject))


def test_what_leads_to_its_own_address_is_its_own() -> None:
    """The names that were located, and the subject of a host that has one of them."""
    grant = decided(asking("node1.lan", "10.0.0.7"), located=("node1.lan", "10.0.0.7"))
    assert (grant.subject, grant.names.texts()) == (NODE, ("node1.lan", "10.0.0.7"))


def test_where_an_address_counts_for_nothing_it_was_looked_up_in_vain() -> None:
    """What was located is no evidence unless the method says so: a name server entitles nobody elsewhere."""
    found = asking("node1.lan", own_address=False)
    assert reasons(found, located=("node1.lan",)) == (
        "not entitled to the names node1.lan (only none)",
        "not entitled to the subject 'CN=node1.lan, OU=NIFI'",
    )


def test_located_names_add_to_those_of_the_evidence_and_only_what_is_wished() -> None:
    """Each name is allowed by the one or the other, and what was not asked for is not granted."""
    grant = decided(asking("lb.lan", "node1.lan", entitled=("lb.lan", "x.lan")), located=("node1.lan",))
    assert grant.names.texts() == ("lb.lan", "node1.lan")
    (refused,) = reasons(asking("node1.lan", "bank.lan", entitled=("lb.lan",)), located=("node1.lan",))
    assert refused == "not entitled to the names bank.lan (only lb.lan, what leads to its address)"


def test_a_name_that_only_looks_like_what_was_located_is_refused() -> None:
    """Neither a parent nor a child of a located name, nor the subject of one."""
    for name in ("a.node1.lan", "lan", "node1.lan.evil"):
        subject = dn.parse(f"CN={name}, OU=NIFI").public_bytes()
        assert len(reasons(asking(name, subject=subject), located=("node1.lan",))) == 2


def test_an_entitled_subject_needs_no_address() -> None:
    """A one-time token is for a subject, wherever its holder is."""
    found = asking("node1.lan", entitled=("node1.lan",), own_address=False)
    assert reasons(found) == ("not entitled to the subject 'CN=node1.lan, OU=NIFI'",)
    own = dataclasses.replace(found, entitlement=dataclasses.replace(found.entitlement, subject=NODE))
    assert decided(own).subject == NODE


def test_another_subject_is_refused_by_name() -> None:
    """Compared as it is encoded: another text, order or type of string is another subject."""
    reverse = dn.reverse(dn.from_der(NODE)).public_bytes()
    for subject, text in ((OTHER, "CN=admin, OU=NIFI"), (reverse, "OU=NIFI, CN=node1.lan")):
        (refused,) = reasons(finding({"subject": NODE}, Wish(subject=subject)))
        assert refused == f"not entitled to the subject {text!r}"


@pytest.mark.parametrize("text", ["CN=node1.lan, OU=Admins", "CN=node1.lan, O=x", "OU=NIFI, CN=node1.lan", "CN=Kim"])
def test_an_address_gives_nobody_another_subject_than_a_hosts(text: str) -> None:
    """Who has the name of a machine has not the right to a unit or a person's subject with it."""
    found = asking("node1.lan", subject=dn.parse(text).public_bytes())
    assert reasons(found, located=("node1.lan",)) == (f"not entitled to the subject {text!r}",)


def test_a_subject_goes_with_a_located_name_and_not_with_an_entitled_one() -> None:
    """The names that a token allows to everybody say nothing of who it is that holds it."""
    assert reasons(asking("node1.lan", entitled=("node1.lan",))) == (
        "not entitled to the subject 'CN=node1.lan, OU=NIFI'",
    )


def test_nobody_has_to_bring_a_subject() -> None:
    """Without one it is the machine's own."""
    assert decided(asking("node1.lan", subject=None), located=("node1.lan",)).subject is None


def test_reasons_of_subject_name_place_and_life_come_together() -> None:
    """An operator mends everything in one go."""
    found = asking("bank.lan", subject=OTHER, roles=frozenset({Role.PEER}), sources=(network("192.0.2.0/24"),))
    wish = dataclasses.replace(found.wish, role=Role.SERVER, lifetime=timedelta(seconds=1))
    assert [reason.split()[:2] for reason in reasons(dataclasses.replace(found, wish=wish))] == [
        ["role", "server"],
        ["not", "entitled"],
        ["not", "entitled"],
        ["the", "call"],
        ["a", "lifetime"],
    ]


# ------------------------------------------------------------------------------------------------ what is looked up


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (asking("node1.lan", "10.0.0.7"), ("node1.lan", "10.0.0.7")),
        (asking("node1.lan", "10.0.0.7", own_address=False), ()),
        (asking("node1.lan", "10.0.0.7", subject=None), ("node1.lan", "10.0.0.7")),
        (asking("lb.lan", "10.0.0.7", subject=None, entitled=("lb.lan", "10.0.0.8")), ("10.0.0.7",)),
        (asking("lb.lan", entitled=("lb.lan",)), ("lb.lan",)),  # for the subject, which nothing else allows
        (asking(), ()),
    ],
)
def test_only_what_needs_an_address_is_looked_up(found: Finding, names: tuple[str, ...]) -> None:
    """No question goes to a name server whose answer would change nothing."""
    assert to_locate(found).texts() == names


NAMES = st.lists(st.sampled_from(["node1.lan", "lb.lan", "x.lan", "10.0.0.7"]), unique=True).map(tuple)


@given(NAMES, NAMES, NAMES, st.booleans(), st.sampled_from([NODE, OTHER, None]), st.sampled_from([NODE, None]))
def test_looking_up_less_decides_the_same(
    wished: tuple[str, ...],
    entitled: tuple[str, ...],
    located: tuple[str, ...],
    own_address: bool,
    subject: bytes | None,
    allowed: bytes | None,
) -> None:
    """With only the answers to what is looked up the decision is the one with all answers there are."""
    bounds = {"names": Names.parse(entitled), "own_address": own_address, "subject": allowed}
    found = finding(bounds, Wish(names=Names.parse(wished), subject=subject))
    located = tuple(name for name in located if name in wished)  # nobody looks up what nobody asked for
    asked = tuple(name for name in located if name in to_locate(found).texts())

    def verdict(known: tuple[str, ...]) -> object:
        try:
            return decided(found, located=known)
        except PolicyRefused as error:
            return error.reasons

    assert verdict(asked) == verdict(located)
