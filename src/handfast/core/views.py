"""
What an operator is shown, as JSON: the remote API and ``--json`` print the same.

Views are derived from records and a time, and stored nowhere. Times are RFC 3339 in UTC, serials 32 hex digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from handfast.core import knownhosts
from handfast.core.hosts import Grade, Host, HostKey, RetiredKey
from handfast.core.names import MAX_NAMES
from handfast.core.records import CredentialRecord, Event, Invitation, Machine, SshRecord
from handfast.core.roles import Role
from handfast.core.sshkeys import SshKey
from handfast.core.wire import NameText


class InvitationView(msgspec.Struct, frozen=True):
    """An invitation; the line itself is a secret that the registrar does not have."""

    key_id: str
    machine: str
    role: Role
    method: str
    names: list[str]
    status: str
    uses: int
    spent: int
    created_at: str
    expires_at: str
    sources: list[str] | None
    cancelled: str | None


class CredentialView(msgspec.Struct, frozen=True):
    """A credential and how it came to be."""

    serial: str
    role: Role
    method: str
    status: str
    names: list[str]
    not_before: str
    not_after: str
    issued_at: str | None
    revoked_at: str | None
    revoked_reason: str | None
    why: list[str]


class EventView(msgspec.Struct, frozen=True):
    """One line of the log."""

    kind: str
    at: str
    subject: str
    fields: dict[str, str]


class MachineView(msgspec.Struct, frozen=True):
    """
    A machine, as an operator is shown it.

    ``status`` is that of its newest credential, else that of its newest invitation (``invited``
    for an open one). ``history`` is filled by ``show`` only. A list has only what is newest, and of credentials
    and invitations what still counts; ``alarm_count`` counts all alarms.
    """

    name: str
    role: Role | None
    status: str
    introduced_at: str | None
    not_after: str | None
    alarms: list[EventView]
    credentials: list[CredentialView]
    invitations: list[InvitationView]
    history: list[EventView] = []
    alarm_count: int = 0


class HostEvidenceView(msgspec.Struct, frozen=True):
    """How a host key became known, once."""

    how: str
    grade: str
    words: str
    detail: str
    at: str


class HostKeyView(msgspec.Struct, frozen=True):
    """A host key. ``believed`` is whether it is known well enough, by the operator's rules; others are only shown."""

    algorithm: str
    key: str
    fingerprint: str
    grade: str
    believed: bool
    evidence: list[HostEvidenceView]


class RetiredKeyView(msgspec.Struct, frozen=True):
    """A key that was the machine's and is refused."""

    algorithm: str
    key: str
    fingerprint: str
    at: str
    reason: str


class CertificateView(msgspec.Struct, frozen=True):
    """
    An SSH certificate. ``serial`` is decimal, as OpenSSH writes it; ``kind`` is ``host`` or ``user``.

    ``holder`` is a machine, or a person in words; ``fingerprint`` is of its key; ``evidence`` is on what it rests, as
    it says itself. It is good from ``since`` to
    ``until``; ``status`` is ``valid``, ``expired``, ``revoked``, or ``intended`` where it was not signed yet.
    """

    serial: str
    kind: str
    holder: str
    method: str
    fingerprint: str
    principals: list[str]
    evidence: str
    since: str
    until: str
    status: str
    revoked_at: str | None
    revoked_reason: str | None
    why: list[str]


class HostView(msgspec.Struct, frozen=True):
    """
    A machine as SSH sees it. ``known_hosts`` has the lines for the keys that are believed.

    ``certificates`` are the newest; they are there where one machine is asked for, not in lists of machines.
    """

    machine: str
    names: list[str]
    addresses: list[str]
    aliases: list[str]
    ports: list[int]
    keys: list[HostKeyView]
    retired: list[RetiredKeyView]
    known_hosts: list[str]
    certificates: list[CertificateView] = []


class InviteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    POST /v1/invitations. Without ``names`` the machine's name is its DNS name.

    For ``nifi`` it is a one-time token; ``subject`` is then the only one it is good for, and the role is peer.
    """

    machine: NameText
    role: Role
    seconds: Annotated[int, Meta(ge=1)]
    method: Literal["invitation", "nifi"] = "invitation"
    subject: Annotated[str, Meta(max_length=1024)] | None = None
    names: Annotated[list[NameText], Meta(max_length=MAX_NAMES)] = []
    uses: Annotated[int, Meta(ge=1)] = 1
    sources: Annotated[list[NameText], Meta(max_length=MAX_NAMES)] | None = None


class InviteAnswer(msgspec.Struct, frozen=True):
    """``line`` is the secret, shown this once; ``remarks`` are for the operator."""

    line: str
    invitation: InvitationView
    remarks: list[str] = []


class RevokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    POST /v1/revocations. ``what`` is a machine's name, a serial in hex, or an invitation's key id.

    Of ``kind`` ``ssh`` it is the serial of an SSH certificate, in decimal digits, and nothing else.
    """

    what: NameText
    reason: Annotated[str, Meta(max_length=200)]
    kind: Literal["credential", "ssh"] = "credential"


