"""
THE FLOW for SSH certificates: the same steps as ``Registrar.introduce``, for one holder and one or several keys.

    (1) verify    introducers.<method>   Evidence -> SshFinding      a stranger's bytes become a conclusion
    (2) decide    policy                 SshFinding -> SshGrant      or every reason against it
    (3) intend    ledger                 SshGrant -> SshIntents      ONE durable transaction: spend, reserve, log
    (4) certify   authority              SshIntent -> SshCredential  the only use of the SSH CAs for certificates
    (5) issued    ledger                 what will be answered is what is on record
    (6) answer    the caller's TLS key   signs request, certificates, both CAs, roots and time
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from handfast.core import transcript
from handfast.core.flow import Evidence, SshAnswer, SshCredential, SshFinding, SshGrant, SshIntent
from handfast.core.ports import Authority, Ledger, SshIntroducer
from handfast.core.records import SshRecord
from handfast.core.ssh_ports import SshAuthority
from handfast.core.sshcert import Kind
from handfast.errors import AlreadySpent, NotFound, Refused, Revoked
from handfast.introducers import ssh_hostkey, ssh_pop
from handfast.policy.rules import Rules
from handfast.policy.ssh import decide_ssh
from handfast.registrar import challenge
from handfast.registrar.approvals import settle
from handfast.registrar.introduce import LedgerContext, Prover, refusal


@dataclass(frozen=True, slots=True)
class Certifier:
    """The pipeline with its parts; ``authority`` has the roots, ``ssh`` the keys that sign."""

    introducers: Mapping[str, SshIntroducer]
    rules: Rules
    ledger: Ledger
    authority: Authority
    ssh: SshAuthority
    context: LedgerContext

    async def certify(
        self, evidence: Evidence, prover: Prover, *, admit: Callable[[SshFinding], None] = lambda _finding: None
    ) -> SshAnswer:
        """
        Run the flow once; ``prover`` and ``admit`` are as ``Registrar.introduce`` has them.

        :raises Refused: by the introducer, by policy (every reason), or by the ledger.
        :raises Waiting: a person has to look at the host keys first.
        :raises Fault: the ledger could not make it durable; nothing was signed.
        """
        finding = self._verify(evidence)  # (1)
        admit(finding)
        try:
            await settle(finding.host, self.rules, self.ledger, at=self.context.now())
            grant = self._decide(finding)  # (2)
            now = self.context.now()
            intents = await asyncio.wrap_future(self.ledger.intend_ssh(grant, finding.once, at=now))  # (3)
        except AlreadySpent:
            raise  # the ledger has logged it, as an alarm
        except Refused as error:
            await self._log_refusal(finding, error)
            raise
        return self._answer(finding, await self._issue(intents), prover)  # (4) to (6)

    async def revoke(self, evidence: Evidence, *, admit: Callable[[str], None] = lambda _marker: None) -> SshRecord:
        """
        Take a certificate back, as its own key says; again, and nothing happens.

        :raises Refused: by the introducer. :raises Fault: the ledger could not make it durable.
        """
        record, reason = ssh_pop.revocation(evidence, self.context)
        admit(f"{ssh_pop.REVOKE}:{record.serial}")
        if record.revoked_at is None:
            at = self.context.now()
            with suppress(Revoked):  # meanwhile: what was asked for is so
                await asyncio.wrap_future(self.ledger.revoke_ssh(record.serial, reason=reason, at=at))
        return record

    def _verify(self, evidence: Evidence) -> SshFinding:
        introducer = self.introducers.get(evidence.method)
        if introducer is None:
            raise NotFound(
                f"no way {evidence.method[:40]!r} to SSH certificates here",
                hint="its configuration does not enable that",
            )
        return introducer.verify(evidence, self.context)

    def _decide(self, finding: SshFinding) -> SshGrant:
        now, host = self.context.now(), finding.kind is Kind.HOST
        known = self.ledger.host(finding.subject) if host else None
        past = {key: self.ledger.ssh_past(key, at=now) for key in finding.keys} if host else {}
        shared = self.ledger.shared_hosts(finding.subject) if host else frozenset[str]()
        return decide_ssh(finding, self.rules, known=known, shared=shared, past=past, now=now)

    async def _issue(self, intents: tuple[SshIntent, ...]) -> tuple[SshCredential, ...]:
        signed = tuple(map(self.ssh.certify, intents))  # (4)
        if all(intent.certificate is not None for intent in intents):
            return signed  # asked again: the same answer
        on_record = await asyncio.wrap_future(self.ledger.issued_ssh(signed, at=self.context.now()))  # (5)
        return tuple(SshCredential(each.serial, each.leaf, kept) for each, kept in zip(signed, on_record, strict=True))

    async def _log_refusal(self, finding: SshFinding, error: Refused) -> None:
        at = self.context.now()
        # Of each marker the ledger keeps the first few: what has none is counted by the day.
        daily = f"{finding.method}:{finding.subject}:{at:%Y-%m-%d}"
        marker = finding.once.marker if finding.once is not None else daily
        if finding.method == ssh_hostkey.NAME:  # a stranger has as many nonces as he likes
            marker = challenge.marker(finding.keys, self.context)
        event = refusal(finding.subject, method=finding.method, marker=marker, error=error, at=at)
        await asyncio.wrap_future(self.ledger.note(event))

    def _answer(self, finding: SshFinding, credentials: tuple[SshCredential, ...], prover: Prover) -> SshAnswer:
        time, trust, host_ca, user_ca = self.context.now(), self.authority.trust, self.ssh.host_ca, self.ssh.user_ca
        issued = tuple(each.certificate for each in credentials)
        content = transcript.certificates(issued, host_ca=host_ca.blob, user_ca=user_ca.blob)
        proof = prover.prove(finding.transcript, content, trust, time)
        return SshAnswer(credentials, host_ca, user_ca, trust, time, proof)
