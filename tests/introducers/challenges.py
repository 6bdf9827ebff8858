"""The host-key challenge on a stage that stands still: a registrar that sees what it is told, and an honest host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import challenge as messages
from handfast.core import sshkeys
from handfast.core.challenge import Challenge, Parameters, Proof, TokenAnswer
from handfast.core.flow import Channel, Evidence, SshFinding
from handfast.core.hosts import Host
from handfast.core.look import Answered, Led, Look, Seen
from handfast.core.names import ip_address
from handfast.core.records import SshRecord
from handfast.core.sshkeys import SshKey
from handfast.core.sshsig import Signer, SshPrivateKey
from handfast.introducers import ssh_hostkey
from handfast.introducers.ssh_hostkey import challenged, proved
from tests.introducers.stage import DOMAIN, NOW, PIN, SERVER_SPKI, Stage, ed25519, p256

RANDOM, OURS, OURS_AGAIN = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


def signer(private: SshPrivateKey) -> Signer:
    """A key that signs as sshd's would."""
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Signer(sshkeys.parse(line.decode()), private)


@cache
def rsa_key(bits: int = 2048) -> Signer:
    """An RSA key, made once."""
    return signer(rsa.generate_private_key(65537, bits))


CA, OTHER_CA = signer(ed25519(0x51)), signer(ed25519(0x52))
ED25519, ECDSA, THIEF = signer(ed25519(0x61)), signer(p256(0x6262)), signer(ed25519(0x63))
KEYS = (ED25519, ECDSA)
LOOK = Look(
    ("web1.lan", "www.web.lan"),
    (ip_address("10.0.0.7"), ip_address("2001:db8::7")),
    tuple(key.public for key in KEYS),
    (22, 2222),
)


def as_seen(look: Look = LOOK) -> tuple[Seen, ...]:
    """Everything is as it was said."""
    led = tuple(Led(name, look.addresses) for name in look.names)
    return (Seen(led, tuple(Answered(where, port, look.keys) for where in look.addresses for port in look.ports)),)


@dataclass
class SshStage(Stage):
    """A ``core.ports.SshContext`` as well."""

    ssh_host_ca: SshKey = field(default_factory=lambda: CA.public)
    hosts: dict[SshKey, Host] = field(default_factory=dict)

    def host_of_key(self, key: SshKey) -> Host | None:
        """What is on stage."""
        return self.hosts.get(key)

    def ssh_certificate(self, serial: int) -> SshRecord | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Play:
    """An honest host and an honest registrar; each field changed is what one of them does otherwise."""

    look: Look = LOOK
    signers: tuple[Signer, ...] = KEYS
    ca: Signer = CA
    pin: bytes = PIN
    domain: str = DOMAIN
    spki: bytes = SERVER_SPKI
    payload_namespace: str = ssh_hostkey.PAYLOAD_NAMESPACE
    token_namespace: str = ssh_hostkey.TOKEN_NAMESPACE
    stage: SshStage = field(default_factory=SshStage)

    def asked(self) -> Parameters:
        """Step 1."""
        return messages.parameters(self.look, newcomer_nonce=OURS)

    def payload(self) -> bytes:
        """What the registrar signs in step 2."""
        return ssh_hostkey.make_payload(self.asked(), trust_domain=self.domain, pin=self.pin, nonce=RANDOM, now=NOW)

    def challenge(self, payload: bytes | None = None) -> Challenge:
        """Step 2."""
        content = self.payload() if payload is None else payload
        return Challenge(content, self.ca.sign(content, self.payload_namespace))

    def proof(self, challenge: Challenge | None = None) -> Proof:
        """Step 3."""
        return ssh_hostkey.prove(challenge or self.challenge(), self.signers, server_spki=self.spki, pin=self.pin)

    def token(self, proof: Proof | None = None, look: Look | None = None) -> TokenAnswer:
        """Step 4."""
        token = ssh_hostkey.make_token(proof or self.proof(), look or self.look, now=NOW)
        return TokenAnswer(token, self.ca.sign(token, self.token_namespace))

    def evidence(self, answer: TokenAnswer | None = None, payload: bytes | None = None) -> Evidence:
        """Step 5."""
        return self.presented(answer, payload)[0]

    def presented(self, answer: TokenAnswer | None = None, payload: bytes | None = None) -> tuple[Evidence, bytes]:
        """Step 5, and what the answer has to prove."""
        body, signed = ssh_hostkey.present(
            self.payload() if payload is None else payload,
            answer or self.token(),
            self.signers,
            nonce=self.stage.nonce(),
            newcomer_nonce=OURS_AGAIN,
            server_spki=self.spki,
            pin=self.pin,
        )
        return Evidence("ssh-hostkey", body, Channel(SERVER_SPKI)), signed

    def but(self, **changes: object) -> Play:
        """The same, otherwise in this."""
        return replace(self, **changes)  # type: ignore[arg-type]


def changed(data: bytes, **fields: object) -> bytes:
    """A payload or token with other fields, in the same order."""
    return msgspec.json.encode(msgspec.json.decode(data) | fields)


def sha256(data: bytes) -> bytes:
    """Its SHA-256."""
    return hashlib.sha256(data).digest()


PLAY = Play()
SECOND = timedelta(seconds=1)
HALF = ssh_hostkey.SSH_HALF


def verify(evidence: Evidence, stage: SshStage | None = None) -> SshFinding:
    """What the registrar concludes in step 5."""
    return HALF.verify(evidence, stage or SshStage())


def accept(proof: Proof, *, now: datetime = NOW, spki: bytes = SERVER_SPKI, ca: SshKey = CA.public) -> object:
    """What the registrar concludes in step 4, before it looks."""
    return proved(proof, ca=ca, trust_domain=DOMAIN, pin=PIN, server_spki=spki, now=now)


def judged(challenge: Challenge, *, play: Play = PLAY, time: datetime = NOW) -> SshKey:
    """What the newcomer concludes in step 2, before anything is signed."""
    return challenged(challenge, play.asked(), pin=PIN, trust_domain=DOMAIN, time=time)


def with_signatures(proof: Proof, signatures: list[bytes]) -> Proof:
    """The same with other signatures."""
    return msgspec.structs.replace(proof, signatures=signatures)
