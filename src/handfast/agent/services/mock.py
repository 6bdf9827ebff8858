"""A service that is none: for trying out a controller, and for tests of one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from handfast.agent.services.base import State


@dataclass(slots=True)
class Mock:
    """Each change takes ``delay`` seconds, and succeeds."""

    delay: float = 0.0
    state: State = field(default=State.STOPPED, init=False)

    async def status(self) -> State:
        """As ``Backend``."""
        return self.state

    async def start(self) -> None:
        """As ``Backend``."""
        await self._become(State.STARTING, State.STARTED)

    async def stop(self) -> None:
        """As ``Backend``."""
        await self._become(State.STOPPING, State.STOPPED)

    async def restart(self) -> None:
        """As ``Backend``."""
        await self._become(State.RESTARTING, State.STARTED)

    async def reload(self) -> None:
        """As ``Backend``."""
        await self.restart()

    async def _become(self, meanwhile: State, then: State) -> None:
        self.state = meanwhile
        await asyncio.sleep(self.delay)
        self.state = then
