"""Real agents in the loop of a test: `agent.run.run`, over real TLS and a directory of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from handfast.agent.run import Ready, Weaker, run
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from tests.ports import free_port

NOT_WEAKER = Weaker()


@asynccontextmanager
async def agent(
    data: InstanceData,
    state: Path,
    *,
    listen: Address | None = None,
    policy: Path | None = None,
    weaker: Weaker = NOT_WEAKER,
) -> AsyncIterator[Ready]:
    """Be the agent of an instance for the length of the block; what it has is in ``state``, for its next start."""
    ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    there = listen or Address("127.0.0.1", free_port())  # its own, also while it is down
    work = run(data, state=state, policy=policy, ready=ready.set_result, listen=there, weaker=weaker)
    running = asyncio.ensure_future(work)
    either: list[asyncio.Future[Any]] = [running, ready]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield ready.result()
    finally:
        running.cancel()
        await asyncio.wait({running})


def where(told: Ready) -> Address:
    """Where it listens."""
    assert told.listens is not None
    return told.listens
