"""Looking at hosts for other registrars, from where this one is: ``POST /v1/ssh/look``."""

from __future__ import annotations

import structlog
from aiohttp import web

from handfast.core import vantage, wire
from handfast.core.challenge import to_look
from handfast.core.roles import Role
from handfast.errors import NotAuthorized
from handfast.policy.look import against_look, notes
from handfast.server.challenge import MOST_NOTES
from handfast.server.operators import holder
from handfast.server.public import json
from handfast.server.state import Call

ROLES = frozenset({Role.AGENT, Role.CONTROLLER, Role.PEER, Role.OPERATOR})

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def look(call: Call) -> web.Response:
    """Look at hosts, for a holder of a credential of one of ``ROLES``; what else was seen stays in our own log."""
    record = holder(call, hint="join first (handfast join), as an agent")
    if record.role not in ROLES:
        known = ", ".join(sorted(ROLES))
        raise NotAuthorized(f"{record.machine!r} has role {record.role}", hint=f"it takes one of {known}")
    asked = to_look(wire.decode(call.body, vantage.LookRequest))
    with call.state.looks.admit_holder(record.machine):
        # From here alone: registrars that ask each other would ask for ever.
        (seen,) = await call.state.service.own_looker.look(asked)
    if against_look(asked, (seen,)):
        told = notes(asked, (seen,))
        _log.warning("looked", by=record.machine, notes=told[:MOST_NOTES], more=max(0, len(told) - MOST_NOTES))
    return json(vantage.answer(asked, seen))
