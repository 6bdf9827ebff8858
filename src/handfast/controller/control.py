"""
A controller at work: it watches the ledger's instances, keeps its own credential fresh, and says how they are.

One process at a time does so for a data directory: two would get in each other's way, and neither could say how things
are. Which one it is, `up` or `instance watch`, makes no difference to the instances.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from handfast.adapters import sockets
from handfast.adapters.files import FileLock, private_directory
from handfast.adapters.threads import finished
from handfast.config.instances import SecondKey
from handfast.controller import status
from handfast.controller.calls import answered
from handfast.controller.credential import DIRECTORY, OwnCredential, holds, own
from handfast.controller.http import Stream
from handfast.controller.legacy import Deliveries
from handfast.controller.lend import lend
from handfast.controller.listen import Dialled
from handfast.controller.meeting import Meetings
from handfast.controller.reach import connect
from handfast.controller.watch import EVERY, Watch
from handfast.core.instances import Instance, State
from handfast.core.invitation import Address
from handfast.core.ports import Clock, Ledger
from handfast.errors import Fault, HandfastError, Unreachable
from handfast.wiring import Service

_LOCK = "watch.lock"
_CREDENTIAL = 10.0  # seconds between two looks at our own credential
_CALL = 5.0  # seconds for an agent to call again that has hung up to be verified; it does after 2
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
    Watches the instances of one data directory; ``tell`` is told of each change of state, ``begun`` that it watches.

    ``service`` is asked each time, as a new configuration replaces it. ``listening`` is where agents' calls come in
    instead of at the configured address, if somebody has opened it for us; it stays his.
    """

    def __init__(
        self,
        service: Callable[[], Service],
        *,
        tell: Callable[[Instance, Instance], None],
        begun: Callable[[], None] = lambda: None,
        every: float = EVERY,
        listening: socket.socket | None = None,
    ) -> None:
        self._service, self._tell, self._every, self._listening = service, tell, every, listening
        self._begun = begun
        self._credential: OwnCredential | None = None
        self._calls: Dialled | None = None
        self._holds: Callable[[str], bool] = lambda _name: False
        self.listens: Address | None = None

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
                with self._taking(service, watch) as listening:
                    works = [watch.run(), self._keep_credential(), self._keep_status(watch)]
                    if self._calls is not None and listening is not None:
                        works += [self._calls.listen(listening), lend(service.data, self._calls)]
                    self._begun()
                    await _all(*works)
            finally:
                with suppress(Fault):
                    status.withdraw(service.data)

    @contextmanager
    def _taking(self, service: Service, watch: Watch) -> Iterator[socket.socket | None]:
        """Take agents' calls, where the configuration says so when the watch begins."""
        wanted = service.instances.listen
        if wanted is None:
            yield None
            return

        def known(name: str) -> bool:
            return any(each.name == name and each.dials for each in watch.instances)

        passed = None if self._listening is None else self._listening.dup()
        with sockets.listen(wanted, passed, setting="[instances] listen") as listening:
            self.listens = sockets.address_of(listening)
            self._calls, self._holds = Dialled(known, watch.woken), watch.holds
            try:
                yield listening
            finally:
                self._calls = self.listens = None

    @property
    def credential(self) -> OwnCredential:
        """What agents know us by. :raises Unreachable: ``run`` has not begun."""
        if self._credential is None:  # who asks has it before ``run`` has
            raise Unreachable("the controller is about to begin", hint="try again")
        return self._credential

    def _meetings(self) -> Meetings:
        service = self._service()
        both = service.instances.on_second_key is SecondKey.BOTH
        deliveries = Deliveries(service.managing, service.data)
        return Meetings(service.managing, self.credential, deliveries, first_too=both)

    async def _dial(self, instance: Instance) -> Stream:
        if instance.dials and self._calls is not None:
            # Only what has to be verified within a minute is waited for: whoever waits has one of few places.
            patience = _CALL if instance.state in {State.VERIFYING, State.RENEWING} else 0.0
            another = self._holds(instance.name)
            return await answered(self._calls, instance, self.credential.context, patience=patience, another=another)
        return await connect(instance, self.credential, self._service().data)

    async def _renewed(self) -> None:
        # In a thread: it waits for the ledger, and for another process that makes one at this moment.
        self._credential = await finished(own, self._service())

    async def _keep_credential(self) -> None:
        while True:
            await asyncio.sleep(_CREDENTIAL)
            service = self._service()
            try:
                if not holds(service.ledger, self.credential, service.clock.now()):
                    await self._renewed()
            except HandfastError as error:
                _log.error("no new credential for the controller", code=error.code, reason=error.message)

    async def _keep_status(self, watch: Watch) -> None:
        written, at = None, None
        while True:
            now, found = self._service().clock.now(), watch.instances
            if found != written or at is None or abs(now - at) >= status.REFRESH:
                try:
                    data, contacts = self._service().data, watch.contacts
                    # It would say so again after the end, where nobody waited for it.
                    await finished(status.publish, data, found, at=now, contacts=contacts)
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
