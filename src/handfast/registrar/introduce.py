"""
THE FLOW. Every way into this authority runs through ``Registrar.introduce``, in this order:

    (1) verify    introducers.<method>   Evidence -> Finding     a stranger's bytes become a conclusion
    (2) decide    policy                 Finding -> Grant        or every reason against it
    (3) intend    ledger                 Grant -> Intent         ONE durable transaction: spend, reserve, log
    (4) issue     authority              Intent -> Credential    the only use of the signing key
    (5) issued    ledger                 what will be answered is what is on record
    (6) answer    the caller's TLS key   signs request, leaf, roots and time

Before (2), where SSH host keys would change what is known, a person is asked (``approvals.settle``).
Spending comes after verifying, so that nobody can burn another's invitation, and is durable before
anything is signed, so that no certificate exists which the ledger does not know. A crash between (3)
and (5) is mended by the newcomer's retry: the same key gets the same intent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from handfast.core import nonce
from handfast.core.flow import Answer, Credential, Evidence, Finding, Grant
from handfast.core.hosts import Host
from handfast.core.names import IPAddress, Names
from handfast.core.ports import Authority, Clock, Introducer, Ledger
from handfast.core.records import CredentialRecord, Event, Invitation, SshRecord
from handfast.core.secret import Secret
from handfast.core.sshkeys import SshKey
from handfast.errors import AlreadySpent, NotFound, Refused
from handfast.policy.decide import decide, to_locate
from handfast.policy.rules import Rules
from handfast.registrar.approvals import settle


class Prover(Protocol):
    """What proves us back: the registrar's TLS key, or what a foreign protocol has instead."""

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """Return the proof over a finding's transcript and what is answered."""


Locate = Callable[[Names, IPAddress | None], Awaitable[Names]]


async def nowhere(names: Names, source: IPAddress | None) -> Names:
    """Look nothing up: no name leads anywhere."""
    return Names()


@dataclass(frozen=True, slots=True)
class LedgerContext:
    """What introducers may ask, answered from the ledger and the clock."""

    ledger: Ledger
    clock: Clock
    pin: bytes
    trust_domain: str
    nonce_key: Secret
    ssh_host_ca: SshKey

    def now(self) -> datetime:
        """Return the time, aware, UTC."""
        return self.clock.now()

    def nonce_is_ours(self, value: bytes) -> bool:
        """Whether this registrar made the nonce less than five minutes ago."""
        return nonce.is_fresh(self.nonce_key, value, self.clock.now())

    def new_nonce(self) -> bytes:
        """Return a fresh nonce; nothing is remembered."""
        return nonce.make(self.nonce_key, self.clock.now(), secrets.token_bytes(16))

    def invitation(self, key_id: str) -> Invitation | None:
        """Return the invitation, open or not."""
        return self.ledger.invitation(key_id)

    def public_halves(self, method: str) -> list[tuple[str, bytes]]:
        """Return key id and public half of a method's invitations whose time is not over."""
        return self.ledger.public_halves(method, after=self.clock.now())

    def credential(self, serial: int) -> CredentialRecord | None:
        """
        Return a credential on record, intended or issued, of our authority.

        The ledger may hold another authority's too, with weaker evidence behind it: none of them renews here.
        """
        record = self.ledger.credential(serial)
        return record if record is not None and record.trust_domain == self.trust_domain else None

    def renewals_since(self, record: CredentialRecord, since: datetime) -> int:
        """Count the machine's renewals since then, without those of ``record`` itself: they are retries."""
        return self.ledger.renewals_since(record, since)

    def host_of_key(self, key: SshKey) -> Host | None:
        """Return the machine whose SSH host key that is now."""
        return self.ledger.host_of_key(key)

    def ssh_certificate(self, serial: int) -> SshRecord | None:
        """Return an SSH certificate, intended or issued."""
        return self.ledger.ssh_certificate(serial)


@dataclass(frozen=True, slots=True)
class Registrar:
    """
    The pipeline with its parts. ``rules`` decides; replace the whole value to change them.

    ``locate`` returns those names that lead to an address, for the methods which count that as evidence.
    """

    introducers: Mapping[str, Introducer]
    rules: Rules
    ledger: Ledger
    authority: Authority
    context: LedgerContext
    locate: Locate = nowhere

    async def introduce(
        self, evidence: Evidence, prover: Prover, *, admit: Callable[[Finding], None] = lambda _finding: None
    ) -> Answer:
        """
        Run the flow for one newcomer. ``prover`` holds the TLS key of ``evidence.channel``.

        ``admit`` may refuse what is proved before it costs more than proving it: who sends too much is known then.

        :raises Refused: by the introducer, by policy (every reason) or because the marker is spent.
        :raises Waiting: a person has to look at its SSH host keys first.
        :raises Fault: the ledger could not make it durable; nothing was signed.
        """
        finding = self._verify(evidence)  # (1)
        admit(finding)
        try:
            await settle(finding.host, self.rules, self.ledger, at=self.context.now())
            grant = await self._decide(finding, evidence)  # (2)
            now = self.context.now()
            intent = await asyncio.wrap_future(self.ledger.intend(grant, finding.once, at=now))  # (3)
        except AlreadySpent:
            raise  # the ledger has logged it, as an alarm
        except Refused as error:
            await self._log_refusal(finding, error)
            raise
        if intent.certificate is not None:
            credential = Credential(intent.serial, intent.grant, intent.certificate)  # asked again: same answer
        else:
            signed = self.authority.issue(intent)  # (4)
            on_record = await asyncio.wrap_future(self.ledger.issued(signed, at=now))  # (5)
            credential = Credential(intent.serial, intent.grant, on_record)
        return self._answer(finding, credential, prover)  # (6)

    def _verify(self, evidence: Evidence) -> Finding:
        introducer = self.introducers.get(evidence.method)
        if introducer is None or evidence.method not in self.rules.methods:
            raise NotFound(f"no introduction method {evidence.method[:40]!r} here", hint="see GET /v1/methods")
        return introducer.verify(evidence, self.context)

    async def _decide(self, finding: Finding, evidence: Evidence) -> Grant:
        source, asked = evidence.channel.source, to_locate(finding)
        located = await self.locate(asked, source) if asked else asked  # only now: no stranger has us ask for names
        known = None if finding.host is None else self.ledger.host(finding.entitlement.machine)
        return decide(
            finding,
            self.rules,
            issuer=self.authority,
            source=source,
            located=located,
            now=self.context.now(),
            known=known,
        )

    async def _log_refusal(self, finding: Finding, error: Refused) -> None:
        machine = finding.entitlement.machine
        event = refusal(machine, method=finding.method, marker=finding.once.marker, error=error, at=self.context.now())
        await asyncio.wrap_future(self.ledger.note(event))

    def _answer(self, finding: Finding, credential: Credential, prover: Prover) -> Answer:
        time, trust = self.context.now(), self.authority.trust
        proof = prover.prove(finding.transcript, credential.certificate, trust, time)
        return Answer(credential, self.authority.chain, trust, time, proof)


def refusal(machine: str, *, method: str, marker: str, error: Refused, at: datetime) -> Event:
    """
    Return the event that proved evidence was refused.

    Only the holder of some evidence gets that far, and the ledger keeps only the first few for its marker.
    """
    reason = "".join(filter(str.isprintable, error.message[:500]))
    fields = {"method": method, "marker": marker, "code": error.code, "reason": reason}
    return Event("introduction.refused", at, machine, fields)
