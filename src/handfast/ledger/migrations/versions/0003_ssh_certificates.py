"""SSH certificates, and host keys that wait for a person."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; they begin empty. Two indexes of host keys get a column, and their rows."""
    _certificates()
    _approvals()
    _places()
    _retired_keys()


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
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("grant_json", sa.Text(), nullable=False),
        sa.Column("owners", sa.Text(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("asked_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("decided_at", BIG, nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("approval_id", "turn", name="pk_approvals"),
    )
    op.create_index("ix_approvals_machine", "approvals", ["machine", "decision"])
    undecided = sa.text("decision IS NULL")
    op.create_index(
        "ix_approvals_open",
        "approvals",
        ["expires_at", "machine"],
        sqlite_where=undecided,
        postgresql_where=undecided,
    )


def _places() -> None:
    """Whose place a host is at any port."""
    found = op.get_bind().execute(sa.text("SELECT spelling, machine FROM host_places")).all()
    op.drop_table("host_places")
    table = op.create_table(
        "host_places",
        sa.Column("spelling", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("spelling", name="pk_host_places"),
    )
    op.create_index("ix_host_places_machine", "host_places", ["machine"])
    op.create_index("ix_host_places_host", "host_places", ["host"])
    rows = [
        {
            "spelling": spelling,
            "host": spelling[1:].rpartition("]:")[0] if spelling.startswith("[") else spelling,
            "machine": machine,
        }
        for spelling, machine in found
    ]
    op.bulk_insert(table, rows)


def _retired_keys() -> None:
    """Why and when a key was retired; of the older ones only the log has it."""
    logged = sa.text("SELECT entry FROM events WHERE kind = 'hostkey.retired' ORDER BY leaf_index")
    reasons = {}
    for (entry,) in op.get_bind().execute(logged):
        event = json.loads(bytes(entry))
        digest = hashlib.sha256(base64.b64decode(event["fields"]["key"].split()[1])).digest()
        at = (datetime.fromisoformat(event["at"]) - EPOCH) // timedelta(microseconds=1)
        reasons[event["subject"], digest] = {"reason": event["fields"]["reason"], "retired_at": at}
    found = op.get_bind().execute(sa.text("SELECT machine, digest FROM host_retired_keys")).all()
    op.drop_table("host_retired_keys")
    table = op.create_table(
        "host_retired_keys",
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("retired_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("machine", "digest", name="pk_host_retired_keys"),
    )
    op.create_index("ix_host_retired_keys_digest", "host_retired_keys", ["digest"])
    rows = [{"machine": machine, "digest": digest, **reasons[machine, bytes(digest)]} for machine, digest in found]
    op.bulk_insert(table, rows)
