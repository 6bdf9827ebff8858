"""
The host-key challenge: a host answers at its names and addresses, signs what we ask of it, and gets certificates.

Proof     host -> registrar  its keys answer at every address, sign what we sent, answer again, and sign the token
Answer    registrar -> host  certificates and CAs, signed by our TLS key over the request
Trusts    DNS, and the network between us and the host, at two moments; whoever rules both has a certificate
Replay    payload under five minutes, token a minute, both for these keys alone; the payload's nonce is spent once
Spec      docs/protocols/ssh-hostkey.md

The five steps: (1) the newcomer's parameters; (2) a nonce: the registrar looks, and signs a payload with its SSH host
CA; (3) the proof: each host key signs payload and signature; (4) the token: the registrar looks again, and signs that;
(5) the certificate, for the token and once more each key's signature. Nothing is remembered in between, so that any
node may do the next step. Looking is ``registrar.challenge``'s, the messages are in ``core.challenge``; here is what
each of them has to prove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from handfast.core import sshsig, wire
from handfast.core.challenge import (
    PAYLOAD,
    TOKEN,
    Challenge,
    Parameters,
    Payload,
    Proof,
    Random,
    Signature,
    Signatures,
    Signed,
    Token,
    TokenAnswer,
    proof_message,
    read,
    to_look,
    written,
)
from handfast.core.evidence import opened
from handfast.core.flow import Evidence, HostFinding, Once, SshFinding, SshWish
from handfast.core.hostproof import HostSigner
from handfast.core.hosts import How, Place
from handfast.core.look import Look
from handfast.core.ports import SshContext
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, HandfastError, Refused, UntrustedPeer

NAME = How.SSH_HOSTKEY.value
PAYLOAD_LIFETIME = timedelta(minutes=4)  # for slow hardware that signs
MOST_PAYLOAD = timedelta(minutes=5)  # what a newcomer signs for
TOKEN_LIFETIME = timedelta(seconds=60)
SKEW = timedelta(seconds=60)  # between the clocks of two nodes

# Namespaces. Of the SSH host CA, and so that none of its signatures is another one's, nor a certificate's: that begins
# with a length, and what is signed here with ``SSHSIG``.
PAYLOAD_NAMESPACE = "hostkey-nonce@handfast"
TOKEN_NAMESPACE = "hostkey-token@handfast"
# Of host keys.
PROOF_NAMESPACE = "hostkey-proof@handfast"
REQUEST_NAMESPACE = "hostkey-request@handfast"

_REQUEST = request_label(NAME)
_RETRY = "run the command again"


class SshHostkeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Step 5, and POST /v1/ssh/certificates/ssh-hostkey; ``nonce`` is /v1/hello's, ``signatures`` are as in a proof."""

    payload: Signed
    token: Annotated[bytes, Meta(max_length=4096)]
    ca_signature: Signature
    nonce: wire.Nonce
    newcomer_nonce: Random
    signatures: Signatures


def request_message(request: SshHostkeyRequest, *, server_spki: bytes, pin: bytes) -> bytes:
    """Return what each host key signs in step 5, and what the answer proves."""
    return digest(_REQUEST, request.token, request.nonce, request.newcomer_nonce, server_spki, pin)


# --- the newcomer's half ---


def challenged(challenge: Challenge, asked: Parameters, *, pin: bytes, trust_domain: str, time: datetime) -> SshKey:
    """
    Judge the answer to step 2 before any host key signs for it; return the SSH host CA by which it is signed.

    ``time`` is the registrar's, as it said when it proved itself. *Not* checked: whether that is its CA in truth; the
    answer to step 5 says so.

    :raises UntrustedPeer: with every difference between what is to be signed and what this host has asked for.
    """
    try:
        payload = read(challenge.payload, Payload, what=PAYLOAD)
        ca = sshsig.verify(challenge.ca_signature, challenge.payload, namespace=PAYLOAD_NAMESPACE)
    except HandfastError as error:
        raise UntrustedPeer(f"the registrar asks for signatures over no payload: {error.message}") from None
    expected = {
        "pin": pin,
        "trust_domain": trust_domain,
        **{field: getattr(asked, field) for field in asked.__struct_fields__},
    }
    wrong = [field.replace("_", " ") for field, value in expected.items() if getattr(payload, field) != value]
    if not time - SKEW <= payload.issued_at <= time + MOST_PAYLOAD:
        wrong.append("issued at")
    if not timedelta() < payload.expires_at - payload.issued_at < MOST_PAYLOAD:
        wrong.append("expires at")
    if ca.blob in asked.keys:
        wrong.append("CA")
    if wrong:
        raise UntrustedPeer(
            f"the registrar asks for signatures over something else than this host has asked for: {', '.join(wrong)}",
            hint="nothing was signed; tell the registrar's operator",
        )
    return ca


