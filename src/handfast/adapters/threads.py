"""Work in a thread, which nobody can stop: whoever is cancelled meanwhile waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finished(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run something in a thread, and return its result; raises what it raises.

    If cancelled, end after it has: it would go on with a descriptor that is closed by then, or a file that is removed.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # looked at, so that asyncio does not report it
        raise
