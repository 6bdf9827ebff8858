"""What inner code asks of the world for managed machines; otherwise as ``ports``."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime
from typing import Protocol

from handfast.core.instances import Instance
from handfast.core.records import Invitation


class InstanceLedger(Protocol):
    """The ledger's part in managed machines. What is kept of one is ``instances.lasting``, and no more."""

    def instances(self) -> list[Instance]:
        """Return all of them, by name."""

    def instance(self, name: str) -> Instance | None: ...

    def add_instance(self, instance: Instance, invitation: Invitation) -> Future[None]:
        """
        Keep a new instance together with the invitation that has its one-time secret.

        :raises Refused: there is one with this name, or that key id. :raises Malformed: they are not of each other.
        """

    def change_instance(self, before: Instance, after: Instance, *, at: datetime, why: str = "") -> Future[Instance]:
        """
        Write a change down, if what is on record is still what lasts of ``before``.

        The result is ``after``; or, where somebody else was quicker, what he has left. ``why`` is a person's reason.

        :raises NotFound: there is none any more. :raises Malformed: another machine, or text that is not printable.
        """

    def remove_instance(self, name: str, *, reason: str, at: datetime) -> Future[Instance]:
        """
        Forget an instance, and in the same transaction take back all that its machine could still use.

        That is its invitation, if it is open, its credentials, and its SSH certificates. The result is what it was.

        :raises NotFound: there is none.
        """
