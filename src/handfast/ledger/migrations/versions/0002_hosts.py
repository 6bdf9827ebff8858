"""SSH host keys of machines."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; they begin empty."""
    op.create_table(
        "hosts",
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", BIG, nullable=False),
        sa.PrimaryKeyConstraint("machine", name="pk_hosts"),
    )
    op.create_index("ix_hosts_revision", "hosts", ["revision"])
    op.create_table(
        "host_words",
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("machine", name="pk_host_words"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "host_places",
        sa.Column("spelling", sa.Text(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("spelling", name="pk_host_places"),
    )
    op.create_index("ix_host_places_machine", "host_places", ["machine"])
    op.create_table(
        "host_keys",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_host_keys"),
    )
    op.create_index("ix_host_keys_machine", "host_keys", ["machine"])
    op.create_table(
        "host_retired_keys",
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("machine", "digest", name="pk_host_retired_keys"),
    )
    op.create_table(
        "host_registrations",
        sa.Column("marker", sa.Text(), nullable=False),
        sa.Column("keys_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("registered_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("marker", "keys_sha256", name="pk_host_registrations"),
    )
