"""
The agent's own API: ``/v1``, as `docs/protocols/agent.md` has it. The paths, and what is done with each.

Names come out of the paths unquoted, and go as they are to those who know what they mean: the policy's services by
name, ``artifact_name``, and the list of logs. None is ever joined to a path here.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

import handfast
from handfast.agent.logs import Added, Mark
from handfast.agent.policy import Operation
from handfast.agent.service import Service
from handfast.agent.state import Call, Route
from handfast.agent.transfers import announced_digest, pull, receive
from handfast.core import wire
from handfast.core.agentjson import (
    MAX_CONFIGURATION,
    About,
    ArtifactAbout,
    ArtifactList,
    Configuration,
    LogAdded,
    LogLines,
    LogNames,
    Pull,
    ServiceAbout,
    Services,
    ServiceState,
)
from handfast.errors import Conflict, Malformed, NotAuthorized


def json(content: msgspec.Struct, status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")


async def about(call: Call) -> web.Response:
    """Return who we are by now, and with what we are met next."""
    agent, data = call.state.agent, call.state.data
    answer = About(
        version=handfast.__version__,
        stage=call.state.stage,
        instance=data.instance,
        instance_id=data.instance_id,
        spki=agent.face.spki.hex(),
    )
    if call.caller is None:
        answer = msgspec.structs.replace(answer, services=sorted(call.state.services))
    elif (held := agent.held) is not None:
        answer = msgspec.structs.replace(
            answer,
            serial=f"{held.serial_number:032x}",
            not_after=held.not_valid_after_utc.isoformat(),
            services=sorted(call.state.services) if call.caller.face.leaf is not None else [],
        )
    return json(answer)


async def introduce(call: Call) -> web.Response:
    """Return our request, to a controller that says hello."""
    caller, hello = call.proved, wire.decode(await call.body(), wire.Hello)
    message, caller.asked = call.state.agent.introduce(hello, caller.der)
    return web.Response(body=message, content_type="application/json")


async def answered(call: Call) -> web.Response:
    """Take the answer to it, on trial."""
    agent, caller = call.state.agent, call.proved
    answer = wire.decode(await call.body(), wire.IntroductionAnswer)
    if caller.asked is None:
        raise Conflict("no introduction is under way on this connection", hint="say hello first")
    agent.accept(caller.asked, answer)
    caller.asked = None
    call.state.on_trial()
    return web.Response(status=204)


def _told(service: Service) -> ServiceAbout:
    policy = service.policy
    operations = [each.value for each in Operation if each in policy.operations]
    return ServiceAbout(policy.name, policy.full_name, operations)


async def services(call: Call) -> web.Response:
    """Return which services there are, and what may be done with each."""
    found = call.state.services
    return json(Services([_told(found[name]) for name in sorted(found)]))


async def status(call: Call) -> web.Response:
    """Return how one is."""
    return json(ServiceState(await call.service.status()))


async def change(call: Call) -> web.Response:
    """Start, stop or restart one; the answer comes when that is done."""
    return json(ServiceState(await call.service.change(Operation(call.part("change")))))


async def configure(call: Call) -> web.Response:
    """Write configuration files, all of them or none."""
    service = call.service
    wanted = wire.decode(await call.body(MAX_CONFIGURATION), Configuration)
    return json(ServiceState(await service.configure({name: text.encode() for name, text in wanted.files.items()})))


async def artifacts(call: Call) -> web.Response:
    """Return which artifacts there are."""
    listed = await asyncio.to_thread(call.service.artifacts.listed)
    return json(ArtifactList([ArtifactAbout(each.name, each.size) for each in listed]))


async def artifact(call: Call) -> web.Response:
    """Return how large one is."""
    found = await asyncio.to_thread(call.service.artifacts.shown, call.part("artifact"))
    return json(ArtifactAbout(found.name, found.size))


async def deploy(call: Call) -> web.Response:
    """Take an artifact. What is announced to be too large is refused before any of it was read."""
    request, taken = call.request, call.service.artifacts
    digest = announced_digest(request.headers.get("Repr-Digest"))
    with call.state.transfer():
        try:
            came = await receive(
                taken, call.part("artifact"), request.content.readany, size=request.content_length, sha256=digest
            )
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason="the artifact came too slowly") from None
        except web.RequestPayloadError as error:
            raise Malformed(f"the body is broken: {str(error)[:200]}") from None
    return json(came, 201)


async def fetch(call: Call) -> web.Response:
    """Fetch an artifact from where the policy allows it."""
    service, wanted = call.service, wire.decode(await call.body(), Pull)
    with call.state.transfer():
        came = await pull(
            service.artifacts,
            call.part("artifact"),
            wanted.url,
            sha256=wanted.sha256,
            places=service.policy.pull,
            wanted=lambda: call.request.transport is not None,
        )
    return json(came, 201)


async def remove(call: Call) -> web.Response:
    """Remove an artifact."""
    await asyncio.to_thread(call.service.artifacts.remove, call.part("artifact"))
    return web.Response(status=204)


async def look(call: Call) -> web.Response:
    """Look at SSH hosts, where the policy allows it. What that takes is not in memory until somebody asks for it."""
    if call.state.looking is None:
        raise NotAuthorized("the policy of this machine does not let it look at hosts", hint="it says `looks = true`")
    from handfast.agent import looks

    return json(await looks.look(call, call.state.looking))


async def logs(call: Call) -> web.Response:
    """Return which logs there are."""
    return json(LogNames(list(await asyncio.to_thread(call.service.logs.listed))))


async def log(call: Call) -> web.Response:
    """Return lines of a log: from an offset, or what came since a mark, or its last ones, or the mark of its end."""
    found, name, query = call.service.logs, call.part("log"), call.request.query
    if query.keys() == {"since"}:
        return _added(await asyncio.to_thread(found.since, name, Mark.parse(query["since"])))
    if query.keys() == {"last"}:
        return _added(await asyncio.to_thread(found.last, name, number(query["last"])))
    if query.keys() == {"end"}:
        return json(LogAdded([], str(await asyncio.to_thread(found.end, name))))
    if unknown := query.keys() - {"lines", "offset"}:
        raise Malformed(
            f"not a parameter of this: {min(unknown)[:40]!r}", hint="lines and offset, or since, or last, or end"
        )
    count, offset = (number(query.get(key, default)) for key, default in (("lines", "200"), ("offset", "0")))
    lines = await asyncio.to_thread(lambda: found.tail(name, count=count, offset=offset))
    return json(LogLines(list(lines.lines), lines.offset))


def _added(added: Added) -> web.Response:
    return json(LogAdded(list(added.lines), str(added.mark), added.lost))


def number(text: str) -> int:
    """Return an integer, as people write one. :raises Malformed: anything else, or over 18 digits."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        raise Malformed(f"not a number: {text[:40]!r}", hint="an integer, such as 200 or -4096")
    return int(text)


_SERVICE = "/v1/services/{service}"
_ARTIFACT = _SERVICE + "/artifacts/{artifact}"
ROUTES = (
    Route("GET", "/v1/agent", about, first=True),
    Route("POST", "/v1/introduction", introduce, first=True),
    Route("POST", "/v1/introduction/answer", answered, first=True),
    Route("POST", "/v1/look", look),
    Route("GET", "/v1/services", services),
    Route("GET", _SERVICE, status),
    Route("POST", _SERVICE + "/{change:start|stop|restart}", change),
    Route("PUT", _SERVICE + "/configuration", configure, large=True),
    Route("GET", _SERVICE + "/artifacts", artifacts),
    Route("GET", _ARTIFACT, artifact),
    Route("PUT", _ARTIFACT, deploy),
    Route("DELETE", _ARTIFACT, remove),
    Route("POST", _ARTIFACT + "/pull", fetch),
    Route("GET", _SERVICE + "/logs", logs),
    Route("GET", _SERVICE + "/logs/{log:.+}", log),
)
