"""
Every statement the ledger runs, built once with SQLAlchemy Core for both dialects.

They are compiled to text once for each dialect and run on the driver's own cursor (``database``).

Parameters of a WHERE are named ``p_…``, so that they never collide with the columns of a SET.
"""

from __future__ import annotations

from sqlalchemy import Integer, Text, and_, bindparam, func, insert, literal_column, null, select, text, update

from handfast.ledger.tables import (
    checkpoints,
    closed_markers,
    credentials,
    events,
    host_registrations,
    invitations,
    log_head,
    machines,
    revocations,
)

# --- invitations ---

_INVITATION_MARKER = literal_column("'invitation:'", Text()) + invitations.c.key_id
_KEYS = func.count(credentials.c.key_sha256.distinct())  # a key whose intent was abandoned may have two rows
_SPENT = select(_KEYS).select_from(credentials).where(credentials.c.marker == _INVITATION_MARKER).scalar_subquery()
_SPENT_FOR_HOSTS = (
    select(func.count())
    .select_from(host_registrations)
    .where(host_registrations.c.marker == _INVITATION_MARKER)
    .scalar_subquery()
)
ALL_INVITATIONS = (
    select(
        invitations.c.key_id,
        invitations.c.method,
        invitations.c.public_half,
        invitations.c.machine,
        invitations.c.role,
        invitations.c.names,
        invitations.c.uses,
        invitations.c.created_at,
        invitations.c.expires_at,
        invitations.c.sources,
        invitations.c.subject,
        (_SPENT + _SPENT_FOR_HOSTS).label("spent"),
        closed_markers.c.reason,
    )
    .select_from(invitations.outerjoin(closed_markers, closed_markers.c.marker == _INVITATION_MARKER))
    .order_by(invitations.c.created_at, invitations.c.key_id)
)
# Read for a stranger's every request: no more than it takes to find the one whose holder he is.
PUBLIC_HALVES = (
    select(invitations.c.key_id, invitations.c.public_half)
    .where(invitations.c.method == bindparam("p_method"), invitations.c.expires_at > bindparam("p_after"))
    .order_by(invitations.c.created_at, invitations.c.key_id)
)
INVITATION = ALL_INVITATIONS.where(invitations.c.key_id == bindparam("p_key_id")).order_by(None)
ADD_INVITATION = insert(invitations)

# --- credentials ---

_abandoned = revocations.alias("abandoned")
_IS_ABANDONED = (
    select(_abandoned.c.serial)
    .where(
        _abandoned.c.serial == credentials.c.serial,
        _abandoned.c.kind == literal_column("'credential.abandoned'", Text()),
    )
    .correlate(credentials)
    .exists()
)
# log_head has exactly one row: joined to it, the answer has one row too, whatever is missing. An abandoned intent
# is not the key's: a key has at most one row that is, as writers come one after the other.
SPENDING = select(
    select(_KEYS)
    .select_from(credentials)
    .where(credentials.c.marker == bindparam("p_marker"), credentials.c.key_sha256 != bindparam("p_key"))
    .scalar_subquery()
    .label("others"),
    closed_markers.c.reason,
    credentials.c.serial,
    credentials.c.grant_json,
    credentials.c.certificate,
    revocations.c.reason.label("revoked"),
).select_from(
    log_head.outerjoin(
        credentials,
        and_(
            credentials.c.marker == bindparam("p_marker"),
            credentials.c.key_sha256 == bindparam("p_key"),
            ~_IS_ABANDONED,
        ),
    )
    .outerjoin(revocations, revocations.c.serial == credentials.c.serial)
    .outerjoin(closed_markers, closed_markers.c.marker == bindparam("p_marker"))
)
ADD_INTENT = insert(credentials).values(
    serial=bindparam("serial"),
    marker=bindparam("marker"),
    key_sha256=bindparam("key_sha256"),
    machine=bindparam("machine"),
    grant_json=bindparam("grant_json"),
    intended_at=bindparam("intended_at"),
)
SET_CERTIFICATE = (
    update(credentials)
    .where(
        credentials.c.serial == bindparam("p_serial"),
        credentials.c.certificate == null(),
        ~select(revocations.c.serial).where(revocations.c.serial == bindparam("p_serial")).exists(),
    )
    .values(certificate=bindparam("certificate"), issued_at=bindparam("issued_at"))
    .returning(credentials.c.serial)
)
ALL_CREDENTIALS = (
    select(
        credentials.c.serial,
        credentials.c.marker,
        credentials.c.key_sha256,
        credentials.c.machine,
        credentials.c.grant_json,
        credentials.c.intended_at,
        credentials.c.issued_at,
        credentials.c.certificate,
        revocations.c.revoked_at,
        revocations.c.reason,
        revocations.c.kind,
    )
    .select_from(credentials.outerjoin(revocations, revocations.c.serial == credentials.c.serial))
    .order_by(credentials.c.intended_at, credentials.c.serial)
)
CREDENTIAL = ALL_CREDENTIALS.order_by(None).where(credentials.c.serial == bindparam("p_serial"))
COUNT_CREDENTIALS = select(func.count()).select_from(credentials)
CREDENTIALS_BETWEEN = ALL_CREDENTIALS.order_by(None).where(
    credentials.c.serial >= bindparam("p_low"), credentials.c.serial < bindparam("p_high")
)
CREDENTIALS_OF = ALL_CREDENTIALS.where(credentials.c.machine == bindparam("p_machine"))
NEWEST_CREDENTIALS_OF = (
    ALL_CREDENTIALS.order_by(None)
    .where(credentials.c.machine == bindparam("p_machine"))
    .order_by(credentials.c.intended_at.desc(), credentials.c.serial.desc())
    .limit(literal_column("20", Integer()))
    .offset(literal_column("0", Integer()))  # or else SQLAlchemy makes it a parameter, for SQLite
)
# Bounded, so that no line of successors makes us read for long; it is more than any rule allows.
RENEWALS_SINCE = (
    select(credentials.c.serial)
    .where(
        credentials.c.machine == bindparam("p_machine"),
        credentials.c.intended_at > bindparam("p_since"),
        text("substr(credentials.marker, 1, 10) = 'successor:'"),
        credentials.c.marker != bindparam("p_except"),
    )
    .limit(literal_column("100", Integer()))
    .offset(literal_column("0", Integer()))
)
STALE_INTENTS = ALL_CREDENTIALS.where(
    credentials.c.certificate == null(),
    credentials.c.intended_at < bindparam("p_before"),
    revocations.c.serial == null(),
)

