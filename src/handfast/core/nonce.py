"""
Nonces that the registrar can recognise without remembering them.

A nonce is its time and 16 random bytes under a MAC with a key that lives in the process. It proves
freshness only; a replay within its five minutes meets the one-time marker, which belongs to one key.
"""

from __future__ import annotations

import hmac
import struct
from datetime import datetime

from handfast.core.secret import Secret
from handfast.core.transcript import NONCE

LIFETIME = 300  # seconds; a newcomer on a slow link needs a few
LENGTH = 8 + 16 + 32


def make(key: Secret, now: datetime, randomness: bytes) -> bytes:
    """Return a nonce of ``LENGTH`` bytes; ``randomness`` is 16 fresh random bytes."""
    if len(randomness) != 16:
        raise ValueError("a nonce needs 16 random bytes")
    body = struct.pack(">Q", int(now.timestamp())) + randomness
    return body + _mac(key, body)


def is_fresh(key: Secret, nonce: bytes, now: datetime) -> bool:
    """Whether ``nonce`` was made with ``key`` no more than ``LIFETIME`` seconds before ``now``."""
    if len(nonce) != LENGTH:
        return False
    body, mac = nonce[:24], nonce[24:]
    if not hmac.compare_digest(mac, _mac(key, body)):
        return False
    made: int = struct.unpack(">Q", body[:8])[0]
    return 0 <= int(now.timestamp()) - made <= LIFETIME


def _mac(key: Secret, body: bytes) -> bytes:
    return hmac.digest(key.reveal(), NONCE + body, "sha256")
