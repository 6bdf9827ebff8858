"""
Servers that tests put in others' places. At the end of the block nobody is connected to them any more.

Left to themselves, whatever they are doing then ends with the loop: a connection stays open until the garbage collector
finds it, during another test, which fails of it. Or it has just been made: a handshake may outlive whoever listened.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

MAX_BODY = 16 * 1024 * 1024  # bytes; aiohttp's own MiB would refuse an upload in the middle, or not, as time has it
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def talking(
    conversation: Conversation,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    path: Path | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """
    Have a conversation with each caller, at a port, which it gives, or at the ``path`` of a Unix socket.

    What goes wrong in one is raised at the end, but for a connection that broke.
    """
    over = False
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if over:
            writer.transport.abort()
            return
        writers.append(writer)
        tasks.append(asyncio.ensure_future(conversation(reader, writer)))

    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(met, path)
    else:
        server = await asyncio.start_server(met, host, port, ssl=context)
    try:
        yield 0 if path is not None else int(server.sockets[0].getsockname()[1])
    finally:
        over = True
        server.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await _hung_up([each.transport for each in writers])
    for each in ended:
        if isinstance(each, Exception) and not isinstance(each, OSError | EOFError):
            raise each


@asynccontextmanager
async def answering(
    handler: Handler, context: ssl.SSLContext, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """Answer requests at a port, which it gives."""
    async with http(handler) as made:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(made, host, port, ssl=context, reuse_address=True)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()


@asynccontextmanager
async def http(handler: Handler) -> AsyncIterator[Callable[[], asyncio.Protocol]]:
    """Give what makes aiohttp's side of a connection, wherever that comes from."""
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    server = runner.server
    assert server is not None
    over, transports, ordinary = False, [], server.connection_made

    def made(protocol: web.RequestHandler, transport: asyncio.Transport) -> None:
        ordinary(protocol, transport)
        transports.append(transport)
        if over:
            transport.abort()

    server.connection_made = made  # type: ignore[assignment]
    try:
        yield server
    finally:
        over = True
        await runner.cleanup()
        await _hung_up(transports)


async def _hung_up(transports: list[Any]) -> None:
    for each in transports:
        with suppress(AttributeError):  # Python 3.11.2 over TLS: it was closed twice, and has ended
            each.abort()
    await asyncio.sleep(0)  # the turn in which they end
