"""
Operator login: whoever holds an operator credential gets a certificate for an SSH key of theirs.

Proof     person -> registrar  TLS client certificate of role operator; SSHSIG by the SSH key, which covers it
Answer    registrar -> person  ECDSA by the TLS key, chained to the pin, over request, certificates, roots and time
Trusts    whoever holds the private key of an operator credential that stands in the ledger
Replay    bound to the registrar's TLS key and a nonce of five minutes, and to the credential's own key by TLS
Spec      docs/protocols/ssh-login.md
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import sshlogin
from handfast.core.evidence import check_standing, opened
from handfast.core.flow import Evidence, Person, SshFinding, SshWish
from handfast.core.hostproof import HostSigner
from handfast.core.ports import SshContext
from handfast.core.records import CredentialRecord
from handfast.core.roles import Role
from handfast.core.sshcert import Kind
from handfast.core.sshlogin import LoginRequest
from handfast.errors import EvidenceRejected, NotAuthorized

NAME = "operator"


class OperatorRequest(LoginRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/ssh/certificates/operator: over mutual TLS, by an operator."""


def transcript(request: OperatorRequest, *, pin: bytes, server_spki: bytes, credential: bytes) -> bytes:
    """Return the digest that the SSH key signs; ``credential`` is the TLS client certificate (DER)."""
    who = (hashlib.sha256(credential).digest(),)
    return sshlogin.transcript(request, NAME, pin=pin, server_spki=server_spki, who=who)


def present(
    signer: HostSigner, wish: SshWish, *, credential: bytes, pin: bytes, nonce: bytes, server_spki: bytes
) -> tuple[bytes, bytes]:
    """
    Return the person's message (JSON), and the digest that the registrar's answer must sign.

    ``credential`` (DER) is the certificate that is shown in this connection.
    """
    request = OperatorRequest(
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        key=signer.public.blob,
        principals=list(wish.principals),
        lifetime=int(wish.lifetime.total_seconds()) if wish.lifetime is not None else 0,
        signature=b"",
    )
    made = transcript(request, pin=pin, server_spki=server_spki, credential=credential)
    return msgspec.json.encode(msgspec.structs.replace(request, signature=sshlogin.signed(signer, made))), made


@dataclass(frozen=True, slots=True)
class OperatorLogin:
    """The registrar's half."""

    name: ClassVar[str] = NAME
    evidence: ClassVar[type[msgspec.Struct]] = OperatorRequest

    def verify(self, evidence: Evidence, context: SshContext) -> SshFinding:
        """
        Return the finding for an operator.

        :raises NotAuthorized: no client certificate, not one of ours, of another role, or its time is over.
        :raises Revoked: it was taken back. :raises EvidenceRejected: the SSH key is not proved.
        """
        request = opened(evidence, OperatorRequest, context, method=self.name)
        client = evidence.channel.client
        if client is None:
            raise NotAuthorized("no client certificate", hint="give the directory of an operator credential: --dir DIR")
        record = _standing(client, context)
        made = transcript(
            request,
            pin=context.pin,
            server_spki=evidence.channel.server_spki,
            credential=client.public_bytes(Encoding.DER),
        )
        key = sshlogin.proved(request, made)
        return SshFinding(
            method=self.name,
            kind=Kind.USER,
            holder=Person("operator", record.machine),
            keys=(key,),
            wish=request.wish,
            once=None,
            proof=f"operator {record.machine!r} asked with credential {record.serial:032x}, and the SSH key signed",
            transcript=made,
        )


def _standing(client: x509.Certificate, context: SshContext) -> CredentialRecord:
    """What TLS verified is a claim to be looked up: the ledger says as what we issued it, and whether it stands."""
    record = context.credential(client.serial_number)
    if record is None or record.certificate != client.public_bytes(Encoding.DER):
        raise EvidenceRejected("the client certificate is not in the ledger")
    check_standing(record)
    if record.role is not Role.OPERATOR:
        raise NotAuthorized(
            f"{record.machine!r} has role {record.role}", hint="`handfast invite NAME --role operator` makes operators"
        )
    if not record.not_before <= context.now() < record.not_after:
        raise NotAuthorized(f"the operator credential of {record.machine!r} has expired", hint="renew it first")
    return record


SSH_HALF = OperatorLogin()
