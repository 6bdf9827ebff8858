"""The statements about SSH host keys; see ``statements`` for how they are written."""

from __future__ import annotations

from sqlalchemy import Integer, Text, and_, bindparam, delete, func, insert, literal_column, select, update

from handfast.core.hosts import REMOVED
from handfast.ledger.entries import SUPERSEDED
from handfast.ledger.tables import (
    approvals,
    closed_markers,
    host_keys,
    host_places,
    host_registrations,
    host_retired_keys,
    host_words,
    hosts,
    log_head,
)

HOST = select(hosts.c.state).where(hosts.c.machine == bindparam("p_machine"))
# Whose place it is; else the machine of that very name, which was removed: or its name would have been there.
_AT = select(host_places.c.machine).where(host_places.c.spelling == bindparam("p_spelling")).scalar_subquery()
HOST_AT = select(hosts.c.state).where(hosts.c.machine == func.coalesce(_AT, bindparam("p_spelling")))
_MOST = bindparam("p_most", type_=Integer())
_NONE = literal_column("0", Integer())  # SQLite writes an offset in any case, as a parameter
_AFTER = hosts.c.machine > bindparam("p_after")
HOSTS = select(hosts.c.state).where(_AFTER).order_by(hosts.c.machine).limit(_MOST).offset(_NONE)
_MATCHING = (
    select(host_words.c.machine)
    .where(host_words.c.machine > bindparam("p_after"), host_words.c.words.like(bindparam("p_like"), escape="!"))
    .order_by(host_words.c.machine)
    .limit(_MOST)
    .offset(_NONE)
)
# A scan, as parts of words are asked for; docs/performance.md has what it takes with 100,000 machines.
HOSTS_MATCHING = select(hosts.c.state).where(hosts.c.machine.in_(_MATCHING)).order_by(hosts.c.machine)
ALL_HOSTS = (
    select(hosts.c.machine, hosts.c.state, host_words.c.words, hosts.c.revision)
    .select_from(hosts.outerjoin(host_words, host_words.c.machine == hosts.c.machine))
    .order_by(hosts.c.machine)
)
COUNT_HOST_WORDS = select(func.count()).select_from(host_words)
HOSTS_REVISION = select(func.coalesce(func.max(hosts.c.revision), literal_column("0", Integer())))
ADD_HOST = insert(hosts)
SET_HOST = (
    update(hosts)
    .where(hosts.c.machine == bindparam("p_machine"))
    .values(state=bindparam("state"), revision=bindparam("revision"))
)
ADD_HOST_WORDS = insert(host_words)
SET_HOST_WORDS = (
    update(host_words).where(host_words.c.machine == bindparam("p_machine")).values(words=bindparam("words"))
)

HOST_PLACE = select(host_places.c.machine).where(host_places.c.spelling == bindparam("p_spelling"))
# Who is reached at a host, at whatever port.
HOSTS_REACHED = (
    select(host_places.c.spelling, host_places.c.machine)
    .where(host_places.c.host == bindparam("p_host"))
    .order_by(host_places.c.spelling)
)
ALL_HOST_PLACES = select(host_places.c.spelling, host_places.c.host, host_places.c.machine)
ADD_HOST_PLACE = insert(host_places)
REMOVE_HOST_PLACES = delete(host_places).where(host_places.c.machine == bindparam("p_machine"))

HOST_KEY_OWNER = select(host_keys.c.machine).where(host_keys.c.digest == bindparam("p_digest"))
ALL_HOST_KEYS = select(host_keys.c.digest, host_keys.c.machine)
ADD_HOST_KEY = insert(host_keys)
REMOVE_HOST_KEYS = delete(host_keys).where(host_keys.c.machine == bindparam("p_machine"))

# What a person has said of a machine's keys.
HOST_DECISIONS = (
    select(approvals.c.grant_json, approvals.c.decided_at, approvals.c.decided_by, approvals.c.decided_reason)
    .where(approvals.c.machine == bindparam("p_machine"), approvals.c.decision == bindparam("p_decision"))
    .order_by(approvals.c.decided_at)
)

_RETIRED = and_(
    host_retired_keys.c.machine == bindparam("p_machine"), host_retired_keys.c.digest == bindparam("p_digest")
)
HOST_RETIRED_KEY = select(host_retired_keys.c.digest).where(_RETIRED)
# Retired by an operator, of any machine, and not as the machine had others or was gone.
HOST_DISTRUSTED_KEY = (
    select(host_retired_keys.c.machine, host_retired_keys.c.reason)
    .where(
        host_retired_keys.c.digest == bindparam("p_digest"),
        host_retired_keys.c.reason != literal_column(f"'{SUPERSEDED}'", Text()),
        host_retired_keys.c.reason != literal_column(f"'{REMOVED}'", Text()),
    )
    .order_by(host_retired_keys.c.machine)
    .limit(literal_column("1", Integer()))
    .offset(_NONE)
)
ALL_HOST_RETIRED_KEYS = select(
    host_retired_keys.c.machine,
    host_retired_keys.c.digest,
    host_retired_keys.c.reason,
    host_retired_keys.c.retired_at,
)
ADD_HOST_RETIRED_KEY = insert(host_retired_keys)
REMOVE_HOST_RETIRED_KEY = delete(host_retired_keys).where(_RETIRED)

# The log's head has exactly one row: joined to it, the answer has one too. The first column counts other keys.
_others = host_registrations.alias("others")
_OF_MARKER = host_registrations.c.marker == bindparam("p_marker")
HOST_SPENDING = select(
    select(func.count())
    .select_from(_others)
    .where(_others.c.marker == bindparam("p_marker"), _others.c.keys_sha256 != bindparam("p_keys"))
    .scalar_subquery()
    .label("others"),
    closed_markers.c.reason,
    host_registrations.c.machine,
).select_from(
    log_head.outerjoin(
        host_registrations, and_(_OF_MARKER, host_registrations.c.keys_sha256 == bindparam("p_keys"))
    ).outerjoin(closed_markers, closed_markers.c.marker == bindparam("p_marker"))
)
ADD_HOST_REGISTRATION = insert(host_registrations)
ALL_HOST_REGISTRATIONS = select(
    host_registrations.c.marker,
    host_registrations.c.keys_sha256,
    host_registrations.c.machine,
    host_registrations.c.registered_at,
)
