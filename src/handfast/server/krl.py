"""
The list of revoked SSH keys over HTTPS, for whoever asks: sshd and ssh need it, and it names no machine.

OpenSSH verifies no signature on it, so our word is beside it, and it is served over TLS alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from aiohttp import web

from handfast.core import sshkeys
from handfast.server.hosts import unless_held, vouch
from handfast.server.public import json
from handfast.server.state import Call, State
from handfast.ssh import krl

MEDIA_TYPE = "application/octet-stream"
LIFETIME = timedelta(hours=12)  # then it is made anew, without the certificates that are over by themselves


@dataclass(frozen=True, slots=True)
class Listed:
    """
    The list as it was last made, and for which state of the ledger.

    ``revoked`` counts certificates, and only grows; ``hosts`` is the revision of machines, which renewals change too:
    then ``digests`` says whether there is anything new.
    """

    revoked: int
    hosts: int
    digests: frozenset[bytes]
    content: bytes
    sha256: bytes
    made_at: datetime


async def content(call: Call) -> web.Response:
    """The list of revoked SSH keys and certificates, as OpenSSH reads it; ``krl/signature`` vouches for it."""
    listed = await current(call.state)
    return await unless_held(call, listed.content, listed.sha256, media_type=MEDIA_TYPE)


async def signature(call: Call) -> web.Response:
    """The registrar's word, of this moment, for its list: ECDSA by its TLS key, with the chain to the pin."""
    listed = await current(call.state)
    return json(vouch(call, krl.LABEL, listed.sha256))


async def current(state: State) -> Listed:
    """Return the list; it is made anew when something was taken back, or when it is about to grow old."""
    async with state.listing:  # a herd that asks after a revocation gets one new list
        now, held = state.service.clock.now(), state.listed
        if held is not None and held.made_at <= now < held.made_at + LIFETIME:
            held = await _unchanged(state, held)
        else:
            held = None
        state.listed = held = held or await _made(state, now)
        return held


async def _unchanged(state: State, held: Listed) -> Listed | None:
    """Return what is held, if the ledger has nothing new for it."""
    ledger = state.service.ledger
    if ledger.ssh_revocation_count() != held.revoked:
        return None
    if (hosts := ledger.hosts_revision()) == held.hosts:
        return held
    digests = await asyncio.get_running_loop().run_in_executor(state.readers, ledger.retired_ssh_keys)
    return replace(held, hosts=hosts) if digests == held.digests else None


async def _made(state: State, now: datetime) -> Listed:
    service, public = state.service, state.service.authority.public
    # Read before the list is made: what is taken back in between makes the next one new.
    revoked, hosts = service.ledger.ssh_revocation_count(), service.ledger.hosts_revision()
    published = await asyncio.wrap_future(service.ledger.publish_krl(service.name, at=now))
    host_ca, user_ca = map(sshkeys.parse, (public.ssh_host_ca, public.ssh_user_ca))
    # In a thread: a hundred thousand serials take half a second.
    build = partial(krl.build, published, host_ca=host_ca, user_ca=user_ca, pin=public.pin, at=now)
    content = await asyncio.get_running_loop().run_in_executor(state.readers, build)
    return Listed(revoked, hosts, published.digests, content, hashlib.sha256(content).digest(), now)
