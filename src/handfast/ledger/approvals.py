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
from handfast.core.records import Approval, Event
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


def identity(grant: HostGrant) -> str:
    """Return the id of the question whether these are the machine's keys, there: 16 hexadecimal digits."""
    return hashlib.sha256(_question(grant).encode()).hexdigest()[:16]


def _question(grant: HostGrant) -> str:
    return canonical_json(
        {
            "machine": grant.machine,
            "place": None if grant.place is None else host_entries.place_to(grant.place),
            "keys": sorted({str(key) for key in grant.keys}),
        }
    )


def from_row(row: Row) -> Approval:
    """Read a row of ``ssh_statements.ALL_APPROVALS``. :raises ValueError, KeyError, TypeError: something else."""
    approval_id, _turn, _machine, grant_json, reasons, asked_at, expires_at, decision, decided_at, by, reason = row
    return Approval(
        approval_id=approval_id,
        grant=host_entries.grant_from(msgspec.json.decode(grant_json)),
        reasons=msgspec.json.decode(reasons, type=tuple[str, ...]),
        asked_at=time_of(asked_at),
        expires_at=time_of(expires_at),
        decision=decision,
        decided_at=None if decided_at is None else time_of(decided_at),
        decided_by=by or "",
        decided_reason=reason or "",
    )


def ask(tx: Transaction, grant: HostGrant, reasons: tuple[str, ...], *, at: datetime) -> Approval:
    """
    Keep host keys until a person has looked at them; the same question that is open already is the answer.

    :raises TooMuch: too many questions are open, about this machine or at all.
    :raises Refused: a person has said no; or another question has this id, which somebody has searched for.
    """
    for each in reasons:
        entries.check_line(each, what="a reason")
    row = tx.one(statements.APPROVAL, {"p_id": identity(grant)})
    before = None if row is None else from_row(row)
    if before is not None:
        if _question(before.grant) != _question(grant):
            raise Refused(f"other host keys have the approval {before.approval_id}", hint="make new host keys")
        if before.decision == "rejected":
            raise Refused(
                f"these host keys for {grant.machine!r} were rejected on {before.decided_at:%Y-%m-%d %H:%M} UTC "
                f"by {before.decided_by}: {before.decided_reason}",
                hint="if they are right: an operator enters them, handfast host add",
            )
        if before.status(at) == "open":
            return before
    _check_room(tx, grant.machine, at=at)
    turn = 1 if row is None else row[1] + 1
    made = Approval(identity(grant), replace(grant, complete=True), reasons, at, at + LASTS)
    grant_json = canonical_json(host_entries.grant_to(made.grant))
    tx.run(
        statements.ADD_APPROVAL,
        {
            "approval_id": made.approval_id,
            "turn": turn,
            "machine": grant.machine,
            "grant_json": grant_json,
            "reasons": canonical_json(reasons),
            "asked_at": micros(at),
            "expires_at": micros(made.expires_at),
        },
    )
    tx.log(asked(made, turn=turn, grant_json=grant_json))
    return made


def _check_room(tx: Transaction, machine: str, *, at: datetime) -> None:
    row = tx.one(statements.OPEN_COUNTS, {"p_at": micros(at), "p_machine": machine})
    if row is None:
        raise Fault("counting gave nothing")
    everywhere, here = row
    if here >= MAX_OF_MACHINE:
        raise TooMuch(
            f"{here} sets of host keys wait for approval as those of {machine!r}", hint="see `handfast approve list`"
        )
    if everywhere >= MAX_OPEN:
        raise TooMuch(f"{everywhere} sets of host keys wait for approval", hint="see `handfast approve list`")


def approve(tx: Transaction, approval_id: str, *, by: str, reason: str, at: datetime) -> Approval:
    """
    Record the host keys that were asked about: the machine has these from now on, and no others.

    :raises NotFound: :raises Refused: decided before, over, or not even a person's word makes it possible.
    """
    approval, turn = _open(tx, approval_id, by=by, reason=reason, at=at)
    host_checks.check_possible(tx, approval.grant, at=at)
    made = _decide(tx, approval, turn, "accepted", by=by, reason=reason, at=at)
    hosts.accept(tx, approval.grant, at=at)
    return made


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
        raise Refused(f"the approval {approval_id} is {status}{by}", hint="the machine has to ask again")
    return approval, row[1]


def _decide(
    tx: Transaction, approval: Approval, turn: int, decision: str, *, by: str, reason: str, at: datetime
) -> Approval:
    made = replace(approval, decision=decision, decided_at=at, decided_by=by, decided_reason=reason)
    values = {"decision": decision, "decided_at": micros(at), "decided_by": by, "decided_reason": reason}
    tx.run(statements.DECIDE_APPROVAL, {"p_id": approval.approval_id, "p_turn": turn, **values})
    tx.log(decided(made, turn=turn))
    return made
