"""
Reintroduction: a machine that slept past its credential's end comes back with the key it kept for that.

Proof     newcomer -> registrar  Ed25519 by the key registered with its last credential, over the transcript
Answer    registrar -> newcomer  ECDSA by the TLS key, chained to the pin, over request, leaf, roots and time
Trusts    whoever holds that key, for the machine's last credential, until the operator's limit after its end
Replay    one successor per credential, shared with renewal; another key raises an alarm
Spec      docs/protocols/renewal.md
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from handfast.core import csr, hostproof, keys, wire
from handfast.core.evidence import check_standing, opened
from handfast.core.flow import Entitlement, Evidence, Finding, HostFinding, Once, Opening, Wish
from handfast.core.hostproof import HostClaim, HostKeys
from handfast.core.hosts import How
from handfast.core.ports import Context
from handfast.core.records import CredentialRecord
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, PolicyRefused

NAME = "reintroduction"


class ReintroductionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/introductions/reintroduction: the credential has expired, the machine's own key has not."""

    serial: wire.Serial
    nonce: wire.Nonce
    newcomer_nonce: wire.Nonce
    csr: wire.Csr
    reintroduction_key: wire.Ed25519Key
    signature: wire.Ed25519Signature
    host: HostClaim | None = None


def transcript(request: ReintroductionRequest, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that the reintroduction key signs."""
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
    key: Ed25519PrivateKey,
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

    ``key`` is the one registered with credential ``serial``; ``next_key`` (raw public) is for its successor.
    """
    request = ReintroductionRequest(
        serial=f"{serial:032x}",
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        csr=csr_der,
        reintroduction_key=next_key,
        signature=bytes(64),
    )
    made = hostproof.claim(host, request, method=NAME, pin=pin, server_spki=server_spki)
    request = msgspec.structs.replace(request, host=made)
    signed = transcript(request, pin=pin, server_spki=server_spki)
    return msgspec.json.encode(msgspec.structs.replace(request, signature=key.sign(signed))), signed


@dataclass(frozen=True, slots=True)
class Returning:
    """The newcomer's half: a credential that has expired, and the key kept for that."""

    key: Ed25519PrivateKey
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
class ReintroductionIntroducer:
    """The registrar's half."""

    name: ClassVar[str] = NAME
    native: ClassVar[bool] = True
    evidence: ClassVar[type[msgspec.Struct]] = ReintroductionRequest
    because: ClassVar[str] = "its credential had expired, and it signed with the reintroduction key it had kept"

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return the finding for a machine whose credential has expired.

        *Not checked here*: how long ago it expired; ``policy`` has the operator's limit.

        :raises EvidenceRejected: unknown serial, no key registered, or wrong signature.
        :raises Revoked: the credential was taken back.
        :raises PolicyRefused: the credential is still valid, so mutual TLS has to prove it.
        """
        request = opened(evidence, ReintroductionRequest, context, method=self.name)
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        record = self._authenticate(request, signed, context)
        check_standing(record)
        if context.now() < record.not_after:
            raise PolicyRefused((f"credential {request.serial} is still valid",), hint="renew with it over mutual TLS")
        return Finding(
            method=self.name,
            public_key=keys.spki(csr.read(request.csr)),
            entitlement=Entitlement(record.machine, frozenset({record.role}), record.names),
            wish=Wish(),
            once=Once(record.successor_marker),
            proof=f"it signed with the reintroduction key of {record.machine}",
            transcript=signed,
            reintroduction_key=request.reintroduction_key,
            expired_at=record.not_after,
            host=self._host(request, record, evidence, context),
        )

    def _host(
        self, request: ReintroductionRequest, record: CredentialRecord, evidence: Evidence, context: Context
    ) -> HostFinding | None:
        if request.host is None:
            return None
        spki = evidence.channel.server_spki
        return HostFinding(
            machine=record.machine,
            keys=hostproof.proved(request, method=self.name, pin=context.pin, server_spki=spki),
            how=How.REINTRODUCTION,
            detail=f"credential {record.serial:032x}",
        )

    def _authenticate(self, request: ReintroductionRequest, signed: bytes, context: Context) -> CredentialRecord:
        record = context.credential(int(request.serial, 16))
        if record is None or record.certificate is None or record.reintroduction_key is None:
            raise EvidenceRejected(f"serial {request.serial} is not in the ledger, or no key is kept for it")
        try:
            Ed25519PublicKey.from_public_bytes(record.reintroduction_key).verify(request.signature, signed)
        except InvalidSignature:
            raise EvidenceRejected(f"the signature for serial {request.serial} does not fit") from None
        return record


REGISTRAR_HALF = ReintroductionIntroducer()
