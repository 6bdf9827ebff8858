"""
The entries of the log: events as bytes, and the one event for each change of a table.

A row and its event say the same thing: each event here is made from the values that the row keeps, so
that the audit can make it again from the row and look for exactly these bytes in the log.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import msgspec

from handfast.core.flow import Grant
from handfast.core.records import REASONS, Event, Invitation
from handfast.errors import Malformed

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_canonical = msgspec.json.Encoder(order="sorted").encode

INVITED = "invitation.created"
CANCELLED = "invitation.cancelled"
INTENDED = "credential.intended"
ISSUED = "credential.issued"
REVOKED = "credential.revoked"
ABANDONED = "credential.abandoned"
SECOND_KEY = "alarm.second-key"
SAME_HOST_KEY = "alarm.same-host-key"
FOREIGN_HOST_KEY = "alarm.foreign-host-key"
RETIRED_HOST_KEY = "alarm.retired-host-key"
REFUSED = "introduction.refused"
CRL_PUBLISHED = "crl.published"
# Only the ledger writes these, together with the row they speak of.
OF_TABLES = frozenset({INVITED, CANCELLED, INTENDED, ISSUED, REVOKED, ABANDONED})
PREFIXES = ("host.", "hostkey.", "sshcert.", "approval.", "instance.")  # and these: see their own ``…_entries``
# What strangers can have us log, and so is logged a few times for each marker only.
_BOUNDED = frozenset({SECOND_KEY, SAME_HOST_KEY, FOREIGN_HOST_KEY, RETIRED_HOST_KEY, REFUSED})


SUPERSEDED = "superseded"
"""The reason to take back what is replaced: nothing is wrong with its key."""

ABANDONED_REASON = "cessationOfOperation"
MAX_LINE = 400  # characters


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    at: str
    fields: dict[str, str]
    kind: str
    subject: str


_read = msgspec.json.Decoder(_Entry).decode


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: one text for one value."""
    return _canonical(value).decode()


def micros(at: datetime) -> int:
    """
    Return an aware time as microseconds of the Unix epoch.

    :raises ValueError: a time without a zone, which could mean any.
    """
    if at.tzinfo is None:
        raise ValueError(f"a time without a zone: {at!r}")
    return (at - EPOCH) // _MICROSECOND


def time_of(value: int) -> datetime:
    """Return what ``micros`` was given, in UTC."""
    return EPOCH + timedelta(microseconds=value)


def rfc3339(at: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC with microseconds."""
    if at.tzinfo is None:
        raise ValueError(f"a time without a zone: {at!r}")
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def encode(event: Event) -> bytes:
    """
    Return the entry that is hashed into the log: canonical JSON of at, fields, kind and subject.

    :raises Malformed: text that is not Unicode (a lone surrogate).
    """
    try:
        return _canonical(_Entry(rfc3339(event.at), event.fields, event.kind, event.subject))
    except UnicodeEncodeError:
        raise Malformed(f"an event about {event.subject!r} with text that is not Unicode") from None


def decode(entry: bytes) -> Event:
    """
    Read what ``encode`` wrote.

    :raises Malformed: anything else, also JSON that is not in its canonical form.
    """
    try:
        read = _read(entry)
        event = Event(kind=read.kind, at=datetime.fromisoformat(read.at), subject=read.subject, fields=read.fields)
        canonical = encode(event)
    except ValueError:
        raise Malformed(f"not an entry of the log: {entry[:80]!r}") from None
    if canonical != entry:
        raise Malformed(f"an entry of the log that is not in canonical form: {entry[:80]!r}")
    return event


def check_reason(reason: str) -> None:
    """:raises Malformed: not a reason of RFC 5280 §5.3.1 for taking back."""
    if reason not in REASONS:
        raise Malformed(f"not a reason to revoke: {reason[:40]!r}", hint="use one of " + ", ".join(REASONS))


def check_line(text: str, *, what: str) -> None:
    """:raises Malformed: text that could forge a line of `log show`, or is as long as a page."""
    if not text.strip() or not text.isprintable() or len(text) > MAX_LINE:
        raise Malformed(f"not {what}: {text[:80]!r}", hint=f"one line of text, at most {MAX_LINE} characters")


def marker_of(event: Event) -> str | None:
    """Return the marker under which an event is counted; None for what may be logged without end."""
    return event.fields.get("marker") if event.kind in _BOUNDED else None


def serial_text(serial: int) -> str:
    """Return a serial as 32 hexadecimal digits, as tables and events have it."""
    return f"{serial:032x}"


def invited(invitation: Invitation) -> Event:
    """The event of a row of ``invitations``."""
    sources = "any" if invitation.sources is None else ",".join(map(str, invitation.sources))
    fields = {
        "invitation": invitation.key_id,
        "method": invitation.method,
        "public_half": invitation.public_half.hex(),
        "role": invitation.role.value,
        "names": ",".join(invitation.names.texts()),
        "uses": str(invitation.uses),
        "expires_at": rfc3339(invitation.expires_at),
        "sources": sources,
        "subject": "" if invitation.subject is None else invitation.subject.hex(),
    }
    return Event(INVITED, invitation.created_at, invitation.machine, fields)


def cancelled(key_id: str, *, machine: str, reason: str, at: datetime) -> Event:
    """The event of a closed ``invitation:`` marker."""
    return Event(CANCELLED, at, machine, {"invitation": key_id, "reason": reason})


def intended(
    serial: str, *, marker: str, key_sha256: bytes, machine: str, grant_json: str, method: str, at: datetime
) -> Event:
    """The event of a row of ``credentials``; the hash commits to the whole grant."""
    fields = {
        "serial": serial,
        "marker": marker,
        "key": key_sha256.hex(),
        "method": method,
        "grant": hashlib.sha256(grant_json.encode()).hexdigest(),
    }
    return Event(INTENDED, at, machine, fields)


def issued(serial: str, *, certificate: bytes, grant: Grant, at: datetime) -> Event:
    """The event of the certificate in a row of ``credentials``."""
    fields = {
        "serial": serial,
        "sha256": hashlib.sha256(certificate).hexdigest(),
        "machine": grant.machine,
        "role": grant.role.value,
        "method": grant.method,
        "names": ",".join(grant.names.texts()),
        "not_after": rfc3339(grant.not_after),
    }
    return Event(ISSUED, at, grant.machine, fields)


def taken_back(kind: str, serial: str, *, machine: str, reason: str, at: datetime) -> Event:
    """The event of a row of ``revocations``: ``REVOKED`` or ``ABANDONED``."""
    return Event(kind, at, machine, {"serial": serial, "reason": reason})


def crl_published(by: str, *, revocations: int, at: datetime) -> Event:
    """The event of a new revocation list: its place in the log is the list's number."""
    return Event(CRL_PUBLISHED, at, by, {"revocations": str(revocations)})


def second_key(*, marker: str, key_sha256: bytes, method: str, machine: str, at: datetime) -> Event:
    """The alarm that another key asked for what is spent."""
    fields = {"marker": marker, "key": key_sha256.hex(), "method": method, "machine": machine}
    return Event(SECOND_KEY, at, machine, fields)
