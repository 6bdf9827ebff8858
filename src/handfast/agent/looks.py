"""
Looking at SSH hosts for the controller, from where this machine is: ``POST /v1/look``.

The registrar that certifies hosts has its agents look too, as somebody in the middle of its own path is not on theirs.
They look by the same guard as a registrar, and as rarely, so that a controller's stolen key does not become a scanner:
it hears yes or no, of addresses and ports that this machine's policy has opened.

Imported when somebody asks, who may: most agents look at nothing, and have no memory to spare for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from handfast.adapters.buckets import Buckets, Share
from handfast.agent.policy import Looking
from handfast.agent.state import Call
from handfast.core import vantage, wire
from handfast.core.chain import read_identity
from handfast.core.challenge import to_look
from handfast.errors import NotAuthorized, PolicyRefused, TooMuch
from handfast.policy.look import against_look, notes
from handfast.ssh.guard import Guard, Resolve
from handfast.ssh.look import LocalLooker, Resolver
from handfast.ssh.scan import Scanner

RATE, BURST = 2.0, 50  # looks a second and controller: what a registrar gives to another one
AT_ONCE, OF_ONE = 16, 8  # looks: of all controllers, and of one
_MOST_NOTES = 16  # of one look
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Looks:
    """What outlives a look and a policy: how often was looked, and what hosts hold against us."""

    scanner: Scanner = field(default_factory=Scanner)
    resolve: Resolve = field(default_factory=Resolver)
    often: Buckets = field(default_factory=lambda: Buckets(RATE, BURST))
    at_once: Share = field(default_factory=lambda: Share(AT_ONCE, OF_ONE))

    @contextmanager
    def admit(self, controller: str) -> Iterator[None]:
        """Look for this controller, for the length of the block. :raises TooMuch: it had us look too often."""
        if wait := self.often.wait(controller):
            raise TooMuch("asked to look at hosts too often", hint=f"try again in {wait} s", after=wait)
        with self.at_once.place(controller):
            self.often.take(controller)
            yield


async def look(call: Call, allowed: Looking) -> vantage.SeenAnswer:
    """
    Look, and say of each thing that was asked whether it is so; what else was seen stays in our own log.

    :raises NotAuthorized: there is no TLS, so nobody has proved to be the controller.
    :raises Malformed: not what ``core.challenge.to_look`` reads. :raises PolicyRefused: a place that is not open.
    :raises TooMuch: more than a look may have, or too often.
    """
    if call.caller is None:
        raise NotAuthorized("over plain HTTP this agent looks for nobody", hint="run it without --plain")
    asked = to_look(wire.decode(await call.body(), vantage.LookRequest))
    if call.state.looks is None:
        call.state.looks = Looks()
    looks, controller = call.state.looks, read_identity(call.caller.certificate).machine
    guard = Guard(allow=allowed.allow, ports=allowed.ports)
    with looks.admit(controller):
        try:
            (seen,) = await LocalLooker(guard=guard, scanner=looks.scanner, resolve=looks.resolve).look(asked)
        except PolicyRefused as error:
            raise PolicyRefused(error.reasons, hint="looks_allow and looks_ports, in this machine's policy") from None
    if against_look(asked, (seen,)):
        told = notes(asked, (seen,))
        _log.warning("looked", by=controller, notes=told[:_MOST_NOTES], more=max(0, len(told) - _MOST_NOTES))
    return vantage.answer(asked, seen)
