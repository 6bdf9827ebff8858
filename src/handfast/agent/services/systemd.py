"""Services that are units of systemd."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.agent import programs
from handfast.agent.services.base import State
from handfast.errors import Fault

# systemctl(1), "ActiveState": what each means to whoever waits for the service.
_STATES = {
    "active": State.STARTED,
    "reloading": State.STARTED,
    "refreshing": State.STARTED,
    "activating": State.STARTING,
    "deactivating": State.STOPPING,
    "inactive": State.STOPPED,
    "failed": State.ERROR,
    "maintenance": State.ERROR,
}


@dataclass(frozen=True, slots=True)
class Systemd:
    """One unit, such as ``nginx.service``."""

    unit: str
    systemctl: str = "/usr/bin/systemctl"

    async def status(self) -> State:
        """Ask systemd. :raises Fault: there is no such unit, or no systemd."""
        done = await self._run("show", "--property=LoadState,ActiveState", self.unit)
        said = dict(line.split("=", 1) for line in done.output.splitlines() if "=" in line)
        if said.get("LoadState") in {None, "not-found", "error", "bad-setting"}:
            raise Fault(
                f"systemd has no unit {self.unit!r}: {said.get('LoadState', done.last_line)}", hint="see the policy"
            )
        return _STATES.get(said.get("ActiveState", ""), State.ERROR)

    async def start(self) -> None:
        """As ``Backend``. A unit that failed before begins anew."""
        await self._do("start")

    async def stop(self) -> None:
        """As ``Backend``."""
        await self._do("stop")

    async def restart(self) -> None:
        """As ``Backend``."""
        await self._do("restart")

    async def reload(self) -> None:
        """As ``Backend``: a unit that cannot reload is restarted."""
        await self._do("reload-or-restart")

    async def _do(self, verb: str) -> None:
        done = await self._run(verb, self.unit)
        # Of a simple unit systemctl does not wait to see whether its program could be run at all.
        if done.status or (verb != "stop" and await self.status() is State.ERROR):
            said = done.last_line if done.status else "it failed at once"
            raise Fault(f"systemd could not {verb} {self.unit!r}: {said}", hint=f"journalctl -u {self.unit}")

    async def _run(self, *arguments: str) -> programs.Done:
        return await programs.run((self.systemctl, "--no-ask-password", "--no-pager", *arguments))
