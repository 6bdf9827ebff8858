"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SERIAL = sa.String(32)


def upgrade() -> None:
    """Make every table, and the one row of the log's head."""
    _invitations_and_credentials()
    _what_was_taken_back()
    _log()


def _invitations_and_credentials() -> None:
    op.create_table(
        "invitations",
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("public_half", sa.LargeBinary(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.Column("sources", sa.Text()),
        sa.Column("subject", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("key_id", name="pk_invitations"),
    )
    op.create_index("ix_invitations_method", "invitations", ["method", "expires_at"])
    op.create_table(
        "credentials",
        sa.Column("serial", SERIAL, nullable=False),
        sa.Column("marker", sa.Text(), nullable=False),
        sa.Column("key_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("grant_json", sa.Text(), nullable=False),
        sa.Column("intended_at", BIG, nullable=False),
        sa.Column("issued_at", BIG),
        sa.Column("certificate", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("serial", name="pk_credentials"),
    )
    # Not unique: a key whose intent was abandoned may ask again, and gets another serial.
    op.create_index("ix_credentials_marker", "credentials", ["marker", "key_sha256"])
    op.create_index("ix_credentials_machine", "credentials", ["machine", "intended_at"])
    pending = sa.text("certificate IS NULL")
    op.create_index(
        "ix_credentials_pending", "credentials", ["intended_at"], sqlite_where=pending, postgresql_where=pending
    )
    op.create_table(
        "machines",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("introduced_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_machines"),
    )


def _what_was_taken_back() -> None:
    op.create_table(
        "revocations",
        sa.Column("serial", SERIAL, nullable=False),
        sa.Column("revoked_at", BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["serial"], ["credentials.serial"], name="fk_revocations_serial"),
        sa.PrimaryKeyConstraint("serial", name="pk_revocations"),
    )
    op.create_table(
        "closed_markers",
        sa.Column("marker", sa.Text(), nullable=False),
        sa.Column("closed_at", BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("marker", name="pk_closed_markers"),
    )


def _log() -> None:
    op.create_table(
        "events",
        sa.Column("leaf_index", BIG, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.Column("marker", sa.Text()),
        sa.PrimaryKeyConstraint("leaf_index", name="pk_events"),
    )
    op.create_index("ix_events_subject", "events", ["subject"])
    # Only alarms are searched by kind: a partial index costs the ordinary entry nothing.
    alarms = sa.text("kind LIKE 'alarm.%'")
    op.create_index("ix_events_alarms", "events", ["leaf_index"], sqlite_where=alarms, postgresql_where=alarms)
    marked = sa.text("marker IS NOT NULL")
    op.create_index("ix_events_marker", "events", ["marker", "kind"], sqlite_where=marked, postgresql_where=marked)
    head = op.create_table(
        "log_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_head"),
        sa.CheckConstraint("id = 1", name="ck_log_head_single"),
    )
    op.bulk_insert(head, [{"id": 1, "size": 0, "frontier": b""}])
    op.create_table(
        "checkpoints",
        sa.Column("size", BIG, autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_checkpoints"),
    )
