"""
Renewal: a credential of ours introduces its own successor.

Proof     newcomer -> registrar  the old key signs the transcript, and mutual TLS where the role may be a TLS client
Answer    registrar -> newcomer  ECDSA by the TLS key, chained to the pin, over request, leaf, roots and time
Trusts    whoever holds the old private key while its credential is valid and not revoked
Replay    one successor per credential; the same new key gets the same answer, another one an alarm
Spec      docs/protocols/renewal.md

A certificate for servers only cannot be a TLS client certificate: every TLS library refuses its usage,
rightly. So the old key signs in the message, bound to this connection and to a fresh nonce, which proves as much;
roles that dial present the certificate in the handshake as well.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta

from handfast.core import csr, hostproof, keys, wire
from handfast.core.evidence import check_standing, opened
from handfast.core.flow import Entitlement, Evidence, Finding, HostFinding, Once, Opening, Wish
from handfast.core.hostproof import HostClaim, HostKeys
from handfast.core.hosts import How
from handfast.core.ports import Context
from handfast.core.records import CredentialRecord
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, PolicyRefused

NAME = "renewal"


class RenewalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/introductions/renewal; ``signature`` is by the key of the credential ``serial``."""

    serial: wire.Serial
    nonce: wire.Nonce
    newcomer_nonce: wire.Nonce
    csr: wire.Csr
    reintroduction_key: wire.Ed25519Key
    signature: Annotated[bytes, Meta(max_length=1100)]
    host: HostClaim | None = None


def transcript(request: RenewalRequest, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that the old key signs, and to which the answer is bound."""
    return digest(
        request_label(NAME),
        bytes.fromhex(request.serial),
        pin,
        server_spki,
        request.newcomer_nonce,
        request.nonce,
        request.csr,
        request.reintroduction_key,
        hostproof.commitment(request.host),
    )


def present(
    key: ec.EllipticCurvePrivateKey,
    *,
    serial: int,
    pin: bytes,
    csr_der: bytes,
    next_key: bytes,
    nonce: bytes,
    server_spki: bytes,
    host: HostKeys | None = None,
) -> tuple[bytes, bytes]:
    """
    Return the newcomer's message (JSON) and the digest that the registrar's answer must sign.

    ``key`` is that of credential ``serial``; ``next_key`` is the raw reintroduction key of its successor.
    """
    request = RenewalRequest(
        serial=f"{serial:032x}",
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        csr=csr_der,
        reintroduction_key=next_key,
        signature=b"",
    )
    made = hostproof.claim(host, request, method=NAME, pin=pin, server_spki=server_spki)
    request = msgspec.structs.replace(request, host=made)
    signed = transcript(request, pin=pin, server_spki=server_spki)
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return msgspec.json.encode(msgspec.structs.replace(request, signature=signature)), signed


@dataclass(frozen=True, slots=True)
class Renewing:
    """The newcomer's half: a credential and its key."""

    key: ec.EllipticCurvePrivateKey
    serial: int
    pin: bytes
    wish: Wish
    method: ClassVar[str] = NAME

    def present(self, opening: Opening) -> tuple[bytes, bytes]:
        """Return the message, and the digest that the answer must sign."""
        return present(
            self.key,
            serial=self.serial,
            pin=self.pin,
            csr_der=opening.csr,
            next_key=opening.next_key,
            nonce=opening.nonce,
            server_spki=opening.server_spki,
            host=opening.host,
        )


@dataclass(frozen=True, slots=True)
class RenewalIntroducer:
    """The registrar's half."""

    name: ClassVar[str] = NAME
    native: ClassVar[bool] = True
    evidence: ClassVar[type[msgspec.Struct]] = RenewalRequest
    because: ClassVar[str] = "it signed with the key of its previous credential, which was still valid"

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return the finding for a credential whose key signed this request.

        The names and the role are the old credential's as the ledger has them: nothing is copied from a
        certificate that was presented.

        :raises EvidenceRejected: unknown serial, wrong signature, or no client certificate where the role dials.
        :raises Revoked: the credential was taken back.
        :raises PolicyRefused: it has expired; ``reintroduction`` is the way back.
        """
        request = opened(evidence, RenewalRequest, context, method=self.name)
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        record = self._authenticate(request, signed, evidence, context)
        check_standing(record)
        if context.now() >= record.not_after:
            raise PolicyRefused((f"credential {request.serial} has expired",), hint="come back by reintroduction")
        return Finding(
            method=self.name,
            public_key=keys.spki(csr.read(request.csr)),
            entitlement=Entitlement(record.machine, frozenset({record.role}), record.names),
            wish=Wish(),
            once=Once(record.successor_marker),
            proof=f"it holds the key of its credential {record.serial:032x}",
            transcript=signed,
            reintroduction_key=request.reintroduction_key,
            # One bounded read: this is before anybody is admitted.
            renewals=context.renewals_since(record, context.now() - (record.not_after - record.intended_at) / 24),
            host=self._host(request, record, evidence, context),
        )

    def _host(
        self, request: RenewalRequest, record: CredentialRecord, evidence: Evidence, context: Context
    ) -> HostFinding | None:
        if request.host is None:
            return None
        spki = evidence.channel.server_spki
        return HostFinding(
            machine=record.machine,
            keys=hostproof.proved(request, method=self.name, pin=context.pin, server_spki=spki),
            how=How.RENEWAL,
            detail=f"credential {record.serial:032x}",
        )

    def _authenticate(
        self, request: RenewalRequest, signed: bytes, evidence: Evidence, context: Context
    ) -> CredentialRecord:
        record = context.credential(int(request.serial, 16))
        if record is None or record.certificate is None:
            raise EvidenceRejected(f"serial {request.serial} is not in the ledger")
        presented = evidence.channel.client
        if record.role.dials and (presented is None or presented.serial_number != record.serial):
            raise EvidenceRejected(f"serial {request.serial} was not presented as client certificate")
        key = x509.load_der_x509_certificate(record.certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise EvidenceRejected(f"serial {request.serial} has a {keys.describe(key)} key; renewal needs a P-256 key")
        try:
            key.verify(request.signature, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise EvidenceRejected(f"the signature for serial {request.serial} does not fit") from None
        return record


REGISTRAR_HALF = RenewalIntroducer()
