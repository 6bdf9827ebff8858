"""
The controller's own credential: what agents know it by, beside the root in their user-data.

Made when it is first needed, by whichever process that is, through the ledger like every other; renewed likewise in the
middle of its life, and at once when it was revoked. Its key never leaves the data directory, and two processes never
make two.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters.tls import controller_context
from handfast.core.chain import read_identity
from handfast.core.flow import Once
from handfast.core.keys import format_pin, spki, spki_sha256
from handfast.core.names import Names
from handfast.core.ports import Ledger
from handfast.core.roles import Role
from handfast.core.transcript import answer
from handfast.core.x509 import BACKDATE
from handfast.errors import Fault, HandfastError, NotFound
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import Material
from handfast.policy.decide import by_operator
from handfast.wiring import Service

DIRECTORY = "controller"  # in the registrar's data directory
_PATIENCE = 10.0  # seconds for another process that makes it at this moment


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """
    A certificate in the role controller, with its key, and the context that presents it.

    ``chain`` (DER) is the one it was issued with: the authority may have another issuing CA by now.
    """

    certificate: x509.Certificate
    chain: tuple[bytes, ...]
    key: ec.EllipticCurvePrivateKey
    context: ssl.SSLContext

    @property
    def spki(self) -> bytes:
        """SHA-256 of the key that TLS proves to agents: introductions are bound to it."""
        return spki_sha256(self.key.public_key())

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """Return an ECDSA signature (DER, SHA-256) over the digest of an answer, as the registrar's TLS key makes."""
        return self.key.sign(answer(transcript, certificate, trust, time.isoformat()), ec.ECDSA(hashes.SHA256()))

    def fresh(self, now: datetime) -> bool:
        """Whether it is in the first half of its life."""
        begin, end = self.certificate.not_valid_before_utc + BACKDATE, self.certificate.not_valid_after_utc
        return begin <= now < begin + (end - begin) / 2


def own(service: Service, *, sleep: Callable[[float], None] = time.sleep) -> OwnCredential:
    """
    Return the controller's credential; the first time, and when it is no longer fresh, have one issued.

    It waits for the ledger, and for another process: not for the event loop.

    :raises Refused: the authority cannot certify it. :raises Fault: the disk, or the ledger.
    """

    def held() -> OwnCredential | None:
        return held_fresh(service.data, service.authority.trust_domain, service.ledger, service.clock.now())

    if (found := held()) is not None:
        return found
    keystore = Keystore(service.data / DIRECTORY)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with keystore.exclusive():
                return held() or _made(keystore, service)
        except Fault:
            if time.monotonic() > end:
                raise
            sleep(0.1)


def holds(ledger: Ledger, credential: OwnCredential, now: datetime) -> bool:
    """Whether a credential need not be replaced yet: it is fresh, and nobody has revoked it. :raises Fault:"""
    record = ledger.credential(credential.certificate.serial_number)
    return credential.fresh(now) and record is not None and record.revoked_at is None


def held_fresh(data: Path, trust_domain: str, ledger: Ledger, now: datetime) -> OwnCredential | None:
    """Return the controller's credential of a data directory, if there is one that need not be replaced yet."""
    try:
        found = Keystore(data / DIRECTORY).load()
    except NotFound:
        return None
    try:
        identity = read_identity(found.certificate)
    except HandfastError:
        return None
    ours = identity.role is Role.CONTROLLER and identity.trust_domain == trust_domain
    made = _credential(found)
    return made if ours and holds(ledger, made, now) else None


def _made(keystore: Keystore, service: Service) -> OwnCredential:
    now, keys = service.clock.now(), keystore.pending("controller")
    grant = by_operator(
        machine=service.name,
        role=Role.CONTROLLER,
        names=Names(),
        public_key=spki(keys.private_key.public_key()),
        lifetime=service.registrar.rules.lifetime_of(Role.CONTROLLER),
        issuer=service.authority,
        now=now,
    )
    # A marker for each key: after a crash the same one asks again, and is given the same.
    once = Once(f"controller:{spki_sha256(keys.private_key.public_key()).hex()}")
    intent = service.ledger.intend(grant, once, at=now).result()
    issued = service.authority.issue(intent)
    leaf = intent.certificate or service.ledger.issued(issued, at=now).result()
    about = {"role": str(Role.CONTROLLER), "name": service.name, "pin": format_pin(service.authority.pin)}
    material = Material(
        leaf, service.authority.chain, service.authority.trust, keys.private_key, keys.reintroduction_key, about
    )
    keystore.adopt(material)
    return _credential(material)


def _credential(material: Material) -> OwnCredential:
    chain = [x509.load_der_x509_certificate(der) for der in (material.leaf, *material.chain)]
    return OwnCredential(
        chain[0], material.chain, material.private_key, controller_context(chain, material.private_key)
    )
