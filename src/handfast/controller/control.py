"""
A controller at work: it watches the ledger's instances, keeps its own credential fresh, and says how they are.

One process at a time does so for a data directory: two would get in each other's way, and neither could say how things
are. Which one it is, `up` or `instance watch`, makes no difference to the instances.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from handfast.adapters.files import FileLock, private_directory
from handfast.controller import status
from handfast.controller.credential import DIRECTORY, OwnCredential, own
from handfast.controller.http import Connection
from handfast.controller.meeting import Meetings
from handfast.controller.watch import EVERY, Watch
from handfast.core.instances import Instance
from handfast.core.invitation import Address
from handfast.core.ports import Clock, Ledger
from handfast.errors import Fault, HandfastError, Unreachable
from handfast.wiring import Service

_LOCK = "watch.lock"
_CREDENTIAL = 10.0  # seconds between two looks at our own credential
_STATUS = 1.0  # seconds between two looks at what has changed
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(slots=True)
class Kept:
    """The instances in the ledger, for whoever watches them."""

    ledger: Ledger
    clock: Clock
    _last: list[Instance] = field(default_factory=list)

    def instances(self) -> list[Instance]:
        """Return them; while the ledger cannot be read, as they were: the machines go on as well."""
        try:
            self._last = self.ledger.instances()
        except Fault as error:
            _log.error("cannot read the instances", reason=error.message)
        return self._last

    async def keep(self, before: Instance, after: Instance) -> Instance:
        """Write a change down; see ``Registry``."""
        return await asyncio.wrap_future(self.ledger.change_instance(before, after, at=self.clock.now()))


class Controller:
    """
    Watches the instances of one data directory; ``tell`` is told of each change of state.

    ``service`` is asked each time, as a new configuration replaces it.
    """

    def __init__(
        self,
        service: Callable[[], Service],
        *,
        tell: Callable[[Instance, Instance], None],
        every: float = EVERY,
    ) -> None:
        self._service, self._tell, self._every = service, tell, every
        self._credential: OwnCredential | None = None

    async def run(self) -> None:
        """
        Watch until cancelled.

        :raises Fault: another process does, or the disk. :raises Refused: the authority cannot certify a controller.
        """
        service = self._service()
        directory = service.data / DIRECTORY
        private_directory(directory)
        with FileLock(directory / _LOCK, hint="one process watches the instances: stop it, or leave it to it"):
            await self._renewed()
            watch = Watch(
                self._meetings, Kept(service.ledger, service.clock), self._dial, tell=self._tell, every=self._every
            )
            try:
                await _all(watch.run(), self._keep_credential(), self._keep_status(watch))
            finally:
                with suppress(Fault):
                    status.withdraw(service.data)

    @property
    def credential(self) -> OwnCredential:
        """What agents know us by."""
        if self._credential is None:  # unreachable: ``run`` begins with it
            raise Fault("the controller has no credential")
        return self._credential

    def _meetings(self) -> Meetings:
        return Meetings(self._service().registrar, self.credential)

    async def _dial(self, instance: Instance) -> Connection:
        if instance.address is None:
            raise Unreachable("it has not dialled")
        return await Connection.dial(Address.parse(instance.address), self.credential.context)

    async def _renewed(self) -> None:
        # In a thread: it waits for the ledger, and for another process that makes one at this moment.
        self._credential = await asyncio.to_thread(own, self._service())

    async def _keep_credential(self) -> None:
        while True:
            await asyncio.sleep(_CREDENTIAL)
            if not self.credential.fresh(self._service().clock.now()):
                try:
                    await self._renewed()
                except HandfastError as error:
                    _log.error("no new credential for the controller", code=error.code, reason=error.message)

    async def _keep_status(self, watch: Watch) -> None:
        written, at = None, None
        while True:
            now, found = self._service().clock.now(), watch.instances
            if found != written or at is None or abs(now - at) >= status.REFRESH:
                try:
                    await asyncio.to_thread(status.publish, self._service().data, found, at=now)
                    written, at = found, now
                except Fault as error:
                    _log.error("cannot say how the instances are", reason=error.message)
            await asyncio.sleep(_STATUS)


async def _all(*works: Awaitable[None]) -> None:
    """Do all of them until one ends, or until cancelled."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
