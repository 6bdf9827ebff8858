"""
How machines' SSH host keys become known where no credential is issued: the same steps as the flow, without a signature.

    (1) verify    introducers.<method>   Evidence -> HostFinding    or an operator's own word
    (2) decide    policy                 HostFinding -> HostGrant   or every reason against it
    (3) register  ledger                 ONE durable transaction: spend, keys, place, log
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from handfast.core.flow import Evidence, HostFinding
from handfast.core.hosts import Host, How, Place
from handfast.core.invitation import key_id
from handfast.core.names import Names, machine_name
from handfast.core.ports import HostIntroducer, Ledger
from handfast.core.records import Invitation, SshRecord
from handfast.core.roles import Role
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.errors import AlreadySpent, NotFound, Refused, UsageError
from handfast.policy.hosts import decide_host, expect_host
from handfast.policy.rules import Rules
from handfast.registrar.administer import check_reason, check_time
from handfast.registrar.approvals import settle
from handfast.registrar.introduce import LedgerContext, refusal

ONE_TIME = frozenset({How.BUCKET, How.PHONE_HOME})
_MOST_SHOWN = 20  # certificates of a machine


@dataclass(frozen=True, slots=True)
class HostKeys:
    """Acts on the ledger directly, under the same rules as whoever comes over the network."""

    introducers: Mapping[str, HostIntroducer]
    rules: Rules
    ledger: Ledger
    context: LedgerContext

    async def publish(self, evidence: Evidence) -> Host:
        """
        Run the steps for what a machine reports of itself.

        :raises Refused: by the introducer, by policy (every reason), or by the ledger: the marker is spent, a key is
            another machine's or was retired.
        :raises Waiting: a person has to look at them first. :raises Fault: the ledger could not make it durable.
        """
        introducer = self.introducers.get(evidence.method)
        if introducer is None:
            raise NotFound(f"no way {evidence.method[:40]!r} for host keys to become known here")
        finding = introducer.verify(evidence, self.context)  # (1)
        try:
            await settle(finding, self.rules, self.ledger, at=self.context.now())
            grant = decide_host(finding, self.rules, known=self.ledger.host(finding.machine))  # (2)
            return await asyncio.wrap_future(self.ledger.register(grant, finding.once, at=self.context.now()))  # (3)
        except AlreadySpent:
            raise  # the ledger has logged it, as an alarm
        except Refused as error:
            method, at = finding.how.value, self.context.now()
            marker = finding.once.marker if finding.once is not None else f"host:{finding.machine}"
            event = refusal(finding.machine, method=method, marker=marker, error=error, at=at)
            await asyncio.wrap_future(self.ledger.note(event))
            raise

    def register(
        self,
        machine: str,
        keys: tuple[SshKey, ...],
        *,
        how: How,
        detail: str,
        place: Place | None = None,
        complete: bool = False,
        basis: tuple[SshKey, ...] = (),
    ) -> Host:
        """
        Record host keys that became known on this side: entered, or read from a console log, or seen.

        ``complete`` retires what else the machine had. ``place`` None leaves where it is reached. ``basis`` are the
        keys of the connection over which others were proved (hostkeys-prove): what rests upon a key that does not
        count any more is refused.

        :raises PolicyRefused: with every reason: such evidence does not count here, or better one says otherwise.
        :raises Refused: a key is another machine's, or was retired; a name is another machine's own.
        """
        name = machine_name(machine)
        finding = HostFinding(name, keys, how, detail, None, place, complete, basis)
        grant = decide_host(finding, self.rules, known=self.ledger.host(name))
        grant = replace(grant, quiet=False)  # the person who would be asked is the one who says it
        return self.ledger.register(grant, None, at=self.context.now()).result()

    def expect(self, machine: str, public_half: bytes, *, how: How, names: Names, lasting: timedelta) -> Invitation:
        """
        Have a machine report its host keys once, within a time; what it holds for that is not ours to keep.

        ``public_half`` (32 bytes) is what its report is verified with. It is listed, shown and cancelled as every
        invitation. ``names`` are those it is reached as.

        :raises UsageError: too short or too long a time. :raises Malformed: no such name.
        :raises PolicyRefused: as ``check_expected``.
        """
        name = machine_name(machine)
        if how not in ONE_TIME:
            raise UsageError(f"{how.value!r} has no one-time report", hint="bucket or phone-home")
        check_time(lasting)
        self.check_expected(name, how)
        now = self.context.now().replace(microsecond=0)
        invitation = Invitation(
            key_id=key_id(public_half),
            public_half=public_half,
            machine=name,
            role=Role.SERVER,
            names=names,
            uses=1,
            created_at=now,
            expires_at=now + lasting,
            method=how.value,
        )
        self.ledger.invite(invitation).result()
        return invitation

    def check_expected(self, machine: str, how: How) -> None:
        """
        Refuse what new host keys of this machine would be refused for, whatever they are.

        *Not* checked: what depends on the keys, and what happens until they come.

        :raises PolicyRefused: its name cannot have any, such evidence does not count, or better is known already.
        """
        name = machine_name(machine)
        expect_host(name, how, self.rules, known=self.ledger.host(name))

    def host(self, machine: str) -> Host:
        """Return a machine with its host keys. :raises NotFound: none were ever known."""
        found = self.ledger.host(machine_name(machine))
        if found is None:
            raise NotFound(f"no host keys of {machine!r} are known", hint="`handfast host list` shows whose are")
        return found

    def certificates(self, machine: str) -> list[SshRecord]:
        """Return the SSH certificates of a machine, the newest first, as many as a person looks at."""
        held = self.ledger.ssh_certificates(machine)  # a person may be called as a machine is
        return [each for each in held if each.kind is Kind.HOST][:_MOST_SHOWN]

    def retire(self, machine: str, fingerprint: str, *, reason: str) -> Host:
        """Take a key back, named by its fingerprint. :raises NotFound: the machine does not have it."""
        check_reason(reason)
        host = self.host(machine)
        key = next((each.key for each in host.keys if each.key.fingerprint == fingerprint), None)
        if key is None:
            raise NotFound(f"{host.machine!r} has no host key {fingerprint[:60]!r}", hint="see `handfast host show`")
        return self.ledger.retire(host.machine, key, reason=reason, at=self.context.now()).result()

    def remove(self, machine: str, *, reason: str) -> Host:
        """Retire all keys of a machine that is gone; its addresses may be another's from now on."""
        check_reason(reason)
        return self.ledger.remove_host(machine_name(machine), reason=reason, at=self.context.now()).result()
