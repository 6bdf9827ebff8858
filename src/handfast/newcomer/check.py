"""What a newcomer checks before it keeps anything. Pure: bytes in, a verdict or a sentence out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.core.chain import Identity, load_certificate, pinned_root, read_identity, verify_chain
from handfast.core.flow import Wish
from handfast.core.keys import spki
from handfast.core.roles import GRANTABLE
from handfast.core.transcript import answer as answer_transcript
from handfast.core.wire import IntroductionAnswer
from handfast.errors import Malformed, UntrustedPeer

CLOCK_STEP = timedelta(minutes=5)  # between the hello and the answer; a join takes under a second


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that passed every check; DER throughout."""

    identity: Identity
    serial: int
    leaf: bytes
    chain: tuple[bytes, ...]
    trust: tuple[bytes, ...]
    time: datetime


def check_answer(
    answer: IntroductionAnswer,
    *,
    signed_time: datetime,
    request: bytes,
    registrar_leaf: x509.Certificate,
    hello_time: datetime,
    public_key: ec.EllipticCurvePublicKey,
    pin: bytes,
    trust_domain: str,
    wish: Wish,
) -> Checked:
    """
    Return the answer's content if all of it is what was asked for.

    Checked, in this order: the registrar's signature over this very request, leaf, roots and time; the
    chain to the pin; our own key; the trust domain; the role and the names wished; the times.
    *Not* checked: revocation, which a certificate of this second cannot have met.

    :raises UntrustedPeer: any of it is wrong. Nothing was written.
    """
    trust = tuple(answer.trust)
    digest = answer_transcript(request, answer.certificate, trust, answer.time)
    check_proof(registrar_leaf, digest, answer.signature, signed_time=signed_time, hello_time=hello_time)
    try:
        leaf = load_certificate(answer.certificate)
        chain = [load_certificate(der) for der in answer.chain]
        roots = [load_certificate(der) for der in trust]
        mine = spki(leaf.public_key()) == spki(public_key)
    except (Malformed, ValueError) as error:
        raise UntrustedPeer(f"the answer holds no readable certificate: {error}") from None
    if not mine:
        raise UntrustedPeer(
            "the certificate in the answer is for another key than ours",
            hint="nothing was kept; look at the registrar's log",
        )
    role = wish.role if wish.role is not None else read_identity(leaf).role
    if role not in GRANTABLE:
        raise UntrustedPeer(f"the answer would make this machine a {role}, which nobody is granted")
    identity = verify_chain(leaf, chain, roots, pin=pin, role=role, at=signed_time)
    _check_identity(identity, trust_domain=trust_domain, wish=wish, at=signed_time)
    root = pinned_root(roots, pin)
    kept = tuple(der for der, candidate in zip(trust, roots, strict=True) if candidate == root)
    return Checked(identity, leaf.serial_number, answer.certificate, tuple(answer.chain), kept, signed_time)


def _check_identity(identity: Identity, *, trust_domain: str, wish: Wish, at: datetime) -> None:
    if identity.trust_domain != trust_domain:  # unreachable under one root, unless the authority is broken
        raise UntrustedPeer(f"the certificate is of {identity.trust_domain!r}, the registrar of {trust_domain!r}")
    if wish.names and wish.names != identity.names:
        wished, got = ", ".join(wish.names.texts()), ", ".join(identity.names.texts()) or "none"
        raise UntrustedPeer(f"asked for the names {wished}, got {got}", hint="nothing was kept")
    if not identity.not_before <= at < identity.not_after:
        raise UntrustedPeer(f"the certificate is not valid at the registrar's own time {at:%Y-%m-%d %H:%M}Z")


def check_proof(
    leaf: x509.Certificate, digest: bytes, signature: bytes, *, signed_time: datetime, hello_time: datetime
) -> None:
    """
    Check that an answer was signed by the TLS key of the connection, within minutes of its hello.

    :raises UntrustedPeer: it was not.
    """
    _check_signature(leaf, digest, signature)
    if abs(signed_time - hello_time) > CLOCK_STEP:
        raise UntrustedPeer(
            f"the registrar's clock moved from {hello_time:%H:%M:%S} to {signed_time:%H:%M:%S} within one join",
            hint="an old answer may have been replayed: run it again",
        )


def _check_signature(leaf: x509.Certificate, digest: bytes, signature: bytes) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UntrustedPeer("the registrar's TLS key is not an elliptic-curve key", hint="its version may be too new")
    try:
        key.verify(signature, digest, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise UntrustedPeer(
            "the registrar's signature does not fit its answer", hint="somebody may have changed it on the way"
        ) from None