def prove(challenge: Challenge, signers: Sequence[HostSigner], *, server_spki: bytes, pin: bytes) -> Proof:
    """Return step 3; ``challenge`` has been judged, and ``signers`` stand in the order of its keys."""
    message = proof_message(challenge, server_spki=server_spki, pin=pin)
    signatures = [signer.sign(message, PROOF_NAMESPACE) for signer in signers]
    return Proof(challenge.payload, challenge.ca_signature, signatures)


def present(
    payload: bytes,
    answer: TokenAnswer,
    signers: Sequence[HostSigner],
    *,
    nonce: bytes,
    newcomer_nonce: bytes,
    server_spki: bytes,
    pin: bytes,
) -> tuple[bytes, bytes]:
    """Return step 5: the message (JSON), and the digest that the registrar's answer must sign."""
    request = SshHostkeyRequest(payload, answer.token, answer.ca_signature, nonce, newcomer_nonce, [])
    message = request_message(request, server_spki=server_spki, pin=pin)
    signatures = [signer.sign(message, REQUEST_NAMESPACE) for signer in signers]
    return msgspec.json.encode(msgspec.structs.replace(request, signatures=signatures)), message


# --- the registrar's half ---


def make_payload(asked: Parameters, *, trust_domain: str, pin: bytes, nonce: bytes, now: datetime) -> bytes:
    """Return what is signed in step 2, when everything asked was seen; ``nonce`` is 32 fresh random bytes."""
    issued_at = now.replace(microsecond=0)
    return written(
        Payload(
            1,
            trust_domain,
            pin,
            asked.names,
            asked.addresses,
            asked.ports,
            asked.keys,
            nonce,
            asked.newcomer_nonce,
            issued_at,
            issued_at + PAYLOAD_LIFETIME,
        )
    )


def proved(proof: Proof, *, ca: SshKey, trust_domain: str, pin: bytes, server_spki: bytes, now: datetime) -> Look:
    """
    Return what is to be looked at again, for a host that has proved every private key, now and here.

    *Not* checked: that it still answers, which is to be looked at once more.

    :raises Malformed: not a payload. :raises EvidenceRejected: not of our CA for us, or a key did not sign.
    :raises Refused: it is over; told to those alone who have one of ours.
    """
    _by_ca(ca, proof.ca_signature, proof.payload, PAYLOAD_NAMESPACE, what=PAYLOAD)
    payload = read(proof.payload, Payload, what=PAYLOAD)
    if (payload.trust_domain, payload.pin) != (trust_domain, pin):
        raise EvidenceRejected(f"{PAYLOAD} is of another authority, {payload.trust_domain[:80]!r}")
    _in_time(payload, now, longest=PAYLOAD_LIFETIME, what=PAYLOAD)
    looked = to_look(payload)
    message = proof_message(proof, server_spki=server_spki, pin=pin)
    _by_keys(looked.keys, proof.signatures, message, PROOF_NAMESPACE)
    return looked


def make_token(proof: Proof, looked: Look, *, now: datetime) -> bytes:
    """Return what is signed in step 4, when a proof fits and everything was seen again."""
    issued_at = now.replace(microsecond=0)
    fingerprints = [key.fingerprint for key in looked.keys]
    return written(Token(1, _sha256(proof.payload), fingerprints, issued_at, issued_at + TOKEN_LIFETIME))