class RevokeAnswer(msgspec.Struct, frozen=True):
    """
    The serials revoked, the fingerprints of host keys retired, and the serials of SSH certificates that went along.

    Invitations of the machine were cancelled too.
    """

    serials: list[str]
    host_keys: list[str] = []
    ssh: list[str] = []


def invitation_view(invitation: Invitation, now: datetime) -> InvitationView:
    """Return an invitation as it is seen at ``now``."""
    return InvitationView(
        key_id=invitation.key_id,
        machine=invitation.machine,
        role=invitation.role,
        method=invitation.method,
        names=list(invitation.names.texts()),
        status=invitation.status(now),
        uses=invitation.uses,
        spent=invitation.spent,
        created_at=time_text(invitation.created_at),
        expires_at=time_text(invitation.expires_at),
        sources=None if invitation.sources is None else [str(net) for net in invitation.sources],
        cancelled=invitation.cancelled,
    )


def credential_view(record: CredentialRecord, now: datetime) -> CredentialView:
    """Return a credential as it is seen at ``now``."""
    return CredentialView(
        serial=serial_text(record.serial),
        role=record.role,
        method=record.method,
        status=record.status(now),
        names=list(record.names.texts()),
        not_before=time_text(record.not_before),
        not_after=time_text(record.not_after),
        issued_at=_maybe(record.issued_at),
        revoked_at=_maybe(record.revoked_at),
        revoked_reason=record.revoked_reason,
        why=list(record.why),
    )


def event_view(event: Event) -> EventView:
    """Return a line of the log."""
    return EventView(event.kind, time_text(event.at), event.subject, event.fields)


def machine_view(
    name: str,
    *,
    machine: Machine | None,
    credentials: Sequence[CredentialRecord],
    invitations: Sequence[Invitation],
    alarms: Sequence[Event],
    history: Sequence[Event] = (),
    now: datetime,
) -> MachineView:
    """Return a machine as it is seen at ``now``; leave ``history`` out for a list."""
    newest = max(credentials, key=lambda record: record.not_after, default=None)
    invited = max(invitations, key=lambda invitation: invitation.created_at, default=None)
    if newest is not None:
        status = newest.status(now)
    elif invited is not None:
        status = "invited" if invited.status(now) == "open" else f"invitation {invited.status(now)}"
    else:
        status = "unknown"
    known = machine or newest or invited
    return MachineView(
        name=name,
        role=known.role if known is not None else None,
        status=status,
        introduced_at=_maybe(machine.introduced_at if machine is not None else None),
        not_after=_maybe(newest.not_after if newest is not None else None),
        alarms=[event_view(event) for event in alarms],
        credentials=[credential_view(record, now) for record in credentials],
        invitations=[invitation_view(invitation, now) for invitation in invitations],
        history=[event_view(event) for event in history],
        alarm_count=len(alarms),
    )


def certificate_view(record: SshRecord, now: datetime) -> CertificateView:
    """Return an SSH certificate as it is seen at ``now``."""
    leaf = record.leaf
    return CertificateView(
        serial=str(record.serial),
        kind=record.kind.value,
        holder=record.holder,
        method=record.method,
        fingerprint=leaf.key.fingerprint,
        principals=list(leaf.principals),
        evidence=leaf.evidence,
        since=time_text(leaf.valid_after),
        until=time_text(leaf.valid_before),
        status=record.status(now),
        revoked_at=_maybe(record.revoked_at),
        revoked_reason=record.revoked_reason,
        why=list(record.why),
    )


def host_view(host: Host, *, accept: Grade, certificates: Sequence[CertificateView] = ()) -> HostView:
    """Return a machine with its host keys, of which those known at least as well as ``accept`` are believed."""
    believed, place = host.believed(accept), host.place
    return HostView(
        machine=host.machine,
        names=list(place.names),
        addresses=[str(address) for address in place.addresses],
        aliases=list(place.aliases),
        ports=list(place.ports),
        keys=[_key_view(key, host, believed=key in believed) for key in sorted(host.current)],
        retired=[_retired_view(each) for each in host.retired],
        known_hosts=knownhosts.lines(place.spellings(host.machine), believed),
        certificates=list(certificates),
    )


def _key_view(key: SshKey, host: Host, *, believed: bool) -> HostKeyView:
    known = [each for each in host.keys if each.key == key]
    return HostKeyView(
        algorithm=key.algorithm,
        key=key.base64,
        fingerprint=key.fingerprint,
        grade=max(each.how.grade for each in known).name.lower(),
        believed=believed,
        evidence=[_evidence_view(each) for each in known],
    )


def _evidence_view(known: HostKey) -> HostEvidenceView:
    how = known.how
    return HostEvidenceView(how.value, how.grade.name.lower(), how.words, known.detail, time_text(known.at))


def _retired_view(gone: RetiredKey) -> RetiredKeyView:
    key = gone.key
    return RetiredKeyView(key.algorithm, key.base64, key.fingerprint, time_text(gone.at), gone.reason)


def time_text(time: datetime) -> str:
    """Return RFC 3339 in UTC with seconds: ``2026-11-22T04:59:00Z``."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def serial_text(serial: int) -> str:
    """Return a serial as 32 hex digits."""
    return f"{serial:032x}"


def _maybe(time: datetime | None) -> str | None:
    return None if time is None else time_text(time)
