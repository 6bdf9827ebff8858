"""
HTTP without TLS, for development on one machine: on loopback addresses only, and nobody proves anything.

Who is on this machine can reach it; so a caller has to be the agent's own user, or root, by the kernel's word, or to
know the password where there is one. And a browser, which is the developer's own user, and does what any page tells it:
what has an ``Origin``, another name in ``Host`` than a loopback address, or by ``Sec-Fetch-Site`` comes from elsewhere,
such as an image or a link, is a page's request.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from dataclasses import dataclass

from aiohttp import web

from handfast.adapters.socket_owner import peer_uid
from handfast.core.agentjson import USER
from handfast.core.loopback import is_loopback
from handfast.core.secret import Secret
from handfast.errors import NotAuthorized


@dataclass(frozen=True, slots=True)
class Plain:
    """Who may speak to an agent without TLS: its own user and root; with a ``password`` whoever knows that."""

    password: Secret | None = None

    def check(self, request: web.Request) -> None:
        """Check a request, before anything is done. :raises NotAuthorized: it is another's."""
        host = request.headers.get("Host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        from_elsewhere = request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}
        if from_elsewhere or "Origin" in request.headers or not is_loopback(name):
            raise NotAuthorized(
                f"a request of a web page, or to {host[:80]!r}, which is no loopback address",
                hint="call it by 127.0.0.1 or [::1], and from no browser",
            )
        if self.password is not None:
            if not hmac.compare_digest(_password(request), self.password.reveal()):
                raise NotAuthorized("not the password of this agent", hint="it is in the file of --password-file")
            return
        connected = None if request.transport is None else request.transport.get_extra_info("socket")
        uid = None if connected is None else peer_uid(connected)
        if uid not in {0, os.geteuid()}:
            raise NotAuthorized(
                "without TLS and without a password this agent answers to its own user alone",
                hint="--password-file on both sides, if it is another user's",
            )


def _password(request: web.Request) -> bytes:
    """Return the password of RFC 7617, empty if there is none."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b""
    return password if colon and user == USER.encode() else b""
