"""What the tests of approvals share: a registrar that asks, whoever asks it, and the operator who decides."""

from __future__ import annotations

import asyncio

import pytest

from handfast.core.approvals import ApprovalView, DecideRequest
from handfast.core.flow import HostFinding
from handfast.core.hosts import How, Place
from handfast.errors import Waiting
from handfast.policy.rules import CertificateRules, HostRules, Rules
from handfast.registrar.approvals import Approvals, settle
from tests.registrar.hosts import operator, signer
from tests.registrar.house import House

ASKING = Rules(ssh=HostRules(evidence=frozenset(How), certificates=CertificateRules(approve=frozenset(How))))
"""A person looks at every change, whatever the evidence."""


def approvals(house: House) -> Approvals:
    """The operator's side."""
    return Approvals(house.ledger, house.clock, house.rules.ssh.accept, "alice")


def found(
    *keys: int,
    machine: str = "web1.lan",
    places: tuple[str, ...] = ("web1.lan",),
    how: How = How.SSH_HOSTKEY,
    complete: bool = False,
    basis: tuple[int, ...] = (),
) -> HostFinding:
    """What an introducer would conclude."""
    public = tuple(signer(number).public for number in keys)
    based = tuple(signer(number).public for number in basis)
    return HostFinding(machine, public, how, "a \x1b[2Jtest\n", None, Place.parse(places), complete, based)


def ask(house: House, finding: HostFinding) -> None:
    """Come as far as the question."""
    asyncio.run(settle(finding, house.rules, house.ledger, at=house.clock.now()))


def question(house: House, finding: HostFinding) -> ApprovalView:
    """Ask, and return what is asked."""
    with pytest.raises(Waiting) as caught:
        ask(house, finding)
    approval_id = caught.value.message.rpartition(" ")[2]
    assert f"`handfast approve show {approval_id}`" in caught.value.hint
    return approvals(house).approval(approval_id)


def decide(house: House, view: ApprovalView, decision: str = "accepted") -> ApprovalView:
    """Decide."""
    request = DecideRequest(decision=decision, reason="seen on its console")  # type: ignore[arg-type]
    return approvals(house).decide(view.approval_id, request)


def entered(house: House, *keys: int, machine: str = "web1.lan", places: tuple[str, ...] = ("web1.lan",)) -> None:
    """An operator enters a machine."""
    public = tuple(signer(number).public for number in keys)
    place = Place.parse(places)
    operator(house).register(machine, public, how=How.OPERATOR, detail="by root", place=place)
