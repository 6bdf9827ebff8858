"""
``handfast web``: the pages on loopback, for the user who opens a one-time link, and nobody else on this machine.

Others may connect: loopback is shared by all users, containers of this network, and every page in the browser. Hence

    link        a secret of 256 bits, good once; whoever comes second is told that somebody was first
    cookie      HttpOnly, SameSite=Strict; the name has the port, as browsers give a host's cookies to all its ports
    user        and so it counts only for the user id that has opened the link: the kernel knows whose the other end is
    Host        exactly ours: a stranger's name that is made to lead to 127.0.0.1 (DNS rebinding) is not
    Sec-Fetch   a page from elsewhere, another port of this host included, can neither embed nor link to us

What remains: root, and whoever may read this user's terminal, memory, or the browser's profile.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

import uvloop
from aiohttp import web
from aiohttp.typedefs import Middleware

from handfast.adapters import sockets
from handfast.adapters.problems import status_of
from handfast.adapters.signals import signals
from handfast.adapters.socket_owner import peer_uid
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.errors import HandfastError, NotAuthorized
from handfast.server import pages
from handfast.server.app import runner
from handfast.server.limits import Limits
from handfast.server.pages import Pages, Sight

LOOPBACK = "127.0.0.1"
_OPEN = "/open/"
_ONCE = "run `handfast web` again for a new one"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PAGES = web.AppKey("pages", Pages)


class Gate:
    """
    Who may come in.

    ``ours_only`` also binds the link to our own user: in a browser's command line everybody on this machine sees it.
    """

    def __init__(self, address: Address) -> None:
        self.ours_only = True
        self._place = str(address)
        self._token, self._session = (Secret(secrets.token_urlsafe(32).encode()) for _ in range(2))
        self._cookie = f"handfast_{address.port}"
        self._user: int | None = None  # who has opened the link

    @property
    def link(self) -> str:
        """The one-time link, a secret until it was opened."""
        return f"http://{self._place}{_OPEN}{self._token.reveal().decode()}"

    def check(self, request: web.Request) -> None:
        """Check everything but the link itself. :raises NotAuthorized: not one of our own pages' requests."""
        self._check_origin(request)
        if "token" not in request.match_info and not self._known(request):
            raise NotAuthorized("this browser has not opened the link", hint="open what `handfast web` has printed")

    def open(self, request: web.Request, token: str) -> web.Response:
        """Spend the link. :raises NotAuthorized: it is not ours, it was opened before, or this is another user."""
        if not _same(token, self._token):
            raise NotAuthorized("this is not the link", hint="open the whole line that `handfast web` has printed")
        if not self._known(request):
            self._spend(request)
        response = _elsewhere("/machines")
        response.set_cookie(self._cookie, self._session.reveal().decode(), path="/", httponly=True, samesite="Strict")
        return response

    def _spend(self, request: web.Request) -> None:
        if self._user is not None:
            raise NotAuthorized(
                f"this link was opened before, by user {self._user}: it is good once",
                hint=f"if that was not you, somebody else has seen it: stop that `handfast web`; {_ONCE}",
            )
        user = _user(request)
        if user is None or (self.ours_only and user != os.geteuid()):
            raise NotAuthorized(
                f"this link is for the programs of user {os.geteuid()}, who has started `handfast web`",
                hint="`handfast web --no-browser` prints one that another user may open, as after sudo",
            )
        self._user = user

    def _check_origin(self, request: web.Request) -> None:
        if request.headers.getall("Host", []) != [self._place]:
            raise NotAuthorized(f"asked for as {request.host[:80]!r}", hint=f"it is http://{self._place}")
        own = {"none", "same-origin"}
        strange = request.headers.get("Sec-Fetch-Site", "none") not in own
        if strange or request.headers.get("Origin", f"http://{self._place}") != f"http://{self._place}":
            raise NotAuthorized("another page leads here", hint="copy the link into the browser's address bar")

    def _known(self, request: web.Request) -> bool:
        held = _same(request.cookies.get(self._cookie, ""), self._session)
        return held and self._user is not None and _user(request) == self._user


