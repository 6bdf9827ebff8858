"""
The original's API 1.0, for controllers that speak it: its paths, its JSON, and its three statuses.

200 with JSON or with nothing, 404 for what is not there and for parameters that are missing, 500 for all else; errors
are ``{"message": …}``. Left out is what made the original dangerous: any method of a service by its name, paths in the
names of logs and artifacts, downloads that nobody has a digest of, and, unless the agent was started with --legacy, a
key that is delivered: see `docs/protocols/agent.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import structlog
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http import HttpProcessingError
from msgspec import Meta

from handfast.agent.artifacts import artifact_name
from handfast.agent.members import Members
from handfast.agent.policy import Operation
from handfast.agent.service import Service
from handfast.agent.services.base import State as ServiceState
from handfast.agent.state import MAX_BODY, Call, Handler, Route, check_introduced
from handfast.agent.transfers import Content, check_place, pull, receive
from handfast.agent.v1 import number
from handfast.core import wire
from handfast.core.agentjson import MAX_CONFIGURATION, MAX_URL, Sha256
from handfast.core.chain import read_identity
from handfast.errors import (
    Conflict,
    HandfastError,
    Malformed,
    NotAuthorized,
    NotFound,
    Refused,
)

API_VERSION = "1.0"
SOON = 1.0  # seconds; what is not done by then goes on, and is asked about, as the original's controller does
_OPERATIONS = ("start", "stop", "restart")
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
_FORM = "application/x-www-form-urlencoded"


class Messages:
    """Refusals in the original's words."""

    def refused(self, error: HandfastError) -> web.Response:
        return _message(error.message, 404 if isinstance(error, NotFound) else 500)

    def broken(self, error: web.HTTPException) -> web.Response:
        return _message(error.reason.lower(), 404 if error.status in {404, 405} else 500)

    def unexpected(self) -> web.Response:
        return _message("the agent failed; its log says why", 500)


