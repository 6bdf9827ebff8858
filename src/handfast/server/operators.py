"""
The operator's API: the same administration as on the registrar's own machine, for holders of an operator credential.

The certificate that TLS verified is only a claim to be looked up: the ledger says whether we issued it, as what,
and whether it was taken back. Every change is noted in the log with the operator's name before it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import views, wire
from handfast.core.names import machine_name
from handfast.core.records import CredentialRecord, Event
from handfast.core.roles import Role
from handfast.errors import NotAuthorized, NotFound
from handfast.registrar.operator import LocalOperator
from handfast.server.public import NO_STORE, json
from handfast.server.state import Call

MOST_ENTRIES = 1000  # of the log, in one answer
_PAGE = wire.MAX_ANSWER // 4  # bytes, but for the last machine, of which the list has no more than about as much
T = TypeVar("T")


_JOIN = "join first (handfast join); of SSH host keys [ssh] readers says who may read them"


class Entries(msgspec.Struct, frozen=True):
    """GET /v1/log/entries: entries from ``start`` on, as hashed into the tree."""

    start: int
    size: int
    entries: list[bytes]


class Cancelled(msgspec.Struct, frozen=True):
    """DELETE /v1/invitations/{key_id}."""

    key_id: str


def holder(call: Call, *, hint: str = _JOIN) -> CredentialRecord:
    """
    Return the credential behind this connection, of any role. ``hint`` is for who has none.

    :raises NotAuthorized: none, not ours, expired or revoked.
    """
    client = call.peer.client
    if client is None:
        raise NotAuthorized("no client certificate", hint=hint)
    service = call.state.service
    record = service.ledger.credential(client.serial_number)
    if record is None or record.certificate != client.public_bytes(Encoding.DER):
        raise NotAuthorized("the client certificate is not in the ledger", hint="join again")
    status = record.status(service.clock.now())
    if status != "valid":
        raise NotAuthorized(f"the {record.role} credential of {record.machine!r} is {status}", hint="ask for a new one")
    return record


def authorize(call: Call) -> CredentialRecord:
    """
    Return the operator credential behind this connection.

    :raises NotAuthorized: none, not ours, of another role, expired or revoked.
    """
    record = holder(call, hint="connect with an operator credential")
    if record.role is not Role.OPERATOR:
        raise NotAuthorized(
            f"{record.machine!r} has role {record.role}", hint="`handfast invite NAME --role operator` makes operators"
        )
    return record


async def invite(call: Call) -> web.Response:
    """Make an invitation; its line is shown this once."""
    request = wire.decode(call.body, views.InviteRequest)
    await _note(call, "invite", machine_name(request.machine))
    return json(await call.state.in_thread(_local(call).invite, request), status=201)


async def cancel(call: Call) -> web.Response:
    """Cancel an invitation."""
    key_id = call.request.match_info["key_id"]
    if call.state.service.ledger.invitation(key_id) is None:
        raise NotFound(f"no invitation {key_id[:16]!r}")
    reason = f"cancelled by {authorize(call).machine}"
    await call.state.in_thread(lambda: call.state.service.administration.cancel(key_id, reason=reason))
    return json(Cancelled(key_id))


async def machines(call: Call) -> web.Response:
    """Machines by name from the one after ``after``, without their history; the last page is the empty one."""
    page = await call.state.in_thread(_page, _local(call), call.request.query.get("after", ""))
    return web.Response(body=page, content_type="application/json", headers=NO_STORE)


async def machine(call: Call) -> web.Response:
    """One machine with its history, or with the newest part of it that fits into an answer."""
    return json(await call.state.in_thread(_fitting, _local(call), call.request.match_info["name"]))


async def certificates(call: Call) -> web.Response:
    """The SSH certificates that are not over, the newest first: 1,000 at most, and as many as an answer takes."""
    found = await call.state.in_thread(_local(call).certificates)
    return web.Response(body=_joined(found), content_type="application/json", headers=NO_STORE)


async def revoke(call: Call) -> web.Response:
    """Revoke a machine's credentials, or one serial, of a credential or of an SSH certificate."""
    request = wire.decode(call.body, views.RevokeRequest)
    await _note(call, "revoke", machine_name(request.what.replace(":", "")))  # which a serial is, too
    return json(await call.state.in_thread(_local(call).revoke, request))


async def checkpoint(call: Call) -> web.Response:
    """The newest signed checkpoint of the log (C2SP tlog-checkpoint): keep it elsewhere."""
    note = call.state.service.ledger.last_checkpoint()
    if note is None:
        raise NotFound("no checkpoint was signed yet", hint="try again in a minute")
    return web.Response(text=note, content_type="text/plain")


async def entries(call: Call) -> web.Response:
    """Entries of the log from ``start``, at most 1000; with a checkpoint they prove themselves."""
    text = call.request.query.get("start", "0")
    start = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
    log = call.state.service.ledger
    size = log.head().size
    found = await call.state.in_thread(lambda: list(log.entries(start, min(size, start + MOST_ENTRIES))))
    return json(Entries(start, size, found))


async def metrics(call: Call) -> web.Response:
    """Prometheus metrics, for this machine and for whoever holds a credential: a thief would watch the alarms."""
    if call.source is None or not call.source.is_loopback:
        holder(call)
    exposition = call.state.metrics
    return web.Response(body=exposition.text(), headers={"Content-Type": exposition.content_type})


def _page(local: LocalOperator, after: str) -> bytes:
    return _joined(local.after(after))


def _joined(found: Iterable[msgspec.Struct]) -> bytes:
    """Return as many of them as JSON as there is room for."""
    views_, size = [], 0
    for view in found:
        views_.append(msgspec.json.encode(view))
        size += len(views_[-1])
        if size > _PAGE:
            break
    return b"[" + b",".join(views_) + b"]"


def _fitting(local: LocalOperator, name: str) -> views.MachineView:
    view, most = local.show(name), 4096
    while len(msgspec.json.encode(view)) > wire.MAX_ANSWER and most:
        view = msgspec.structs.replace(
            view,
            alarms=view.alarms[-most:],
            credentials=view.credentials[-most:],
            invitations=view.invitations[-most:],
            history=view.history[-most:],
        )
        most //= 2
    return view


def _local(call: Call) -> LocalOperator:
    return LocalOperator(call.state.service.administration)


async def _note(call: Call, action: str, subject: str) -> None:
    operator = authorize(call)
    fields = {"operator": operator.machine, "credential": views.serial_text(operator.serial)}
    event = Event(f"operator.{action}", call.state.service.clock.now(), subject, fields)
    await asyncio.wrap_future(call.state.service.ledger.note(event))
