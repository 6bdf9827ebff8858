"""An active man in the middle: he ends the newcomer's TLS with what he has, records everything, and relays or lies."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters.tls import newcomer_context, server_context
from handfast.core.invitation import Address
from handfast.core.keys import spki_sha256


def unchanged(data: bytes) -> bytes:
    """Relay as it is."""
    return data


class Mitm:
    """``seen`` is what the newcomer sent inside TLS; ``rewrite`` changes what goes back to it."""

    def __init__(
        self,
        upstream: Address,
        chain: list[x509.Certificate],
        key: ec.EllipticCurvePrivateKey,
        *,
        rewrite: Callable[[bytes], bytes] = unchanged,
    ) -> None:
        self.upstream, self.rewrite = upstream, rewrite
        self.spki = spki_sha256(chain[0].public_key())
        self.seen = bytearray()
        self._context = server_context(chain, key, [chain[-1]])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(15)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._relay, args=(raw,)))
            self._threads[-1].start()

    def _relay(self, raw: socket.socket) -> None:
        raw.settimeout(10)
        with (
            contextlib.suppress(OSError),
            raw,
            self._context.wrap_socket(raw, server_side=True) as victim,
            socket.create_connection((self.upstream.host, self.upstream.port), timeout=10) as out,
            newcomer_context().wrap_socket(out) as registrar,
        ):
            while request := message(victim):
                self.seen += request
                registrar.sendall(request)
                victim.sendall(self.rewrite(message(registrar)))


def message(stream: ssl.SSLSocket) -> bytes:
    """One whole HTTP message, or what came before its sender hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := stream.recv(65536)):
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")]
    while lengths and len(body) < lengths[0] and (more := stream.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body
