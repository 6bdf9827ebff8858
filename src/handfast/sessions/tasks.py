"""Work beside other work, that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Do it while the block runs. What becomes of it is for the block to ask."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def first(*works: Coroutine[Any, Any, T]) -> T:
    """Do all until one ends, and return or raise what that does; of several, the one named first. The rest is ended."""
    async with contextlib.AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(beside(each)) for each in works]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(each for each in tasks if each.done()).result()
