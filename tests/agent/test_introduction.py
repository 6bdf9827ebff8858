"""The agent's half of a pushed introduction: it answers the pinned controller alone, and keeps what is its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.agent import introduction
from handfast.core import csr, keys, wire
from handfast.core.flow import Wish
from handfast.core.invitation import Address, InvitationLine
from handfast.core.records import INSTANCE
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.core.transcript import answer as answer_transcript
from handfast.errors import UntrustedPeer
from handfast.introducers.invitation import InvitationRequest, Invited, transcript
from handfast.newcomer.pending import Pending
from tests.authority.helpers import DAY, NOW, Pki, grant, new_key
from tests.newcomer.fake import der

PKI, OTHER = Pki.make(), Pki.make()
KEY = new_key()
LINE = InvitationLine(Secret(b"s" * 32), PKI.pin, NOW, NOW + timedelta(hours=1), (Address("10.0.0.1", 7443),))
WAY = Invited(LINE, Wish(Role.AGENT), INSTANCE)
PENDING = Pending.generate("invitation:x")
NONCE = b"n" * 32


def certificate(
    role: Role = Role.CONTROLLER, *, pki: Pki = PKI, key: ec.EllipticCurvePrivateKey = KEY
) -> x509.Certificate:
    """Return the certificate of who dials."""
    return pki.leaf(grant(pki.domain, role, machine="controller", public_key=key.public_key()))


def hello(pki: Pki = PKI, time: datetime = NOW) -> wire.Hello:
    """Return what a controller says."""
    return wire.Hello(NONCE, time.isoformat(), der(pki.root), der(pki.issuing))


def recognized(presented: x509.Certificate, said: wire.Hello) -> introduction.Controller:
    """Look at a controller as the agent does."""
    return introduction.recognized(said, presented.public_bytes(Encoding.DER), pin=PKI.pin)


@dataclass(frozen=True)
class Answering:
    """A controller that answers; each field is one lie."""

    role: Role = Role.AGENT
    key: ec.EllipticCurvePrivateKey = PENDING.private_key
    signer: ec.EllipticCurvePrivateKey = KEY
    request: bytes | None = None

    def answer(self, asked: introduction.Asked) -> wire.IntroductionAnswer:
        """Return the message."""
        leaf = PKI.leaf(grant(PKI.domain, self.role, machine="web1", names=(), public_key=self.key.public_key()))
        issued, trust, time = leaf.public_bytes(Encoding.DER), tuple(der(PKI.root)), NOW.isoformat()
        digest = answer_transcript(self.request or asked.digest, issued, trust, time)
        signature = self.signer.sign(digest, ec.ECDSA(hashes.SHA256()))
        return wire.IntroductionAnswer(issued, der(PKI.issuing), list(trust), time, signature)


def asked() -> tuple[InvitationRequest, introduction.Asked]:
    """Ask the honest controller."""
    message, waiting = introduction.ask(WAY, recognized(certificate(), hello()), PENDING)
    return msgspec.json.decode(message, type=InvitationRequest), waiting


def test_the_request_is_an_invitations() -> None:
    """
    What is pushed is what a newcomer sends: signed by the secret, over our key, the controller's and its nonce.

    But for another method: what is signed for a controller is good at no registrar's door.
    """
    request, waiting = asked()
    assert keys.spki(csr.read(request.csr)) == keys.spki(PENDING.private_key.public_key())
    spki = keys.spki_sha256(KEY.public_key())
    assert transcript(request, pin=PKI.pin, server_spki=spki, method=INSTANCE) == waiting.digest
    assert transcript(request, pin=PKI.pin, server_spki=spki) != waiting.digest
    LINE.signing_key().public_key().verify(request.signature, waiting.digest)
    assert (request.nonce, request.role) == (NONCE, Role.AGENT)


def test_the_answer_is_taken() -> None:
    """A certificate for our key, as an agent, signed for this request by the controller that asked."""
    _, waiting = asked()
    checked = introduction.take(waiting, Answering().answer(waiting))
    assert (checked.identity.role, checked.identity.machine) == (Role.AGENT, "web1")


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.CONTROLLER])
def test_only_a_controller_is_one(role: Role) -> None:
    """Another agent with its own genuine credential cannot command this one; nor can a registrar or an operator."""
    with pytest.raises(UntrustedPeer, match=f"'controller' is a {role}, not a controller"):
        recognized(certificate(role), hello())


def test_another_authority_is_refused() -> None:
    """A controller of somebody else, whatever roots it names."""
    for said in (hello(OTHER), hello()):
        with pytest.raises(UntrustedPeer, match=r"no root with the pin|does not chain to the pinned root"):
            recognized(certificate(pki=OTHER), said)


def test_the_time_it_claims_has_to_be_its_certificates() -> None:
    """A stolen, old controller certificate is not made valid by an honest time, nor this time by a lie."""
    for time in (NOW - 400 * DAY, NOW + 4000 * DAY):
        with pytest.raises(UntrustedPeer, match="does not chain to the pinned root at"):
            recognized(certificate(), hello(time=time))
    with pytest.raises(UntrustedPeer, match="not the hello of a controller: not a time"):
        recognized(certificate(), msgspec.structs.replace(hello(), time="now"))
    with pytest.raises(UntrustedPeer, match="not the hello of a controller"):
        recognized(certificate(), msgspec.structs.replace(hello(), chain=[b"x"]))


@pytest.mark.parametrize(
    ("lying", "message"),
    [
        (Answering(signer=new_key()), "the registrar's signature does not fit its answer"),
        (Answering(request=b"o" * 32), "the registrar's signature does not fit its answer"),
        (Answering(key=new_key()), "the certificate in the answer is for another key than ours"),
        (Answering(role=Role.SERVER), "is a server, not a agent"),
        (Answering(role=Role.CONTROLLER), "is a controller, not a agent"),
    ],
)
def test_a_lie_in_the_answer_is_found(lying: Answering, message: str) -> None:
    """An answer of somebody else, to another request, for another key, or in another role is not kept."""
    _, waiting = asked()
    with pytest.raises(UntrustedPeer, match=message):
        introduction.take(waiting, lying.answer(waiting))


def test_whatever_was_wished_it_becomes_an_agent() -> None:
    """A way that leaves the role open does not let the controller choose another one."""
    controller = recognized(certificate(), hello())
    _, waiting = introduction.ask(replace(WAY, wish=Wish()), controller, PENDING)
    with pytest.raises(UntrustedPeer, match="would make this machine a server, not an agent"):
        introduction.take(waiting, Answering(role=Role.SERVER).answer(waiting))
