"""What becomes of a connection that comes while its listener closes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest

from handfast.adapters.callers import callers
from handfast.server import connections
from handfast.server.connections import Connections, Listener
from handfast.server.limits import Limits
from handfast.server.metrics import Metrics


@pytest.mark.parametrize("turns", range(1, 6))
async def test_who_comes_while_the_listener_closes_is_closed_or_still_waits(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever turn of the loop that is: the caller sees an end, its place is free, and no descriptor is left."""
    accepted: list[socket.socket] = []

    async def seen(listening: socket.socket) -> AsyncIterator[tuple[socket.socket, str]]:
        async for each, host in callers(listening):
            accepted.append(each)
            yield each, host

    monkeypatch.setattr(connections, "callers", seen)
    places = Connections(Limits(), Metrics())
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as caller:
        listener = Listener(listening, Mock(return_value=Mock(spec=asyncio.Protocol)), places, Limits(), None)
        caller.connect(listening.getsockname())
        for _ in range(turns):
            await asyncio.sleep(0)
        await listener.close()
        for transport in list(places.peers):  # an open connection stays
            transport.abort()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while places._total:  # noqa: ASYNC110  no event says so
                await asyncio.sleep(0)
        assert [each.fileno() for each in accepted] == [-1] * len(accepted)
        caller.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert caller.recv(1) == b""
