"""
The newcomer's half of the host-key challenge: five steps (``introducers.ssh_hostkey``), each judged before the next.

    (1) as what and where this host is reached, and which keys its sshd has: the caller's
    (2) the registrar looks, and answers with a payload: for what we have not asked for, no host key signs
    (3) each host key signs it, for this registrar in this connection
    (4) the registrar looks again, and answers with a token
    (5) the token and the keys once more, and back come certificates, which are judged like every answer

Each request has a connection of its own, and proves the registrar anew: what lies between may take as long as the
slowest host that it looks at.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec

from handfast.adapters.tls import newcomer_context
from handfast.core import challenge as messages
from handfast.core.challenge import NONCE_PATH, TOKEN_PATH, Challenge, TokenAnswer
from handfast.core.hostproof import HostSigner
from handfast.core.hosts import SSH_PORT
from handfast.core.invitation import Address
from handfast.core.look import Look
from handfast.core.names import IPAddress, ip_address
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import EVIDENCE
from handfast.core.wire import CertificatesAnswer
from handfast.errors import TooMuch, UntrustedPeer
from handfast.introducers.ssh_hostkey import NAME, challenged, present, prove
from handfast.newcomer.certificates import PATH, Certified, check_certificates
from handfast.newcomer.connection import Verified, verified
from handfast.newcomer.host_signers import host_signers
from handfast.newcomer.ssh_state import SshHeld

# Seconds for an answer with a look behind it: 40 for the registrar's own, 55 for others that look after it.
PATIENCE = 100.0
DEADLINE = 120.0  # seconds for such a connection
LONGEST_WAIT = 60.0  # seconds until the registrar has time to look; a payload is good for four minutes

T = TypeVar("T")
Connect = Callable[[], AbstractContextManager[Verified]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Step 1: ``signers`` are this host's keys, and the first of ``names`` is to be the machine's."""

    signers: tuple[HostSigner, ...]
    names: tuple[str, ...]
    addresses: tuple[IPAddress, ...]
    ports: tuple[int, ...] = (SSH_PORT,)

    @property
    def keys(self) -> tuple[SshKey, ...]:
        """What the certificates are to be for."""
        return tuple(signer.public for signer in self.signers)

    @property
    def look(self) -> Look:
        """What the registrar is to look at."""
        return Look(self.names, self.addresses, self.keys, self.ports)


def enrol(
    wanted: Wanted,
    addresses: Sequence[Address],
    *,
    pin: bytes,
    now: Callable[[], datetime],
    sleep: Callable[[float], None] = time.sleep,
) -> Certified:
    """
    Have the registrar of ``pin`` look at this host, and return a certificate for each of its keys.

    There is nobody but this machine's clock (``now``) to say whether the registrar's own certificate is still valid.

    :raises Malformed: what is wanted does not stand in its one form; nothing was sent.
    :raises Unreachable: no registrar answered in time.
    :raises UntrustedPeer: it is not the registrar of the pin, or asks for or answers something else.
    :raises Refused: it said no: what it saw is not what we said, or it does not do this.
    :raises TooMuch: it has looked too often for us, and goes on with that for over a minute.
    :raises Waiting: a person has to look first.
    """
    messages.to_look(messages.parameters(wanted.look, newcomer_nonce=bytes(32)))

    def connect() -> AbstractContextManager[Verified]:
        return verified(addresses, newcomer_context(), pin=pin, judge=lambda _claimed: now(), deadline=DEADLINE)

    ca, challenge = _patiently(lambda: _challenge(wanted, connect, pin), sleep)  # (2)
    token = _patiently(lambda: _token(wanted, challenge, connect, pin), sleep)  # (3) and (4)
    certified = _redeem(wanted, challenge, token, connect, pin)  # (5)
    if certified.host_ca != ca:
        raise UntrustedPeer(
            f"the registrar's challenge was signed by {ca.fingerprint}, and its SSH host CA is"
            f" {certified.host_ca.fingerprint}",
            hint="nothing was kept; tell the registrar's operator",
        )
    return certified


def repeated(held: SshHeld, *, now: Callable[[], datetime]) -> Certified | None:
    """
    Have the registrar look again at a host for which nothing but an earlier look vouches: that evidence does not last.

    None where something else vouches for it. It is asked for by what its certificates call it.

    :raises HandfastError: as ``enrol``.
    """
    said = {dict(each.extensions).get(EVIDENCE, b"").partition(b" ")[0] for each in held.certificates}
    names: list[str] = []
    addresses: list[IPAddress] = []
    for principal in held.certificates[0].principals:
        try:
            addresses.append(ip_address(principal))
        except ValueError:
            names.append(principal)
    if said != {NAME.encode()} or not names or not addresses:
        return None
    with host_signers(held.directory, agent=held.agent) as keys:
        wanted = Wanted(keys.signers, tuple(names), tuple(addresses), held.ports)
        return enrol(wanted, held.addresses, pin=held.pin, now=now)


def _patiently(step: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """Take a step when the registrar has time to look: many hosts behind one address come at once."""
    waited = 0.0
    while True:
        try:
            return step()
        except TooMuch as error:
            pause = error.after + secrets.randbelow(1000 * error.after + 1) / 1000  # not again all at once
            waited += pause
            if not pause or waited > LONGEST_WAIT:
                raise
        sleep(pause)


def _challenge(wanted: Wanted, connect: Connect, pin: bytes) -> tuple[SshKey, Challenge]:
    asked = messages.parameters(wanted.look, newcomer_nonce=secrets.token_bytes(32))
    with connect() as registrar:
        body = msgspec.json.encode(asked)
        challenge = registrar.connection.call("POST", NONCE_PATH, Challenge, body, patience=PATIENCE)
        domain = registrar.identity.trust_domain
        return challenged(challenge, asked, pin=pin, trust_domain=domain, time=registrar.time), challenge


def _token(wanted: Wanted, challenge: Challenge, connect: Connect, pin: bytes) -> TokenAnswer:
    with connect() as registrar:
        proof = prove(challenge, wanted.signers, server_spki=registrar.server_spki, pin=pin)
        body = msgspec.json.encode(proof)
        return registrar.connection.call("POST", TOKEN_PATH, TokenAnswer, body, patience=PATIENCE)


def _redeem(wanted: Wanted, challenge: Challenge, token: TokenAnswer, connect: Connect, pin: bytes) -> Certified:
    with connect() as registrar:
        body, signed = present(
            challenge.payload,
            token,
            wanted.signers,
            nonce=registrar.nonce,
            newcomer_nonce=secrets.token_bytes(32),
            server_spki=registrar.server_spki,
            pin=pin,
        )
        answer = registrar.connection.call("POST", f"{PATH}/{NAME}", CertificatesAnswer, body)
        certified = check_certificates(answer, registrar, request=signed, keys=wanted.keys, kind=Kind.HOST)
    asked = {*wanted.names, *map(str, wanted.addresses)}
    for each in certified.certificates:
        if missing := sorted(asked - set(each.principals)):
            raise UntrustedPeer(
                f"asked for an SSH certificate for {', '.join(sorted(asked))}, got one without {', '.join(missing)}",
                hint="nothing was kept",
            )
    return certified
