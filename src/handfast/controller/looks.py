"""
Managed machines as vantage points: each is asked over a connection of its own, and proves first to be the instance.

What an operator's commands ask of whoever answers (``operate``) is asked here: the key on record, our certificate for
this very name, not taken back. Whoever else answers is sent nothing, and has not seen anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handfast.adapters.buckets import Share
from handfast.config.scan import AGENT
from handfast.controller.credential import OwnCredential
from handfast.controller.http import Connection
from handfast.controller.operate import Operator
from handfast.core import vantage
from handfast.core.instances import existing
from handfast.core.look import Look, Seen
from handfast.errors import Unreachable, UntrustedPeer
from handfast.wiring import Service

PATH = "/v1/look"
PATIENCE = 45.0  # seconds for an answer: the agent gives up a little sooner
LONGEST = PATIENCE + 10  # with the connection before it
AT_ONCE = 8  # looks of one agent; it drops who is over 16 connections
_ALL = 64


class Looks:
    """Asks the agents of the instances in a ledger; ``service`` and ``credential`` are asked for each time."""

    def __init__(self, service: Callable[[], Service], credential: Callable[[], OwnCredential]) -> None:
        self._service, self._credential = service, credential
        self._listening, self._dialling = Share(_ALL, AT_ONCE), Share(_ALL, 1)

    async def look(self, name: str, look: Look) -> Seen:
        """
        Have the agent of an instance look, and wait.

        :raises HandfastError: as ``Operator.agent``; it refuses, or what it answers is none.
        :raises UntrustedPeer: it has no TLS, and so nobody knows who it is.
        :raises TooMuch: it is looking too often, or at too many things at a time.
        """
        service = self._service()
        instance = existing(service.ledger.instance(name), name)
        operator = Operator(service.ledger, service.authority.public, self._credential(), service.clock, service.data)
        # One that dials has one connection for what takes long, and makes the next when that has ended.
        with (self._dialling if instance.dials else self._listening).place(name):
            try:
                async with asyncio.timeout(LONGEST), operator.agent(name) as agent:
                    if not isinstance(agent.connection, Connection):
                        raise UntrustedPeer(f"{name!r} is asked without TLS", hint="it is no vantage point")
                    asked = vantage.request(look)
                    said = await agent.connection.call("POST", PATH, vantage.SeenAnswer, asked, patience=PATIENCE)
            except TimeoutError:
                raise Unreachable(f"{name!r} has not looked in time") from None
        return vantage.seen(look, said, by=f"{AGENT}{name}")
