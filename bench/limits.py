"""What nobody can beat: the cryptography and the commits by themselves, in this process, on one thread."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from handfast import ledger
from handfast.core import csr, keys
from handfast.core import x509 as profiles
from handfast.core.flow import Credential, Grant, Once
from handfast.core.names import Names
from handfast.core.roles import Role

_SHA256 = ec.ECDSA(hashes.SHA256())


def measure(count: int) -> dict[str, float]:
    """Return microseconds of CPU time for each limit, from ``count`` runs of it."""
    return {
        "bare crypto": _bare_crypto(count, pause=0),
        "cold crypto": _bare_crypto(min(count, 200), pause=0.002),
        "our crypto": _our_crypto(count),
        "ledger 1": uvloop.run(_ledger(count, together=1)),
        "ledger 8": uvloop.run(_ledger(count, together=8)),
    }


def _bare_crypto(count: int, *, pause: float) -> float:
    """Parse and verify a CSR, make one ECDSA signature; after a ``pause`` the caches are other processes'."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = csr.build(key)
    spent = 0.0
    for _ in range(count):
        if pause:
            time.sleep(pause)
        begun = time.thread_time()
        assert x509.load_der_x509_csr(der).is_signature_valid
        key.sign(der, _SHA256)
        spent += time.thread_time() - begun
    return spent / count * 1e6


def _our_crypto(count: int) -> float:
    """Verify a CSR and an invitation's signature, build and sign the certificate, sign the answer."""
    key, seed = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    der, digest = csr.build(key), os.urandom(32)
    raw, signature = seed.public_key().public_bytes_raw(), seed.sign(digest)
    root = profiles.root(key, name="bench", now=datetime.now(UTC))
    profile, grant = profiles.LeafProfile(root), _grant(0, keys.spki(key.public_key()))
    begun = time.process_time()
    for serial in range(1, count + 1):
        assert x509.load_der_x509_csr(der).is_signature_valid
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, digest)
        profile.builder(grant, serial).sign(key, hashes.SHA256())
        key.sign(digest, _SHA256)
    return _micros(begun, count)


async def _ledger(count: int, *, together: int) -> float:
    """Intend and issue: two durable commits, each shared by ``together`` callers."""
    certificate, now = os.urandom(650), datetime.now(UTC)
    with tempfile.TemporaryDirectory() as scratch, ledger.open_sqlite(Path(scratch) / "ledger") as store:
        store.revocations()  # opened, and imported

        async def one(number: int) -> None:
            once = Once(f"bench:{os.urandom(8).hex()}")
            intent = await asyncio.wrap_future(store.intend(_grant(number, os.urandom(91)), once, at=now))
            credential = Credential(intent.serial, intent.grant, certificate)
            await asyncio.wrap_future(store.issued(credential, at=now))

        async with store.in_loop():
            begun = time.process_time()
            for first in range(0, count, together):
                await asyncio.gather(*(one(number) for number in range(first, first + together)))
            return _micros(begun, count)


def _grant(number: int, public_key: bytes) -> Grant:
    now, name = datetime.now(UTC), f"m{number}.bench.internal"
    return Grant(
        machine=name,
        role=Role.SERVER,
        spiffe_id=f"spiffe://bench.internal/server/{name}",
        names=Names((name,)),
        public_key=public_key,
        not_before=now,
        not_after=now + timedelta(days=1),
        method="invitation",
        why=("it signed with the key of invitation 0123456789abcdef", "policy allows it"),
        reintroduction_key=bytes(32),
    )


def _micros(begun: float, count: int) -> float:
    return (time.process_time() - begun) / count * 1e6
