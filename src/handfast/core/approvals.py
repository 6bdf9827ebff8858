"""Approvals as an operator is shown them, and his word on one: JSON for the remote API and ``--json`` alike."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from handfast.core.hosts import Grade, Host
from handfast.core.records import Approval
from handfast.core.views import HostView, host_view, time_text

APPROVAL_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


class ProposedKeyView(msgspec.Struct, frozen=True):
    """A host key that was asked about. ``known`` is whether the machine has it already."""

    algorithm: str
    key: str
    fingerprint: str
    known: bool


class ApprovalRow(msgspec.Struct, frozen=True):
    """An approval in a list: ``reason`` is the beginning of the first one. ``handfast approve show`` has it all."""

    approval_id: str
    machine: str
    status: str
    how: str
    reason: str
    asked_at: str
    expires_at: str


class ApprovalView(msgspec.Struct, frozen=True):
    """
    Host keys that wait, or waited, for a person.

    ``machine`` would be reached as ``names``, ``addresses``, ``aliases`` at ``ports``, or as before where all are
    empty, and have ``keys`` and no others. ``now`` is what is known of the machine at the moment. ``reasons`` are why
    nobody but a person can say so, ``how`` and ``detail`` how the keys became known, ``grade`` what that is worth.
    ``status`` is ``open``, ``accepted``, ``rejected`` or ``expired``.
    """

    approval_id: str
    machine: str
    status: str
    keys: list[ProposedKeyView]
    how: str
    grade: str
    words: str
    detail: str
    names: list[str]
    addresses: list[str]
    aliases: list[str]
    ports: list[int]
    reasons: list[str]
    asked_at: str
    expires_at: str
    decided_at: str | None
    decided_by: str
    decided_reason: str
    now: HostView | None


class DecideRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/approvals/{approval_id}."""

    decision: Literal["accepted", "rejected"]
    reason: Annotated[str, Meta(min_length=1, max_length=200)]


def approval_row(approval: Approval, now: datetime) -> ApprovalRow:
    """Return an approval as it stands in a list at ``now``."""
    return ApprovalRow(
        approval_id=approval.approval_id,
        machine=approval.grant.machine,
        status=approval.status(now),
        how=approval.grant.how.value,
        reason="".join(approval.reasons[:1])[:200],
        asked_at=time_text(approval.asked_at),
        expires_at=time_text(approval.expires_at),
    )


def approval_view(approval: Approval, *, known: Host | None, accept: Grade, now: datetime) -> ApprovalView:
    """Return an approval as it is seen at ``now``; ``known`` is the machine as it is, whatever it was when asked."""
    grant, place = approval.grant, approval.grant.place
    had = known.current if known is not None else frozenset()
    return ApprovalView(
        approval_id=approval.approval_id,
        machine=grant.machine,
        status=approval.status(now),
        keys=[ProposedKeyView(key.algorithm, key.base64, key.fingerprint, key in had) for key in grant.keys],
        how=grant.how.value,
        grade=grant.how.grade.name.lower(),
        words=grant.how.words,
        detail=grant.detail,
        names=list(place.names) if place is not None else [],
        addresses=[str(address) for address in place.addresses] if place is not None else [],
        aliases=list(place.aliases) if place is not None else [],
        ports=list(place.ports) if place is not None else [],
        reasons=list(approval.reasons),
        asked_at=time_text(approval.asked_at),
        expires_at=time_text(approval.expires_at),
        decided_at=None if approval.decided_at is None else time_text(approval.decided_at),
        decided_by=approval.decided_by,
        decided_reason=approval.decided_reason,
        now=None if known is None else host_view(known, accept=accept),
    )
