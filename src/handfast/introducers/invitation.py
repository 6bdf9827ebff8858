"""
Invitation: the newcomer holds a seed that an operator handed over; the registrar holds its public half.

Proof     newcomer -> registrar  Ed25519(seed) over the transcript: role, key id, pin, TLS key, nonces, CSR, names
Answer    registrar -> newcomer  ECDSA by the TLS key, chained to the pin, over request, leaf, roots and time
Trusts    whoever reads the line before it is used, within its names, role, networks, time and count
Replay    one use per key; the same key gets the same answer, another one an alarm
Spec      docs/protocols/invitation.md

A managed machine's one-time secret is the same thing for another method, ``instance``: its user-data is read by more
people than a line that is carried by hand. So it is good only over a connection that its controller has made and
judged (docs/protocols/agent.md), and at no registrar's door.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from handfast.core import csr, hostproof, keys, wire
from handfast.core.evidence import opened
from handfast.core.flow import Entitlement, Evidence, Finding, HostFinding, Once, Opening, Wish
from handfast.core.hostproof import HostClaim, HostKeys
from handfast.core.hosts import How, Place
from handfast.core.invitation import Address, InvitationLine
from handfast.core.names import MAX_NAMES, Names
from handfast.core.ports import Context
from handfast.core.records import INSTANCE, Invitation
from handfast.core.roles import Role
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, InvitationCancelled, InvitationExpired, UntrustedPeer

NAME = "invitation"
SKEW = timedelta(minutes=5)  # a registrar's clock may lag a little behind the one that made the invitation


class InvitationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/introductions/invitation."""

    key_id: wire.KeyId
    nonce: wire.Nonce
    newcomer_nonce: wire.Nonce
    csr: wire.Csr
    reintroduction_key: wire.Ed25519Key
    signature: wire.Ed25519Signature
    role: Role | None = None
    names: Annotated[list[wire.NameText], Meta(max_length=MAX_NAMES)] = []
    host: HostClaim | None = None


def transcript(request: InvitationRequest, *, pin: bytes, server_spki: bytes, method: str = NAME) -> bytes:
    """Return the digest that the seed signs; the newcomer and the registrar each compute it from what *they* saw."""
    return digest(
        request_label(method),
        (request.role or "").encode(),
        bytes.fromhex(request.key_id),
        pin,
        server_spki,
        request.newcomer_nonce,
        request.nonce,
        request.csr,
        request.reintroduction_key,
        hostproof.commitment(request.host),
        *(name.encode() for name in request.names),
    )


def present(
    line: InvitationLine,
    *,
    csr_der: bytes,
    reintroduction_key: bytes,
    wish: Wish,
    nonce: bytes,
    server_spki: bytes,
    host: HostKeys | None = None,
    method: str = NAME,
) -> tuple[bytes, bytes]:
    """
    Return the newcomer's message (JSON) and the digest that the registrar's answer must sign.

    Call it only after the pin has matched: ``server_spki`` is the hash of the TLS key the registrar proved.
    """
    request = InvitationRequest(
        key_id=line.key_id,
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        csr=csr_der,
        reintroduction_key=reintroduction_key,
        signature=bytes(64),
        role=wish.role,
        names=list(wish.names.texts()),
    )
    made = hostproof.claim(host, request, method=method, pin=line.pin, server_spki=server_spki)
    request = msgspec.structs.replace(request, host=made)
    signed = transcript(request, pin=line.pin, server_spki=server_spki, method=method)
    signature = line.signing_key().sign(signed)
    return msgspec.json.encode(msgspec.structs.replace(request, signature=signature)), signed


