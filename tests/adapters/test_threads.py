"""Threads that nobody can stop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from handfast.adapters.threads import finished


async def test_what_it_returns_and_raises_comes_through() -> None:
    """As if it had been called here."""
    assert await finished(int, "12", base=16) == 18
    with pytest.raises(ValueError, match="invalid literal"):
        await finished(int, "x")


@pytest.mark.parametrize("fails", [False, True])
async def test_who_is_cancelled_waits_for_its_end(*, fails: bool) -> None:
    """Also if it fails in the end, of which nobody is told then."""
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(30)
        done.set()
        if fails:
            raise OSError("the disk")

    task = asyncio.ensure_future(finished(work))
    assert await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.wait({task}, timeout=0.1)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
