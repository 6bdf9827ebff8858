"""What every introducer asks first of what a stranger sends."""

from __future__ import annotations

from typing import Protocol, TypeVar

from handfast.core import wire
from handfast.core.flow import Evidence
from handfast.core.ports import Context
from handfast.core.records import CredentialRecord
from handfast.errors import EvidenceRejected, NotMine, Revoked


class _WithNonce(Protocol):
    @property
    def nonce(self) -> bytes: ...


R = TypeVar("R", bound=_WithNonce)


def opened(evidence: Evidence, request: type[R], context: Context, *, method: str) -> R:
    """
    Return the request in ``evidence``, if it is this method's and fresh. *Not* checked: any signature.

    :raises NotMine: evidence of another method.
    :raises Malformed: not such a request.
    :raises EvidenceRejected: its nonce is not ours, or older than five minutes.
    """
    if evidence.method != method:
        raise NotMine(f"evidence of method {evidence.method!r}")
    read = wire.decode(evidence.payload, request)
    if not context.nonce_is_ours(read.nonce):
        raise EvidenceRejected("the nonce is not ours or older than five minutes", hint="try again")
    return read


def check_standing(record: CredentialRecord) -> None:
    """Refuse a credential that was taken back. :raises Revoked: it was."""
    if record.revoked_at is not None:
        raise Revoked(
            f"the credential of {record.machine!r} was revoked ({record.revoked_reason})",
            hint="ask the operator for a new invitation",
        )
