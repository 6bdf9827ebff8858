"""What every kind of service does, and the words of the original's API for how one is."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class State(StrEnum):
    """How a service is; the words are those of the original's API 1.0."""

    STOPPED = "stopped"
    STARTING = "starting"
    STARTED = "started"
    CONFIGURING = "configuring"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    ERROR = "error"


class Backend(Protocol):
    """
    How one service is started and stopped: by systemd, by supervisord, by commands, or not at all.

    All of them are names and argument vectors of the agent's policy. Nothing that came over the network gets here.
    """

    async def status(self) -> State:
        """Ask how it is. :raises Fault: whatever knows that cannot be asked."""

    async def start(self) -> None:
        """Start it, and return when it is started. :raises Fault: it did not start, and why."""

    async def stop(self) -> None:
        """Stop it, and return when it is stopped. :raises Fault: it did not stop."""

    async def restart(self) -> None:
        """Restart it. :raises Fault: it did not start again."""

    async def reload(self) -> None:
        """Have it read its configuration anew, without a stop where it can. :raises Fault: it did not."""
