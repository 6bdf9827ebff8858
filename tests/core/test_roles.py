"""Roles are separate: one never stands in for another."""

from __future__ import annotations

import pytest

from handfast.core.roles import GRANTABLE, Role, spiffe_id


def test_the_registrar_role_is_never_granted() -> None:
    """Whoever could get it could be the man in the middle of everybody else."""
    assert frozenset(Role) - GRANTABLE == {Role.REGISTRAR}


@pytest.mark.parametrize(
    ("role", "serves", "dials"),
    [
        (Role.SERVER, True, False),
        (Role.CLIENT, False, True),
        (Role.PEER, True, True),
        (Role.AGENT, True, True),
        (Role.CONTROLLER, False, True),
        (Role.OPERATOR, False, True),
        (Role.REGISTRAR, True, False),
    ],
)
def test_what_each_role_may_do(role: Role, serves: bool, dials: bool) -> None:
    """Only peer and agent both serve and dial; an operator serves nobody."""
    assert (role.serves, role.dials) == (serves, dials)


def test_every_role_is_good_for_something() -> None:
    """A role without any usage would be a certificate without extended key usage: good for everything."""
    assert all(role.serves or role.dials for role in Role)


def test_spiffe_ids_tell_roles_and_domains_apart() -> None:
    """The path names the role, so that no two roles of one machine share an identity."""
    ids = {spiffe_id(domain, role, "web1") for role in Role for domain in ("a", "b")}
    assert len(ids) == 2 * len(Role)
    assert spiffe_id("a.handfast", Role.SERVER, "web1") == "spiffe://a.handfast/server/web1"
