"""What an operator does with the registrar: invite, list, show, revoke. The same code serves the CLI and HTTP."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from handfast.core import dn, span
from handfast.core.invitation import Address, InvitationLine, key_id
from handfast.core.names import IPNetwork, Names, dns_name, machine_name
from handfast.core.ports import Clock, Ledger
from handfast.core.records import DISTRUST, REASONS, CredentialRecord, Event, Invitation, Machine, SshRecord
from handfast.core.roles import GRANTABLE, Role
from handfast.core.secret import Secret
from handfast.errors import InvitationCancelled, Malformed, NotFound, Refused, Revoked, UsageError
from handfast.introducers import nifi
from handfast.registrar import ssh_revoke

LONGEST_INVITATION = timedelta(days=30)
MOST_USES = 1000
LONGEST_REMARK = 200  # characters
_AS_CONTROLLER = (Role.CONTROLLER, "operator")  # made here, as ``controller.credential`` does


@dataclass(frozen=True, slots=True)
class MachineView:
    """A machine as an operator sees it: what it was invited as, what it holds, and what is alarming."""

    name: str
    machine: Machine | None
    credentials: tuple[CredentialRecord, ...]
    invitations: tuple[Invitation, ...]
    alarms: tuple[Event, ...]
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class NifiTokens:
    """What one-time tokens for NiFi's protocol are made with; ``master`` opens the key they derive from."""

    master: Callable[[], Secret]


