"""
THE FLOW. Every way into this authority runs through ``Registrar.introduce``, in this order:

    (1) verify    introducers.<method>   Evidence -> Finding     a stranger's bytes become a conclusion
    (2) decide    policy                 Finding -> Grant        or every reason against it
    (3) intend    ledger                 Grant -> Intent         ONE durable transaction: spend, reserve, log
    (4) issue     authority              Intent -> Credential    the only use of the signing key
    (5) issued    ledger                 what will be answered is what is on record
    (6) answer    the caller's TLS key   signs request, leaf, roots and time

Spending comes after verifying, so that nobody can burn another's invitation, and is durable before
anything is signed, so that no certificate exists which the ledger does not know. A crash between (3)
and (5) is mended by the newcomer's retry: the same key gets the same intent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from handfast.core import nonce
from handfast.core.flow import Answer, Credential, Evidence, Finding, Grant
from handfast.core.ports import Authority, Clock, Introducer, Ledger
from handfast.core.records import CredentialRecord, Event, Invitation
from handfast.core.secret import Secret
from handfast.core.transcript import answer as answer_transcript
from handfast.errors import AlreadySpent, NotFound, Refused
from handfast.policy.decide import decide
from handfast.policy.rules import Rules


class AnswerSigner(Protocol):
    """The registrar's TLS key, whose hash the newcomer saw in its own handshake."""

    def sign(self, digest: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class LedgerContext:
    """What introducers may ask, answered from the ledger and the clock."""

    ledger: Ledger
    clock: Clock
    pin: bytes
    nonce_key: Secret

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

    def credential(self, serial: int) -> CredentialRecord | None:
        """Return a credential on record, intended or issued."""
        return self.ledger.credential(serial)

    def renewals_since(self, record: CredentialRecord, since: datetime) -> int:
        """Count the machine's renewals since then, without those of ``record`` itself: they are retries."""
        return self.ledger.renewals_since(record, since)


@dataclass(frozen=True, slots=True)
class Registrar:
    """The pipeline with its parts. ``rules`` decides; replace the whole value to change them."""

    introducers: Mapping[str, Introducer]
    rules: Rules
    ledger: Ledger
    authority: Authority
    context: LedgerContext

    async def introduce(
        self, evidence: Evidence, signer: AnswerSigner, *, admit: Callable[[Finding], None] = lambda _finding: None
    ) -> Answer:
        """
        Run the flow for one newcomer. ``signer`` holds the TLS key of ``evidence.channel``.

        ``admit`` may refuse what is proved before it costs more than proving it: who sends too much is known then.

        :raises Refused: by the introducer, by policy (every reason) or because the marker is spent.
        :raises Fault: the ledger could not make it durable; nothing was signed.
        """
        finding = self._verify(evidence)  # (1)
        admit(finding)
        try:
            grant = self._decide(finding, evidence)  # (2)
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
        return self._answer(finding, credential, signer)  # (6)

    def _verify(self, evidence: Evidence) -> Finding:
        introducer = self.introducers.get(evidence.method)
        if introducer is None or evidence.method not in self.rules.methods:
            raise NotFound(f"no introduction method {evidence.method[:40]!r} here", hint="see GET /v1/methods")
        return introducer.verify(evidence, self.context)

    def _decide(self, finding: Finding, evidence: Evidence) -> Grant:
        return decide(
            finding,
            self.rules,
            issuer=self.authority,
            source=evidence.channel.source,
            now=self.context.now(),
        )

    async def _log_refusal(self, finding: Finding, error: Refused) -> None:
        # Only the holder of some evidence gets here, and the ledger keeps only the first few for its marker.
        event = Event(
            "introduction.refused",
            self.context.now(),
            finding.entitlement.machine,
            {
                "method": finding.method,
                "marker": finding.once.marker,
                "code": error.code,
                "reason": "".join(filter(str.isprintable, error.message[:500])),
            },
        )
        await asyncio.wrap_future(self.ledger.note(event))

    def _answer(self, finding: Finding, credential: Credential, signer: AnswerSigner) -> Answer:
        time = self.context.now()
        chain, trust = self.authority.chain, self.authority.trust
        digest = answer_transcript(finding.transcript, credential.certificate, trust, time.isoformat())
        return Answer(credential, chain, trust, time, signer.sign(digest))
