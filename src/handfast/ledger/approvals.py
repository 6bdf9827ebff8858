"""
Host keys that wait for a person, each change as a function over the writer's transaction.

A question is its machine, place and keys, so that a decision is about exactly these: other keys are another question.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from handfast.core.flow import HostGrant
from handfast.core.hosts import How
from handfast.core.records import Approval, Event, Owners
from handfast.errors import Fault, NotFound, Refused, TooMuch
from handfast.ledger import entries, host_checks, host_entries, hosts
from handfast.ledger import ssh_statements as statements
from handfast.ledger.database import Row
from handfast.ledger.entries import canonical_json, micros, rfc3339, time_of
from handfast.ledger.writer import Transaction

ASKED = "approval.asked"
ACCEPTED, REJECTED = "approval.accepted", "approval.rejected"
OF_TABLES = frozenset({ASKED, ACCEPTED, REJECTED})
LASTS = timedelta(days=7)
MAX_OF_MACHINE = 4  # open questions
MAX_OPEN = 1000
MAX_CHALLENGED = MAX_OPEN // 2  # of these by ssh-hostkey: strangers ask them, about machines of their own if need be
_DECISIONS = {"accepted": ACCEPTED, "rejected": REJECTED}


def asked(approval: Approval, *, turn: int, grant_json: str) -> Event:
    """The event of a row of ``approvals``."""
    grant = approval.grant
    fields = {
        "approval": approval.approval_id,
        "turn": str(turn),
        "how": grant.how.value,
        "keys": " ".join(key.fingerprint for key in grant.keys),
        "reasons": "; ".join(approval.reasons),
        "owners": owners_to(approval.owners),
        "expires_at": rfc3339(approval.expires_at),
        "grant": hashlib.sha256(grant_json.encode()).hexdigest(),
    }
    return Event(ASKED, approval.asked_at, grant.machine, fields)


def decided(approval: Approval, *, turn: int) -> Event:
    """The event of the decision in a row of ``approvals``. :raises ValueError: there is none."""
    if approval.decision not in _DECISIONS or approval.decided_at is None:
        raise ValueError(f"no decision: {approval.decision!r}")
    fields = {
        "approval": approval.approval_id,
        "turn": str(turn),
        "by": approval.decided_by,
        "reason": approval.decided_reason,
    }
    return Event(_DECISIONS[approval.decision], approval.decided_at, approval.grant.machine, fields)


def owners_to(owners: Owners) -> str:
    """Return the other machines that are reached at the hosts in question as text."""
    return canonical_json(sorted(owners))


def identity(grant: HostGrant, owners: Owners = frozenset()) -> str:
    """
    Return the id of the question whether these are the machine's keys, there: 16 hexadecimal digits.

    With other ``owners`` of its hosts it is another question: a person has to look at what would be taken.
    """
    return hashlib.sha256(_question(grant, owners).encode()).hexdigest()[:16]


def _question(grant: HostGrant, owners: Owners) -> str:
    return canonical_json(
        {
            "machine": grant.machine,
            "place": None if grant.place is None else host_entries.place_to(grant.place),
            "keys": sorted({str(key) for key in grant.keys}),
            "owners": sorted(owners),
        }
    )


def from_row(row: Row) -> Approval:
    """Read a row of ``ssh_statements.ALL_APPROVALS``. :raises ValueError, KeyError, TypeError: something else."""
    approval_id, _turn, _machine, _how, grant_json, owners, reasons, asked_at, expires_at, *rest = row
    decision, decided_at, by, reason = rest
    return Approval(
        approval_id=approval_id,
        grant=host_entries.grant_from(msgspec.json.decode(grant_json)),
        reasons=msgspec.json.decode(reasons, type=tuple[str, ...]),
        asked_at=time_of(asked_at),
        expires_at=time_of(expires_at),
        owners=frozenset(msgspec.json.decode(owners, type=list[tuple[str, str]])),
        decision=decision,
        decided_at=None if decided_at is None else time_of(decided_at),
        decided_by=by or "",
        decided_reason=reason or "",
    )


def ask(tx: Transaction, grant: HostGrant, reasons: tuple[str, ...], owners: Owners, *, at: datetime) -> Approval:
    """
    Keep host keys until a person has looked at them; the same question that is open already is the answer.

    ``owners`` are the other machines that are reached at these hosts, as the reasons say: spelling, and machine.

    :raises TooMuch: too many questions are open, about this machine or at all.
    :raises Refused: a person has said no; or another question has this id, which somebody has searched for.
    """
    for each in reasons:
        entries.check_line(each, what="a reason")
    # By its keys, not by the question: else another port, or a name less, would be another try.
    host_checks.check_rejected(tx, grant.machine, set(grant.keys))
    row = tx.one(statements.APPROVAL, {"p_id": identity(grant, owners)})
    before = None if row is None else from_row(row)
    if before is not None:
        if _question(before.grant, before.owners) != _question(grant, owners):
            raise Refused(f"other host keys have the approval {before.approval_id}", hint="make new host keys")
        if before.status(at) == "open":
            return before
    _check_room(tx, grant, at=at)
    turn = 1 if row is None else row[1] + 1
    asks = replace(grant, complete=True)
    made = Approval(identity(grant, owners), asks, reasons, at, at + LASTS, owners=owners)
    grant_json = canonical_json(host_entries.grant_to(made.grant))
    tx.run(
        statements.ADD_APPROVAL,
        {
            "approval_id": made.approval_id,
            "turn": turn,
            "machine": grant.machine,
            "how": grant.how.value,
            "grant_json": grant_json,
            "owners": owners_to(owners),
            "reasons": canonical_json(reasons),
            "asked_at": micros(at),
            "expires_at": micros(made.expires_at),
        },
    )
    tx.log(asked(made, turn=turn, grant_json=grant_json))
    return made


def _check_room(tx: Transaction, grant: HostGrant, *, at: datetime) -> None:
    machine, how = grant.machine, grant.how
    row = tx.one(statements.OPEN_COUNTS, {"p_at": micros(at), "p_machine": machine, "p_how": how.value})
    if row is None:
        raise Fault("counting gave nothing")
    everywhere, here, so = row
    if here >= MAX_OF_MACHINE:
        raise TooMuch(
            f"{here} sets of host keys wait for approval as those of {machine!r}", hint="see `handfast approve list`"
        )
    if how is How.SSH_HOSTKEY and so >= MAX_CHALLENGED:
        raise TooMuch(f"{so} sets of host keys by {how.value} wait for approval", hint="see `handfast approve list`")
    if everywhere >= MAX_OPEN:
        raise TooMuch(f"{everywhere} sets of host keys wait for approval", hint="see `handfast approve list`")


def approve(tx: Transaction, approval_id: str, *, by: str, reason: str, at: datetime) -> Approval:
    """
    Record the host keys that were asked about: the machine has these from now on, and no others.

    :raises NotFound: :raises Refused: decided before, over, or not even a person's word makes it possible.
    """
    approval, turn = _open(tx, approval_id, by=by, reason=reason, at=at)
    host_checks.check_possible(tx, approval.grant, at=at)
    _check_owners(tx, approval)
    made = _decide(tx, approval, turn, "accepted", by=by, reason=reason, at=at)
    hosts.accept(tx, approval.grant, at=at)
    return made


def _check_owners(tx: Transaction, approval: Approval) -> None:
    """Whoever says yes has been shown whose places these are, and means no machine that came to them since."""
    grant = approval.grant
    places = () if grant.place is None else grant.place.hosts()
    for spelling, owner in host_checks.reached(tx, (grant.machine, *places)):
        if owner != grant.machine and (spelling, owner) not in approval.owners:
            raise Refused(
                f"{spelling!r} is where {owner!r} is reached, which was not so when this was asked",
                hint="the machine has to ask again: then that is part of the question",
            )


def reject(tx: Transaction, approval_id: str, *, by: str, reason: str, at: datetime) -> Approval:
    """
    Refuse them for good: asked again, they are refused.

    :raises NotFound: :raises Refused: decided before, or over.
    """
    approval, turn = _open(tx, approval_id, by=by, reason=reason, at=at)
    return _decide(tx, approval, turn, "rejected", by=by, reason=reason, at=at)


def _open(tx: Transaction, approval_id: str, *, by: str, reason: str, at: datetime) -> tuple[Approval, int]:
    entries.check_line(by, what="who decides")
    entries.check_line(reason, what="a reason")
    row = tx.one(statements.APPROVAL, {"p_id": approval_id})
    if row is None:
        raise NotFound(f"no approval {approval_id[:80]!r}", hint="`handfast approve list` shows those that are open")
    approval = from_row(row)
    status = approval.status(at)
    if status != "open":
        by = f" by {approval.decided_by}" if approval.decided_by else ""
        hint = "if the keys are right: handfast host add" if status == "rejected" else "the machine has to ask again"
        raise Refused(f"the approval {approval_id} is {status}{by}", hint=hint)
    return approval, row[1]


def _decide(
    tx: Transaction, approval: Approval, turn: int, decision: str, *, by: str, reason: str, at: datetime
) -> Approval:
    made = replace(approval, decision=decision, decided_at=at, decided_by=by, decided_reason=reason)
    values = {"decision": decision, "decided_at": micros(at), "decided_by": by, "decided_reason": reason}
    tx.run(statements.DECIDE_APPROVAL, {"p_id": approval.approval_id, "p_turn": turn, **values})
    tx.log(decided(made, turn=turn))
    return made