@dataclass(frozen=True, slots=True)
class Administration:
    """
    Acts on the ledger directly: whoever may open the data directory may do all of this.

    ``nifi`` is None where that protocol is not served.
    """

    ledger: Ledger
    clock: Clock
    pin: bytes
    addresses: tuple[Address, ...]
    excluded: Callable[[Names], tuple[str, ...]]
    nifi: NifiTokens | None = None

    def invite(
        self,
        name: str,
        *,
        role: Role,
        sans: tuple[str, ...] = (),
        lasting: timedelta,
        uses: int = 1,
        sources: tuple[IPNetwork, ...] | None = None,
        keep: Callable[[Invitation], Future[None]] | None = None,
    ) -> tuple[InvitationLine, Invitation]:
        """
        Make an invitation; the line is the secret, and only its public half is kept.

        Without ``sans`` the machine's name is its DNS name, if it can be one. ``keep`` writes it to the ledger, where
        that is done together with something else.

        :raises UsageError: a bound that is zero, negative or longer than allowed; a role nobody may get.
        :raises Malformed: a name that is none.
        """
        machine = machine_name(name)
        names = _names(machine, sans)
        _check_bounds(role, lasting, uses)
        self._check_name(machine, names)
        now = self.clock.now().replace(microsecond=0)
        line = InvitationLine(Secret(secrets.token_bytes(32)), self.pin, now, now + lasting, self.addresses)
        invitation = Invitation(
            key_id=line.key_id,
            public_half=line.public_key(),
            machine=machine,
            role=role,
            names=names,
            uses=uses,
            created_at=now,
            expires_at=now + lasting,
            sources=sources,
        )
        (keep or self.ledger.invite)(invitation).result()
        return line, invitation

    def invite_nifi(
        self,
        name: str,
        *,
        subject: str | None = None,
        sans: tuple[str, ...] = (),
        lasting: timedelta,
        uses: int = 1,
        sources: tuple[IPNetwork, ...] | None = None,
    ) -> tuple[Secret, Invitation]:
        """
        Make a one-time token for NiFi's protocol, good for one subject and its names; the ledger keeps only its salt.

        ``subject`` is ``CN=<name>, OU=NIFI`` unless said otherwise. The common name is always among the names, as
        NiFi's client asks for it.

        :raises UsageError: a bound that is zero, negative or longer than allowed; the registrar's own name; NiFi's
            protocol is not served.
        :raises Malformed: a name or a subject that is none. :raises Refused: too many tokens are open.
        """
        machine = machine_name(name)
        self._check_free(machine)
        whole = dn.parse(subject or f"CN={machine}, OU={dn.DEFAULT_UNIT}")
        names = Names.parse([*sans, *_names(nifi.certifiable(whole), ()).texts()])
        _check_bounds(Role.PEER, lasting, uses)
        if self.nifi is None:
            raise UsageError("this registrar does not serve NiFi's protocol", hint="start it with --nifi-listen")
        now = self.clock.now().replace(microsecond=0)
        if len(self.ledger.public_halves(nifi.NAME, after=now)) >= nifi.MOST_TOKENS:
            raise Refused(
                f"{nifi.MOST_TOKENS} one-time tokens are waiting, and each has to be tried for every request",
                hint="let some expire, or use --for with a shorter time",
            )
        master, salt = self.nifi.master(), secrets.token_bytes(32)
        invitation = Invitation(
            key_id=key_id(salt),
            public_half=salt,
            machine=machine,
            role=Role.PEER,
            names=names,
            uses=uses,
            created_at=now,
            expires_at=now + lasting,
            sources=sources,
            method=nifi.NAME,
            subject=whole.public_bytes(),
        )
        self.ledger.invite(invitation).result()
        return nifi.one_time_token(master, salt), invitation

    def _check_name(self, machine: str, names: Names) -> None:
        if not self.addresses:
            raise UsageError("the registrar's address is not known yet", hint="start `handfast up`, or give --address")
        self._check_free(machine)
        if outside := self.excluded(names):
            raise UsageError(
                f"the authority's name constraints exclude {', '.join(outside)}", hint="see `handfast ca show`"
            )

    def _check_free(self, machine: str) -> None:
        # Its role alone does not say so: under its name the registrar is a controller, too.
        held = self.ledger.newest_credentials(machine)
        if any((each.role, each.method) == _AS_CONTROLLER or each.role is Role.REGISTRAR for each in held):
            raise UsageError(f"{machine!r} is the registrar itself", hint="choose another name")

    def remarks(self, invitation: Invitation) -> Iterator[str]:
        """Say what an operator should know about an invitation that was just made."""
        if self._revocable(invitation.machine, self.clock.now()):
            # Or else: a thief uses an invitation, keeps the honest machine away until it expires, and nobody wonders.
            yield (
                f"{invitation.machine} holds a credential that is valid or can come back: if the machine says that it"
                " never joined, somebody else did; revoke it"
            )
        if invitation.role.serves and not invitation.names:
            yield f"{invitation.machine!r} is no DNS name: nobody can verify the server by name; --san gives it one"

    def cancel(self, key_id: str, *, reason: str) -> None:
        """
        Take an invitation back: no new key can use it. What came of it stays; ``revoke`` takes that back too.

        :raises NotFound: no such invitation.
        """
        self.ledger.cancel(key_id, reason=reason, at=self.clock.now()).result()

    def show(self, name: str) -> MachineView:
        """
        Return all there is about one machine.

        :raises NotFound: neither introduced nor invited.
        """
        machine = machine_name(name)
        history = tuple(self.ledger.events(subject=machine))
        view = MachineView(
            name=machine,
            machine=self.ledger.machine(machine),
            credentials=tuple(self.ledger.credentials(machine)),
            invitations=tuple(i for i in self.ledger.invitations() if i.machine == machine),
            alarms=tuple(event for event in history if event.kind.startswith("alarm.")),
            history=history,
        )
        if view.machine is None and not view.invitations and not view.credentials:
            raise NotFound(f"no machine {name!r}", hint="`handfast list` shows those that are known")
        return view

    def revoke(self, what: str, *, reason: str) -> tuple[int, ...]:
        """
        Take back a serial (hex), an invitation (key id) with what came of it, or all that a machine holds.

        Returns the serials revoked. Renewal is refused from the moment this returns. What succeeded a serial, or came
        of an invitation, is left alone only where the reason is ``superseded``: else whoever took the secret may have
        used it. A ``reason`` in the operator's own words goes into the log; the CRL, which strangers read, says
        ``unspecified`` then.

        :raises UsageError: no reason, or one that would not fit on a line.
        :raises NotFound: no such machine, invitation or serial.
        :raises Refused: nothing left to revoke.
        """
        code, now = _reason(reason), self.clock.now()
        what = what.lower()
        serial, invitation = _serial(what), self.ledger.invitation(what)
        record = self.ledger.credential(serial) if serial is not None and invitation is None else None
        if record is not None:
            doors: list[Invitation] = []
            affected = partial(self._line, record, code)
        elif invitation is not None:
            doors = [invitation] if invitation.cancelled is None else []
            affected = partial(self._line, invitation, code)
        else:
            doors = self._doors(what, now)
            affected = partial(self._revocable, machine_name(what), now)
        _finish([self.ledger.cancel(each.key_id, reason=code, at=now) for each in doors])
        revoked: set[int] = set()
        # Again, until nothing is found: a join or a renewal may have come in between. Each pass closes its way.
        while serials := set(affected()) - revoked:
            _finish([self.ledger.revoke(number, reason=code, at=now) for number in sorted(serials)])
            revoked |= serials
        retired = code != "superseded" and self._ssh_of(record or invitation, what, reason, now)
        if not revoked and not doors and not retired:
            raise _nothing_left(what, record)
        self._remark(what, reason, code)
        return tuple(sorted(revoked))

    def _doors(self, name: str, now: datetime) -> list[Invitation]:
        """Return by what a machine could still get in. :raises NotFound: no such machine, for SSH neither."""
        try:
            view = self.show(name)
        except NotFound:
            host = self.ledger.host(machine_name(name))
            if host is not None and host.lives:  # it may have SSH certificates, and nothing else
                return []
            if ssh_revoke.is_serial(self.ledger, name):
                raise NotFound(f"no machine {name!r}", hint="it is an SSH certificate's serial: add --ssh") from None
            raise
        # A used one of which no certificate came too: when its intent is abandoned its key may ask again.
        unissued = {held.marker for held in view.credentials if held.certificate is None}
        return [each for each in view.invitations if _usable(each, unissued, now)]

    def machine_of(self, what: str) -> str | None:
        """Return whose ``what`` is that ``revoke`` takes; None where nobody has it."""
        serial, invitation = _serial(what), self.ledger.invitation(what.lower())
        first = invitation or (self.ledger.credential(serial) if serial is not None else None)
        if first is not None:
            return first.machine
        with contextlib.suppress(Malformed):
            return machine_name(what)
        return None

    def revoke_ssh(self, serial: str, *, reason: str) -> SshRecord:
        """
        Take back one SSH certificate, by its serial in decimal digits, and return it.

        :raises UsageError: as ``revoke``. :raises Malformed: no such serial. :raises NotFound: :raises Revoked: it was.
        """
        code = _reason(reason)
        record = ssh_revoke.revoke_certificate(self.ledger, serial, reason=code, at=self.clock.now())
        self._remark(serial, reason, code)
        return record

    def _ssh_of(self, first: CredentialRecord | Invitation | None, what: str, reason: str, now: datetime) -> bool:
        """
        Take back for SSH what a machine has, where it has no credential left; return whether that was anything.

        Its host keys retire, and the ledger revokes in that transaction what certifies them. Else whoever has them, and
        no certificate yet, would get the first one now. With ``affiliationChanged`` they stay, unless it is said of the
        machine itself.
        """
        code, retired = _reason(reason), False
        machine = machine_name(what) if first is None else first.machine
        if first is not None:
            held = self.ledger.credentials(machine)
            came = isinstance(first, CredentialRecord) or any(each.marker == first.marker for each in held)
            if not came or self._revocable(machine, now):
                return False
        if first is None or code in DISTRUST:
            retired = ssh_revoke.remove(self.ledger, machine, reason=reason, at=now)
        return ssh_revoke.take_back(self.ledger, machine, code=code, at=now) or retired

    def _remark(self, what: str, reason: str, code: str) -> None:
        if code == "unspecified" and reason != code:
            self.ledger.note(Event("revocation.remark", self.clock.now(), what, {"remark": reason})).result()

    def _line(self, first: CredentialRecord | Invitation, code: str) -> set[int]:
        """Return what is open of a credential, or of what came of an invitation, and of all that succeeded it."""
        held = self.ledger.credentials(first.machine)
        if isinstance(first, CredentialRecord):
            came = [each for each in held if each.serial == first.serial]
        else:
            came = [each for each in held if each.marker == first.marker and code != "superseded"]
        found: dict[int, CredentialRecord] = {}
        while came:
            found |= {each.serial: each for each in came}
            markers = {each.successor_marker for each in came if code != "superseded"}
            came = [each for each in held if each.marker in markers and each.serial not in found]
        return {serial for serial, each in found.items() if each.revoked_at is None}

    def _revocable(self, machine: str, now: datetime) -> set[int]:
        held = [held for held in self.ledger.credentials(machine) if held.role is not Role.REGISTRAR]
        # An intent that was abandoned is no successor: its key may still ask for one.
        succeeded = {each.marker for each in held if each.certificate is not None}
        # An expired one counts while nothing has succeeded it: whoever has its key could still be reintroduced.
        return {
            each.serial
            for each in held
            if each.revoked_at is None
            and (each.status(now) in {"valid", "intended"} or each.successor_marker not in succeeded)
        }


