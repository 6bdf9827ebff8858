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
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import files
from handfast.core import chain
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError, Malformed, Refused, Revoked, Unsafe, UntrustedPeer
from handfast.sessions import revocations
from handfast.sessions.hello import MAX_CRL
from handfast.sessions.party import Party
from handfast.sessions.revocations import FAR, Revocations

HOME_CRL = "session.crl"  # in the session's directory
HOME_ROOT = "authority/root.crt"
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
class _Known:
    """A certificate that was verified, and from when to when that holds, revocation aside."""

    peer: Peer
    begin: datetime
    end: datetime


class Trust:
    """
    What one party believes, for one event loop.

    ``path`` is its session file: what is adopted is kept beside it, or only in memory if None. ``on_revoked`` gets the
    serials which a newer list adds, so that their live connections are cut; ours may be among them.
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
        self._path = crl_path(path) if path is not None else None
        self._newest: Revocations | None = None
        self._known: dict[bytes, _Known] = {}
        self._revoked: frozenset[int] = frozenset()
        self._seen: dict[Path, tuple[int, ...] | None] = {}
        if party.crl is not None:
            self._take(revocations.read(party.crl, party.issuing, now=now()))
        if self._path is not None and (der := self._changed(self._path)) is not None:
            self._take(_kept(self._path, der, party, now()))
        self._home, self.home_problem = _home(party)
        self.refresh(self._note)

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

    def verify(self, chain_der: Sequence[bytes], now: datetime) -> Peer:
        """
        Return who the peer is, from the certificates (DER, its own first) that TLS says it proved to hold.

        What it sent beside its own is not looked at: the one issuing CA whose revocations reach us is in our file.

        :raises UntrustedPeer: another session's, the wrong role, not valid now, or nothing readable.
        :raises Revoked: it was taken back, or we were.
        """
        self.check_own()
        if not chain_der:
            raise UntrustedPeer("the peer presented no certificate", hint="is it a session's port?")
        known = self._known.get(chain_der[0])
        if known is None or not known.begin <= now <= known.end:
            known = self._known[chain_der[0]] = self._verified(chain_der[0], now)
        if self.revoked(known.peer.serial):
            raise Revoked(
                f"the credential {known.peer.serial:032x} of {known.peer.machine!r} was revoked",
                hint="ask the owner of the session for a new one",
            )
        return known.peer

    def _verified(self, der: bytes, now: datetime) -> _Known:
        """Do all that depends on the certificate and the time alone: half of what a new connection would cost."""
        party = self.party
        try:
            leaf = chain.load_certificate(der)
            same_issuer = leaf.issuer == party.issuing.subject
        except (Malformed, ValueError) as error:
            raise UntrustedPeer(f"the peer presented no readable certificate: {error}") from None
        if not same_issuer:
            raise UntrustedPeer(
                f"the peer's certificate is not of the session {party.session!r}",
                hint="both need files of the same session: compare `# handfast session` at their top",
            )
        who = chain.verify_chain(leaf, [party.issuing], [party.root], pin=party.pin, role=party.peer_role, at=now)
        path = (leaf, party.issuing, party.root)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        return _Known(
            peer=Peer(who.machine, who.role, leaf.serial_number, who.not_after),
            begin=max(each.not_valid_before_utc for each in path),
            end=min(each.not_valid_after_utc for each in path),
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
        if abs(claimed - now) > FAR:
            raise Refused(
                f"the two clocks are {_span(abs(claimed - now))} apart: {now:%Y-%m-%d %H:%M}Z here,"
                f" {claimed:%Y-%m-%d %H:%M}Z at the peer",
                hint="set the one that is wrong; certificates mean nothing without the time",
            )

    def adopt(self, der: bytes) -> bool:
        """
        Adopt a revocation list, whoever gave it to us, and return whether it was newer than what we had.

        It holds from this moment; then ``on_revoked`` is called, and then it is written to ``FILE.crl``.

        :raises UntrustedPeer: it is not of this session's authority, or of the far future. An older one is ignored.
        :raises Fault: it holds, but could not be written: after a restart it has to come again.
        """
        found = revocations.read(der, self.party.issuing, now=self._now())
        if found.number <= self.crl_number:
            return False
        added = self._take(found)
        if added:
            self.on_revoked(added)
        if self._path is not None:
            files.write_atomic(self._path, der)
            self._seen[self._path] = _stamp(self._path)
        return True

    def refresh(self, problem: Callable[[HandfastError], None]) -> None:
        """Look once for what changed on this machine. ``problem`` gets what cannot be used; what we know stays."""
        self._adopt_all(self._look(), problem)

    async def watch(self, problem: Callable[[HandfastError], None]) -> NoReturn:
        """Look until cancelled. ``problem`` gets what is wrong with a list, once for each change of its file."""
        while True:
            await asyncio.sleep(INTERVAL)
            # In a thread: a home directory on a network that hangs must not stop the streams.
            self._adopt_all(await asyncio.to_thread(self._look), problem)

    def _adopt_all(self, found: list[bytes | HandfastError], problem: Callable[[HandfastError], None]) -> None:
        for each in found:
            try:
                if isinstance(each, HandfastError):
                    raise each
                self.adopt(each)
            except HandfastError as error:
                problem(error)

    def _note(self, error: HandfastError) -> None:
        self.home_problem = error.message

    def _take(self, found: Revocations) -> frozenset[int]:
        """Return the serials that are new. What was revoked once stays so, on whatever list it is missing later."""
        if self._newest is None or found.number > self._newest.number:
            self._newest = found
        added = found.serials - self._revoked
        self._revoked |= added
        return added

    def _look(self) -> list[bytes | HandfastError]:
        found: list[bytes | HandfastError] = []
        for path in (self._path, self._home and self._home / HOME_CRL):
            try:
                der = self._changed(path) if path is not None else None
            except HandfastError as error:
                found.append(error)
            else:
                found += [] if der is None else [der]
        return found

    def _changed(self, path: Path) -> bytes | None:
        stamp = _stamp(path)
        if stamp == self._seen.get(path):
            return None
        self._seen[path] = stamp
        return None if stamp is None else files.read_private(path, limit=MAX_CRL)


def crl_path(path: Path) -> Path:
    """Return where the newest revocation list is kept for a session file."""
    return path.with_name(f"{path.name}.crl")


def _kept(path: Path, der: bytes, party: Party, now: datetime) -> Revocations:
    try:
        return revocations.read(der, party.issuing, now=now)
    except UntrustedPeer as error:
        # Going on without it could let somebody in who was revoked: it is for a person to say that it may go.
        raise Malformed(
            f"{str(path)!r} cannot be used: {error.message}",
            hint="remove it, if the owner can hand out the newest list",
        ) from None


def _stamp(path: Path) -> tuple[int, ...] | None:
    with files.faults("read", path):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _home(party: Party) -> tuple[Path | None, str]:
    """
    Return the session's directory if it is on this machine, and why it is not used if something is there.

    The file only says where to look. It counts if it is ours, nobody else's, and of the same session; a list from
    there has to be signed like any other.
    """
    if party.home is None or not _exists(party.home):
        return None, ""
    try:
        files.check_directory(party.home)
        root = x509.load_pem_x509_certificate((party.home / HOME_ROOT).read_bytes())
    except (Refused, Unsafe, Fault, OSError, ValueError) as error:
        return None, f"{str(party.home)!r} is not used: {error}"
    if root.public_bytes(Encoding.DER) != party.root.public_bytes(Encoding.DER):
        return None, f"{str(party.home)!r} is not used: it is another session's"
    return party.home, ""


def _exists(path: Path) -> bool:
    """Whether it is there for us: what lies behind another user's closed door is not."""
    try:
        return path.exists()
    except OSError:
        return False


def _span(span: timedelta) -> str:
    return f"{span.days} d {span.seconds // 3600} h"
