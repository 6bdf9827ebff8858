"""The half of the ledger that is about SSH certificates, and about host keys that wait for a person."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from datetime import datetime

from handfast.core.flow import HostGrant, Once, SshCredential, SshGrant, SshIntent
from handfast.core.hosts import Host
from handfast.core.records import Approval, KrlState, Owners, SshPast, SshRecord
from handfast.core.sshkeys import SshKey
from handfast.ledger import (
    approvals,
    host_checks,
    host_entries,
    ssh_certificates,
    ssh_entries,
    ssh_past,
    ssh_revocations,
    ssh_statements,
)
from handfast.ledger.connections import Connections
from handfast.ledger.database import Session
from handfast.ledger.entries import micros


class SshStore(Connections):
    """See ``core.ports.Ledger``."""

    # --- reads ---

    def host_of_key(self, key: SshKey) -> Host | None:
        """Return the machine whose host key that is now."""
        row = self._one(ssh_statements.HOST_OF_KEY, {"p_digest": key.digest})
        return None if row is None else host_entries.host_from_json(row[0])

    def ssh_certificate(self, serial: int) -> SshRecord | None:
        """Return the certificate or intent with this serial."""
        if not 0 < serial < 1 << ssh_revocations.SERIAL_BITS:  # a stranger's may be larger than the column
            return None
        row = self._one(ssh_statements.SSH_CERTIFICATE, {"p_serial": serial})
        return None if row is None else ssh_entries.record_from_row(row)

    def ssh_certificates(self, holder: str | None = None, *, after: datetime | None = None) -> list[SshRecord]:
        """Return those (of a holder) that end after a time, or all; the newest first, 1,000 at most."""
        values: dict[str, object] = {"p_after": 0 if after is None else micros(after)}
        if holder is None:
            found = self._all(ssh_statements.SSH_CERTIFICATES_AFTER, values)
        else:
            found = self._all(ssh_statements.SSH_CERTIFICATES_OF_HOLDER, {**values, "p_holder": holder})
        return [ssh_entries.record_from_row(row) for row in found]

    def ssh_standing(self, holder: str, *, at: datetime) -> list[SshRecord]:
        """Return a holder's that are neither over nor taken back, the newest first, 1,000 at most."""
        found = self._all(ssh_statements.SSH_STANDING_OF_HOLDER, {"p_after": micros(at), "p_holder": holder})
        return [ssh_entries.record_from_row(row) for row in found]

    def ssh_past(self, key: SshKey, *, at: datetime) -> SshPast:
        """Return what became of a host key before a time."""
        return self._read(lambda session: ssh_past.read(session, key, at=at))

    def ssh_revocation_count(self) -> int:
        """Return how many SSH certificates were taken back; it only grows."""
        return int(self._read(lambda session: session.head(ssh_statements.COUNT_SSH_REVOCATIONS))[0])

    def retired_ssh_keys(self) -> frozenset[bytes]:
        """Return the SHA-256 digests of host keys that were retired, and are no machine's now."""
        return frozenset(bytes(digest) for digest, *_ in self._all(ssh_statements.ALL_SSH_REVOKED_KEYS))

    def approvals(self, *, open_only: bool = True, after: datetime | None = None) -> list[Approval]:
        """Return what waits for a person, and is not over after a time; or all that ever did; the oldest first."""
        if open_only:
            found = self._all(ssh_statements.OPEN_APPROVALS, {"p_after": 0 if after is None else micros(after)})
        else:
            found = self._all(ssh_statements.ALL_APPROVALS)
        return [approvals.from_row(row) for row in found]

    def approval(self, approval_id: str) -> Approval | None:
        """Return the question with this id; of those that were asked more than once, the last."""
        row = self._one(ssh_statements.APPROVAL, {"p_id": approval_id})
        return None if row is None else approvals.from_row(row)

    def hosts_reached(self, hosts: Iterable[str]) -> Owners:
        """Return which machines are reached at these names or addresses, at whatever port: spelling, and machine."""
        return frozenset(self._read(lambda session: host_checks.reached(session, hosts)))

    def shared_hosts(self, machine: str) -> frozenset[str]:
        """Return those of a machine's hosts that it must not be called in a certificate."""

        def read(session: Session) -> frozenset[str]:
            host = host_checks.read(session, machine)
            return frozenset() if host is None else host_checks.shared(session, machine, host.place)

        return self._read(read)

    # --- writes: each Future is done when the change is durable ---

    def intend_ssh(self, grant: SshGrant, once: Once | None, *, at: datetime) -> Future[tuple[SshIntent, ...]]:
        """
        Spend a marker against these keys, record the grant's host keys, and reserve a serial for each leaf.

        Where a host's key has a certificate for the same names that is good for more than half of its life, that
        one is the answer; and a person's, the one that came of the same marker.

        :raises AlreadySpent: no use is left for other keys; an ``alarm.second-key`` event is logged.
        :raises Refused: as ``register``; a leaf says what the ledger does not; or the marker was closed.
        :raises TooMuch: a host's key had too many of late.
        """
        return self._submit(lambda tx: ssh_certificates.intend(tx, grant, once, at=at))

    def issued_ssh(self, credentials: tuple[SshCredential, ...], *, at: datetime) -> Future[tuple[bytes, ...]]:
        """
        Keep the certificates, and return those to deliver: the first that were kept for their serials.

        :raises NotFound: a serial was never intended. :raises Revoked: one was taken back: deliver none.
        """
        return self._submit(lambda tx: ssh_certificates.issued(tx, credentials, at=at))

    def revoke_ssh(self, serial: int, *, reason: str, at: datetime) -> Future[None]:
        """Take a certificate back. :raises Malformed: no reason of RFC 5280. :raises NotFound: :raises Revoked:"""
        return self._submit(lambda tx: ssh_revocations.revoke(tx, serial, reason=reason, at=at))

    def publish_krl(self, by: str, *, at: datetime) -> Future[KrlState]:
        """Log that ``by`` publishes a list of revoked SSH keys now; the result is its version, and what it lists."""
        return self._submit(lambda tx: ssh_revocations.publish(tx, by, at=at))

    def ask(
        self, grant: HostGrant, reasons: tuple[str, ...], owners: Owners = frozenset(), *, at: datetime
    ) -> Future[Approval]:
        """
        Keep host keys until a person has looked at them; who asks the same again gets the same question.

        ``owners`` are those from whom the place would be taken; from others it never is.

        :raises TooMuch: too many questions are open. :raises Refused: a person has said no.
        """
        return self._submit(lambda tx: approvals.ask(tx, grant, reasons, owners, at=at))

    def approve(self, approval_id: str, *, by: str, reason: str, at: datetime) -> Future[Approval]:
        """
        Record the host keys that were asked about, in the place of those that the machine had.

        :raises NotFound: :raises Refused: decided before, over, or its keys cannot be recorded.
        """
        return self._submit(lambda tx: approvals.approve(tx, approval_id, by=by, reason=reason, at=at))

    def reject(self, approval_id: str, *, by: str, reason: str, at: datetime) -> Future[Approval]:
        """Refuse them for good. :raises NotFound: :raises Refused: decided before, or over."""
        return self._submit(lambda tx: approvals.reject(tx, approval_id, by=by, reason=reason, at=at))
