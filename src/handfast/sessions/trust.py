"""
Who the peer of a session is: the one place that decides it, whoever dialled.

A peer is accepted if its certificate was issued by this session's issuing CA under this session's root, in the role
that is not ours, is valid now by our clock, and is on no revocation list that we have seen. The host's store of
trusted certificates, the name that was dialled and whatever else the peer sends along count for nothing.

Revocation lists come with the session file, from peers, from ``FILE.crl`` beside it (the newest we adopted), and from
the session's own directory where that is on this machine. The last two are looked at four times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from handfast.core import chain
from handfast.core.roles import Role
from handfast.errors import HandfastError, Malformed, Refused, Revoked, UntrustedPeer
from handfast.sessions import revocations
from handfast.sessions.lists import Lists
from handfast.sessions.party import Party
from handfast.sessions.revocations import MAX_CLOCK_SKEW, Revocations

_MOST_KNOWN = 256  # certificates; a session has a handful
INTERVAL = 0.25  # seconds between two looks; a revoked peer is to be cut within one
OnRevoked = Callable[[frozenset[int]], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that was verified. ``serial`` is what a revocation names; after ``not_after`` it is nobody."""

    machine: str
    role: Role
    serial: int
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """A certificate that was verified, and from when to when that holds, revocation aside."""

    peer: Peer
    begin: datetime
    end: datetime


