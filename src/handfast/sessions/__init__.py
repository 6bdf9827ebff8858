"""
Sessions: one server, its clients, and nobody else between them.

A program is a client of a session in three lines, with asyncio or without:

    async with sessions.open_stream("client.pem", "cluster:9501") as (reader, writer):
        writer.write(b"hello")
        print(await reader.read(100))

    with sessions.open_socket("client.pem", "cluster:9501") as connected:
        connected.sendall(b"hello")
        print(connected.recv(100))

``wait_stream`` and ``wait_socket`` are the same where the server calls: they take the address to wait on. What goes
wrong is one of ``handfast.errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handfast.sessions.api import open_socket, open_stream, wait_socket, wait_stream

__all__ = ["open_socket", "open_stream", "wait_socket", "wait_stream"]


def __getattr__(name: str) -> object:
    """Import the library when it is used: commands of the same package do without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from handfast.sessions import api

    return getattr(api, name)
