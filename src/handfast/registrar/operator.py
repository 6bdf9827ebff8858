"""Administration as views: the same words that a remote operator gets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from handfast.core import views
from handfast.core.names import network
from handfast.registrar.administer import Administration, MachineView


@dataclass(frozen=True, slots=True)
class LocalOperator:
    """An operator on the registrar's machine: whoever may open the data directory."""

    administration: Administration

    def invite(self, request: views.InviteRequest) -> views.InviteAnswer:
        """Make an invitation; see ``Administration.invite`` for what is refused."""
        line, invitation = self.administration.invite(
            request.machine,
            role=request.role,
            sans=tuple(request.names),
            lasting=timedelta(seconds=request.seconds),
            uses=request.uses,
            sources=None if request.sources is None else tuple(network(text) for text in request.sources),
        )
        view = views.invitation_view(invitation, self.administration.clock.now())
        return views.InviteAnswer(line.reveal(), view, list(self.administration.remarks(invitation)))

    def list(self) -> list[views.MachineView]:
        """Return every machine, without history."""
        return [self._view(machine, with_history=False) for machine in self.administration.list()]

    def show(self, name: str) -> views.MachineView:
        """Return one machine with its history. :raises NotFound: unknown."""
        return self._view(self.administration.show(name), with_history=True)

    def revoke(self, request: views.RevokeRequest) -> views.RevokeAnswer:
        """Revoke a machine or a serial; see ``Administration.revoke`` for what is refused."""
        serials = self.administration.revoke(request.what, reason=request.reason)
        return views.RevokeAnswer([views.serial_text(serial) for serial in serials])

    def _view(self, machine: MachineView, *, with_history: bool) -> views.MachineView:
        return views.machine_view(
            machine.name,
            machine=machine.machine,
            credentials=machine.credentials,
            invitations=machine.invitations,
            alarms=machine.alarms,
            history=machine.history if with_history else (),
            now=self.administration.clock.now(),
        )
