"""
The agent over HTTP: two APIs, and the door that every request passes.

Whoever gets here has proved by TLS to be a controller (``doors``). So refusals give their reasons, and the limits are
against accidents, and against a controller that was taken over: it must not get more than the policy gives.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import timedelta

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from handfast.adapters import problems
from handfast.agent import original, v1
from handfast.agent.doors import Caller
from handfast.agent.state import MAX_BODY, Answers, Call, Route, State, check_introduced
from handfast.core.chain import read_identity
from handfast.core.wire import Problem
from handfast.errors import Conflict, Fault, HandfastError, TooMuch, UntrustedPeer

HEAD = 60.0  # seconds from one answer to the next whole request: over the 15 s at which controllers poll
GOODBYE = 2.0  # seconds for the last bytes
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problems:
    """Refusals of ``/v1``: problems with their reasons, our own failures too, since a service that fails is one."""

    def refused(self, error: HandfastError) -> web.Response:
        status = 403 if isinstance(error, UntrustedPeer) else problems.status_of(type(error))
        if isinstance(error, TooMuch) and error.after:
            status = 429
        told = Problem(problems.title_of(type(error)), status, error.code, detail=error.message, hint=error.hint)
        return problems.response(told, headers=problems.again(error))

    def broken(self, error: web.HTTPException) -> web.Response:
        return problems.broken(error)

    def unexpected(self) -> web.Response:
        return problems.response(Problem("the agent failed; its log says why", 500, Fault.code))


def application(state: State) -> web.Application:
    """Return both APIs."""
    app = web.Application(middlewares=[_door(state)], client_max_size=MAX_BODY)
    for route in (*v1.ROUTES, *original.ROUTES):
        app.router.add_route(route.method, route.path, _endpoint(route, state))
    return app


def runner(app: web.Application) -> web.AppRunner:
    """Return aiohttp's runner with our limits; its ``server`` makes one protocol for each connection."""
    return web.AppRunner(
        app,
        access_log=None,  # ours is in the door
        shutdown_timeout=GOODBYE,
        keepalive_timeout=HEAD,  # aiohttp counts it from the start of a connection, too
        lingering_time=GOODBYE,
        max_line_size=8192,  # a log's name may have 8 components
        max_field_size=4096,
        max_headers=64,
        auto_decompress=False,  # a bomb stays small
    )


def _endpoint(route: Route, state: State) -> _Handler:
    async def endpoint(request: web.Request) -> web.Response:
        call = _call(state, route, request)
        async with state.large if route.large else nullcontext():
            return await route.handler(call)

    return endpoint


def _call(state: State, route: Route, request: web.Request) -> Call:
    """Return who calls for what, after all that is the same for every request."""
    if state.plain is not None:
        state.plain.check(request)
        return Call(request, state, None)
    caller = _caller(state, request)
    if caller is None:
        raise ConnectionResetError("the controller is gone")
    if caller.ends is not None and state.now() >= caller.ends:
        raise Conflict("the certificate that this connection began with is over", hint="connect with the next one")
    state.agent.called(caller.face)
    state.seen = (caller, time.monotonic())
    if not route.first:
        check_introduced(state, caller.face)
    return Call(request, state, caller)


def _caller(state: State, request: web.Request) -> Caller | None:
    """Return who has proved to be there; None if the connection is gone, or without TLS."""
    return state.callers.get(request.transport) if request.transport is not None else None


def _door(state: State) -> Middleware:
    told: dict[bool, Answers] = {True: Problems(), False: original.Messages()}

    @web.middleware
    async def through(request: web.Request, handler: _Handler) -> web.StreamResponse:
        state.busy.add(request.protocol)
        try:
            return await _answer(state, told[request.path.startswith("/v1/")], request, handler)
        finally:
            state.busy.discard(request.protocol)
            if state.stopping and not state.busy:
                state.rested.set()

    return through


async def _answer(state: State, answers: Answers, request: web.Request, handler: _Handler) -> web.StreamResponse:
    started = time.perf_counter()
    code, reason = "ok", ""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except HandfastError as error:
        code, reason, response = error.code, error.message, answers.refused(error)
    except web.HTTPException as error:
        code, response = problems.code_of(error), answers.broken(error)
    except (ConnectionError, ssl.SSLError):  # SSLError: somebody on the way has written into the stream
        code, response = "gone", web.Response(status=400)  # nobody will read it; raised, aiohttp would log a traceback
    except Exception:  # noqa: BLE001  a bug must answer 500 and be logged, not close the connection
        code, response = Fault.code, answers.unexpected()
        _log.exception("unexpected")
    response.headers["Server"] = "handfast-agent"
    if state.stopping or response.status in {408, 413} or not request.content.is_eof() or _ending(state, request):
        # What is left of a body that nobody wants is not the next request. (An empty body is at its end.)
        response.force_close()
    _account(state, request, response.status, code, reason, time.perf_counter() - started)
    return response


def _ending(state: State, request: web.Request) -> bool:
    """Whether the controller should connect again, as it has its next certificate long since."""
    caller = _caller(state, request)
    ends = None if caller is None else caller.ends
    return ends is not None and state.now() >= ends - timedelta(seconds=HEAD)


def _account(state: State, request: web.Request, status: int, code: str, reason: str, seconds: float) -> None:
    resource = request.match_info.route.resource
    fields: dict[str, object] = {
        "method": request.method[:10],
        "route": resource.canonical if resource is not None else "none",
        "status": status,
        "code": code,
    }
    fields |= {key: value[:80] for key, value in request.match_info.items()}
    if reason:
        fields["reason"] = reason[:500]
    caller = _caller(state, request)
    if caller is not None:
        fields["controller"] = read_identity(caller.certificate).machine
    # What only looks is asked every few seconds; what changes something is for whoever looks into the log later.
    say = _log.debug if request.method == "GET" and status < 400 else _log.info
    say("request", **fields, ms=round(seconds * 1000, 2))
