"""
The active man in the middle of `handfast demo`: terminates TLS with whatever certificate he has, relays, records.

He listens on loopback only and stops with the demo.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters.tls import newcomer_context, server_context
from handfast.core.invitation import Address

_CHUNK = 64 * 1024


class ManInTheMiddle:
    """Sits between a newcomer and ``upstream``; ``seen`` is what the newcomer sent him in clear text."""

    def __init__(self, upstream: Address, *, chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> None:
        self._upstream = upstream
        self._context = server_context(chain, key, [chain[-1]])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listening.getsockname()[1])
        self.seen = bytearray()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; open connections end with their peers."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._relay(raw)

    def _relay(self, raw: socket.socket) -> None:
        raw.settimeout(10)
        with (
            self._context.wrap_socket(raw, server_side=True) as victim,
            socket.create_connection((self._upstream.host, self._upstream.port), timeout=10) as out,
            newcomer_context().wrap_socket(out) as registrar,
        ):
            back = threading.Thread(target=_pump, args=(registrar, victim), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := victim.recv(_CHUNK):
                    self.seen += data
                    registrar.sendall(data)


def own_authority(
    now: datetime, likeness: x509.Certificate
) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
    """
    Return a leaf with its key under a self-made root, with every name and extension of ``likeness``.

    It is the best that somebody can present who does not have our root's key.
    """
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder(likeness.issuer, likeness.subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in likeness.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    root = (
        x509.CertificateBuilder(likeness.issuer, likeness.issuer, root_key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    return [builder.sign(root_key, hashes.SHA256()), root], key


def _pump(source: ssl.SSLSocket, sink: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
