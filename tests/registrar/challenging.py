"""A registrar's host-key challenge without a network: everything real but what is seen, which a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import msgspec

from handfast.authority.sshsign import SshSigner
from handfast.core import challenge as messages
from handfast.core.challenge import Challenge, Parameters, Proof, TokenAnswer
from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import How
from handfast.core.look import Look, Seen
from handfast.core.sshsig import Signer
from handfast.errors import TooMuch
from handfast.introducers import ssh_hostkey
from handfast.policy.rules import Rules
from handfast.registrar.challenge import Challenger
from tests.introducers.challenges import KEYS, LOOK, OURS, as_seen
from tests.registrar.house import House

RULES = Rules()
ENABLED = replace(RULES, ssh=replace(RULES.ssh, evidence=RULES.ssh.evidence | {How.SSH_HOSTKEY}))


@dataclass
class Sights:
    """A ``Looker`` that sees what a test says, each time something else, or what it was told where there is no more."""

    next: list[tuple[Seen, ...]] = field(default_factory=list)
    asked: list[Look] = field(default_factory=list)

    async def look(self, look: Look) -> tuple[Seen, ...]:
        """What is next; by default everything is as it was said."""
        self.asked.append(look)
        return self.next.pop(0) if self.next else as_seen(look)


@dataclass
class Challenges:
    """A registrar and an honest host; ``notes`` is what the registrar's own log was told."""

    house: House
    sights: Sights = field(default_factory=Sights)
    signers: tuple[Signer, ...] = KEYS
    wanted: Look = LOOK
    notes: list[str] = field(default_factory=list)
    admitted: list[str] = field(default_factory=list)
    full: bool = False

    @property
    def ssh(self) -> SshSigner:
        """The authority's SSH keys."""
        return SshSigner.of(self.house.authority)

    @property
    def challenger(self) -> Challenger:
        """Steps 2 and 4."""
        return Challenger(self.house.rules, self.house.ledger, self.house.context, self.ssh, self.sights)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count looks, and how many had been made when each was admitted."""
        if self.full:
            raise TooMuch("asked too often", hint="")
        self.admitted.append(f"look {len(self.sights.asked)}")
        yield

    def asked(self) -> Parameters:
        """Step 1."""
        return messages.parameters(self.wanted, newcomer_nonce=OURS)

    def challenge(self, body: bytes | None = None) -> Challenge:
        """Step 2."""
        content = msgspec.json.encode(self.asked()) if body is None else body
        flow = self.challenger.challenge(content, admit=self.admit, tell=self.notes.extend)
        return asyncio.run(flow)

    def proof(self, challenge: Challenge) -> Proof:
        """Step 3."""
        house = self.house
        return ssh_hostkey.prove(challenge, self.signers, server_spki=house.tls.spki, pin=house.authority.pin)

    def token(self, proof: Proof) -> TokenAnswer:
        """Step 4."""
        body, channel = msgspec.json.encode(proof), Channel(self.house.tls.spki)
        return asyncio.run(self.challenger.token(body, channel, admit=self.admit, tell=self.notes.extend))

    def evidence(self, payload: bytes, token: TokenAnswer) -> tuple[Evidence, bytes]:
        """Step 5, and what the answer has to prove."""
        body, signed = ssh_hostkey.present(
            payload,
            token,
            self.signers,
            nonce=self.house.context.new_nonce(),
            newcomer_nonce=OURS,
            server_spki=self.house.tls.spki,
            pin=self.house.authority.pin,
        )
        return Evidence("ssh-hostkey", body, Channel(self.house.tls.spki)), signed

    def enabled(self) -> Challenges:
        """The operator has enabled it."""
        self.house.rules = ENABLED
        return self
