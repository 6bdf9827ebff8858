"""A real controller over a real ledger, authority and TLS, beside which a test is the operator and the attacker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from handfast.controller.control import Controller
from handfast.controller.credential import own
from handfast.controller.operate import Operator
from handfast.core.instancedata import InstanceData
from handfast.core.instances import Instance, State
from handfast.core.invitation import Address
from handfast.core.records import CredentialRecord
from handfast.ledger import audit
from handfast.registrar.instances import Instances, Wanted
from handfast.wiring import Overrides, Service, log_origin, open_service

T = TypeVar("T")
PATIENCE = 40.0  # seconds, for what takes one or two
DAY = timedelta(days=1)
NOWHERE = Address("127.0.0.1", 9)


@dataclass
class Hand:
    """A clock that a test moves."""

    time: datetime

    def now(self) -> datetime:
        """The time of the hand."""
        return self.time


@dataclass
class Control:
    """A house with its controller, while it runs."""

    service: Service
    clock: Hand
    told: list[Instance] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    every: float = 0.05
    controller: Controller = field(init=False)

    # --- the operator ---

    @property
    def operator(self) -> Instances:
        """What an operator has."""
        return Instances(self.service.administration, self.service.authority.public.root)

    async def do(self, change: Callable[[Instances], T]) -> T:
        """Do something as an operator, who is another process."""
        return await asyncio.to_thread(change, self.operator)

    async def add(self, name: str = "app1.lan", *, lasting: timedelta = DAY, needs_key: bool = False) -> InstanceData:
        """Add an instance that nobody has placed yet."""
        wanted = Wanted(name=name, lasting=lasting, needs_key=needs_key)
        return (await self.do(lambda them: them.add(wanted)))[0]

    async def place(self, address: Address, name: str = "app1.lan") -> None:
        """Say where it is."""
        await self.do(lambda them: them.place(name, address))

    # --- what can be seen ---

    def tell(self, _before: Instance, after: Instance) -> None:
        """Take note of a change."""
        self.told.append(after)
        self.changed.set()

    def states(self, name: str = "app1.lan") -> list[State]:
        """The states that were told of."""
        return [each.state for each in self.told if each.name == name]

    def last(self, name: str = "app1.lan") -> Instance:
        """The instance as it was told of last."""
        return next(each for each in reversed(self.told) if each.name == name)

    async def until(self, state: State, name: str = "app1.lan", *, why: str = "") -> Instance:
        """Wait until the instance is so, and for this reason."""

        def so() -> bool:
            seen = [each for each in self.told if each.name == name]
            return bool(seen) and seen[-1].state is state and why in seen[-1].reason

        return await self.until_true(so, name)

    async def until_true(self, so: Callable[[], bool], name: str = "app1.lan") -> Instance:
        """Wait for something that has to come about."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not so():
                    self.changed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await self.changed.wait()
        except TimeoutError:
            raise AssertionError([(each.name, each.state.value, each.reason) for each in self.told]) from None
        return self.last(name)

    def kept(self, name: str = "app1.lan") -> Instance:
        """What the ledger says."""
        found = self.service.ledger.instance(name)
        assert found is not None
        return found

    def issued(self, name: str = "app1.lan") -> list[CredentialRecord]:
        """All credentials, and intents, of a machine."""
        return self.service.ledger.credentials(name)

    def alarms(self, name: str = "app1.lan") -> list[str]:
        """The kinds of its alarms."""
        return [each.kind for each in self.service.ledger.events(kind_prefix="alarm.", subject=name)]

    def spent(self, data: InstanceData) -> int:
        """How many keys have used its secret."""
        found = self.service.ledger.invitation(data.line.key_id)
        assert found is not None
        return found.spent

    # --- the controller ---

    async def start(self) -> None:
        """Have it run, until ``stop`` or the end of the test."""
        self.controller = Controller(lambda: self.service, tell=self.tell, every=self.every)
        self.task = asyncio.ensure_future(self.controller.run())

    async def stop(self) -> None:
        """End it, as a crash would: nothing is finished."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            if not self.task.cancelled() and (error := self.task.exception()) is not None:
                raise error
            self.task = None


@contextmanager
def house(directory: Path, settings: str = "") -> Iterator[Service]:
    """A registrar that nobody serves, with a clock that a test moves; its log proves itself in the end."""
    if settings:
        (directory / "data").mkdir(mode=0o700)
        (directory / "data" / "config.toml").write_text(settings)
    overrides = Overrides(listen=Address("127.0.0.1", 0), addresses=(Address("registrar.lan", 7443),))
    service = open_service(directory / "data", overrides, passphrase=None)
    try:
        yield service
        authority = service.authority.public
        audit.verify(service.ledger, authority.log_key, log_origin(authority))
    finally:
        service.ledger.close()


def with_clock(service: Service) -> tuple[Service, Hand]:
    """Return the service under a clock that a test moves; it begins now, when the authority was made."""
    hand = Hand(service.clock.now())
    registrar = replace(service.registrar, context=replace(service.registrar.context, clock=hand))
    managing = replace(service.managing, context=registrar.context)
    administration = replace(service.administration, clock=hand)
    return replace(service, clock=hand, registrar=registrar, managing=managing, administration=administration), hand


async def operator(control: Control) -> Operator:
    """Who may open the directory, and asks the agents himself."""
    service = control.service
    credential = await asyncio.to_thread(own, service)
    return Operator(service.ledger, service.authority.public, credential, control.clock, service.data)


@asynccontextmanager
async def controlling(service: Service, *, every: float = 0.05) -> AsyncIterator[Control]:
    """Run a controller, which asks ``every`` so many seconds how an instance is that runs."""
    moved, hand = with_clock(service)
    async with moved.ledger.in_loop():
        control = Control(moved, hand, every=every)
        await control.start()
        try:
            yield control
        finally:
            await control.stop()
