"""Services that are programs of supervisord, by its own ``supervisorctl``."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.agent import programs
from handfast.agent.services.base import State
from handfast.errors import Fault

# supervisord's "Process States".
_STATES = {
    "RUNNING": State.STARTED,
    "STARTING": State.STARTING,
    "BACKOFF": State.STARTING,
    "STOPPING": State.STOPPING,
    "STOPPED": State.STOPPED,
    "EXITED": State.STOPPED,
    "FATAL": State.ERROR,
    "UNKNOWN": State.ERROR,
}


@dataclass(frozen=True, slots=True)
class Supervisord:
    """One program; ``configuration`` is supervisord's file, None for where it looks by itself."""

    program: str
    configuration: str | None = None
    supervisorctl: str = "/usr/bin/supervisorctl"

    async def status(self) -> State:
        """Ask supervisord. :raises Fault: it does not run, or has no such program."""
        done = await self._run("status", self.program)
        words = done.output.split()
        if len(words) < 2 or words[0] != self.program or words[1] not in _STATES:
            raise Fault(f"supervisord does not know {self.program!r}: {done.last_line}", hint="see the policy")
        return _STATES[words[1]]

    async def start(self) -> None:
        """As ``Backend``."""
        await self._do("start", State.STARTED)

    async def stop(self) -> None:
        """As ``Backend``."""
        await self._do("stop", State.STOPPED)

    async def restart(self) -> None:
        """As ``Backend``."""
        await self._do("restart", State.STARTED)

    async def reload(self) -> None:
        """As ``Backend``: supervisord can only restart."""
        await self.restart()

    async def _do(self, verb: str, then: State) -> None:
        done = await self._run(verb, self.program)
        # Its exit status was 0 whatever happened, before version 4: so what counts is how the program is.
        if (state := await self.status()) is not then:
            raise Fault(
                f"supervisord could not {verb} {self.program!r}, it is {state}: {done.last_line}", hint="see its log"
            )

    async def _run(self, *arguments: str) -> programs.Done:
        where = () if self.configuration is None else ("-c", self.configuration)
        return await programs.run((self.supervisorctl, *where, *arguments))
