"""
``handfast session invite``: the session's registrar, for as long as one invitation is open.

It ends when the party has joined and said so, by asking for the revocation list once its file was written; or a while
after the credential was issued, for those who do not say it: until then a lost answer can be asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import uvloop

from handfast.adapters import logs
from handfast.adapters.files import FileLock
from handfast.adapters.signals import signals
from handfast.core.invitation import Address
from handfast.core.names import machine_name
from handfast.core.records import CredentialRecord, Invitation
from handfast.core.roles import Role
from handfast.core.views import serial_text
from handfast.errors import InvitationCancelled, InvitationExpired
from handfast.ledger.entries import CRL_PUBLISHED
from handfast.server.limits import Limits
from handfast.server.run import Ready, run
from handfast.server.session import opened
from handfast.wiring import LOCK, Overrides, Service, open_service

ANYWHERE = Address("0.0.0.0", 0)  # noqa: S104  the other machine has to reach it
LINGER = 30.0  # seconds for a newcomer to ask again, who does not say that it has its answer
_TICK = 0.2  # seconds between two looks into the ledger, which another process may change as well


@dataclass(frozen=True, slots=True)
class Offered:
    """An invitation that can be used now. ``line`` is the secret; ``remarks`` are for the owner."""

    line: str
    party: str
    role: Role
    listen: str
    addresses: tuple[Address, ...]
    until: datetime
    remarks: tuple[str, ...]


def invite(
    directory: Path,
    who: str,
    *,
    lasting: timedelta,
    offer: Callable[[Offered], None],
    listen: Address = ANYWHERE,
    addresses: tuple[Address, ...] = (),
    linger: float = LINGER,
) -> str:
    """
    Serve until the invitation for a party was used, and return the serial it led to (hex).

    ``offer`` gets the invitation once it can be used. ``addresses`` are what the line names instead of where we listen.

    :raises InvitationExpired: nobody used it in time.
    :raises InvitationCancelled: a signal ended this, or the owner took it back; nobody can use it any more.
    :raises NotFound: no such party. :raises Refused: the session is over.
    :raises Fault: the address is in use, or this directory is served already.
    """
    who = machine_name(who)
    with opened(directory) as session:
        role = session.role(who)
        lasting = min(lasting, session.authority.not_after - session.clock.now())
    logs.configure(logging.WARNING)  # each request is no news to whoever waits for one
    overrides = Overrides(listen=listen, crl_listen=Address(listen.host, 0), addresses=addresses)
    with FileLock(directory / LOCK):
        service = replace(open_service(directory, overrides, passphrase=None), crl_listen=None)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
                return loop.run(_OneShot(service, who, role, lasting, linger).serve(offer))
        finally:
            service.ledger.close()


class _OneShot:
    """A registrar for one invitation."""

    def __init__(self, service: Service, who: str, role: Role, lasting: timedelta, linger: float) -> None:
        self._service, self._who, self._role = service, who, role
        self._lasting, self._linger = lasting, linger
        self._invitation: Invitation | None = None

    async def serve(self, offer: Callable[[Offered], None]) -> str:
        placed: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        with signals() as asked:
            waiting = asyncio.create_task(self._wait(placed, offer))
            waiting.add_done_callback(lambda _task: asked.put_nowait(signal.SIGTERM))
            try:
                await run(self._service, asked, ready=placed.set_result, limits=Limits())
            finally:
                waiting.cancel()  # a signal came first
                await asyncio.wait([waiting])
        if self._invitation is not None and (issued := _issued(self._service, self._invitation)) is not None:
            return serial_text(issued.serial)
        self._cancel()
        if waiting.cancelled():
            raise InvitationCancelled(
                f"ended before {self._who!r} had joined; the invitation was cancelled", hint="make a new one"
            )
        return waiting.result()

    async def _wait(self, placed: asyncio.Future[Ready], offer: Callable[[Offered], None]) -> str:
        place = await placed
        administration = replace(self._service.administration, addresses=place.addresses)
        # In a thread: a write waits for the loop, which must not wait for it.
        line, invitation = await asyncio.to_thread(
            administration.invite, self._who, role=self._role, lasting=self._lasting
        )
        self._invitation = invitation
        remarks, until = tuple(administration.remarks(invitation)), invitation.expires_at
        offer(Offered(line.reveal(), self._who, self._role, place.listen or "", place.addresses, until, remarks))
        return await self._used(invitation)

    async def _used(self, invitation: Invitation) -> str:
        """Wait until it was used. :raises InvitationExpired, InvitationCancelled: it never will be."""
        end: float | None = None
        while True:
            issued = _issued(self._service, invitation)
            if issued is None:
                self._check(invitation)
            else:
                end = end or time.monotonic() + self._linger
                if time.monotonic() >= end or _confirmed(self._service, issued):
                    return serial_text(issued.serial)
            await asyncio.sleep(_TICK)

    def _check(self, invitation: Invitation) -> None:
        current = self._service.ledger.invitation(invitation.key_id)
        if current is None or current.cancelled is not None:
            raise InvitationCancelled(f"the invitation of {self._who!r} was cancelled", hint="make a new one")
        if self._service.clock.now() >= invitation.expires_at:
            raise InvitationExpired(
                f"nobody used the invitation of {self._who!r} until {invitation.expires_at:%Y-%m-%d %H:%M:%S}Z",
                hint="make a new one; --for makes it last longer",
            )

    def _cancel(self) -> None:
        """Close what nobody serves any more, or the next `invite` would serve it too."""
        if self._invitation is not None:
            key_id, at = self._invitation.key_id, self._service.clock.now()
            with contextlib.suppress(InvitationCancelled):
                self._service.ledger.cancel(key_id, reason="cessationOfOperation", at=at).result()


def _issued(service: Service, invitation: Invitation) -> CredentialRecord | None:
    held = service.ledger.credentials(invitation.machine)
    came = (each for each in held if each.marker == invitation.marker and each.certificate is not None)
    return next(came, None)


def _confirmed(service: Service, issued: CredentialRecord) -> bool:
    """Whether somebody has fetched the revocation list since. Whoever else does it spares us some waiting, no more."""
    published = service.ledger.events(kind_prefix=CRL_PUBLISHED, subject=service.name)
    return any(issued.issued_at is not None and each.at >= issued.issued_at for each in published)
