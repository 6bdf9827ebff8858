"""The registrar's own certificate: issued through the ledger like every other, its key only in memory."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters import tls
from handfast.core import keys
from handfast.core.flow import Once
from handfast.core.names import Names
from handfast.core.transcript import answer
from handfast.policy.decide import serving
from handfast.wiring import Service


@dataclass(frozen=True, slots=True)
class Identity:
    """One serving certificate with its key and the TLS context that presents it, and no other."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    spki_sha256: bytes
    context: ssl.SSLContext

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """Return an ECDSA signature (DER, SHA-256) over the digest of the answer: what was asked, leaf, roots, time."""
        # Never mistaken for a signature of the handshake: that is over 98 bytes or more (RFC 8446 §4.4.3).
        digest = answer(transcript, certificate, trust, time.isoformat())
        return self.key.sign(digest, ec.ECDSA(hashes.SHA256()))

    @property
    def renew_at(self) -> datetime:
        """The middle of its life."""
        start, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        return start + (end - start) / 2

    def usable(self, now: datetime) -> bool:
        """Whether newcomers would accept it now."""
        return self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc


async def obtain(service: Service) -> Identity:
    """
    Have a new serving certificate issued: intended, signed, recorded, as every credential.

    Its names are the addresses newcomers are told; they matter to browsers and curl, newcomers look at the role.

    :raises Refused: the authority may not certify these names, or has expired.
    :raises Fault: the ledger could not make it durable.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    authority, ledger, now = service.authority, service.ledger, service.clock.now()
    grant = serving(
        machine=service.name,
        names=Names.parse([address.host for address in service.addresses]),
        issuer=authority,
        public_key=keys.spki(key.public_key()),
        rules=service.registrar.rules,
        now=now,
    )
    once = Once(f"serving:{secrets.token_hex(16)}")
    intent = await asyncio.wrap_future(ledger.intend(grant, once, at=now))
    on_record = await asyncio.wrap_future(ledger.issued(authority.issue(intent), at=now))
    certificate = x509.load_der_x509_certificate(on_record)
    return Identity(
        certificate,
        key,
        keys.spki_sha256(key.public_key()),
        tls.server_context([certificate, authority.issuing], key, [authority.root]),
    )