@dataclass(frozen=True, slots=True)
class SshHostkeyIntroducer:
    """The registrar's half of step 5."""

    name: ClassVar[str] = NAME
    evidence: ClassVar[type[msgspec.Struct]] = SshHostkeyRequest

    def verify(self, evidence: Evidence, context: SshContext) -> SshFinding:
        """
        Return the finding for a token of ours and its keys.

        *Not* checked: that the host still answers, which it did when the token was signed; whether the token was used
        (the ledger spends the payload's nonce); which of its names it may have.

        :raises NotMine: evidence of another method.
        :raises Malformed: not such a request, payload or token.
        :raises EvidenceRejected: a nonce that is not ours, a token not of our CA or of another payload, or a key that
            did not sign; the same to every stranger.
        :raises Refused: the token is over, or its keys are those of several machines.
        """
        request = opened(evidence, SshHostkeyRequest, context, method=self.name)
        _by_ca(context.ssh_host_ca, request.ca_signature, request.token, TOKEN_NAMESPACE, what=TOKEN)
        token = read(request.token, Token, what=TOKEN)
        if _sha256(request.payload) != token.payload_sha256:
            raise EvidenceRejected(f"{TOKEN} is for another payload")
        payload = read(request.payload, Payload, what=PAYLOAD)
        _in_time(token, context.now(), longest=TOKEN_LIFETIME, what=TOKEN)
        looked = to_look(payload)
        if payload.pin != context.pin or token.keys != [key.fingerprint for key in looked.keys]:
            raise EvidenceRejected(f"{TOKEN} and its payload are of different keys or authorities")
        message = request_message(request, server_spki=evidence.channel.server_spki, pin=context.pin)
        _by_keys(looked.keys, request.signatures, message, REQUEST_NAMESPACE)
        return _found(payload, looked, _machine(looked, context), message)


def _found(payload: Payload, looked: Look, machine: str, transcript: bytes) -> SshFinding:
    where = ", ".join(map(str, looked.addresses))
    once = Once(payload.marker)
    host = HostFinding(
        machine=machine,
        keys=looked.keys,
        how=How.SSH_HOSTKEY,
        detail=f"asked at {payload.issued_at:%Y-%m-%d %H:%M:%S}Z, {where}",
        place=Place.parse((*looked.names, *map(str, looked.addresses)), ports=looked.ports),
        complete=False,  # of a key that it was not asked for, it has said nothing
    )
    return SshFinding(
        method=NAME,
        kind=Kind.HOST,
        holder=machine,
        keys=looked.keys,
        wish=SshWish(),
        once=once,
        proof=f"every key answered twice at {where}, and signed what was asked of it in between",
        transcript=transcript,
        host=host,
    )


def _machine(looked: Look, context: SshContext) -> str:
    """Return whose keys they are; the first name, where nobody has them yet."""
    known = {host.machine for key in looked.keys if (host := context.host_of_key(key)) is not None}
    if len(known) > 1:
        raise Refused(
            f"the keys are those of several machines: {', '.join(sorted(known))}",
            hint="two machines with one host key can pose as each other: make new keys with `ssh-keygen -A`",
        )
    return known.pop() if known else looked.names[0]


def _by_ca(ca: SshKey, signature: bytes, message: bytes, namespace: str, *, what: str) -> None:
    try:
        signer = sshsig.verify(signature, message, namespace=namespace)
    except HandfastError as error:
        raise EvidenceRejected(f"{what} is not signed by our SSH host CA: {error.message}") from None
    if signer != ca:
        raise EvidenceRejected(f"{what} is signed by {signer.fingerprint}, not by our SSH host CA {ca.fingerprint}")


def _by_keys(keys: tuple[SshKey, ...], signatures: Sequence[bytes], message: bytes, namespace: str) -> None:
    if len(signatures) != len(keys):
        raise EvidenceRejected(f"{len(signatures)} signatures by {len(keys)} host keys")
    for key, signature in zip(keys, signatures, strict=True):
        try:
            signer = sshsig.verify(signature, message, namespace=namespace)
        except HandfastError as error:
            raise EvidenceRejected(f"the host key {key.fingerprint} is not proved: {error.message}") from None
        if signer != key:
            raise EvidenceRejected(f"the proof for the host key {key.fingerprint} is by {signer.fingerprint}")


def _in_time(signed: Payload | Token, now: datetime, *, longest: timedelta, what: str) -> None:
    if now >= signed.expires_at:
        raise Refused(f"{what} is over since {signed.expires_at:%Y-%m-%d %H:%M:%S}Z", hint=_RETRY)
    if signed.issued_at > now + SKEW or signed.expires_at - signed.issued_at > longest:
        raise Refused(
            f"{what} is of {signed.issued_at:%Y-%m-%d %H:%M:%S}Z, which is not now",
            hint="do the clocks of all registrars agree?",
        )


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


SSH_HALF = SshHostkeyIntroducer()
