"""A service that a controller may manage: the policy's limits, the original's rules, and one change at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from handfast.agent import configuration
from handfast.agent.artifacts import Artifacts
from handfast.agent.logs import Logs
from handfast.agent.policy import Apply, Operation, ServicePolicy
from handfast.agent.services.base import State
from handfast.core.agentjson import MAX_CONTENT
from handfast.errors import Conflict, Malformed, NotAuthorized

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

    async def change(self, operation: Operation) -> State:
        """
        Start, stop or restart it.

        :raises Conflict: it is not in a state for that. :raises NotAuthorized, Fault: it cannot be.
        """
        backend = self.policy.backend
        changes = {
            Operation.START: backend.start,
            Operation.STOP: backend.stop,
            Operation.RESTART: backend.restart,
        }
        return await self._change(operation, changes[operation])

    async def configure(self, contents: Mapping[str, bytes]) -> State:
        """
        Write configuration files, all of them or none, and have the service take them.

        :raises Malformed: a file that the policy does not have, or too long a content.
        :raises Refused: a check says no: the old files are in their place again. :raises Conflict: as ``change``.
        :raises Unsafe: somebody could have led us to a file's directory. :raises Fault: the disk.
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
            await configuration.replace(written, [contents[name] for name in sorted(contents)])
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
        """Put back what a crash in the middle of ``configure`` left. :raises Unsafe, Fault: as ``configure``."""
        for each in self.policy.files.values():
            configuration.recover(each.path)

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
