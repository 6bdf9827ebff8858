"""
The pages for people, at the registrar itself: to whom ``[ssh] readers`` allows.

A browser without a client certificate reads them only where ``readers`` is ``anybody``: so a hoster serves them to the
public, with a web server and its certificate in front. Refusals are pages too, with the status of their error.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from handfast.adapters.problems import again, problem, status_of
from handfast.errors import Fault, HandfastError, NotAuthorized
from handfast.server import pages
from handfast.server.hosts import by_operator, read
from handfast.server.pages import Pages, Shown, Sight
from handfast.server.state import Call

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def machines_page(call: Call) -> web.Response:
    """Machines with SSH host keys, as a page: from the one after ``after``, of those that match ``search``."""
    return await _answer(call, lambda shown, _sight: shown.listing(call.request.query))


async def machine_page(call: Call) -> web.Response:
    """One machine's SSH host keys, how each became known, and its lines for known_hosts, as a page."""
    name = call.request.match_info["name"]
    return await _answer(call, lambda shown, sight: shown.machine(name, sight))


async def machine_qr(call: Call) -> web.Response:
    """A machine's first line for known_hosts as a QR code, SVG."""
    found = await read(call, _pages(call).qr, call.request.match_info["name"])
    return web.Response(body=found.body, content_type=found.media_type, headers=pages.HEADERS)


async def page_file(call: Call) -> web.Response:
    """What the pages load: a style, a script, a picture; the same for everybody."""
    found = pages.asset(call.request.match_info["file"])
    return web.Response(body=found.body, content_type=found.media_type, charset="utf-8", headers=pages.FILE_HEADERS)


async def _answer(call: Call, make: Callable[[Pages, Sight], Shown]) -> web.Response:
    try:
        page = await read(call, make, _pages(call), Sight.OPERATOR if by_operator(call) else Sight.READER)
    except NotAuthorized as error:
        refusal = pages.message("Not for everybody", error.message, error.hint, inside=False)
        return _html(refusal, status=status_of(NotAuthorized))
    except HandfastError as error:
        return _refused(error)
    if page.elsewhere is not None:
        return web.Response(status=303, headers={"Location": page.elsewhere, **pages.HEADERS})
    return _html(page.body)


def _refused(error: HandfastError) -> web.Response:
    if isinstance(error, Fault):
        _log.error("fault", reason=error.message, hint=error.hint, exc_info=error.__cause__)
    told = problem(error)  # as a program is told: of a fault, nothing that helps an attacker
    title = HTTPStatus(told.status).phrase.capitalize()
    response = _html(pages.message(title, told.detail or told.title, told.hint), status=told.status)
    response.headers.update(again(error))
    return response


def _pages(call: Call) -> Pages:
    service = call.state.service
    return Pages(service.ledger, service.clock, service.host_keys.rules.ssh.accept)


def _html(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=pages.HEADERS)
