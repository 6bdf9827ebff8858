"""The statements about SSH certificates and approvals; see ``statements`` for how they are written."""

from __future__ import annotations

from sqlalchemy import Integer, Text, and_, bindparam, func, insert, literal_column, null, select, update

from handfast.core import records
from handfast.ledger.tables import (
    approvals,
    closed_markers,
    host_keys,
    host_retired_keys,
    hosts,
    log_head,
    ssh_certificates,
    ssh_revocations,
)

_NONE = literal_column("0", Integer())  # SQLite writes an offset in any case, as a parameter
_ONE = literal_column("1", Integer())
_HOST = literal_column("'host'", Text())
_NEWEST = (ssh_certificates.c.intended_at.desc(), ssh_certificates.c.serial.desc())

# --- certificates ---

_CERTIFICATES = select(
    ssh_certificates.c.serial,
    ssh_certificates.c.marker,
    ssh_certificates.c.keys_sha256,
    ssh_certificates.c.key_sha256,
    ssh_certificates.c.kind,
    ssh_certificates.c.holder,
    ssh_certificates.c.valid_before,
    ssh_certificates.c.grant_json,
    ssh_certificates.c.intended_at,
    ssh_certificates.c.issued_at,
    ssh_certificates.c.certificate,
    ssh_revocations.c.valid_before.label("revoked_valid_before"),
    ssh_revocations.c.revoked_at,
    ssh_revocations.c.reason,
    ssh_revocations.c.kind.label("revoked_kind"),
).select_from(ssh_certificates.outerjoin(ssh_revocations, ssh_revocations.c.serial == ssh_certificates.c.serial))
_STANDS = ssh_revocations.c.serial == null()
_MANY = literal_column("1000", Integer())

SSH_CERTIFICATE = _CERTIFICATES.where(ssh_certificates.c.serial == bindparam("p_serial"))
_OF_HOST_KEY = (ssh_certificates.c.key_sha256 == bindparam("p_key"), ssh_certificates.c.kind == _HOST)
SSH_LAST_OF_HOST_KEY = (
    _CERTIFICATES.where(*_OF_HOST_KEY, ssh_certificates.c.certificate != null())
    .order_by(*_NEWEST)
    .limit(_ONE)
    .offset(_NONE)
)
SSH_INTENTS_SINCE = select(func.count()).where(*_OF_HOST_KEY, ssh_certificates.c.intended_at > bindparam("p_since"))
SSH_CERTIFICATES_AFTER = (
    _CERTIFICATES.where(ssh_certificates.c.valid_before > bindparam("p_after"))
    .order_by(*_NEWEST)
    .limit(_MANY)
    .offset(_NONE)
)
SSH_CERTIFICATES_OF_HOLDER = SSH_CERTIFICATES_AFTER.where(ssh_certificates.c.holder == bindparam("p_holder"))
# Of a key as a machine's, not over and not taken back: among these is the answer when it is asked for again.
SSH_STANDING = (
    _CERTIFICATES.where(*_OF_HOST_KEY, ssh_certificates.c.valid_before > bindparam("p_at"), _STANDS)
    .order_by(*_NEWEST)
    .limit(literal_column("20", Integer()))
    .offset(_NONE)
)
# What a machine or person holds, but no more than many: what is taken back makes room for the rest.
SSH_STANDING_OF_HOLDER = SSH_CERTIFICATES_OF_HOLDER.where(_STANDS)
# What a machine holds, all of it: none may be left out when the machine changes.
SSH_LIVE_OF_HOST = _CERTIFICATES.where(
    ssh_certificates.c.holder == bindparam("p_holder"),
    ssh_certificates.c.kind == _HOST,
    ssh_certificates.c.valid_before > bindparam("p_at"),
    _STANDS,
)
# Somebody took it back as the key is not trusted, and not the ledger as the machine has changed.
SSH_DISTRUSTED_SINCE = (
    _CERTIFICATES.where(
        *_OF_HOST_KEY,
        ssh_revocations.c.kind == literal_column("'sshcert.revoked'", Text()),
        ssh_revocations.c.reason.in_([literal_column(f"'{each}'", Text()) for each in sorted(records.DISTRUST)]),
        ssh_revocations.c.revoked_at >= bindparam("p_since"),
    )
    .order_by(ssh_revocations.c.revoked_at.desc())
    .limit(_ONE)
    .offset(_NONE)
)
# An abandoned intent is not the keys': they may have another.
SSH_OF_MARKER = _CERTIFICATES.where(
    ssh_certificates.c.marker == bindparam("p_marker"),
    ssh_certificates.c.keys_sha256 == bindparam("p_keys"),
    func.coalesce(ssh_revocations.c.kind, literal_column("''", Text()))
    != literal_column("'sshcert.abandoned'", Text()),
).order_by(*_NEWEST)
_of_marker = ssh_certificates.alias("of_marker")
SSH_SPENDING = select(
    select(func.count(_of_marker.c.keys_sha256.distinct()))
    .where(_of_marker.c.marker == bindparam("p_marker"), _of_marker.c.keys_sha256 != bindparam("p_keys"))
    .scalar_subquery()
    .label("others"),
    closed_markers.c.reason,
).select_from(log_head.outerjoin(closed_markers, closed_markers.c.marker == bindparam("p_marker")))
ADD_SSH_INTENT = insert(ssh_certificates).values(
    serial=bindparam("serial"),
    marker=bindparam("marker"),
    keys_sha256=bindparam("keys_sha256"),
    key_sha256=bindparam("key_sha256"),
    kind=bindparam("kind"),
    holder=bindparam("holder"),
    valid_before=bindparam("valid_before"),
    grant_json=bindparam("grant_json"),
    intended_at=bindparam("intended_at"),
)
SSH_ISSUING = (
    select(
        ssh_certificates.c.kind,
        ssh_certificates.c.holder,
        ssh_certificates.c.valid_before,
        ssh_certificates.c.certificate,
        ssh_revocations.c.reason,
    )
    .select_from(ssh_certificates.outerjoin(ssh_revocations, ssh_revocations.c.serial == ssh_certificates.c.serial))
    .where(ssh_certificates.c.serial == bindparam("p_serial"))
)
SET_SSH_CERTIFICATE = (
    update(ssh_certificates)
    .where(ssh_certificates.c.serial == bindparam("p_serial"))
    .values(certificate=bindparam("certificate"), issued_at=bindparam("issued_at"))
)
STALE_SSH_INTENTS = _CERTIFICATES.where(
    ssh_certificates.c.certificate == null(), ssh_certificates.c.intended_at < bindparam("p_before"), _STANDS
)
COUNT_SSH_CERTIFICATES = select(func.count()).select_from(ssh_certificates)
SSH_CERTIFICATES_BETWEEN = _CERTIFICATES.where(
    ssh_certificates.c.serial >= bindparam("p_low"), ssh_certificates.c.serial <= bindparam("p_last")
)

