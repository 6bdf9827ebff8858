"""SSH certificates, and host keys that wait for a person."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; they begin empty."""
    _certificates()
    _approvals()


def _certificates() -> None:
    op.create_table(
        "ssh_certificates",
        sa.Column("serial", BIG, autoincrement=False, nullable=False),
        sa.Column("marker", sa.Text(), nullable=True),
        sa.Column("keys_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("key_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("valid_before", BIG, nullable=False),
        sa.Column("grant_json", sa.Text(), nullable=False),
        sa.Column("intended_at", BIG, nullable=False),
        sa.Column("issued_at", BIG, nullable=True),
        sa.Column("certificate", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("serial", name="pk_ssh_certificates"),
    )
    op.create_index("ix_ssh_certificates_key", "ssh_certificates", ["key_sha256", "intended_at"])
    op.create_index("ix_ssh_certificates_holder", "ssh_certificates", ["holder", "valid_before"])
    op.create_index("ix_ssh_certificates_valid_before", "ssh_certificates", ["valid_before"])
    marked = sa.text("marker IS NOT NULL")
    op.create_index(
        "ix_ssh_certificates_marker",
        "ssh_certificates",
        ["marker", "keys_sha256"],
        sqlite_where=marked,
        postgresql_where=marked,
    )
    pending = sa.text("certificate IS NULL")
    op.create_index(
        "ix_ssh_certificates_pending",
        "ssh_certificates",
        ["intended_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_table(
        "ssh_revocations",
        sa.Column("serial", BIG, autoincrement=False, nullable=False),
        sa.Column("valid_before", BIG, nullable=False),
        sa.Column("revoked_at", BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["serial"], ["ssh_certificates.serial"], name="fk_ssh_revocations_serial"),
        sa.PrimaryKeyConstraint("serial", name="pk_ssh_revocations"),
    )
    op.create_index("ix_ssh_revocations_valid_before", "ssh_revocations", ["valid_before"])


def _approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.String(16), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("grant_json", sa.Text(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("asked_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("decided_at", BIG, nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("approval_id", "turn", name="pk_approvals"),
    )
    undecided = sa.text("decision IS NULL")
    op.create_index(
        "ix_approvals_open",
        "approvals",
        ["expires_at", "machine"],
        sqlite_where=undecided,
        postgresql_where=undecided,
    )
