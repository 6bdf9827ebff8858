"""
Invitation: the newcomer holds a seed that an operator handed over; the registrar holds its public half.

Proof     newcomer -> registrar  Ed25519(seed) over the transcript: role, key id, pin, TLS key, nonces, CSR, names
Answer    registrar -> newcomer  ECDSA by the TLS key, chained to the pin, over request, leaf, roots and time
Trusts    whoever reads the line before it is used, within its names, role, networks, time and count
Replay    one use per key; the same key gets the same answer, another one an alarm
Spec      docs/protocols/invitation.md
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from handfast.core import csr, keys, wire
from handfast.core.flow import Entitlement, Evidence, Finding, Once, Wish
from handfast.core.invitation import InvitationLine
from handfast.core.names import Names
from handfast.core.ports import Context
from handfast.core.records import Invitation
from handfast.core.transcript import INVITATION_REQUEST, digest
from handfast.errors import EvidenceRejected, InvitationCancelled, InvitationExpired, NotMine

NAME = "invitation"


def transcript(request: wire.InvitationRequest, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that the seed signs; the newcomer and the registrar each compute it from what *they* saw."""
    return digest(
        INVITATION_REQUEST,
        (request.role or "").encode(),
        bytes.fromhex(request.key_id),
        pin,
        server_spki,
        request.newcomer_nonce,
        request.nonce,
        request.csr,
        request.reintroduction_key,
        *(name.encode() for name in request.names),
    )


def present(
    line: InvitationLine, *, csr_der: bytes, reintroduction_key: bytes, wish: Wish, nonce: bytes, server_spki: bytes
) -> tuple[bytes, bytes]:
    """
    Return the newcomer's message (JSON) and the digest that the registrar's answer must sign.

    Call it only after the pin has matched: ``server_spki`` is the hash of the TLS key the registrar proved.
    """
    request = wire.InvitationRequest(
        key_id=line.key_id,
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        csr=csr_der,
        reintroduction_key=reintroduction_key,
        signature=bytes(64),
        role=wish.role,
        names=list(wish.names.texts()),
    )
    signed = transcript(request, pin=line.pin, server_spki=server_spki)
    signature = line.signing_key().sign(signed)
    return msgspec.json.encode(msgspec.structs.replace(request, signature=signature)), signed


@dataclass(frozen=True, slots=True)
class InvitationIntroducer:
    """The registrar's half."""

    name: ClassVar[str] = NAME

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return the finding for a well-signed, open invitation.

        *Not checked here*: whether a use is left (the ledger spends it, in one transaction with the
        intent), and whether role, names and source network fit (policy, with every reason at once).

        :raises EvidenceRejected: unknown key id or wrong signature; the same to a stranger.
        :raises InvitationExpired, InvitationCancelled: told only to the holder of the seed.
        """
        if evidence.method != self.name:
            raise NotMine(f"evidence of method {evidence.method!r}")
        request = wire.decode(evidence.payload, wire.InvitationRequest)
        if not context.nonce_is_ours(request.nonce):
            raise EvidenceRejected("the nonce is not ours or older than five minutes", hint="try again")
        invitation = self._authenticate(request, evidence, context)
        now = context.now()
        if invitation.cancelled is not None:
            raise InvitationCancelled(f"invitation {invitation.key_id} was cancelled", hint="ask for a new one")
        if now >= invitation.expires_at:
            raise InvitationExpired(
                f"invitation {invitation.key_id} expired at {invitation.expires_at:%Y-%m-%d %H:%M:%S}Z",
                hint="ask for a new one; `handfast invite --for 1d` makes it last longer",
            )
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        return Finding(
            method=self.name,
            public_key=keys.spki(csr.read(request.csr)),
            entitlement=Entitlement(
                invitation.machine, frozenset({invitation.role}), invitation.names, invitation.sources
            ),
            wish=Wish(request.role, Names.parse(request.names)),
            once=Once(invitation.marker, invitation.uses),
            proof=f"it signed with the key of invitation {invitation.key_id}",
            transcript=signed,
            reintroduction_key=request.reintroduction_key,
        )

    def _authenticate(self, request: wire.InvitationRequest, evidence: Evidence, context: Context) -> Invitation:
        invitation = context.invitation(request.key_id)
        if invitation is None:
            raise EvidenceRejected(f"invitation {request.key_id} is unknown", hint="ask for a new one")
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        try:
            Ed25519PublicKey.from_public_bytes(invitation.public_key).verify(request.signature, signed)
        except InvalidSignature:
            raise EvidenceRejected(
                f"the signature for invitation {request.key_id} does not fit this connection and request",
                hint="somebody may sit between you, or replay an old request",
            ) from None
        return invitation


REGISTRAR_HALF = InvitationIntroducer()