# --- revocations ---

ADD_SSH_REVOCATION = insert(ssh_revocations)
SSH_REVOKED = (
    select(ssh_certificates.c.serial, ssh_certificates.c.kind)
    .select_from(ssh_revocations.join(ssh_certificates, ssh_certificates.c.serial == ssh_revocations.c.serial))
    .where(ssh_revocations.c.valid_before > bindparam("p_at"))
)
COUNT_SSH_REVOCATIONS = select(func.count()).select_from(ssh_revocations)
# Retired somewhere, and no machine's now: a disk may have moved.
ALL_SSH_REVOKED_KEYS = (
    select(host_retired_keys.c.digest, host_retired_keys.c.reason, host_retired_keys.c.retired_at)
    .order_by(host_retired_keys.c.retired_at, host_retired_keys.c.digest)
    .where(~select(host_keys.c.digest).where(host_keys.c.digest == host_retired_keys.c.digest).exists())
)
HOST_OF_KEY = (
    select(hosts.c.state)
    .select_from(host_keys.join(hosts, hosts.c.machine == host_keys.c.machine))
    .where(host_keys.c.digest == bindparam("p_digest"))
)

# --- approvals ---

_APPROVALS = select(
    approvals.c.approval_id,
    approvals.c.turn,
    approvals.c.machine,
    approvals.c.how,
    approvals.c.grant_json,
    approvals.c.owners,
    approvals.c.reasons,
    approvals.c.asked_at,
    approvals.c.expires_at,
    approvals.c.decision,
    approvals.c.decided_at,
    approvals.c.decided_by,
    approvals.c.decided_reason,
)
_IN_ORDER = (approvals.c.asked_at, approvals.c.approval_id, approvals.c.turn)
ALL_APPROVALS = _APPROVALS.order_by(*_IN_ORDER)
_UNDECIDED = approvals.c.decision == null()
OPEN_APPROVALS = ALL_APPROVALS.where(_UNDECIDED, approvals.c.expires_at > bindparam("p_after"))
APPROVAL = (
    _APPROVALS.where(approvals.c.approval_id == bindparam("p_id"))
    .order_by(approvals.c.turn.desc())
    .limit(_ONE)
    .offset(_NONE)
)
_OF_MACHINE = approvals.c.machine == bindparam("p_machine")
_SO = approvals.c.how == bindparam("p_how")
OPEN_COUNTS = select(func.count(), func.count().filter(_OF_MACHINE), func.count().filter(_SO)).where(
    and_(_UNDECIDED, approvals.c.expires_at > bindparam("p_at"))
)
ADD_APPROVAL = insert(approvals).values(
    approval_id=bindparam("approval_id"),
    turn=bindparam("turn"),
    machine=bindparam("machine"),
    how=bindparam("how"),
    grant_json=bindparam("grant_json"),
    owners=bindparam("owners"),
    reasons=bindparam("reasons"),
    asked_at=bindparam("asked_at"),
    expires_at=bindparam("expires_at"),
)
DECIDE_APPROVAL = (
    update(approvals)
    .where(approvals.c.approval_id == bindparam("p_id"), approvals.c.turn == bindparam("p_turn"))
    .values(
        decision=bindparam("decision"),
        decided_at=bindparam("decided_at"),
        decided_by=bindparam("decided_by"),
        decided_reason=bindparam("decided_reason"),
    )
)
