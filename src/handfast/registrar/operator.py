"""Administration as views: the same words that a remote operator gets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from handfast.core import views
from handfast.core.names import network
from handfast.core.records import Invitation, Machine
from handfast.core.roles import Role
from handfast.errors import UsageError
from handfast.registrar import ssh_revoke
from handfast.registrar.administer import Administration

_MOST = 20  # alarms and invitations of a machine in a list, as of credentials


@dataclass(frozen=True, slots=True)
class LocalOperator:
    """An operator on the registrar's machine: whoever may open the data directory."""

    administration: Administration

    def invite(self, request: views.InviteRequest) -> views.InviteAnswer:
        """Make an invitation; see ``Administration.invite`` for what is refused."""
        lasting, names = timedelta(seconds=request.seconds), tuple(request.names)
        sources = None if request.sources is None else tuple(network(text) for text in request.sources)
        if request.method == "nifi":
            if request.role is not Role.PEER:
                raise UsageError(f"a NiFi token leads to the role peer, not {request.role!s}", hint="leave out --role")
            token, invitation = self.administration.invite_nifi(
                request.machine,
                subject=request.subject,
                sans=names,
                lasting=lasting,
                uses=request.uses,
                sources=sources,
            )
            secret = token.reveal().decode()
        elif request.subject is not None:
            raise UsageError("a subject is for NiFi's one-time tokens", hint="names are given with --san")
        else:
            line, invitation = self.administration.invite(
                request.machine, role=request.role, sans=names, lasting=lasting, uses=request.uses, sources=sources
            )
            secret = line.reveal()
        view = views.invitation_view(invitation, self.administration.clock.now())
        return views.InviteAnswer(secret, view, list(self.administration.remarks(invitation)))

    def certificates(self) -> list[views.CertificateView]:
        """Return the SSH certificates that are not over, the newest first; 1,000 at most."""
        now = self.administration.clock.now()
        return [views.certificate_view(each, now) for each in self.administration.ledger.ssh_certificates(after=now)]

    def list(self) -> list[views.MachineView]:
        """Return every machine, without history."""
        return [*self.after("")]

    def after(self, name: str) -> Iterator[views.MachineView]:
        """
        Give the machines whose names come after ``name``, in order.

        Each is short, however long its past: what it holds and may still use, and the newest alarms.
        """
        ledger = self.administration.ledger
        invitations: defaultdict[str, list[Invitation]] = defaultdict(list)
        for invitation in ledger.invitations():
            invitations[invitation.machine].append(invitation)
        machines = {machine.name: machine for machine in ledger.machines() if machine.role is not Role.REGISTRAR}
        for each in sorted({*machines, *invitations}):
            if each > name:
                yield self._short(each, machines.get(each), invitations[each])

    def _short(self, name: str, machine: Machine | None, invited: Sequence[Invitation]) -> views.MachineView:
        ledger, now = self.administration.ledger, self.administration.clock.now()
        newest = ledger.newest_credentials(name)
        alarms = ledger.events(kind_prefix="alarm.", subject=name)
        counting = [each for each in invited if each is invited[-1] or each.status(now) == "open"]
        view = views.machine_view(
            name,
            machine=machine,
            credentials=[each for each in reversed(newest) if each is newest[0] or each.status(now) == "valid"],
            invitations=counting[-_MOST:],
            alarms=alarms[-_MOST:],
            now=now,
        )
        return msgspec.structs.replace(view, alarm_count=len(alarms))

    def show(self, name: str) -> views.MachineView:
        """Return one machine with its history. :raises NotFound: unknown."""
        machine = self.administration.show(name)
        return views.machine_view(
            machine.name,
            machine=machine.machine,
            credentials=machine.credentials,
            invitations=machine.invitations,
            alarms=machine.alarms,
            history=machine.history,
            now=self.administration.clock.now(),
        )

    def revoke(self, request: views.RevokeRequest) -> views.RevokeAnswer:
        """Revoke a machine or a serial; see ``Administration.revoke`` and ``revoke_ssh`` for what is refused."""
        if request.kind == "ssh":
            taken = self.administration.revoke_ssh(request.what, reason=request.reason)
            return views.RevokeAnswer([], [], [str(taken.serial)])
        before = self._of_ssh(request.what)
        serials = self.administration.revoke(request.what, reason=request.reason)
        keys, certificates = (then - now for then, now in zip(before, self._of_ssh(request.what), strict=True))
        return views.RevokeAnswer(
            [views.serial_text(serial) for serial in serials], sorted(keys), sorted(certificates, key=int)
        )

    def _of_ssh(self, what: str) -> tuple[set[str], set[str]]:
        """Return fingerprints of host keys, and serials of certificates, that what is revoked may take along."""
        administration = self.administration
        machine = administration.machine_of(what)
        host = administration.ledger.host(machine) if machine is not None else None
        keys = {each.key.fingerprint for each in host.keys} if host is not None else set()
        held = (
            ssh_revoke.held(administration.ledger, machine, administration.clock.now()) if machine is not None else []
        )
        return keys, {str(each.serial) for each in held}