class Trust:
    """
    What one party believes, for one event loop.

    ``path`` is its session file: what is adopted is kept beside it, or only in memory if None. ``on_revoked`` gets the
    serials which a newer list adds, so that their live connections are cut; ours may be among them. ``problems`` says
    what could not be used of what was there at the start.
    """

    def __init__(
        self,
        party: Party,
        *,
        now: Callable[[], datetime],
        path: Path | None = None,
        on_revoked: OnRevoked = lambda _serials: None,
    ) -> None:
        """:raises Malformed, Unsafe, Fault: ``FILE.crl`` is not ours, open to others or unreadable."""
        self.party = party
        self.on_revoked = on_revoked
        self._now = now
        self._lists = lists = Lists(party, path)
        self._newest: Revocations | None = None
        self._known: dict[bytes, _Verdict] = {}
        self._revoked: frozenset[int] = frozenset()
        if party.crl is not None:
            self._take(revocations.read(party.crl, party.issuing, now=now()))
        if lists.kept is not None and (der := lists.changed(lists.kept)) is not None:
            self._take(_kept(lists.kept, der, party, now()))
        problems = [] if lists.problem is None else [lists.problem]
        self.refresh(problems.append)
        self.problems = tuple(problems)

    @property
    def crl_number(self) -> int:
        """The number of the newest revocation list we know; 0 for none."""
        return 0 if self._newest is None else self._newest.number

    @property
    def crl(self) -> bytes | None:
        """That list, DER, for a peer with a lower number."""
        return None if self._newest is None else self._newest.der

    def revoked(self, serial: int) -> bool:
        """Whether a certificate was taken back, as far as we know."""
        return serial in self._revoked

    def verify(self, der: bytes, now: datetime) -> Peer:
        """
        Return who the peer is, from the certificate (DER) that TLS says it proved to hold.

        What it sent beside that is not looked at: the one issuing CA whose revocations reach us is in our file.

        :raises UntrustedPeer: another session's, the wrong role, not valid now, or nothing readable.
        :raises Revoked: it was taken back, or we were.
        """
        self.check_own()
        known = self._known.get(der)
        if known is None or not known.begin <= now <= known.end:
            known = self._known[der] = self._verified(der, now)
        if self.revoked(known.peer.serial):
            raise Revoked(
                f"the credential {known.peer.serial:032x} of {known.peer.machine!r} was revoked",
                hint="ask the owner of the session for a new one",
            )
        return known.peer

    def _verified(self, der: bytes, now: datetime) -> _Verdict:
        """Do all that depends on the certificate and the time alone: half of what a new connection would cost."""
        party = self.party
        try:
            leaf = chain.load_certificate(der)
            same_issuer = leaf.issuer == party.issuing.subject
        except (Malformed, ValueError) as error:
            hint = "is it a session's port?"
            raise UntrustedPeer(f"the peer presented no readable certificate: {error}", hint=hint) from None
        if not same_issuer:
            raise UntrustedPeer(
                f"the peer's certificate is not of the session {party.session!r}",
                hint="both need files of the same session: compare `# handfast session` at their top",
            )
        who = chain.verify_chain(leaf, [party.issuing], [party.root], pin=party.pin, role=party.peer_role, at=now)
        path = (leaf, party.issuing, party.root)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        end = min(each.not_valid_after_utc for each in path)
        return _Verdict(
            peer=Peer(who.machine, who.role, leaf.serial_number, end),
            begin=max(each.not_valid_before_utc for each in path),
            end=end,
        )

    def check_own(self) -> None:
        """:raises Revoked: our own credential was taken back, as far as we know."""
        if self.revoked(self.party.serial):
            raise Revoked(
                f"our own credential, of {self.party.name!r}, was revoked", hint="ask the owner of the session"
            )

    @staticmethod
    def check_clock(theirs: int, now: datetime) -> None:
        """
        Refuse a peer whose clock (Unix seconds) is not ours: one of us does not know what has expired.

        :raises Refused: over a day apart; names both.
        """
        claimed = datetime.fromtimestamp(theirs, UTC)
        if abs(claimed - now) > MAX_CLOCK_SKEW:
            raise Refused(
                f"the two clocks are {_span(abs(claimed - now))} apart: {now:%Y-%m-%d %H:%M}Z here,"
                f" {claimed:%Y-%m-%d %H:%M}Z at the peer",
                hint="set the one that is wrong; certificates mean nothing without the time",
            )

    def adopt(self, der: bytes) -> bool:
        """
        Adopt a revocation list, whoever gave it to us, and return whether it was newer than what we had.

        It holds from this moment, and ``on_revoked`` is called; ``keep`` is what makes a restart know it.

        :raises UntrustedPeer: it is not of this session's authority, or of the far future. An older one is ignored.
        """
        # The cheap questions first: a peer may send one list all the time.
        if der == self.crl or revocations.claimed_number(der, self.party.issuing) <= self.crl_number:
            return False
        found = revocations.read(der, self.party.issuing, now=self._now())
        added = self._take(found)
        if added:
            self.on_revoked(added)
        return True

    def keep(self) -> None:
        """
        Write the newest list to ``FILE.crl``. From any thread: beside streams it is for one of its own.

        :raises Fault: it could not be written: after a restart it has to come again.
        """
        if (newest := self._newest) is not None:
            self._lists.keep(newest.der, newest.number)

    def refresh(self, problem: Callable[[HandfastError], None]) -> None:
        """Look once for what changed on this machine. ``problem`` gets what cannot be used; what we know stays."""
        try:
            if self._adopt_all(self._lists.look(), problem):
                self.keep()
        except HandfastError as error:
            problem(error)

    async def watch(self, problem: Callable[[HandfastError], None]) -> NoReturn:
        """Look until cancelled. ``problem`` gets what is wrong with a list, once for each change of its file."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                # In a thread: a home directory on a network that hangs must not stop the streams.
                if self._adopt_all(await asyncio.to_thread(self._lists.look), problem):
                    await asyncio.to_thread(self.keep)
            except HandfastError as error:
                problem(error)

    def _adopt_all(self, found: list[bytes | HandfastError], problem: Callable[[HandfastError], None]) -> bool:
        news = False
        for each in found:
            try:
                if isinstance(each, HandfastError):
                    raise each
                news = self.adopt(each) or news
            except HandfastError as error:
                problem(error)
        return news

    def _take(self, found: Revocations) -> frozenset[int]:
        """Return the serials that are new. What was revoked once stays so, on whatever list it is missing later."""
        if self._newest is None or found.number > self._newest.number:
            self._newest = found
        added = found.serials - self._revoked
        self._revoked |= added
        return added


def _kept(path: Path, der: bytes, party: Party, now: datetime) -> Revocations:
    try:
        return revocations.read(der, party.issuing, now=now)
    except UntrustedPeer as error:
        # Going on without it could let somebody in who was revoked: it is for a person to say that it may go.
        raise Malformed(
            f"{str(path)!r} cannot be used: {error.message}",
            hint="remove it, if the owner can hand out the newest list",
        ) from None


def _span(span: timedelta) -> str:
    return f"{span.days} d {span.seconds // 3600} h"
