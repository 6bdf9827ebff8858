"""
A session's stream for programs: asyncio or blocking, dialling the server or waiting for its call.

Each stream is one connection to the service behind the server, authenticated and checked as those of `handfast session
connect`. It is bridged to a TCP connection of this process with itself over loopback, of which the caller gets one
end: a reset passes through it. A Unix socket would show a stream that was cut off as one that has ended.

What there is to log goes to the standard library's ``logging``: where the program has not configured structlog, the
first stream does, for the whole process, or it would print to stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NoReturn

import structlog
import uvloop

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError, Unreachable
from handfast.sessions import local
from handfast.sessions.channel import reset_at_close, shut
from handfast.sessions.connect import Reverse
from handfast.sessions.control import Side
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.tasks import beside

LINGER = 5.0  # seconds for what was written to reach the peer after the block
_PAIRING = 5.0  # seconds to connect to ourselves: a thousandth of one, if nobody floods us
_LOOPBACK = "127.0.0.1"
_OF_A_BROKEN_STREAM = (OSError, EOFError)  # what a program gets that reads or writes there
_Path = str | os.PathLike[str]
_Relaying = asyncio.Task[Ended]
_Way = Callable[[Side, socket.socket], AbstractAsyncContextManager[_Relaying]]
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@contextlib.asynccontextmanager
async def open_stream(session: _Path, server: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """
    Dial a server and give a stream to its service, as ``asyncio.open_connection`` does.

    ``session`` is a client's session file, ``server`` HOST:PORT. The block begins when both sides have proved
    themselves and the service was reached. ``writer.write_eof()`` ends one direction. The end of what is read is the
    service's own word: a stream that breaks raises in the block, and leaves it as one of ``handfast.errors``.

    A block left in order closes the stream; what was written is still delivered if that takes no more than 5 seconds.
    To know that it was, end the writing and read to the end. A block left by an exception resets the stream, so that
    the service does not take it for complete.

    :raises NotFound, Unsafe, Malformed, Refused: the session file, or the address.
    :raises Unreachable: the server is not there; or its service, or the connection broke.
    :raises UntrustedPeer: not a server of this session. :raises Revoked: its credential was taken back, or ours.
    """
    async with _stream(session, _dialling(server)) as both:
        yield both


@contextlib.asynccontextmanager
async def wait_stream(
    session: _Path, listen: str, *, within: float | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """
    Wait on HOST:PORT for the server's call and give a stream to its service; otherwise as ``open_stream``.

    The block begins when the server has called and proved itself, within that many seconds. That it cannot reach its
    service is known later: reading raises then.
    """
    async with _stream(session, _waiting(listen, within)) as both:
        yield both


@contextlib.contextmanager
def open_socket(session: _Path, server: str) -> Iterator[socket.socket]:
    """
    Dial a server and give a blocking socket to its service; a thread does the rest until the end of the block.

    Everything is as for ``open_stream``. ``shutdown(SHUT_WR)`` ends one direction.
    """
    with _socket(session, _dialling(server)) as near:
        yield near


@contextlib.contextmanager
def wait_socket(session: _Path, listen: str, *, within: float | None = None) -> Iterator[socket.socket]:
    """Wait on HOST:PORT for the server's call; otherwise as ``open_socket`` and ``wait_stream``."""
    with _socket(session, _waiting(listen, within)) as near:
        yield near


# --- the two directions ---


def _dialling(server: str) -> _Way:
    address = Address.parse(server)

    @contextlib.asynccontextmanager
    async def way(side: Side, plain: socket.socket) -> AsyncIterator[_Relaying]:
        with plain:  # until the relay has it
            connected = await local.dial(Endpoint(address))
            async with side.engine.link(connected) as link:
                await side.greet(link, "stream")
                async with beside(link.relay(plain)) as relaying:
                    yield relaying

    return way


def _waiting(listen: str, within: float | None) -> _Way:
    address = Address.parse(listen)

    @contextlib.asynccontextmanager
    async def way(side: Side, plain: socket.socket) -> AsyncIterator[_Relaying]:
        with plain, local.public(address) as listening:
            reverse = Reverse(side)
            async with beside(side.engine.serve(listening, reverse.handle)):
                try:
                    async with asyncio.timeout(within):
                        await reverse.ready()
                except TimeoutError:
                    hint = "does `session serve --dial` run there, with this address?"
                    raise Unreachable(f"the server did not call {address} within {within:g} s", hint=hint) from None
                async with beside(reverse.stream(plain)) as relaying:
                    yield relaying

    return way


# --- what both have in common ---


