"""The ledger: what ``core.ports.Ledger`` asks for, over a database of either dialect."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime

from handfast.core.flow import Credential, Grant, HostGrant, Intent, Once
from handfast.core.hosts import Host
from handfast.core.merkle import Frontier
from handfast.core.records import CredentialRecord, Event, Invitation, Machine, Revocation, RevocationState
from handfast.core.sshkeys import SshKey
from handfast.ledger import entries, host_entries, host_statements, hosts, operations, rows, statements
from handfast.ledger.instance_store import InstanceStore
from handfast.ledger.ssh_store import SshStore

_PAGE = 1000  # entries in one read: a long reading must not hold back SQLite's checkpoints


class SqlLedger(SshStore, InstanceStore):
    """The ledger of one process; other processes may have the same database open at the same time."""

    # --- reads ---

    def invitation(self, key_id: str) -> Invitation | None:
        """Return the invitation with this key id."""
        row = self._one(statements.INVITATION, {"p_key_id": key_id})
        return None if row is None else rows.invitation_from_row(row)

    def invitations(self) -> list[Invitation]:
        """Return all invitations, the oldest first."""
        return [rows.invitation_from_row(row) for row in self._all(statements.ALL_INVITATIONS)]

    def public_halves(self, method: str, *, after: datetime) -> list[tuple[str, bytes]]:
        """Return key id and public half of a method's invitations that end after a time, the oldest first."""
        found = self._all(statements.PUBLIC_HALVES, {"p_method": method, "p_after": entries.micros(after)})
        return [(key_id, bytes(half)) for key_id, half in found]

    def machine(self, name: str) -> Machine | None:
        """Return the machine with this name."""
        row = self._one(statements.MACHINE, {"p_name": name})
        return None if row is None else rows.machine_from_row(row)

    def machines(self) -> list[Machine]:
        """Return all machines by name."""
        return [rows.machine_from_row(row) for row in self._all(statements.ALL_MACHINES)]

    def credential(self, serial: int) -> CredentialRecord | None:
        """Return the credential or intent with this serial."""
        row = self._one(statements.CREDENTIAL, {"p_serial": entries.serial_text(serial)})
        return None if row is None else rows.credential_from_row(row)

    def credentials(self, machine: str | None = None) -> list[CredentialRecord]:
        """Return all credentials and intents (of one machine), the oldest first."""
        if machine is None:
            found = self._all(statements.ALL_CREDENTIALS)
        else:
            found = self._all(statements.CREDENTIALS_OF, {"p_machine": machine})
        return [rows.credential_from_row(row) for row in found]

    def revocations(self) -> list[Revocation]:
        """Return everything taken back, the oldest first; abandoned intents are among them."""
        return [rows.revocation_from_row(row) for row in self._all(statements.ALL_REVOCATIONS)]

    def newest_credentials(self, machine: str) -> list[CredentialRecord]:
        """Return the last 20 credentials and intents of a machine, the newest first."""
        found = self._all(statements.NEWEST_CREDENTIALS_OF, {"p_machine": machine})
        return [rows.credential_from_row(row) for row in found]

    def renewals_since(self, record: CredentialRecord, since: datetime) -> int:
        """
        Count, to 100 at most, the machine's credentials intended after ``since`` that another one introduced.

        What ``record`` introduced is left out: its holder, who asks again with the same key, gets that same answer.
        """
        values = {
            "p_machine": record.machine,
            "p_since": entries.micros(since),
            "p_except": record.successor_marker,
        }
        return len(self._all(statements.RENEWALS_SINCE, values))

    def revocation_count(self) -> int:
        """Return how many were taken back; it only grows."""
        row = self._read(lambda session: session.head(statements.COUNT_REVOCATIONS))
        return int(row[0])

    def host(self, machine: str) -> Host | None:
        """Return the machine with its host keys, also when it was removed."""
        row = self._one(host_statements.HOST, {"p_machine": machine})
        return None if row is None else host_entries.host_from_json(row[0])

    def host_at(self, spelling: str) -> Host | None:
        """Return the machine that is reached so; where none is, the removed one whose own name that was."""
        row = self._one(host_statements.HOST_AT, {"p_spelling": spelling})
        return None if row is None else host_entries.host_from_json(row[0])

    def hosts(self, *, after: str = "", most: int = 100, search: str = "") -> list[Host]:
        """Return machines by name from the one after ``after``; ``search`` is part of what a machine is known by."""
        values: dict[str, object] = {"p_after": after, "p_most": most}
        if not search:
            found = self._all(host_statements.HOSTS, values)
        else:
            plain = search.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
            found = self._all(host_statements.HOSTS_MATCHING, {**values, "p_like": f"%{plain}%"})
        return [host_entries.host_from_json(state) for (state,) in found]

    def hosts_revision(self) -> int:
        """Return a number that grows with every change of any machine's keys or place."""
        return int(self._read(lambda session: session.head(host_statements.HOSTS_REVISION))[0])

    def events(self, *, kind_prefix: str = "", subject: str | None = None) -> list[Event]:
        """Return the events of the log in order; ``kind_prefix="alarm."`` is answered from an index."""
        alarms = kind_prefix.startswith("alarm.")
        if subject is None:
            found = self._all(statements.ALARMS if alarms else statements.EVENTS)
        else:
            statement = statements.ALARMS_OF_SUBJECT if alarms else statements.EVENTS_OF_SUBJECT
            found = self._all(statement, {"p_subject": subject})
        parsed = (entries.decode(entry) for (entry,) in found)
        return [event for event in parsed if event.kind.startswith(kind_prefix)]

    def head(self) -> Frontier:
        """Return the size of the log and the hashes that make its root."""
        return Frontier.decode(*self._read(lambda session: session.head(statements.HEAD)))

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Give the entries from ``start`` up to and without ``end`` (default: all there are now)."""
        stop = self.head().size if end is None else end
        for low in range(start, stop, _PAGE):
            page = self._all(statements.ENTRIES, {"p_start": low, "p_end": min(low + _PAGE, stop)})
            yield from (row[3] for row in page)

    def last_checkpoint(self) -> str | None:
        """Return the checkpoint of the largest size."""
        row = self._one(statements.LAST_CHECKPOINT)
        return None if row is None else str(row[0])

    # --- writes: each Future is done when the change is durable ---

    def invite(self, invitation: Invitation) -> Future[None]:
        """Add an invitation. :raises Refused: its key id exists."""
        return self._submit(lambda tx: operations.invite(tx, invitation))

    def cancel(self, key_id: str, *, reason: str, at: datetime) -> Future[None]:
        """Close an invitation. :raises NotFound: :raises InvitationCancelled: it was closed before."""
        return self._submit(lambda tx: operations.cancel(tx, key_id, reason=reason, at=at))

    def intend(self, grant: Grant, once: Once, *, at: datetime) -> Future[Intent]:
        """
        Spend ``once`` against the grant's key and reserve a serial.

        The same key gets the same intent again, with the grant that was decided first and with the
        certificate if it was issued.

        :raises AlreadySpent: no use is left for another key; an ``alarm.second-key`` event is logged.
        :raises InvitationCancelled: the invitation was closed before its credential was issued.
        :raises Revoked: this key's credential, or the one it would succeed, was revoked.
        """
        grant_json = rows.grant_to_json(grant)
        return self._submit(lambda tx: operations.intend(tx, grant, grant_json, once, at=at))

    def issued(self, credential: Credential, *, at: datetime) -> Future[bytes]:
        """
        Keep the certificate, and return the one to deliver: the first that was kept for this serial.

        :raises NotFound: the serial was never intended.
        :raises Revoked: it was revoked or abandoned in the meantime: deliver nothing.
        """
        return self._submit(lambda tx: operations.issued(tx, credential, at=at))

    def revoke(self, serial: int, *, reason: str, at: datetime) -> Future[None]:
        """
        Take a credential back, and close its succession.

        :raises Malformed: ``reason`` is not a name of RFC 5280 §5.3.1.
        :raises NotFound: no such serial. :raises Revoked: it was revoked before.
        """
        return self._submit(lambda tx: operations.revoke(tx, serial, reason=reason, at=at))

    def abandon_intents(self, before: datetime, *, at: datetime) -> Future[int]:
        """
        Revoke the intents from before a time that were never issued; the result is how many.

        They go on the CRL as a precaution: a crash may have come after the signature.
        """
        return self._submit(lambda tx: operations.abandon(tx, before=before, at=at))

    def publish(self, by: str, *, at: datetime) -> Future[RevocationState]:
        """Log that ``by`` signs a revocation list now; the result is what it lists, and its own number."""
        return self._submit(lambda tx: operations.publish(tx, by, at=at))

    def note(self, event: Event) -> Future[None]:
        """
        Append an event of its own to the log; of ``introduction.refused``, ten for one marker.

        :raises Malformed: its kind belongs to the ledger, or a text is not printable.
        """
        return self._submit(lambda tx: operations.note(tx, event))

    def register(self, grant: HostGrant, once: Once | None, *, at: datetime) -> Future[Host]:
        """
        Spend a marker against these host keys and record them; the result is the machine after that.

        :raises AlreadySpent, InvitationCancelled: :raises Refused: see ``host_checks.check``.
        """
        return self._submit(lambda tx: hosts.register(tx, grant, once, at=at))

    def retire(self, machine: str, key: SshKey, *, reason: str, at: datetime) -> Future[Host]:
        """Take a host key back. :raises NotFound: it is not the machine's."""
        return self._submit(lambda tx: hosts.retire(tx, machine, key, reason=reason, at=at))

    def remove_host(self, machine: str, *, reason: str, at: datetime) -> Future[Host]:
        """Retire all keys of a machine, and leave its place to others. :raises NotFound: it has neither."""
        return self._submit(lambda tx: hosts.remove(tx, machine, reason=reason, at=at))

    def save_checkpoint(self, text: str) -> Future[None]:
        """Keep a signed checkpoint beside the log. :raises Malformed: it is none."""
        return self._submit(lambda tx: operations.save_checkpoint(tx, text))