class Location(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in place of an artifact that the agent shall fetch. The original had no digest."""

    location: Annotated[str, Meta(max_length=MAX_URL)]
    sha256: Sha256 | None = None


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json", charset="utf-8")


def _empty() -> web.Response:
    return web.Response(body=b"", content_type="application/json", charset="utf-8")


def _message(text: str, status: int) -> web.Response:
    answer = _json({"message": text})
    answer.set_status(status)
    return answer


def _parameters(form: bytes) -> dict[str, str]:
    try:
        found = parse_qs(form.decode(), keep_blank_values=True, max_num_fields=64, errors="strict")
    except ValueError:
        raise Malformed("not a form") from None
    return {name: values[-1] for name, values in found.items()}


def _query(call: Call) -> dict[str, str]:
    return _parameters(call.request.rel_url.raw_query_string.encode("utf-8", "surrogateescape"))


async def _form(call: Call, *needed: str, most: int = MAX_BODY) -> Mapping[str, str]:
    """Return the parameters: of the URL's query and of the form, which wins, as the original's framework has it."""
    found = _query(call)
    if call.request.content_type == _FORM or "Content-Type" not in call.request.headers:
        found |= _parameters(await call.body(most))
    for name in needed:
        if name not in found:
            raise NotFound(f"missing parameter {name!r}", hint=f"send it as {_FORM}, or in the query")
    return found


async def api_version(_call: Call) -> web.Response:
    """Return the version of this API."""
    return _json({"api_version": API_VERSION})


async def status(_call: Call) -> web.Response:
    """Return the load: the ping."""
    return _json({"load": await asyncio.to_thread(Path("/proc/loadavg").read_text)})


async def configure_agent(call: Call) -> web.Response:
    """Refuse a key that somebody else has made; or take it, where the agent was started to."""
    if not call.state.legacy:
        raise NotFound("this agent makes its own key; no certificate is delivered to it")
    who = read_identity(call.proved.certificate).machine
    form = await _form(call, "certificate", "keypair")
    call.state.agent.deliver(form["certificate"], form["keypair"])
    call.state.on_trial()
    _log.warning("a key was delivered: whoever made it, and whoever was on its way, may have it too", controller=who)
    return _empty()


async def services(call: Call) -> web.Response:
    """Return the services."""
    found = (each.policy for _, each in sorted(call.state.services.items()))
    return _json({"services": [{"name": each.name, "full_name": each.full_name} for each in found]})


async def service_status(call: Call) -> web.Response:
    """Return how one is."""
    return _json({"state": await call.service.status()})


async def _soon(call: Call, change: Callable[[], Coroutine[object, object, ServiceState]], what: str) -> web.Response:
    """Begin a change, and return how the service is by then, or after a moment: the original forks."""
    service = call.service
    task = call.state.background(change(), f"{what} {service.policy.name}")
    await asyncio.wait({task}, timeout=SOON)
    return _json({"state": task.result() if task.done() else service.underway})


async def operate(call: Call) -> web.Response:
    """Start, stop or restart one."""
    service, operation = call.service, call.part("operation")
    if operation not in _OPERATIONS:
        raise Refused(f"operation {operation[:40]!r} is not allowed; allowed are {', '.join(_OPERATIONS)}")
    return await _soon(call, lambda: service.change(Operation(operation)), operation)


async def configure(call: Call) -> web.Response:
    """Write configuration files: ``config`` is their contents by the policy's names for them."""
    service = call.service
    form = await _form(call, "config", most=MAX_CONFIGURATION)
    files = wire.decode(form["config"].encode(), dict[str, str])
    return await _soon(
        call, lambda: service.configure({name: text.encode() for name, text in files.items()}), "configure"
    )


async def artifacts(call: Call) -> web.Response:
    """Return the artifacts; their ids are their names."""
    listed = await asyncio.to_thread(call.service.artifacts.listed)
    return _json({"artifacts": [{"name": each.name, "id": each.name} for each in listed]})


async def artifact(call: Call) -> web.Response:
    """Return how large one is."""
    try:
        found = await asyncio.to_thread(call.service.artifacts.shown, call.part("artifact"))
    except NotFound as error:  # 500 in the original
        raise Refused(error.message) from None
    return _json({"name": found.name, "size": found.size})


async def remove(call: Call) -> web.Response:
    """Remove one."""
    try:
        await asyncio.to_thread(call.service.artifacts.remove, call.part("artifact"))
    except NotFound as error:
        raise Refused(error.message) from None
    return _empty()


async def deploy(call: Call) -> web.Response:
    """Take an artifact that is pushed in a form, or begin to fetch one."""
    if call.request.content_type != "multipart/form-data":
        form = await _form(call, "artifact")
        return _fetch(call, call.service, form["artifact"])
    try:
        parts = await call.request.multipart()
        async with asyncio.timeout(60):
            part = await parts.next()
            while part is not None and not (isinstance(part, BodyPartReader) and part.name == "artifact"):
                part = await parts.next()  # which reads the one before to its end
        if not isinstance(part, BodyPartReader):
            if (said := _query(call).get("artifact")) is None:
                raise NotFound("missing parameter 'artifact'")
            return _fetch(call, call.service, said)
        content = _to_the_end(parts, part)
        if part.filename is None:
            return _fetch(call, call.service, await _text(content))
        with call.state.transfer():
            await receive(call.service.artifacts, artifact_name(part.filename), content)
    except TimeoutError:
        raise Malformed("the artifact came too slowly") from None
    except (ValueError, web.RequestPayloadError, HttpProcessingError) as error:
        raise Malformed(f"not a form: {str(error)[:200]}") from None
    return _json({"status": "deployed"})


def _to_the_end(parts: MultipartReader, part: BodyPartReader) -> Content:
    """Return what is in a part, which is over only when the form is: without its last boundary it was cut off."""

    async def read() -> bytes:
        piece = await part.read_chunk(65536)
        while not piece and await parts.next() is not None:  # which says so, and reads whatever else is in the form
            pass
        return piece

    return read


async def _text(content: Content) -> str:
    read = bytearray()
    async with asyncio.timeout(30):
        while piece := await content():
            read += piece
            if len(read) > MAX_BODY:
                raise Malformed(f"an artifact without a file name, of over {MAX_BODY} bytes")
    return read.decode()


def _fetch(call: Call, service: Service, text: str) -> web.Response:
    wanted = wire.decode(text.encode(), Location)
    if wanted.sha256 is None:
        raise NotAuthorized('an artifact is fetched with its digest only: {"location": URL, "sha256": HEX}')
    taken, places, digest = service.artifacts, service.policy.pull, wanted.sha256
    name = artifact_name(PurePosixPath(unquote(urlsplit(wanted.location).path)).name)
    check_place(wanted.location, places)

    async def fetched() -> None:
        with call.state.transfer():
            await pull(taken, name, wanted.location, sha256=digest, places=places)

    _ = call.state.background(fetched(), f"fetch {name}")  # nobody waits for it
    return _json({"status": "pending"})


async def logs(call: Call) -> web.Response:
    """Return the logs."""
    return _json({"logs": list(await asyncio.to_thread(call.service.logs.listed))})


async def tail(call: Call) -> web.Response:
    """Return lines of one, whose name is quoted twice since 1.0."""
    query, found = call.request.query, call.service.logs
    if "num_lines" not in query:
        raise NotFound("missing parameter 'num_lines'")
    count, offset = number(query["num_lines"]), number(query.get("offset") or "0")
    name = unquote(call.part("log"))
    lines = await asyncio.to_thread(lambda: found.tail(name, count=count, offset=offset))
    return _json({"lines": list(lines.lines), "offset": lines.offset})


async def add_member(call: Call) -> web.Response:
    """Have a member of the cluster in the hosts file."""
    form = await _form(call, "hostname", "address")
    members = _members(call)
    async with call.state.writing:
        await asyncio.to_thread(members.put, form["hostname"], form["address"])
    return _empty()


async def remove_member(call: Call) -> web.Response:
    """Remove one."""
    members = _members(call)
    async with call.state.writing:
        await asyncio.to_thread(members.remove, call.part("host"))
    return _empty()


def _members(call: Call) -> Members:
    if call.state.members is None:
        raise NotAuthorized("the policy of this machine names no hosts_file for members of a cluster")
    return call.state.members


def _configured(handler: Handler) -> Handler:
    """Serve what is not for strangers, as the original: before, it is not there."""

    async def gated(call: Call) -> web.Response:
        try:
            if call.caller is not None:
                check_introduced(call.state, call.caller.face)
        except Conflict as error:
            raise NotFound(error.message) from None
        return await handler(call)

    return gated


_SERVICE = "/services/{service}"
_MEMBERS = "/cluster_member_addresses"
ROUTES = (
    Route("GET", "/api_version", api_version, first=True),
    Route("GET", "/status", status, first=True),
    Route("POST", "/configure", configure_agent, first=True),
    *(
        Route(method, path, _configured(handler), first=True, large=handler is configure)
        for method, path, handler in (
            ("GET", "/services", services),
            ("GET", _SERVICE + "/status", service_status),
            ("POST", _SERVICE + "/configure", configure),
            ("GET", _SERVICE + "/artifacts", artifacts),
            ("POST", _SERVICE + "/artifacts", deploy),
            ("GET", _SERVICE + "/artifacts/{artifact}", artifact),
            ("DELETE", _SERVICE + "/artifacts/{artifact}", remove),
            ("GET", _SERVICE + "/logs", logs),
            ("GET", _SERVICE + "/logs/{log:.+}", tail),
            ("POST", _SERVICE + "/{operation}", operate),
            ("POST", _MEMBERS, add_member),
            ("DELETE", _MEMBERS + "/{host}", remove_member),
        )
    ),
)
