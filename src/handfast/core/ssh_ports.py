"""What inner code asks of the world for SSH certificates; otherwise as ``ports``."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from datetime import datetime
from typing import Protocol

from handfast.core.flow import HostGrant, Once, SshCredential, SshGrant, SshIntent
from handfast.core.hosts import Host
from handfast.core.look import Look, Seen
from handfast.core.records import Approval, KrlState, Owners, SshPast, SshRecord
from handfast.core.sshkeys import SshKey


class SshLedger(Protocol):
    """The ledger's part in SSH certificates, and in the questions about host keys that a person answers."""

    def host_of_key(self, key: SshKey) -> Host | None:
        """Return the machine whose host key that is now."""

    def hosts_reached(self, hosts: Iterable[str]) -> Owners:
        """Return which machines are reached at these names or addresses, at whatever port."""

    def shared_hosts(self, machine: str) -> frozenset[str]:
        """Return those of a machine's hosts that it must not be called in a certificate, see ``core.hosts``."""

    def ssh_certificate(self, serial: int) -> SshRecord | None: ...

    def ssh_certificates(self, holder: str | None = None, *, after: datetime | None = None) -> list[SshRecord]:
        """Return those (of a holder) that end after a time, or all; the newest first, 1,000 at most."""

    def ssh_standing(self, holder: str, *, at: datetime) -> list[SshRecord]:
        """Return a holder's that are neither over nor taken back, the newest first; 1,000 at most."""

    def ssh_past(self, key: SshKey, *, at: datetime) -> SshPast:
        """Return what became of a host key before ``at``, as ``intend_ssh`` judges it."""

    def intend_ssh(self, grant: SshGrant, once: Once | None, *, at: datetime) -> Future[tuple[SshIntent, ...]]:
        """
        Spend ``once`` against the grant's keys, record ``grant.host``, reserve serials and log it, in one transaction.

        Where a leaf's key has a certificate for the same names that is good for more than half of its life, that one
        is the answer. A host's leaf has to be the ledger's own word in the end: its key current, its names the
        machine's.

        :raises AlreadySpent: for other keys. :raises Refused: as ``register``; or the ledger says otherwise by now.
        """

    def issued_ssh(self, credentials: tuple[SshCredential, ...], *, at: datetime) -> Future[tuple[bytes, ...]]:
        """Keep the certificates, and return those to deliver: the first that were kept. :raises Revoked: one is."""

    def revoke_ssh(self, serial: int, *, reason: str, at: datetime) -> Future[None]:
        """Take a certificate back. :raises NotFound: :raises Revoked: it was before."""

    def publish_krl(self, by: str, *, at: datetime) -> Future[KrlState]:
        """Log that ``by`` publishes a list of revoked SSH keys now, and return its number and what belongs into it."""

    # --- approvals ---

    def ask(
        self, grant: HostGrant, reasons: tuple[str, ...], owners: Owners = frozenset(), *, at: datetime
    ) -> Future[Approval]:
        """
        Keep host keys until a person has looked at them; the same keys for the same machine are the same question.

        ``owners`` are those from whom the place would be taken; who comes to it later keeps it.

        :raises TooMuch: too many questions are open, about this machine or at all.
        """

    def approvals(self, *, open_only: bool = True, after: datetime | None = None) -> list[Approval]:
        """Return what nobody has decided, and ends after a time; or all that was ever asked; the oldest first."""

    def approval(self, approval_id: str) -> Approval | None: ...

    def approve(self, approval_id: str, *, by: str, reason: str, at: datetime) -> Future[Approval]:
        """
        Record the host keys that were asked about, in the place of those that the machine had.

        :raises NotFound: :raises Refused: decided before, over, or its keys cannot be recorded.
        """

    def reject(self, approval_id: str, *, by: str, reason: str, at: datetime) -> Future[Approval]:
        """Refuse them for good: asked again, they are refused."""


class Looker(Protocol):
    """Resolves names and scans hosts, within limits and never where it must not (``ssh.guard``)."""

    async def look(self, look: Look) -> tuple[Seen, ...]:
        """
        Return what is seen, from each place that looks.

        :raises PolicyRefused: an address or port that may not be scanned. :raises TooMuch: too many of them.
        """


class SshAuthority(Protocol):
    """The keys that sign for SSH. Reads no evidence and adds no name."""

    @property
    def host_ca(self) -> SshKey: ...

    @property
    def user_ca(self) -> SshKey: ...

    def certify(self, intent: SshIntent) -> SshCredential:
        """Sign exactly the intent's leaf under its serial, by the CA for its kind."""

    def sign(self, message: bytes, *, namespace: str) -> bytes:
        """Return an SSHSIG (no armor) by the host CA, for what we ask of a host and have to know again."""
