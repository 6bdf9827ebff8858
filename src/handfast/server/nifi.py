"""
NiFi's protocol over HTTPS: any path, one message, its own statuses. All that decides is in the one flow.

The original ignores path, method and content type, and so does this. Where it answered a web page with a stack trace,
this answers its status and JSON.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import problems, tls
from handfast.core import keys, wire
from handfast.errors import EvidenceRejected, Fault, HandfastError, Malformed, PolicyRefused, TooMuch
from handfast.introducers.nifi import NAME, NifiAnswer, NifiRequest
from handfast.server import public
from handfast.server.app import door, read_body
from handfast.server.state import Call, State
from handfast.wiring.nifi import NifiService

_SERVER_ERROR = "server error"


@dataclass(frozen=True, slots=True)
class NifiIdentity:
    """The authority's own certificate, which this wire wants as the TLS server's, alone in its chain."""

    spki_sha256: bytes
    context: ssl.SSLContext

    @classmethod
    def of(cls, nifi: NifiService) -> NifiIdentity:
        """Return what a NiFi listener presents."""
        root = nifi.authority.root
        context = tls.foreign_server_context(root, nifi.authority.root_key)
        return cls(keys.spki_sha256(root.public_key()), context)

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """Return the token's tag over our key: it says nothing of this answer, and the wire has nothing else."""
        return transcript


def application(state: State) -> web.Application:
    """Return the application of a listener for NiFi's toolkit."""
    app = web.Application(middlewares=[door(state, Voice())], client_max_size=state.limits.body)

    async def endpoint(request: web.Request) -> web.Response:
        return await _enrol(request, state)

    app.router.add_route("*", "/{path:.*}", endpoint)
    return app


async def _enrol(request: web.Request, state: State) -> web.Response:
    nifi = state.service.nifi
    peer = state.connections.peers.get(request.transport) if request.transport is not None else None
    if peer is None:
        raise ConnectionResetError("the client is gone")
    if nifi is None:  # unreachable: the listener is there because it is
        raise Fault("no NiFi authority")
    body = await read_body(request, state.limits)
    if (field := _missing(body)) is not None:
        return _response(400, NifiAnswer(error=f"{field} field must be set"))
    answer = await public.introduced(Call(request, state, peer, body), nifi.registrar, NAME)
    leaf = x509.load_der_x509_certificate(answer.credential.certificate).public_bytes(Encoding.PEM).decode()
    return _response(200, NifiAnswer(hmac=answer.proof, pem_encoded_certificate=leaf))


def _missing(body: bytes) -> str | None:
    """Return the field that a request lacks. What is no request at all, the flow refuses, and it is counted there."""
    try:
        asked = wire.decode(body, NifiRequest)
    except Malformed:
        return None
    return next((field for field in ("hmac", "csr") if not getattr(asked, field)), None)


class Voice:
    """Refusals as the original's client reads them: a status other than 200, and a sentence."""

    def refused(self, error: HandfastError) -> web.Response:
        """Return the original's status. A stranger learns no more than there; a holder of a token is told why."""
        if isinstance(error, EvidenceRejected):
            return _response(403, NifiAnswer(error="forbidden"))
        if isinstance(error, TooMuch) and error.after:
            return _response(429, NifiAnswer(error=error.message), {"Retry-After": str(error.after)})
        if isinstance(error, Malformed | TooMuch):  # the original: 500 and a stack trace
            return _response(500, NifiAnswer(error=error.message))
        if problems.status_of(type(error)) >= 500:
            return self.unexpected()
        reasons = "; ".join(error.reasons) if isinstance(error, PolicyRefused) else error.message
        return _response(403, NifiAnswer(error=f"{reasons} ({error.hint})" if error.hint else reasons))

    def broken(self, error: web.HTTPException) -> web.Response:
        """Return what aiohttp refuses: a body that is too long or too slow."""
        return _response(500 if error.status == 413 else error.status, NifiAnswer(error=error.reason.lower()))

    def unexpected(self) -> web.Response:
        """Return nothing but that it is ours."""
        return _response(500, NifiAnswer(error=_SERVER_ERROR))


def _response(status: int, answer: NifiAnswer, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(answer),
        content_type="application/json",
        charset="utf-8",
        headers=headers,
    )
