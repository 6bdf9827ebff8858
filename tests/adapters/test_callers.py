"""Callers who come in crowds, at the wrong moment, or where no descriptor is left; one line about all of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket

import pytest
from structlog.testing import capture_logs

from handfast.adapters import callers
from handfast.adapters.seldom import Seldom


def test_a_topic_has_a_line_in_a_while_and_knows_what_was_left_out() -> None:
    """The first is told, then none until the pause is over, and then how many there were; topics do not mix."""
    time = [100.0]
    seldom = Seldom(pause=60, now=lambda: time[0])
    assert [seldom.due("a"), seldom.due("a"), seldom.due("a"), seldom.due("b")] == [0, None, None, 0]
    time[0] += 59
    assert seldom.due("a") is None
    time[0] += 1
    assert [seldom.due("a"), seldom.due("a")] == [3, None]
    time[0] += 1000
    assert seldom.due("a") == 1


async def test_no_descriptor_left_is_said_once_and_the_callers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nobody can be accepted there is one line about it, and afterwards whoever waited is let in."""
    monkeypatch.setattr(callers, "_PAUSE", 0.0)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as caller, capture_logs() as logged:
        caller.connect(listening.getsockname())
        accepting = asyncio.ensure_future(anext(aiter(callers.callers(listening))))
        most = max(int(each) for each in os.listdir("/proc/self/fd")) + 1
        fill = [os.dup(caller.fileno()) for _ in range(most - len(os.listdir("/proc/self/fd")))]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(*fill, most - 1, 3) + 1, before[1]))
        try:
            with contextlib.suppress(OSError):  # until there is none
                while True:
                    fill.append(os.dup(caller.fileno()))
            for _ in range(200):
                await asyncio.sleep(0)
            assert not accepting.done()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for each in fill:
                os.close(each)
        accepted, source = await accepting
        accepted.close()
        assert source == "127.0.0.1"
    assert [(each["event"], each["log_level"]) for each in logged] == [("cannot accept", "warning")]


async def test_who_comes_while_we_are_cancelled_is_not_lost() -> None:
    """A connection is accepted by whoever gets it, or not at all: nobody holds one without an owner."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as caller:
        listening.setblocking(False)
        accepting = asyncio.ensure_future(anext(aiter(callers.callers(listening))))
        await asyncio.sleep(0)
        caller.connect(listening.getsockname())
        asyncio.get_running_loop().call_later(0, accepting.cancel)  # in the turn in which it is seen, and after that
        with pytest.raises(asyncio.CancelledError):
            await accepting
        listening.accept()[0].close()


async def test_a_queue_of_callers_does_not_keep_the_others() -> None:
    """Others have a turn after each who is accepted."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        crowd = [socket.create_connection(listening.getsockname()) for _ in range(50)]
        going, count = asyncio.create_task(others()), 0
        async for accepted, _ in callers.callers(listening):
            accepted.close()
            count += 1
            if count == len(crowd):
                break
        going.cancel()
        for each in crowd:
            each.close()
    assert turns >= 45