@dataclass(frozen=True, slots=True)
class Invited:
    """The newcomer's half: a line, and what is wished; ``method`` is ``INSTANCE`` for a managed machine's secret."""

    line: InvitationLine
    wish: Wish
    method: str = NAME

    @property
    def pin(self) -> bytes:
        """The pin in the line."""
        return self.line.pin

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where the registrar may be."""
        return self.line.addresses

    @property
    def purpose(self) -> str:
        """What the keys are made for: the same line gets the same keys."""
        return f"{NAME}:{self.line.key_id}"

    def check_time(self, claimed: datetime) -> None:
        """
        Check the registrar's clock, once it has proved itself, against the invitation's own times.

        The clock of a new machine may be years off, so the registrar's counts; but only inside these times, so
        that nobody can make an old registrar certificate valid again.

        :raises InvitationExpired: too late. :raises UntrustedPeer: before the invitation was made.
        """
        if claimed >= self.line.not_after:
            raise InvitationExpired(
                f"the invitation expired at {self.line.not_after:%Y-%m-%d %H:%M:%S}Z",
                hint="ask for a new one, and whether somebody used this one",
            )
        if claimed < self.line.not_before - SKEW:
            raise UntrustedPeer(
                f"the registrar says it is {claimed:%Y-%m-%d %H:%M}Z, before the invitation was made",
                hint="check the registrar's clock; it may also be somebody with an old certificate",
            )

    def present(self, opening: Opening) -> tuple[bytes, bytes]:
        """Return the message, and the digest that the answer must sign."""
        return present(
            self.line,
            csr_der=opening.csr,
            reintroduction_key=opening.next_key,
            wish=self.wish,
            nonce=opening.nonce,
            server_spki=opening.server_spki,
            host=opening.host,
            method=self.method,
        )


@dataclass(frozen=True, slots=True)
class InvitationIntroducer:
    """The registrar's half; an invitation for another ``name`` is unknown to it."""

    name: str = NAME
    native: bool = True
    evidence: ClassVar[type[msgspec.Struct]] = InvitationRequest
    because: ClassVar[str] = "an operator handed it an invitation, whose key it used to sign its request"

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return the finding for a well-signed, open invitation.

        *Not checked here*: whether a use is left (the ledger spends it, in one transaction with the
        intent), and whether role, names and source network fit (policy, with every reason at once).

        :raises EvidenceRejected: unknown key id or wrong signature; the same to a stranger.
        :raises InvitationExpired, InvitationCancelled: told only to the holder of the seed.
        """
        request = opened(evidence, InvitationRequest, context, method=self.name)
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki, method=self.name)
        invitation = self._authenticate(request, signed, context)
        now = context.now()
        if invitation.cancelled is not None:
            raise InvitationCancelled(f"invitation {invitation.key_id} was cancelled", hint="ask for a new one")
        if now >= invitation.expires_at:
            raise InvitationExpired(
                f"invitation {invitation.key_id} expired at {invitation.expires_at:%Y-%m-%d %H:%M:%S}Z",
                hint="ask for a new one; `handfast invite --for 1d` makes it last longer",
            )
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
            host=self._host(request, invitation, evidence, context),
        )

    def _host(
        self, request: InvitationRequest, invitation: Invitation, evidence: Evidence, context: Context
    ) -> HostFinding | None:
        if request.host is None:
            return None
        spki = evidence.channel.server_spki
        return HostFinding(
            machine=invitation.machine,
            keys=hostproof.proved(request, method=self.name, pin=context.pin, server_spki=spki),
            how=How.INVITATION,
            detail=f"invitation {invitation.key_id}",
            place=Place.parse(invitation.names.texts(), ports=tuple(request.host.ports)),
        )

    def _authenticate(self, request: InvitationRequest, signed: bytes, context: Context) -> Invitation:
        invitation = context.invitation(request.key_id)
        if invitation is None or invitation.method != self.name:
            raise EvidenceRejected(f"invitation {request.key_id} is unknown", hint="ask for a new one")
        try:
            Ed25519PublicKey.from_public_bytes(invitation.public_half).verify(request.signature, signed)
        except InvalidSignature:
            raise EvidenceRejected(
                f"the signature for invitation {request.key_id} does not fit this connection and request",
                hint="somebody may sit between you, or replay an old request",
            ) from None
        return invitation


REGISTRAR_HALF = InvitationIntroducer()
CONTROLLER_HALF = InvitationIntroducer(INSTANCE, native=False)
