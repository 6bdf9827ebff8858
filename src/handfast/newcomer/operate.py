"""An operator at a distance: the registrar's own API, with an operator credential, over mutual TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

import msgspec

from handfast.adapters.tls import pinned_client_context
from handfast.core import views
from handfast.core.roles import Role
from handfast.errors import NotAuthorized
from handfast.newcomer.connection import verified
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import held

T = TypeVar("T")


class RemoteOperator:
    """Speaks to the registrar that issued the operator credential in a key store."""

    def __init__(self, keystore: Keystore, *, now: Callable[[], datetime]) -> None:
        self._keystore = keystore
        self._held = held(keystore)
        self._now = now
        if self._held.identity.role is not Role.OPERATOR:
            raise NotAuthorized(
                f"the credential in {str(keystore.directory)!r} is for role {self._held.identity.role}",
                hint="an operator joins with `handfast invite NAME --role operator`",
            )

    def invite(self, request: views.InviteRequest) -> views.InviteAnswer:
        """Have the registrar make an invitation."""
        return self._call("POST", "/v1/invitations", views.InviteAnswer, msgspec.json.encode(request))

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
        roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in self._held.material.trust)
        directory = self._keystore.directory
        context = pinned_client_context(roots, (directory / "fullchain.pem", directory / "privkey.pem"))
        judge = max(self._now(), self._held.issued_at)
        with verified(self._held.addresses, context, pin=self._held.pin, judge=lambda _claimed: judge) as registrar:
            return registrar.connection.call(method, path, kind, body)


def _page_after(machines: list[views.MachineView]) -> str:
    return f"/v1/machines?after={quote(machines[-1].name, safe='')}" if machines else "/v1/machines"
