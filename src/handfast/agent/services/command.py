"""Services with commands of their own, as init scripts have them."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.agent import programs
from handfast.agent.services.base import State
from handfast.errors import Fault

_STOPPED = 3  # LSB, "Init Script Actions": program is not running


@dataclass(frozen=True, slots=True)
class Command:
    """
    Argument vectors of the policy. ``query`` ends with 0 where the service runs, with 3 where it is stopped.

    What else it ends with is an error. Without ``again`` a restart is a stop and a start, without ``afresh`` a reload
    is a restart.
    """

    query: tuple[str, ...]
    begin: tuple[str, ...]
    end: tuple[str, ...]
    again: tuple[str, ...] = ()
    afresh: tuple[str, ...] = ()

    async def status(self) -> State:
        """Ask the command. :raises Fault: it cannot be run."""
        done = await programs.run(self.query)
        return {0: State.STARTED, _STOPPED: State.STOPPED}.get(done.status, State.ERROR)

    async def start(self) -> None:
        """As ``Backend``."""
        await _do(self.begin)

    async def stop(self) -> None:
        """As ``Backend``."""
        await _do(self.end)

    async def restart(self) -> None:
        """As ``Backend``."""
        if self.again:
            await _do(self.again)
        else:
            await self.stop()
            await self.start()

    async def reload(self) -> None:
        """As ``Backend``."""
        await (_do(self.afresh) if self.afresh else self.restart())


async def _do(argv: tuple[str, ...]) -> None:
    done = await programs.run(argv)
    if done.status:
        raise Fault(f"{argv[0]!r} ended with {done.status}: {done.last_line}", hint="see the service's own log")
