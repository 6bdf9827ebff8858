"""
A session's directory and its owner: new, friend, export, revoke, show.

    D/session.json     the session's name, and its parties with their roles
    D/session.crl      what was taken back (DER); the session's programs on this machine watch it
    D/session.lock     held while one of the two is written
    D/config.toml      the rules: leaves end with the session, two roles, the issuing CA's name for itself
    D/authority/ …     as of every registrar (see ``wiring``): list, show, log, audit and revoke work on it

So there is one pipeline: an export is decided by policy, written down by the ledger and signed by the authority like
every introduction. No party's key is kept here.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters import files
from handfast.adapters.clock import SystemClock
from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority
from handfast.authority.room import building
from handfast.core import keys, span
from handfast.core.flow import Once
from handfast.core.names import Names, machine_name
from handfast.core.ports import Clock
from handfast.core.roles import Role
from handfast.core.views import MachineView, RevokeRequest, time_text
from handfast.core.x509 import ISSUING_LIFETIME
from handfast.errors import Fault, HandfastError, NotFound, Refused, TooMuch, UsageError
from handfast.ledger.store import SqlLedger
from handfast.policy.decide import by_operator
from handfast.registrar.administer import Administration
from handfast.registrar.operator import LocalOperator
from handfast.sessions import party
from handfast.sessions.hello import MAX_CRL
from handfast.sessions.lists import HOME_CRL
from handfast.sessions.party import Party
from handfast.wiring import AUTHORITY, CONFIG, open_ledger

STATE = "session.json"
LOCK = "session.lock"
REGISTRAR = "registrar"  # the name that `invite` serves under
SHORTEST, LONGEST = timedelta(minutes=2), ISSUING_LIFETIME
LONGEST_NAME = 40  # characters: with what is added it is a common name (core.x509.MAX_COMMON_NAME)
REASON = "privilegeWithdrawn"
PATIENCE = 10.0  # seconds for another command on the same session, which takes a hundredth of one

_CONFIG = """\
# Made by `handfast session new`. Two roles, and no credential outlives the session.
[lifetime]
default = "{seconds}s"
registrar = "1d"

[methods]
invitation = ["client", "server"]
renewal = ["client", "server"]
reintroduction = []
"""


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``session.json``. ``parties`` are names and roles."""

    version: int = 1
    name: str
    parties: Mapping[str, Role]


class PartyView(msgspec.Struct, frozen=True):
    """A party as the owner sees it: ``new`` until there is a credential or an invitation. ``serials`` are valid."""

    name: str
    role: Role | None
    status: str
    until: str | None
    serials: tuple[str, ...]
    alarms: int


class SessionView(msgspec.Struct, frozen=True):
    """A session as its owner sees it; ``status`` is ``open`` or ``over``."""

    name: str
    pin: str
    until: str
    status: str
    parties: tuple[PartyView, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A session's directory, opened by its owner."""

    directory: Path
    state: State
    authority: FileAuthority
    ledger: SqlLedger
    clock: Clock

    @property
    def operator(self) -> LocalOperator:
        """What every registrar's operator can do."""
        public = self.authority.public
        return LocalOperator(Administration(self.ledger, self.clock, public.pin, (), public.excluded))

    def role(self, who: str) -> Role:
        """Return a party's role, as long as it may get a credential. :raises NotFound, Refused: no such party; over."""
        if who not in self.state.parties:
            raise NotFound(
                f"the session {self.state.name!r} has no party {who!r}",
                hint=f"its parties are {', '.join(self.state.parties)}; `handfast session friend` adds a client",
            )
        if self.clock.now() >= self.authority.not_after:
            raise Refused(
                f"the session {self.state.name!r} was over at {self.authority.not_after:%Y-%m-%d %H:%M}Z",
                hint="make a new one: handfast session new",
            )
        return self.state.parties[who]


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Session]:
    """
    Open a session's directory.

    :raises NotFound: none there. :raises Unsafe: others can read or write it. :raises Fault: damaged.
    """
    state = _read_state(directory)
    authority = FileAuthority.open(directory / AUTHORITY)
    with open_ledger(directory) as ledger:
        yield Session(directory, state, authority, ledger, SystemClock())


def new(name: str, directory: Path, *, lifetime: timedelta) -> SessionView:
    """
    Make a session with the parties ``server`` and ``client`` in a directory that must not exist.

    :raises UsageError: a lifetime out of bounds, a name that is too long. :raises Malformed: no name.
    :raises Refused: something is there. :raises Fault: the disk failed; nothing is left behind then.
    """
    name = machine_name(name)
    if len(name) > LONGEST_NAME:
        raise UsageError(f"not a session's name: {name!r}", hint=f"use at most {LONGEST_NAME} characters")
    if not SHORTEST <= lifetime <= LONGEST:
        raise UsageError(
            f"a session lasts from {SHORTEST.seconds}s to {LONGEST.days}d, not {span.written(lifetime)}",
            hint="see `--for`",
        )
    state = State(name=name, parties={"server": Role.SERVER, "client": Role.CLIENT})
    config = _CONFIG.format(seconds=int(lifetime.total_seconds()))
    with building(directory, None) as room:
        ceremony.create(room.directory / AUTHORITY, name=name, now=SystemClock().now(), lifetime=lifetime)
        files.write_new(room.directory / CONFIG, config.encode())
        files.write_new(room.directory / STATE, _encode(state))
        room.appear(directory)
    return show(directory)


