"""Watching the managed machines, where the configuration says that `up` is their controller."""

from __future__ import annotations

import asyncio

import structlog

from handfast.controller import looks
from handfast.controller.control import Controller
from handfast.core.instances import Instance, State
from handfast.server.state import State as Server

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def watch(server: Server) -> None:
    """Watch for as long as the configuration says so; it is looked at again at each tick."""
    if not _wanted(server):
        return
    controller = Controller(lambda: server.service, tell=tell, listening=server.calls)
    asked = server.service.agents  # the same under every configuration
    asked.ask = looks.Looks(lambda: server.service, lambda: controller.credential).look
    watching = asyncio.ensure_future(controller.run())
    try:
        while _wanted(server) and not watching.done():
            await asyncio.wait({watching}, timeout=server.limits.tick)
        if watching.done():
            watching.result()
    finally:
        asked.ask = None
        watching.cancel()
        await asyncio.wait({watching})


def _wanted(server: Server) -> bool:
    return server.service.instances.watch


def tell(before: Instance, after: Instance) -> None:
    """Log a change of state."""
    level = _log.error if after.state is State.QUARANTINED else _log.info
    level("instance", name=after.name, was=before.state.value, state=after.state.value, reason=after.reason)
