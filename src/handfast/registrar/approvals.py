"""
What a person has to look at: host keys that would change what is known.

``settle`` stands in both flows between verify and decide. It asks, and whoever asks for a certificate is told to wait;
once a person has said yes, the same keys are those that are known, and there is nothing to ask. So the answer is never
taken from the newcomer, and it is for these keys alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from handfast.core.approvals import APPROVAL_ID, ApprovalRow, ApprovalView, DecideRequest, approval_row, approval_view
from handfast.core.flow import HostFinding
from handfast.core.hosts import Grade, Host, unspelled
from handfast.core.ports import Clock, Ledger
from handfast.core.records import Approval, Owners
from handfast.errors import NotFound, Waiting
from handfast.policy.hosts import changes, propose
from handfast.policy.rules import Rules
from handfast.registrar.administer import check_reason

MOST_SHOWN = 1000  # of those that were decided; the log has them all


async def settle(finding: HostFinding | None, rules: Rules, ledger: Ledger, *, at: datetime) -> None:
    """
    Return where there is nothing to ask, else ask.

    The newcomer is not told what would be changed: that is about other machines.

    :raises Waiting: a person has to say yes first; it has the approval's id.
    :raises PolicyRefused: not even a person could. :raises Refused: one has said no.
    :raises TooMuch: too many questions are open.
    """
    if finding is None or finding.how not in rules.ssh.certificates.approve:
        return
    known, owners = ledger.host(finding.machine), _owners(finding, ledger)
    others = _others(finding, known, owners, ledger)
    reasons = changes(
        finding,
        rules,
        known=known,
        others=others,
        introduced=ledger.machine(finding.machine),
        credentials=ledger.newest_credentials(finding.machine),
    )
    if not reasons:
        return
    grant = propose(finding, rules, known=known, others=others)
    asked = await asyncio.wrap_future(ledger.ask(grant, reasons, owners, at=at))
    raise Waiting(
        f"a person has to approve these host keys for {finding.machine!r}: approval {asked.approval_id}",
        hint=f"on the registrar: `handfast approve show {asked.approval_id}`; accepted, run the same command again",
    )


def _claimed(finding: HostFinding) -> tuple[str, ...]:
    """Its own name counts also where it is said of no place."""
    return (finding.machine,) if finding.place is None else finding.place.spellings(finding.machine)


def _owners(finding: HostFinding, ledger: Ledger) -> Owners:
    """Return who else is reached where it claims to be; at any port, as a certificate is good at each."""
    found = ledger.hosts_reached(map(unspelled, _claimed(finding)))
    return frozenset((each, owner) for each, owner in found if owner != finding.machine)


def _others(finding: HostFinding, known: Host | None, owners: Owners, ledger: Ledger) -> dict[str, Host]:
    """Return those of the owners that are somewhere where the machine is not yet, itself: who may share a host does."""
    had = known.place.spellings(known.machine) if known is not None and known.lives else ()
    new = {unspelled(each) for each in _claimed(finding) if each not in had}
    found = {each: ledger.host(owner) for each, owner in sorted(owners) if unspelled(each) in new}
    return {each: host for each, host in found.items() if host is not None}


@dataclass(frozen=True, slots=True)
class Approvals:
    """
    What an operator does with them, on the registrar's machine or over HTTPS; ``by`` is who he is.

    Keys known at least as well as ``accept`` are shown as believed.
    """

    ledger: Ledger
    clock: Clock
    accept: Grade
    by: str

    def approvals(self, *, every: bool = False) -> list[ApprovalRow]:
        """Return those that wait, the oldest first; or all, of which the newest come last."""
        now = self.clock.now()
        found = self.ledger.approvals(open_only=not every)
        rows = [approval_row(each, now) for each in found[-MOST_SHOWN:]]
        return [row for row in rows if every or row.status == "open"]

    def approval(self, approval_id: str) -> ApprovalView:
        """Return one. :raises NotFound: there is none."""
        return self._view(self._known(approval_id))

    def decide(self, approval_id: str, request: DecideRequest) -> ApprovalView:
        """
        Accept: the machine has these keys from now on, and no others. Or reject them for good.

        :raises NotFound: there is none. :raises UsageError: the reason is none.
        :raises Refused: decided before, over, or its keys cannot be recorded any more.
        """
        check_reason(request.reason)
        self._known(approval_id)
        write = self.ledger.approve if request.decision == "accepted" else self.ledger.reject
        return self._view(write(approval_id, by=self.by, reason=request.reason, at=self.clock.now()).result())

    def _known(self, approval_id: str) -> Approval:
        found = self.ledger.approval(approval_id) if APPROVAL_ID.fullmatch(approval_id) else None
        if found is None:
            hint = "`handfast approve list` shows those that are open"
            raise NotFound(f"no approval {approval_id[:40]!r}", hint=hint)
        return found

    def _view(self, approval: Approval) -> ApprovalView:
        known = self.ledger.host(approval.grant.machine)
        return approval_view(approval, known=known, accept=self.accept, now=self.clock.now())
