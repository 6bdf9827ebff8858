"""
The agent's half of an introduction that its controller pushes: the newcomer's flow, where the other side dials.

The controller says hello, as a registrar would; what is asked and answered is what ``newcomer.exchange`` asks and
checks. What differs is who has proved what by then. The agent is the TLS server: its own key, for which it wants the
certificate, is the key that the controller has seen it prove; and the controller's client certificate, in the role
``controller`` under the pinned root, is what the answer has to be signed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from handfast.core import csr
from handfast.core.chain import Identity, load_certificate, verify_chain
from handfast.core.flow import Opening
from handfast.core.keys import spki_sha256
from handfast.core.ports import Way
from handfast.core.roles import Role
from handfast.core.wire import Hello, IntroductionAnswer
from handfast.errors import Malformed, UntrustedPeer
from handfast.newcomer.check import Checked, check_answer
from handfast.newcomer.connection import parse_time
from handfast.newcomer.pending import Pending


@dataclass(frozen=True, slots=True)
class Controller:
    """Who dialled: the certificate whose key TLS has proved, and what it says, checked up to the pin."""

    certificate: x509.Certificate
    identity: Identity
    time: datetime
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was given to a controller, for its answer to be checked against."""

    way: Way
    controller: Controller
    keys: Pending
    digest: bytes


def recognized(hello: Hello, presented: bytes, *, pin: bytes) -> Controller:
    """
    Return the controller that says hello and has proved the key in ``presented`` (DER) by TLS.

    Its own time counts, since this machine's clock may be years off; the way that is taken says within which bounds.

    :raises UntrustedPeer: not a controller under this pin, at the time that it claims.
    """
    try:
        claimed = parse_time(hello.time)
        leaf = load_certificate(presented)
        chain, roots = ([load_certificate(der) for der in each] for each in (hello.chain, hello.trust))
    except Malformed as error:
        raise UntrustedPeer(f"not the hello of a controller: {error.message}") from None
    identity = verify_chain(leaf, chain, roots, pin=pin, role=Role.CONTROLLER, at=claimed)
    return Controller(leaf, identity, claimed, hello.nonce)


def ask(way: Way, controller: Controller, keys: Pending) -> tuple[bytes, Asked]:
    """Return the request (JSON) for ``keys``, bound to this controller's TLS key, and what its answer is held to."""
    next_key = keys.reintroduction_key.public_key().public_bytes_raw()
    spki = spki_sha256(controller.certificate.public_key())
    message, digest = way.present(Opening(csr.build(keys.private_key), next_key, controller.nonce, spki))
    return message, Asked(way, controller, keys, digest)


def take(asked: Asked, answer: IntroductionAnswer) -> Checked:
    """
    Return what was answered, checked as every newcomer checks it.

    :raises UntrustedPeer: not what was asked for, not for our key, or not by the controller that was asked.
    """
    checked = check_answer(
        answer,
        signed_time=parse_time(answer.time),
        request=asked.digest,
        registrar_leaf=asked.controller.certificate,
        hello_time=asked.controller.time,
        public_key=asked.keys.private_key.public_key(),
        pin=asked.way.pin,
        trust_domain=asked.controller.identity.trust_domain,
        wish=asked.way.wish,
    )
    if checked.identity.role is not Role.AGENT:  # unreachable: each way asks for one, and the answer was held to it
        raise UntrustedPeer(f"the answer would make this machine a {checked.identity.role}, not an agent")
    return checked
