"""A reset that comes right behind the last bytes: libuv tells of both but once."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from handfast.errors import Unreachable
from handfast.sessions.engine import Link
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made
from tests.sessions.streams import ANSWER, HELLO, dial, engine, listen, serving

RESET = struct.pack("ii", 1, 0)


async def answers_and_resets(made: Made) -> None:
    """A service says half, and resets, before the relay's first look at it: both sides end, and not in order."""
    over: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        with listen() as service:
            plain = await dial(service)
            far, _ = service.accept()
        far.sendall(b"half")
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await link.send(ANSWER)
        asyncio.get_running_loop().call_soon(far.close)  # between the first reading and the next
        over.set_result((await link.relay(plain)).error)

    near, local = socket.socketpair()
    with near:
        async with serving(engine(made, "server"), handle) as ear, engine(made, "client").link(await dial(ear)) as link:
            await link.send(HELLO)
            await link.receive()
            async with asyncio.timeout(10):
                ended = await link.relay(local)
                assert isinstance(await over, Unreachable)
            assert isinstance(ended.error, Unreachable)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_reset_behind_the_last_bytes_ends_the_stream(ours: Made, run: Callable[..., object]) -> None:
    """Nobody waits for ever for a service that was killed, and its half of an answer does not look whole."""
    for _ in range(8):
        run(answers_and_resets(ours))