@contextlib.asynccontextmanager
async def _carrying(session: _Path, way: _Way, plain: socket.socket) -> AsyncIterator[None]:
    """Carry ``plain``, which is ours, while the block runs and a little longer."""
    _log_to_the_standard_library()
    side = Side.open(Path(session), Role.CLIENT)
    # ``plain`` stays open here, and so undecided, until the whole outcome is known.
    async with side.running(_unusable), way(side, plain.dup()) as relaying, _guarded(side) as guard:
        relaying.add_done_callback(lambda done: shut(plain, reset=_broke(done) is not None))
        try:
            yield
        except _OF_A_BROKEN_STREAM as error:
            if (why := _broke(relaying, guard)) is not None:
                raise why from error
            raise
        if (why := _broke(relaying, guard)) is not None:
            raise why
        await asyncio.wait({relaying}, timeout=LINGER)


@contextlib.asynccontextmanager
async def _guarded(side: Side) -> AsyncIterator[asyncio.Task[NoReturn]]:
    """End every connection when our own credential ends."""
    async with beside(side.guard()) as guard:
        guard.add_done_callback(lambda _done: side.engine.close())
        yield guard


def _broke(relaying: _Relaying, guard: asyncio.Task[NoReturn] | None = None) -> HandfastError | None:
    """Return what broke a stream; None while it runs, and when it ended in order."""
    if not relaying.done():
        return None
    if guard is not None and guard.done() and isinstance(ours := guard.exception(), HandfastError):
        return ours
    if relaying.cancelled():
        return Unreachable("this side is stopping")
    error = relaying.exception()
    if error is None:
        return relaying.result().error
    return error if isinstance(error, HandfastError) else Fault(f"the stream failed: {error!r}")


@contextlib.asynccontextmanager
async def _stream(session: _Path, way: _Way) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    near, plain = _pair()
    with near, plain:
        async with _carrying(session, way, plain):
            reader, writer = await asyncio.open_connection(sock=near)
            try:
                yield reader, writer
            except BaseException:
                reset_at_close(near)  # abort() alone would end it in order, and the service take it for complete
                writer.transport.abort()
                raise
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(LINGER):
                    await writer.wait_closed()


@contextlib.contextmanager
def _socket(session: _Path, way: _Way) -> Iterator[socket.socket]:
    near, plain = _pair()
    with near, plain:
        thread = _Thread(_carrying(session, way, plain))
        try:
            thread.begin()
            yield near
        except BaseException as error:
            thread.end(error)
            raise
        near.close()
        thread.end()


class _Thread:
    """An event loop in a thread of its own, for one stream."""

    def __init__(self, carrying: AbstractAsyncContextManager[None]) -> None:
        self._carrying = carrying
        self._thread = threading.Thread(target=self._run, name="handfast-session", daemon=True)
        self._begun: Future[None] = Future()
        self._over: Future[None] = Future()
        self._running = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Return when bytes can flow. :raises HandfastError: they never will."""
        self._thread.start()
        self._begun.result()

    def end(self, error: BaseException | None = None) -> None:
        """End the thread, after the block ended with ``error``. :raises HandfastError: the stream had broken."""
        if self._thread.ident is None:
            return
        self._running.wait()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is over already
                self._loop.call_soon_threadsafe(self._leave, error)
        self._thread.join()
        why = self._over.exception()
        if why is not None and why is not error and (error is None or isinstance(why, HandfastError)):
            raise why

    def _leave(self, error: BaseException | None) -> None:
        if self._left.done():
            return
        if error is None:
            self._left.set_result(None)
        elif isinstance(error, _OF_A_BROKEN_STREAM):
            self._left.set_exception(error)
        else:
            self._task.cancel()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # noqa: BLE001  raised where the block is
            self._over.set_exception(error)
            if not self._begun.done():
                self._begun.set_exception(error)
        else:
            self._over.set_result(None)
        finally:
            self._running.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left: asyncio.Future[None] = self._loop.create_future()
        self._task = asyncio.ensure_future(self._carry())
        self._running.set()
        await self._task

    async def _carry(self) -> None:
        async with self._carrying:
            self._begun.set_result(None)
            await self._left


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection of this process with itself."""
    try:
        with socket.create_server((_LOOPBACK, 0)) as listening:
            listening.settimeout(_PAIRING)
            near = socket.create_connection(listening.getsockname(), timeout=_PAIRING)
            try:
                while True:
                    plain, caller = listening.accept()
                    if caller == near.getsockname():
                        break
                    plain.close()  # somebody else's, who was quicker
            except BaseException:
                near.close()
                raise
    except OSError as error:
        raise Fault(f"cannot connect to {_LOOPBACK}: {error.strerror or error}", hint="is loopback up?") from None
    near.settimeout(None)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, plain


def _log_to_the_standard_library() -> None:
    """Keep structlog, which prints to stdout by default, from doing so in somebody else's program."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )


def _unusable(error: HandfastError) -> None:
    _log.warning("a revocation list cannot be used", error=error.message)
