"""The part of the ledger that is about managed machines."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime

from handfast.core.instances import Instance
from handfast.core.records import Invitation
from handfast.ledger import instance_entries, instances
from handfast.ledger import instance_statements as statements
from handfast.ledger.connections import Connections


class InstanceStore(Connections):
    """See ``core.ports.Ledger``."""

    def instances(self) -> list[Instance]:
        """Return all of them, by name."""
        return [instance_entries.from_json(state) for _name, state in self._all(statements.ALL_INSTANCES)]

    def instance(self, name: str) -> Instance | None:
        """Return the instance with this name, as far as it lasts."""
        row = self._one(statements.INSTANCE, {"p_name": name})
        return None if row is None else instance_entries.from_json(row[0])

    # --- writes: each Future is done when the change is durable ---

    def add_instance(self, instance: Instance, invitation: Invitation) -> Future[None]:
        """
        Keep a new instance together with the invitation that has its one-time secret.

        :raises Refused: there is one with this name, or that key id. :raises Malformed: they are not of each other.
        """
        return self._submit(lambda tx: instances.add(tx, instance, invitation))

    def change_instance(self, before: Instance, after: Instance, *, at: datetime, why: str = "") -> Future[Instance]:
        """
        Write a change down, if what is on record is still what lasts of ``before``; quarantine is an alarm too.

        The result is ``after``; or, where somebody else was quicker, what he has left.

        :raises NotFound: there is none any more. :raises Malformed: another machine, or text that is not printable.
        """
        return self._submit(lambda tx: instances.change(tx, before, after, at=at, why=why))

    def remove_instance(self, name: str, *, reason: str, at: datetime) -> Future[Instance]:
        """
        Forget an instance, and take back its invitation, its credentials and its SSH certificates.

        The result is what it was. :raises NotFound: there is none.
        """
        return self._submit(lambda tx: instances.remove(tx, name, reason=reason, at=at))
