"""A service that a controller may manage: the policy's limits, the original's rules, and one change at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from handfast.adapters import files
from handfast.agent import programs
from handfast.agent.artifacts import Artifacts
from handfast.agent.logs import Logs
from handfast.agent.policy import Apply, ConfigFile, Operation, ServicePolicy
from handfast.agent.services.base import State
from handfast.errors import Conflict, Fault, Malformed, NotAuthorized, Refused

MAX_CONTENT = 1024 * 1024  # bytes of one configuration file

# What the original's API lets happen from which state.
_FROM = {
    Operation.START: frozenset({State.STOPPED, State.CONFIGURING, State.ERROR}),
    Operation.STOP: frozenset({State.STARTED, State.ERROR}),
    Operation.RESTART: frozenset({State.ERROR, State.STARTED, State.STOPPED}),
    Operation.CONFIGURE: frozenset({State.STARTED, State.STOPPED, State.ERROR}),
}
_DONE = {Operation.START: State.STARTED, Operation.STOP: State.STOPPED}
_MEANWHILE = {
    Operation.START: State.STARTING,
    Operation.STOP: State.STOPPING,
    Operation.RESTART: State.RESTARTING,
    Operation.CONFIGURE: State.CONFIGURING,
}


@dataclass(slots=True)
class Turn:
    """What is being done to a service at this moment."""

    meanwhile: State | None = None


class Service:
    """One service of the policy; ``turn`` is that of the policy before this one."""

    def __init__(self, policy: ServicePolicy, *, turn: Turn | None = None) -> None:
        # It is changed by one at a time, also while its policy becomes another.
        self.policy, self.turn = policy, turn or Turn()

    @property
    def underway(self) -> State | None:
        """What is being done to it at this moment."""
        return self.turn.meanwhile

    async def status(self) -> State:
        """Return how it is. :raises NotAuthorized: the policy does not say so. :raises Fault: nobody knows."""
        self._allowed(Operation.STATUS)
        return self.turn.meanwhile or await self.policy.backend.status()

    async def start(self) -> State:
        """Start it. :raises Conflict: it is not in a state for that. :raises NotAuthorized, Fault: it cannot be."""
        return await self._change(Operation.START, self.policy.backend.start)

    async def stop(self) -> State:
        """Stop it; otherwise as ``start``."""
        return await self._change(Operation.STOP, self.policy.backend.stop)

    async def restart(self) -> State:
        """Restart it; otherwise as ``start``."""
        return await self._change(Operation.RESTART, self.policy.backend.restart)

    async def configure(self, contents: Mapping[str, bytes]) -> State:
        """
        Write configuration files, all of them or none, and have the service take them.

        :raises Malformed: a file that the policy does not have, or too long a content.
        :raises Refused: a check says no: the old files are in their place again. :raises Conflict: as ``start``.
        """
        self._allowed(Operation.CONFIGURE)
        if not contents or (unknown := contents.keys() - self.policy.files.keys()):
            known = ", ".join(sorted(self.policy.files))
            name = min(unknown)[:80] if contents else ""
            raise Malformed(f"{self.policy.name!r} has no file {name!r} to configure", hint=f"one of {known}")
        for name, content in contents.items():
            if len(content) > MAX_CONTENT:
                raise Malformed(f"{name!r} has {len(content)} bytes", hint=f"at most {MAX_CONTENT}")

        async def change() -> None:
            written = [self.policy.files[name] for name in sorted(contents)]
            await _replace(written, [contents[name] for name in sorted(contents)])
            was = await self.policy.backend.status()
            if was is State.STARTED:
                await self._apply({each.apply for each in written})

        return await self._change(Operation.CONFIGURE, change)

    @property
    def artifacts(self) -> Artifacts:
        """Its artifacts. :raises NotAuthorized: the policy does not allow them."""
        self._allowed(Operation.ARTIFACTS)
        if self.policy.artifacts is None:  # unreachable: the policy was read with it
            raise NotAuthorized(f"{self.policy.name!r} has no artifacts")
        return self.policy.artifacts

    @property
    def logs(self) -> Logs:
        """Its logs. :raises NotAuthorized: the policy does not allow them."""
        self._allowed(Operation.LOGS)
        if self.policy.logs is None:  # unreachable, likewise
            raise NotAuthorized(f"{self.policy.name!r} has no logs")
        return self.policy.logs

    def recover(self) -> None:
        """Put back what a crash in the middle of ``configure`` left: nobody had said that the new files are good."""
        for each in self.policy.files.values():
            _restore(each.path)
            if each.path.parent.is_dir():  # which may come later than the agent
                files.remove_leftovers(each.path.parent, of=each.path.name)

    def _allowed(self, operation: Operation) -> None:
        if operation not in self.policy.operations:
            raise NotAuthorized(
                f"the policy of this machine does not allow {operation.value!r} for {self.policy.name!r}",
                hint="whoever is root there decides: see its agent's policy",
            )

    async def _change(self, operation: Operation, change: Callable[[], Awaitable[None]]) -> State:
        self._allowed(operation)
        if self.turn.meanwhile is not None:
            raise _conflict(self.turn.meanwhile, operation)
        async with self._busy(operation):
            state = await self.policy.backend.status()
            if state is _DONE.get(operation):
                return state
            if state not in _FROM[operation]:
                raise _conflict(state, operation)
            await change()
            return await self.policy.backend.status()

    @asynccontextmanager
    async def _busy(self, operation: Operation) -> AsyncIterator[None]:
        self.turn.meanwhile = _MEANWHILE[operation]
        try:
            yield
        finally:
            self.turn.meanwhile = None

    async def _apply(self, wanted: set[Apply]) -> None:
        if Apply.RESTART in wanted:
            await self.policy.backend.restart()
        elif Apply.RELOAD in wanted:
            await self.policy.backend.reload()


def _conflict(state: State, operation: Operation) -> Conflict:
    # The original's words, which its controller shows to people.
    return Conflict(
        f"current service status ('{state}') does not allow to {operation.value} the service",
        hint="ask again in a while",
    )


async def _replace(changed: list[ConfigFile], contents: list[bytes]) -> None:
    """Write files, run their checks, and put everything back if one says no."""
    kept: list[Path] = []
    try:
        for each, content in zip(changed, contents, strict=True):
            _keep(each.path)
            kept.append(each.path)
            files.write_atomic(each.path, content, each.mode)
        for check in dict.fromkeys(each.check for each in changed if each.check):
            done = await programs.run(check)
            if done.status:
                raise Refused(f"{check[0]!r} does not accept it: {done.last_line}", hint="the old files are back")
    except BaseException:
        for path in kept:
            _restore(path)
        raise
    for path in kept:
        for beside in _beside(path):
            beside.unlink(missing_ok=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Return where the old file is kept, and what says that there was none."""
    return path.with_name(f"{path.name}.handfast-before"), path.with_name(f"{path.name}.handfast-none")


def _keep(path: Path) -> None:
    """Keep the old file under a second name, or that there was none, until the new one is known to be good."""
    before, none = _beside(path)
    with files.faults("keep", path):
        if path.is_symlink():
            raise Fault(f"{str(path)!r} is a link", hint="the policy has to name the file itself")
        for beside in (before, none):
            beside.unlink(missing_ok=True)
        if path.exists():
            os.link(path, before, follow_symlinks=False)
        else:
            none.touch(mode=0o600, exist_ok=False)


def _restore(path: Path) -> None:
    """Put the old file back, where one is kept; otherwise nothing was changed."""
    before, none = _beside(path)
    with files.faults("restore", path):
        if before.exists():
            os.rename(before, path)
            # Two names of one file, where the new one was not there yet, are both left by rename(2). One that stays
            # would be put back at a later start, over whatever root has written since.
            before.unlink(missing_ok=True)
        elif none.exists():
            path.unlink(missing_ok=True)
            none.unlink()