def _nothing_left(what: str, record: CredentialRecord | None) -> Refused:
    if record is None:
        return Refused(f"{what!r} holds nothing that could be revoked", hint="`handfast show` has its history")
    if record.certificate is None:
        hint = f"no certificate came of it; revoke {record.machine} to close the way by which its key may ask again"
    else:
        hint = "nothing is left to do"
    return Revoked(f"the credential {what} was revoked before", hint=hint)


def _check_bounds(role: Role, lasting: timedelta, uses: int) -> None:
    if role not in GRANTABLE:
        raise UsageError(f"role {role!s} is never granted", hint=f"one of {', '.join(sorted(GRANTABLE))}")
    check_time(lasting)
    if not 1 <= uses <= MOST_USES:
        raise UsageError(f"an invitation cannot have {uses} uses", hint=f"from 1 to {MOST_USES}")


def check_time(lasting: timedelta) -> None:
    """Refuse an invitation's length. :raises UsageError: zero, negative, or too long."""
    if not timedelta(seconds=1) <= lasting <= LONGEST_INVITATION:
        longest = f"{LONGEST_INVITATION.days}d"
        raise UsageError(f"an invitation lasts from 1s to {longest}, not {span.written(lasting)}", hint="see `--for`")


def check_reason(text: str) -> None:
    """Refuse a reason that is none, or would not fit on a line of the log. :raises UsageError: so it is."""
    if not 0 < len(text) <= LONGEST_REMARK or not text.isprintable():
        raise UsageError(
            f"not a reason: {text[:40]!r}",
            hint=f"one of {', '.join(REASONS)}, or your own words, up to {LONGEST_REMARK} characters",
        )


def _reason(text: str) -> str:
    """Return the RFC 5280 name for ``text``: itself in any spelling, else ``unspecified``."""
    check_reason(text)
    plain = text.casefold().replace("-", "").replace("_", "").replace(" ", "")
    return next((reason for reason in REASONS if reason.casefold() == plain), "unspecified")


def _usable(invitation: Invitation, unissued: AbstractSet[str], now: datetime) -> bool:
    status = invitation.status(now)
    return status == "open" or (status == "used" and invitation.marker in unissued)


def _finish(changes: Sequence[Future[None]]) -> None:
    for change in changes:
        # Somebody else was faster: what was wanted is so.
        with contextlib.suppress(Revoked, InvitationCancelled):
            change.result()


def _names(machine: str, sans: tuple[str, ...]) -> Names:
    if sans:
        return Names.parse(sans)
    try:
        return Names((dns_name(machine),))
    except Malformed:
        return Names()


def _serial(text: str) -> int | None:
    plain = text.lower().replace(":", "")
    return int(plain, 16) if re.fullmatch(r"[0-9a-f]{16,40}", plain) else None
