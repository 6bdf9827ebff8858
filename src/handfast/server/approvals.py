"""What waits for a person, and his word on it, for holders of an operator credential."""

from __future__ import annotations

from aiohttp import web

from handfast.core import wire
from handfast.core.approvals import DecideRequest
from handfast.registrar.approvals import Approvals
from handfast.server.operators import authorize
from handfast.server.public import json
from handfast.server.state import Call


async def approvals(call: Call) -> web.Response:
    """Those that wait, or with ``all`` in the query every one there was, the oldest first."""
    every = bool(call.request.query.get("all"))
    return json(await call.state.in_thread(lambda: _of(call).approvals(every=every)))


async def approval(call: Call) -> web.Response:
    """One approval: the keys that were asked about, and those that the machine has."""
    return json(await call.state.in_thread(_of(call).approval, call.request.match_info["approval_id"]))


async def decide(call: Call) -> web.Response:
    """Accept or reject; the log has who."""
    request = wire.decode(call.body, DecideRequest)
    return json(await call.state.in_thread(_of(call).decide, call.request.match_info["approval_id"], request))


def _of(call: Call) -> Approvals:
    service = call.state.service
    accept = service.host_keys.rules.ssh.accept
    return Approvals(service.ledger, service.clock, accept, f"{authorize(call).machine} (operator)")
