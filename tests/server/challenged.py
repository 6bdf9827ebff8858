"""A registrar with the host-key challenge over real TLS, and whoever speaks to it by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from handfast.adapters.tls import leaf_spki_sha256
from handfast.core import challenge as messages
from handfast.core import wire
from handfast.core.challenge import NONCE_PATH, TOKEN_PATH, Challenge, Parameters, Proof, TokenAnswer
from handfast.core.invitation import Address
from handfast.core.look import Look
from handfast.core.sshsig import Signer
from handfast.introducers import ssh_hostkey
from handfast.newcomer.certificates import Certified
from handfast.newcomer.challenge import Wanted, enrol
from handfast.ssh import look as looks
from tests.introducers.challenges import KEYS, LOOK, OURS, THIEF
from tests.registrar.challenging import Sights
from tests.server.running import Client, Running, running

ENABLED = '[ssh]\nevidence = ["invitation", "ssh-hostkey"]\n'
WANTED = Wanted(KEYS, LOOK.names, LOOK.addresses, LOOK.ports)
T = TypeVar("T")
CERTIFICATES = "/v1/ssh/certificates/ssh-hostkey"


@dataclass
class House:
    """A registrar that serves, and what it is shown."""

    running: Running
    sights: Sights

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(*self.running.address)

    @property
    def pin(self) -> bytes:
        """Of its root."""
        return self.running.service.authority.pin

    def enrol(self, wanted: Wanted = WANTED, *, pin: bytes | None = None) -> Certified:
        """As the command does."""
        return enrol(wanted, [self.address], pin=pin or self.pin, now=self.running.clock.now)


@contextlib.contextmanager
def house(directory: Path, config: str = ENABLED, **more: Any) -> Iterator[House]:
    """A registrar whose eyes are a test's."""
    sights = Sights()
    directory.mkdir(mode=0o700)
    (directory / "config.toml").write_text(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "looker", lambda *_given, **_more: sights)
        with running(directory, **more) as started:
            yield House(started, sights)


@dataclass
class Attacker:
    """One connection, and all messages by hand."""

    home: House
    client: Client
    signers: tuple[Signer, ...] = KEYS
    look: Look = LOOK

    @property
    def spki(self) -> bytes:
        """The TLS key of this connection."""
        return leaf_spki_sha256(self.client.leaf)

    @property
    def asked(self) -> Parameters:
        """Step 1."""
        return messages.parameters(self.look, newcomer_nonce=OURS)

    def challenge(self) -> Challenge:
        """Step 2."""
        return self.post(NONCE_PATH, self.asked, Challenge)

    def proof(self, challenge: Challenge) -> Proof:
        """Step 3."""
        return ssh_hostkey.prove(challenge, self.signers, server_spki=self.spki, pin=self.home.pin)

    def token(self, challenge: Challenge | None = None) -> tuple[Challenge, TokenAnswer]:
        """Step 4."""
        challenge = challenge or self.challenge()
        return challenge, self.post(TOKEN_PATH, self.proof(challenge), TokenAnswer)

    def request(self, payload: bytes, token: TokenAnswer) -> bytes:
        """Step 5."""
        hello = msgspec.json.decode(self.client.call("GET", "/v1/hello")[1], type=wire.Hello)
        body, _ = ssh_hostkey.present(
            payload,
            token,
            self.signers,
            nonce=hello.nonce,
            newcomer_nonce=OURS,
            server_spki=self.spki,
            pin=self.home.pin,
        )
        return body

    def redeem(self, payload: bytes, token: TokenAnswer) -> wire.CertificatesAnswer:
        """Step 5, answered."""
        status, answer = self.client.call("POST", CERTIFICATES, self.request(payload, token))
        assert status == 200, answer
        return msgspec.json.decode(answer, type=wire.CertificatesAnswer)

    def post(self, path: str, message: object, kind: type[T]) -> T:
        """Post what has to be answered."""
        status, answer = self.client.call("POST", path, msgspec.json.encode(message))
        assert status == 200, answer
        return msgspec.json.decode(answer, type=kind)

    def problem(self, path: str, message: object) -> wire.Problem:
        """Post what has to be refused."""
        return self.client.problem(
            "POST", path, message if isinstance(message, bytes) else msgspec.json.encode(message)
        )


def thief(attacker: Attacker) -> Attacker:
    """The same, with a key of his own for the same host."""
    return replace(attacker, signers=(THIEF,), look=replace(LOOK, keys=(THIEF.public,)))
