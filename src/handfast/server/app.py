"""Two applications over one table of routes, and the door that every request passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from handfast.adapters import problems
from handfast.core.chain import read_identity
from handfast.errors import Fault, HandfastError, Malformed, TooMuch, UntrustedPeer
from handfast.server import openapi, operators, public
from handfast.server.limits import Limits
from handfast.server.routes import ROUTES, Route
from handfast.server.state import Call, State

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(state: State, *, plain: bool = False) -> web.Application:
    """Return the application of the TLS listener, or that of the plain one with the revocation lists only."""
    app = web.Application(middlewares=[door(state, problems)], client_max_size=state.limits.body)
    for route in ROUTES:
        if route.plain or not plain:
            app.router.add_route(route.method, route.path, _endpoint(route, state))
    if not plain:
        document = openapi.document()

        async def describe(_call: Call) -> web.Response:
            """This description."""
            return public.json(document)

        route = Route(method="GET", path="/openapi.json", handler=describe, gives="application/json")
        app.router.add_route(route.method, route.path, _endpoint(route, state))
    return app


def runner(app: web.Application, limits: Limits) -> web.AppRunner:
    """Return aiohttp's runner with our limits; its ``server`` makes one protocol for each connection."""
    return web.AppRunner(
        app,
        access_log=None,  # ours is in the door
        shutdown_timeout=limits.goodbye,  # for the last bytes; ``run`` has waited for the handlers
        # aiohttp counts it from the start of a connection and from each answer to the next whole head, so one
        # figure bounds idle connections and slow heads alike.
        keepalive_timeout=limits.head_timeout,
        lingering_time=limits.goodbye,
        max_line_size=limits.line,
        max_field_size=limits.header,
        max_headers=limits.headers,
        auto_decompress=False,  # no request of ours is compressed, and a bomb stays small
    )


def _endpoint(route: Route, state: State) -> _Handler:
    async def endpoint(request: web.Request) -> web.Response:
        peer = state.connections.peers.get(request.transport) if request.transport is not None else None
        if peer is None:
            raise ConnectionResetError("the client is gone")
        call = Call(request, state, peer, b"")
        if route.operator:
            operators.authorize(call)  # before the body is read
        if route.takes is not None:
            media = route.takes if isinstance(route.takes, str) else "application/json"
            if request.content_type != media:
                # A browser that holds an operator certificate sends JSON across sites only if we allow it (CORS).
                raise web.HTTPUnsupportedMediaType(reason=f"send {media}")
            call = Call(request, state, peer, await read_body(request, state.limits))
        return await route.handler(call)

    return endpoint


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """Return the body. :raises TooMuch: longer than allowed, as announced or in fact. :raises Malformed: broken."""
    if (request.content_length or 0) > limits.body:
        raise TooMuch(f"a body of {request.content_length} bytes, at most {limits.body} are read")
    try:
        async with asyncio.timeout(limits.body_timeout):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the body took too long") from None
    except web.RequestPayloadError as error:
        raise Malformed(f"the body is broken: {error}") from None


class Voice(Protocol):
    """How refusals are told: as problems, or as a foreign protocol has them."""

    def refused(self, error: HandfastError) -> web.Response: ...

    def broken(self, error: web.HTTPException) -> web.Response:
        """What aiohttp itself refuses: no such route, wrong method, too large."""

    def unexpected(self) -> web.Response:
        """A bug: nothing but that it is ours."""


def door(state: State, voice: Voice) -> Middleware:
    """Return what every request passes: it is counted and logged, and every error becomes an answer."""

    @web.middleware
    async def through(request: web.Request, handler: _Handler) -> web.StreamResponse:
        state.busy.add(request.protocol)
        try:
            return await _answer(state, voice, request, handler)
        finally:
            state.busy.discard(request.protocol)
            if state.stopping and not state.busy:
                state.rested.set()

    return through


async def _answer(state: State, voice: Voice, request: web.Request, handler: _Handler) -> web.StreamResponse:
    started = time.perf_counter()
    code, reason = "ok", ""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except HandfastError as error:
        code, reason = error.code, error.message
        response = voice.refused(error)
        if isinstance(error, Fault):
            _log.error("fault", reason=reason, hint=error.hint, exc_info=error.__cause__)
    except web.HTTPException as error:
        code, response = problems.code_of(error), voice.broken(error)
    except ConnectionError:
        code, response = "gone", web.Response(status=400)  # nobody will read it; raised, aiohttp would log a traceback
    except Exception:  # noqa: BLE001  a bug must answer 500 and be logged, not close the connection
        code, response = Fault.code, voice.unexpected()
        _log.exception("unexpected")  # without the body, and without local variables: see logs
    response.headers["Server"] = "handfast"  # not which version of what
    if state.stopping or response.status in {408, 413}:
        response.force_close()
    _account(state, request, response.status, code=code, reason=reason, seconds=time.perf_counter() - started)
    return response


def _account(state: State, request: web.Request, status: int, *, code: str, reason: str, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"  # never the path: a stranger chose it
    method = request.method if request.method in {"GET", "HEAD", "POST", "DELETE"} else "other"
    state.metrics.requests.labels(route, str(status)).inc()
    state.metrics.seconds.labels(route).observe(seconds)
    peer = state.connections.peers.get(request.transport) if request.transport is not None else None
    fields: dict[str, object] = {"method": method, "route": route, "status": status, "code": code}
    if reason:
        fields["reason"] = reason[:500]
    if peer is not None:
        fields["source"] = str(peer.source)
        if peer.client is not None:
            try:
                fields["machine"] = read_identity(peer.client).machine
            except UntrustedPeer:
                fields["machine"] = "unreadable"
    _log.info("request", **fields, ms=round(seconds * 1000, 2))
