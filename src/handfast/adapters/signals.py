"""The signals that a service lives by."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """Give the signals as they come; the last of them ends the service."""
    loop, asked = asyncio.get_running_loop(), asyncio.Queue[signal.Signals]()
    ours = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in ours:
        loop.add_signal_handler(number, asked.put_nowait, number)
    try:
        yield asked
    finally:
        for number in ours:
            loop.remove_signal_handler(number)