# --- revocations, markers, machines ---

ALL_REVOCATIONS = (
    select(revocations.c.serial, revocations.c.revoked_at, revocations.c.reason, credentials.c.grant_json)
    .select_from(revocations.join(credentials, credentials.c.serial == revocations.c.serial))
    .order_by(revocations.c.revoked_at, revocations.c.serial)
)
COUNT_REVOCATIONS = select(func.count()).select_from(revocations)
ADD_REVOCATION = insert(revocations)
CLOSE_MARKER = insert(closed_markers)
ALL_CLOSED_MARKERS = select(closed_markers.c.marker, closed_markers.c.closed_at, closed_markers.c.reason)
ALL_MACHINES = select(machines.c.name, machines.c.role, machines.c.introduced_at).order_by(machines.c.name)
MACHINE = ALL_MACHINES.where(machines.c.name == bindparam("p_name")).order_by(None)
ADD_MACHINE = insert(machines)
SET_ROLE = update(machines).where(machines.c.name == bindparam("p_name")).values(role=bindparam("role"))

# --- the log ---

HEAD = select(log_head.c.size, log_head.c.frontier)
# PostgreSQL has its writers queue here, so that each decides on what the one before left; SQLite has
# one writer at a time by BEGIN IMMEDIATE, and no FOR UPDATE.
LOCK_HEAD = HEAD.with_for_update()
SET_HEAD = update(log_head).values(size=bindparam("size"), frontier=bindparam("frontier"))
ADD_EVENT = insert(events)
_IN_ORDER = select(events.c.entry).order_by(events.c.leaf_index)
_OF_SUBJECT = events.c.subject == bindparam("p_subject")
# The literal condition of the partial index, so that both planners see it.
_ALARM = text("kind LIKE 'alarm.%'")
EVENTS = _IN_ORDER
EVENTS_OF_SUBJECT = _IN_ORDER.where(_OF_SUBJECT)
ALARMS = _IN_ORDER.where(_ALARM)
ALARMS_OF_SUBJECT = _IN_ORDER.where(_ALARM, _OF_SUBJECT)
# For a decision in the writer: however many were logged, it reads no more than what makes it enough.
FIRST_OF_MARKER = (
    select(events.c.entry)
    .where(events.c.marker == bindparam("p_marker"), events.c.kind == bindparam("p_kind"))
    .limit(bindparam("p_most", type_=Integer()))
    .offset(literal_column("0", Integer()))
)
ENTRIES = (
    select(events.c.leaf_index, events.c.kind, events.c.subject, events.c.entry, events.c.leaf_hash, events.c.marker)
    .where(events.c.leaf_index >= bindparam("p_start"), events.c.leaf_index < bindparam("p_end"))
    .order_by(events.c.leaf_index)
)
COUNT_EVENTS = select(func.count(), func.min(events.c.leaf_index), func.max(events.c.leaf_index))
ADD_CHECKPOINT = insert(checkpoints)
CHECKPOINT = select(checkpoints.c.note).where(checkpoints.c.size == bindparam("p_size"))
ALL_CHECKPOINTS = select(checkpoints.c.size, checkpoints.c.note).order_by(checkpoints.c.size)
LAST_CHECKPOINT = select(checkpoints.c.note).where(
    checkpoints.c.size == select(func.max(checkpoints.c.size)).scalar_subquery()
)