def _same(text: str, secret: Secret) -> bool:
    return hmac.compare_digest(text.encode(errors="surrogateescape"), secret.reveal())


def _user(request: web.Request) -> int | None:
    if request.transport is None:
        return None
    return peer_uid(cast(socket.socket, request.transport.get_extra_info("socket")))


def serve(shown: Pages, *, ready: Callable[[str], None], browse: Callable[[str], bool]) -> int:
    """
    Serve the pages on a free port of loopback until a signal ends it, and return 0.

    ``ready`` gets the one-time link. So does ``browse``, which may open it, and says whether it has tried.

    :raises Fault: no port is free.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_with_signals(shown, ready, browse))
    return 0


async def _with_signals(shown: Pages, ready: Callable[[str], None], browse: Callable[[str], bool]) -> None:
    with signals() as asked:
        await run(shown, asked, ready=ready, browse=browse)


async def run(
    shown: Pages,
    asked: asyncio.Queue[signal.Signals],
    *,
    ready: Callable[[str], None],
    browse: Callable[[str], bool],
) -> None:
    """Serve until something is ``asked``; see ``serve``."""
    listening = sockets.listen(Address(LOOPBACK, 0))
    gate = Gate(sockets.address_of(listening))
    running = runner(application(shown, gate), Limits())
    await running.setup()
    try:
        await web.SockSite(running, listening).start()
        ready(gate.link)
        gate.ours_only = browse(gate.link)  # nothing is answered before: the loop is here
        await asked.get()
    finally:
        await running.cleanup()


def application(shown: Pages, gate: Gate) -> web.Application:
    """Return the application behind its gate."""

    async def opened(request: web.Request) -> web.Response:
        return gate.open(request, request.match_info["token"])

    app = web.Application(middlewares=[_behind(gate)])
    app[_PAGES] = shown
    app.router.add_get("/", _begin)
    app.router.add_get(_OPEN + "{token}", opened, allow_head=False)  # a preview must not spend it
    app.router.add_get("/machines", _listing)
    app.router.add_get("/machines/{name}", _machine)
    app.router.add_get("/machines/{name}/qr.svg", _qr)
    app.router.add_get("/static/{file}", _asset)
    return app


def _behind(gate: Gate) -> Middleware:
    @web.middleware
    async def through(request: web.Request, handler: _Handler) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            gate.check(request)
            response = await handler(request)
        except NotAuthorized as error:
            refusal = pages.refusal(error.message, error.hint)  # it loads nothing: there is no cookie to load it with
            response = _html(refusal, status=status_of(NotAuthorized))
        except HandfastError as error:
            status = status_of(type(error))
            response = _html(
                pages.message(HTTPStatus(status).phrase.capitalize(), error.message, error.hint), status=status
            )
        except web.HTTPException as error:
            response = _html(pages.message(error.reason.capitalize(), "There is nothing here."), status=error.status)
        for name, value in {"Server": "handfast", **pages.HEADERS}.items():
            response.headers.setdefault(name, value)
        return response

    return through


async def _begin(_request: web.Request) -> web.Response:
    return _elsewhere("/machines")


async def _listing(request: web.Request) -> web.Response:
    return _html(request.app[_PAGES].listing(request.query).body)


async def _machine(request: web.Request) -> web.Response:
    # Whoever may open the data directory is an operator.
    page = request.app[_PAGES].machine(request.match_info["name"], Sight.OPERATOR)
    if page.elsewhere is not None:
        return _elsewhere(page.elsewhere)
    return _html(page.body)


async def _qr(request: web.Request) -> web.Response:
    found = request.app[_PAGES].qr(request.match_info["name"])
    return web.Response(body=found.body, content_type=found.media_type)


async def _asset(request: web.Request) -> web.Response:
    found = pages.asset(request.match_info["file"])
    return web.Response(body=found.body, content_type=found.media_type, charset="utf-8", headers=pages.FILE_HEADERS)


def _html(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8")


def _elsewhere(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})