def friend(directory: Path, who: str) -> None:
    """
    Add a party: one more client, under its own name and to have its own key.

    :raises UsageError: the issuing CA's own name. :raises Malformed: no name.
    :raises Refused: there is such a party, or such a machine, already.
    """
    who = machine_name(who)
    if who == REGISTRAR:
        raise UsageError(f"{who!r} is the name that invitations are served under", hint="choose another name")
    with opened(directory) as session, files.FileLock(directory / LOCK, patience=PATIENCE):
        state = _read_state(directory)
        if who in state.parties or session.ledger.machine(who) is not None:
            raise Refused(
                f"{who!r} is a party of the session {state.name!r} already",
                hint="export or invite it, or choose another name",
            )
        added = msgspec.structs.replace(state, parties={**state.parties, who: Role.CLIENT})
        files.write_atomic(directory / STATE, _encode(added))


def export(directory: Path, who: str, out: Path) -> Party:
    """
    Make a key for a party, have it certified, and write its session file; each export is a credential of its own.

    The ledger knows the credential before it is signed. If the file cannot be written, it is taken back: nobody has it.

    :raises NotFound: no such party. :raises Refused: something is at ``out``; the session is over.
    :raises Fault: the disk is full.
    """
    who, directory = machine_name(who), directory.absolute()
    with opened(directory) as session:
        role = session.role(who)
        party.require_new(out)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _issue(session, who, role, key)
        made = Party(
            session=session.state.name,
            name=who,
            role=role,
            key=key,
            leaf=certificate,
            issuing=session.authority.issuing,
            root=session.authority.root,
            crl=publish(session),
            home=directory,
        )
        try:
            party.write(out, made)
        except HandfastError:
            with contextlib.suppress(HandfastError):  # the same disk may be full for this too
                at = session.clock.now()
                session.ledger.revoke(made.serial, reason="cessationOfOperation", at=at).result()
            raise
    return made


def _issue(session: Session, who: str, role: Role, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = session.clock.now()
    grant = by_operator(
        machine=who,
        role=role,
        names=Names(),  # peers of a session know each other by their roles
        public_key=keys.spki(key.public_key()),
        lifetime=session.authority.not_after - now,
        issuer=session.authority,
        now=now,
    )
    intent = session.ledger.intend(grant, Once(f"operator:{secrets.token_hex(16)}"), at=now).result()
    on_record = session.ledger.issued(session.authority.issue(intent), at=now).result()
    return x509.load_der_x509_certificate(on_record)


def revoke(directory: Path, who: str, *, reason: str = REASON) -> list[str]:
    """
    Take back all that a party holds, its open invitations too, and return the serials.

    ``session.crl`` is written anew in any case: a crash may have come between the two before.

    :raises Refused: nothing is left to revoke. :raises UsageError: not a reason.
    """
    who = machine_name(who)
    with opened(directory) as session:
        try:
            return session.operator.revoke(RevokeRequest(what=who, reason=reason)).serials
        except NotFound:
            session.role(who)
            raise Refused(
                f"{who!r} holds nothing that could be revoked", hint="it was neither exported nor invited"
            ) from None
        finally:
            publish(session)


def publish(session: Session) -> bytes:
    """
    Sign the revocation list of this moment, write it to ``session.crl`` and return it (DER).

    :raises TooMuch: it would not fit the frame in which peers hand it on. :raises Fault: the disk.
    """
    with files.FileLock(session.directory / LOCK, patience=PATIENCE):  # or an older list could replace a newer one
        now = session.clock.now()
        state = session.ledger.publish("session", at=now).result()
        der = session.authority.crl(list(state.revocations), number=state.number, now=now)
        if len(der) > MAX_CRL:
            raise TooMuch(
                f"the revocation list has {len(state.revocations)} entries, and peers read {MAX_CRL} bytes",
                hint="make a new session, and give its files to those who shall stay",
            )
        files.write_atomic(session.directory / HOME_CRL, der)
    return der


def show(directory: Path) -> SessionView:
    """Return the session with all who can get in, also by an invitation made with `handfast invite`."""
    with opened(directory) as session:
        now, authority = session.clock.now(), session.authority
        known = {machine.name: machine for machine in session.operator.list()}
        parties = session.state.parties
        names = [*parties, *(name for name in known if name not in parties)]
        return SessionView(
            name=session.state.name,
            pin=keys.format_pin(authority.pin),
            until=time_text(authority.not_after),
            status="open" if now < authority.not_after else "over",
            parties=tuple(_party_view(name, parties.get(name), known.get(name)) for name in names),
        )


def _party_view(name: str, role: Role | None, machine: MachineView | None) -> PartyView:
    if machine is None:
        return PartyView(name, role, "new", None, (), 0)
    valid = [each for each in machine.credentials if each.status == "valid"]
    status = "valid" if valid else machine.status
    if not valid and any(each.status == "open" for each in machine.invitations):
        status = "invited"
    until = max((each.not_after for each in valid), default=None)
    serials = tuple(each.serial for each in valid)
    return PartyView(name, machine.role or role, status, until, serials, machine.alarm_count)


def _read_state(directory: Path) -> State:
    path = directory / STATE
    try:
        files.check_directory(directory)
        state = msgspec.json.decode(files.read_private(path), type=State)
    except NotFound:
        raise NotFound(
            f"no session in {str(directory)!r}", hint=f"make one: handfast session new NAME --dir {directory}"
        ) from None
    except msgspec.DecodeError as error:
        raise Fault(f"{str(path)!r} is damaged: {error}", hint="restore it from its backup") from None
    if state.version != 1:
        raise Fault(f"{str(path)!r} is of version {state.version}, this is version 1", hint="use a newer Handfast")
    return state


def _encode(state: State) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state)) + b"\n"
