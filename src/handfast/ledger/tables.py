"""
The tables, once for both dialects.

A fact is stored once: whether an invitation is used up or cancelled, and whether a credential is
valid or revoked, is derived when it is read. Times are integer microseconds of the Unix epoch (UTC):
exact, ordered, and the same in both dialects. The grant is kept as the JSON text that was decided on,
so that a repeat after a crash signs the identical grant.

The migrations make these tables, and the indexes, of which no statement has to know; tests hold the
tables in agreement and look at the query plans.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# SQLite: exactly INTEGER PRIMARY KEY is the row id itself and needs no second B-tree.
Big = BigInteger().with_variant(Integer(), "sqlite")
Serial = String(32)  # hexadecimal, zero-padded: 127 bits fit no integer column

invitations = Table(
    "invitations",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("method", Text(), nullable=False),
    Column("public_half", LargeBinary(), nullable=False),
    Column("machine", Text(), nullable=False),
    Column("role", Text(), nullable=False),
    Column("names", Text(), nullable=False),
    Column("uses", Integer(), nullable=False),
    Column("created_at", Big, nullable=False),
    Column("expires_at", Big, nullable=False),
    Column("sources", Text()),
    Column("subject", LargeBinary()),
)

# A row is an intent until its certificate is set; the certificate is set once and never changed.
credentials = Table(
    "credentials",
    metadata,
    Column("serial", Serial, primary_key=True),
    Column("marker", Text(), nullable=False),
    Column("key_sha256", LargeBinary(), nullable=False),
    Column("machine", Text(), nullable=False),
    Column("grant_json", Text(), nullable=False),
    Column("intended_at", Big, nullable=False),
    Column("issued_at", Big),
    Column("certificate", LargeBinary()),
)

revocations = Table(
    "revocations",
    metadata,
    Column("serial", Serial, ForeignKey("credentials.serial"), primary_key=True),
    Column("revoked_at", Big, nullable=False),
    Column("reason", Text(), nullable=False),
    Column("kind", Text(), nullable=False),  # of the event that took it back
)

# A closed marker is never spent again: a cancelled invitation, the succession of a revoked credential.
closed_markers = Table(
    "closed_markers",
    metadata,
    Column("marker", Text(), primary_key=True),
    Column("closed_at", Big, nullable=False),
    Column("reason", Text(), nullable=False),
)

machines = Table(
    "machines",
    metadata,
    Column("name", Text(), primary_key=True),
    Column("role", Text(), nullable=False),
    Column("introduced_at", Big, nullable=False),
)

# A machine with its SSH host keys, whole, as JSON: it is read and written whole, and the audit makes it again from the
# log. ``revision`` grows with every change of any of them.
hosts = Table(
    "hosts",
    metadata,
    Column("machine", Text(), primary_key=True),
    Column("state", Text(), nullable=False),
    Column("revision", Big, nullable=False),
)

# What a machine is searched by. Apart, and in order of the name: a search reads all of it, and no state.
host_words = Table(
    "host_words",
    metadata,
    Column("machine", Text(), primary_key=True),
    Column("words", Text(), nullable=False),
    sqlite_with_rowid=False,
)

# Which machine is reached so: ``host``, or ``[host]:port``. One machine for each; one host may be several's, by port.
host_places = Table(
    "host_places",
    metadata,
    Column("spelling", Text(), primary_key=True),
    Column("host", Text(), nullable=False),
    Column("machine", Text(), nullable=False),
)

# Whose key it is now: one machine's for each.
host_keys = Table(
    "host_keys",
    metadata,
    Column("digest", LargeBinary(), primary_key=True),
    Column("machine", Text(), nullable=False),
)

# Which keys must not be believed for a machine any more, unless an operator says so: all of them, where the machine's
# own row has the newest.
host_retired_keys = Table(
    "host_retired_keys",
    metadata,
    Column("machine", Text(), primary_key=True),
    Column("digest", LargeBinary(), primary_key=True),
    Column("reason", Text(), nullable=False),
    Column("retired_at", Big, nullable=False),
)

# A marker spent for host keys alone, against these keys.
host_registrations = Table(
    "host_registrations",
    metadata,
    Column("marker", Text(), primary_key=True),
    Column("keys_sha256", LargeBinary(), primary_key=True),
    Column("machine", Text(), nullable=False),
    Column("registered_at", Big, nullable=False),
)

# One SSH certificate for one key, an intent until its certificate is set. ``keys_sha256`` is over all keys that came
# with it: a marker is spent against these. ``kind``, ``holder``, ``valid_before`` and ``key_sha256`` repeat what the
# grant says, for searching; the audit compares them.
ssh_certificates = Table(
    "ssh_certificates",
    metadata,
    Column("serial", Big, primary_key=True, autoincrement=False),
    Column("marker", Text()),
    Column("keys_sha256", LargeBinary(), nullable=False),
    Column("key_sha256", LargeBinary(), nullable=False),
    Column("kind", Text(), nullable=False),
    Column("holder", Text(), nullable=False),
    Column("valid_before", Big, nullable=False),
    Column("grant_json", Text(), nullable=False),
    Column("intended_at", Big, nullable=False),
    Column("issued_at", Big),
    Column("certificate", LargeBinary()),
)

# ``valid_before`` is the certificate's own: what is over leaves the list of revoked keys.
ssh_revocations = Table(
    "ssh_revocations",
    metadata,
    Column("serial", Big, ForeignKey("ssh_certificates.serial"), primary_key=True, autoincrement=False),
    Column("valid_before", Big, nullable=False),
    Column("revoked_at", Big, nullable=False),
    Column("reason", Text(), nullable=False),
    Column("kind", Text(), nullable=False),  # of the event that took it back
)

# Host keys that wait for a person. The same question may be asked again once it is over: then ``turn`` is higher.
# ``owners`` are the other machines that were reached at those hosts when it was asked.
approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", String(16), primary_key=True),
    Column("turn", Integer(), primary_key=True, autoincrement=False),
    Column("machine", Text(), nullable=False),
    Column("how", Text(), nullable=False),
    Column("grant_json", Text(), nullable=False),
    Column("owners", Text(), nullable=False),
    Column("reasons", Text(), nullable=False),
    Column("asked_at", Big, nullable=False),
    Column("expires_at", Big, nullable=False),
    Column("decision", Text()),
    Column("decided_at", Big),
    Column("decided_by", Text()),
    Column("decided_reason", Text()),
)

# A managed machine, whole, as JSON: see ``hosts``. What of it does not last is not here.
instances = Table(
    "instances",
    metadata,
    Column("name", Text(), primary_key=True),
    Column("state", Text(), nullable=False),
)

# ``kind``, ``subject`` and ``marker`` repeat what the entry says, for searching; the audit compares them. Only what
# is logged a few times for each marker has one here: see ``entries.marker_of``.
events = Table(
    "events",
    metadata,
    Column("leaf_index", Big, primary_key=True, autoincrement=False),
    Column("kind", Text(), nullable=False),
    Column("subject", Text(), nullable=False),
    Column("entry", LargeBinary(), nullable=False),
    Column("leaf_hash", LargeBinary(), nullable=False),
    Column("marker", Text()),
)

log_head = Table(
    "log_head",
    metadata,
    Column("id", Integer(), CheckConstraint("id = 1", name="single"), primary_key=True, autoincrement=False),
    Column("size", Big, nullable=False),
    Column("frontier", LargeBinary(), nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", Big, primary_key=True, autoincrement=False),
    Column("note", Text(), nullable=False),
)
