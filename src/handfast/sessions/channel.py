"""
TLS on one connected socket, in the running event loop, without a buffer of its own.

OpenSSL reads from the socket and writes to it; the loop only says when. Reading and writing are plain calls that
return at once, for ``relay``; waiting is for the handshake and the frames at the beginning. Whatever OpenSSL says
becomes one of ``errors.py``: nothing else leaves this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from handfast.adapters import tls_direct
from handfast.adapters.tls import SessionContext
from handfast.errors import HandfastError, Malformed, Unreachable, UntrustedPeer

RECORD = 16 * 1024  # bytes: the most that one record of TLS holds (RFC 8446 §5.1), and one read returns
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # silence of 45 s is death
NO_CERTIFICATE = "the peer presented no certificate"
_RESET = struct.pack("ii", 1, 0)
_HINT = "is it the address of a session, and of the same one?"
T = TypeVar("T")


class Channel:
    """
    One TLS connection over ``connected``, which becomes non-blocking and is closed with it.

    Nothing is known of the peer before ``handshake`` has returned its certificate, and nothing believed before
    somebody has judged that.
    """

    def __init__(self, connected: socket.socket, context: SessionContext) -> None:
        connected.setblocking(False)
        prepare(connected)
        self.fd = connected.fileno()
        self._socket, self._alpn = connected, context.alpn
        self._tls = context.connection(connected)
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self._sending = asyncio.Lock()
        self._closed: HandfastError | None = None
        self.established = False  # by TLS: then words of ours reach the peer, and nobody else

    async def handshake(self) -> bytes:
        """
        Return the certificate (DER) that the peer has proved to hold, and that chains to the session's root.

        *Not* checked: dates, role, revocation.

        :raises UntrustedPeer: it has none or another session's, speaks another protocol, or refused ours.
        :raises Malformed: it does not speak TLS 1.3. :raises Unreachable: it went away.
        """
        await self._until(self._tls.do_handshake)
        self.established = True
        tls_direct.one_record_a_read(self._tls)
        agreed = self._tls.get_alpn_proto_negotiated()
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        if agreed != self._alpn:
            raise UntrustedPeer(f"the peer agreed to {agreed!r} and not to {self._alpn!r}", hint=_HINT)
        if certificate is None:
            raise UntrustedPeer(NO_CERTIFICATE, hint=_HINT)
        return certificate.public_bytes(Encoding.DER)

    async def receive(self, count: int) -> bytes:
        """
        Return exactly the next ``count`` bytes, and leave what follows them.

        :raises Unreachable: the peer ended before that. :raises UntrustedPeer: it refused us.
        """
        content = bytearray()
        while len(content) < count:
            content += await self._until(self._tls.recv, min(count - len(content), RECORD))
        return bytes(content)

    async def send(self, content: bytes) -> None:
        """Send all of ``content``, in one piece among other tasks' pieces. :raises Unreachable: the peer is gone."""
        async with self._sending:
            rest = memoryview(content)
            while rest:
                rest = rest[await self._until(self._tls.send, rest) :]

    async def farewell(self) -> None:
        """
        End both directions, and give the peer the chance to read what was said last.

        A socket closed over unread bytes sends a reset, which overtakes an alert or a refusal. So what still comes is
        thrown away, a bounded amount of it; for how long is for the caller to bound.
        """
        with contextlib.suppress(SSL.Error, OSError):
            self._tls.shutdown()
        with contextlib.suppress(OSError, HandfastError):
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(16):
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                if not self._socket.recv(RECORD):
                    break
        self.close()

    def read_into(self, buffer: memoryview) -> int | None:
        """
        Decrypt what is there into ``buffer`` (at least ``RECORD`` bytes); 0 at the peer's end, None if nothing came.

        An end is the peer's authenticated word; a connection that only stops is an error, or an attacker could cut
        off the end of a file.

        :raises Again: what came was no bytes. :raises Stalled: first the socket has to take something.
        """
        filled, room = 0, len(buffer) - RECORD
        try:
            while filled <= room:
                count = tls_direct.read_into(self._tls, buffer, filled, RECORD)
                if not count and not filled:
                    raise Again
                filled += count
                if count < RECORD and not self._tls.pending():
                    return filled  # the sender had no more; to ask again costs as much as these bytes did
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            return filled
        except SSL.WantWriteError:
            # An answer of TLS itself (a key update) that does not fit. Without a pause this would spin.
            if not filled:
                raise Stalled from None
        except (SSL.Error, OSError) as error:
            raise explain(error) from None
        return filled or None

    def write(self, content: memoryview) -> int:
        """Encrypt and send what the socket takes, and return how much; what it did not take must come again, as is."""
        done, size = 0, len(content)
        try:
            while done < size:
                done += tls_direct.write(self._tls, content, done)
        except (SSL.WantWriteError, SSL.WantReadError):
            pass
        except (SSL.Error, OSError) as error:
            raise explain(error) from None
        return done

    def finish(self) -> bool:
        """Say that nothing more comes from here (close_notify, RFC 8446 §6.1), and whether it could be said yet."""
        try:
            self._tls.shutdown()
        except (SSL.WantWriteError, SSL.WantReadError):
            return False
        except (SSL.Error, OSError) as error:
            raise explain(error) from None
        return True

    def close(self) -> None:
        """Close the socket as it is; whoever waits on it is told that it is gone."""
        self.abort(Unreachable("the connection was closed"), reset=False)

    def abort(self, why: HandfastError, *, reset: bool = True) -> None:
        """Close with a reset, so that what was not sent is forgotten, and raise ``why`` where somebody waits."""
        if self._closed is not None:
            return
        self._closed = why
        self._loop.remove_reader(self.fd)
        self._loop.remove_writer(self.fd)
        shut(self._socket, reset=reset)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(why)

    @property
    def closed(self) -> HandfastError | None:
        """Why it is closed; None while it is not. After that its descriptor may be somebody else's."""
        return self._closed

    async def _until(self, operation: Callable[..., T], *arguments: object) -> T:
        while True:
            if self._closed is not None:
                raise self._closed
            try:
                return operation(*arguments)
            except SSL.WantReadError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except SSL.WantWriteError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except (SSL.Error, OSError) as error:
                raise explain(error) from None

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        if self._closed is not None:
            raise self._closed
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        add(self.fd, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if self._closed is None:  # else the descriptor may be somebody else's by now
                remove(self.fd)


class Again(Exception):
    """TLS has read a record of its own, and there may be more: an event that announces it need not come."""


class Stalled(Exception):
    """TLS has to write before it can go on reading, and the socket does not take it."""


def prepare(connected: socket.socket) -> None:
    """Make a TCP socket send at once, and notice a peer that has vanished; others are left as they are."""
    if connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def shut(connected: socket.socket, *, reset: bool) -> None:
    """Close a socket; with ``reset`` so that a TCP peer sees an error and not an end."""
    if reset:
        reset_at_close(connected)
    connected.close()


def reset_at_close(connected: socket.socket) -> None:
    """Let a TCP peer see an error and not an end when this socket is closed, whoever does that."""
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def close_with(task: asyncio.Task[None], connected: socket.socket) -> None:
    """Close a socket when the task is over that owns it: one that is cancelled before it begins closes nothing."""
    task.add_done_callback(lambda _: connected.close())


def explain(error: Exception) -> HandfastError:
    """Return what an error of OpenSSL or of the socket means to us."""
    if isinstance(error, SSL.ZeroReturnError):
        return Unreachable("the peer ended the connection", hint="its own log says why")
    if isinstance(error, (SSL.SysCallError, OSError)):
        said = str(error.args[1] if len(error.args) > 1 else error)
        return Unreachable(
            f"the connection to the peer broke off: {said}", hint="the peer was killed, or the network is down"
        )
    reason = _reason(error)
    if any(each in reason for each in _ALERTS):
        return UntrustedPeer(f"the peer refused us: {reason!r}", hint="its own log says why; " + _HINT)
    if "alert" in reason:  # OpenSSL's last word to a connection that ended without close_notify is one, too
        return Unreachable(f"the peer broke off: {reason!r}", hint="its own log says why")
    if reason in _UNTRUSTED:
        return UntrustedPeer(_UNTRUSTED[reason], hint=_HINT)
    return Malformed(f"the peer does not speak TLS as a session does: {reason!r}", hint=_HINT)


_ALERTS = (  # the beginnings of those that are about who we are, or what we speak (RFC 8446 §6.2)
    *("alert bad certificate", "alert unsupported certificate", "alert certificate", "alert unknown ca"),
    *("alert access denied", "alert no application protocol", "alert handshake failure", "alert protocol version"),
)
_UNTRUSTED = {
    "certificate verify failed": "the peer's certificate was not issued in this session for its side of it",
    "peer did not return a certificate": NO_CERTIFICATE,
}


def _reason(error: Exception) -> str:
    """Return OpenSSL's first reason; a list of (library, function, reason) is what its binding raises."""
    try:
        return str(error.args[0][0][2])[:200]
    except (IndexError, TypeError):
        return type(error).__name__


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
