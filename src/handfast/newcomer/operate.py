"""An operator at a distance: the registrar's own API, with an operator credential, over mutual TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

import msgspec

from handfast.adapters.tls import pinned_client_context
from handfast.core import views
from handfast.core.approvals import ApprovalRow, ApprovalView, DecideRequest
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import NotAuthorized
from handfast.newcomer.connection import DEADLINE, Verified, verified
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import held

T = TypeVar("T")


class RemoteOperator:
    """Speaks to the registrar that issued the operator credential in a key store."""

    def __init__(self, keystore: Keystore, *, now: Callable[[], datetime]) -> None:
        self._keystore = keystore
        self._now = now
        if (role := held(keystore).identity.role) is not Role.OPERATOR:
            raise NotAuthorized(
                f"the credential in {str(keystore.directory)!r} is for role {role}",
                hint="an operator joins with `handfast invite NAME --role operator`",
            )

    def invite(self, request: views.InviteRequest) -> views.InviteAnswer:
        """Have the registrar make an invitation."""
        return self._call("POST", "/v1/invitations", views.InviteAnswer, msgspec.json.encode(request))

    def certificates(self) -> list[views.CertificateView]:
        """Return the SSH certificates that are not over."""
        return self._call("GET", "/v1/ssh/certificates", list[views.CertificateView])

    def approvals(self, *, every: bool = False) -> list[ApprovalRow]:
        """Return those that wait, or all."""
        return self._call("GET", f"/v1/approvals{'?all=1' if every else ''}", list[ApprovalRow])

    def approval(self, approval_id: str) -> ApprovalView:
        """Return one approval."""
        return self._call("GET", f"/v1/approvals/{quote(approval_id, safe='')}", ApprovalView)

    def decide(self, approval_id: str, request: DecideRequest) -> ApprovalView:
        """Accept or reject."""
        path = f"/v1/approvals/{quote(approval_id, safe='')}"
        return self._call("POST", path, ApprovalView, msgspec.json.encode(request))

    def list(self) -> list[views.MachineView]:
        """Return every machine; asked for in pages, as an answer is limited."""
        machines: list[views.MachineView] = []
        while page := self._call("GET", _page_after(machines), list[views.MachineView]):
            machines += page
        return machines

    def show(self, name: str) -> views.MachineView:
        """Return one machine with its history."""
        return self._call("GET", f"/v1/machines/{quote(name, safe='')}", views.MachineView)

    def revoke(self, request: views.RevokeRequest) -> views.RevokeAnswer:
        """Revoke a machine or a serial."""
        return self._call("POST", "/v1/revocations", views.RevokeAnswer, msgspec.json.encode(request))

    def _call(self, method: str, path: str, kind: type[T], body: bytes | None = None) -> T:
        with as_holder(self._keystore, self._now) as registrar:
            return registrar.connection.call(method, path, kind, body)


@contextmanager
def as_holder(
    keystore: Keystore,
    now: Callable[[], datetime],
    *,
    addresses: Sequence[Address] = (),
    deadline: float = DEADLINE,
) -> Iterator[Verified]:
    """
    Connect with the credential in a key store to the registrar that issued it, at ``addresses`` or where it was.

    :raises NotFound: nothing was joined yet. :raises Unreachable, UntrustedPeer: as ``verified``.
    """
    holding = held(keystore)
    roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in holding.material.trust)
    identity = (keystore.directory / "fullchain.pem", keystore.directory / "privkey.pem")
    judge = max(now(), holding.issued_at)
    with verified(
        addresses or holding.addresses,
        pinned_client_context(roots, identity),
        pin=holding.pin,
        judge=lambda _claimed: judge,
        deadline=deadline,
    ) as registrar:
        yield registrar


def _page_after(machines: list[views.MachineView]) -> str:
    return f"/v1/machines?after={quote(machines[-1].name, safe='')}" if machines else "/v1/machines"
