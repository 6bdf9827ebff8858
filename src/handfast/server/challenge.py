"""The host-key challenge over HTTPS: steps 2 and 4. Both have us look at hosts, within what a source may."""

from __future__ import annotations

from contextlib import AbstractContextManager

import structlog
from aiohttp import web

from handfast.core.flow import Channel
from handfast.errors import Fault
from handfast.introducers.ssh_hostkey import NAME
from handfast.server import public
from handfast.server.state import Call

MOST_NOTES = 16  # of one look
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def hostkey_nonce(call: Call) -> web.Response:
    """Have the registrar look at a host; what it saw comes back, signed, for the host's keys to sign."""
    flow = call.state.service.challenger.challenge(call.body, admit=lambda: _admit(call), tell=_tell)
    return public.json(await public.counted(call, NAME, flow))


async def hostkey_token(call: Call) -> web.Response:
    """Prove the host's keys, and have the registrar look again; a token comes back, which buys certificates once."""
    identity = call.peer.identity
    if identity is None:  # unreachable: this route is on TLS listeners only
        raise Fault("a host-key challenge without TLS")
    channel = Channel(identity.spki_sha256, None, call.source)
    flow = call.state.service.challenger.token(call.body, channel, admit=lambda: _admit(call), tell=_tell)
    return public.json(await public.counted(call, NAME, flow))


def _admit(call: Call) -> AbstractContextManager[None]:
    return call.state.looks.admit(call.source)


def _tell(notes: tuple[str, ...]) -> None:
    # Nobody else is told: it would map our networks. A stranger has us look at much, and must not fill the log with it.
    _log.warning("looked", notes=notes[:MOST_NOTES], more=max(0, len(notes) - MOST_NOTES))
