"""Work that nobody can stop half-way, as in a thread: whoever is cancelled meanwhile waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finished(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run something in a thread, and return its result; raises what it raises.

    If cancelled, end after it has: it would go on with a descriptor that is closed by then, or a file that is removed.
    """
    return await to_its_end(asyncio.to_thread(function, *args, **kwargs))


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do something to its end, and return its result, or raise its error; if cancelled, end after it has."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # looked at, so that asyncio does not report it
        raise
