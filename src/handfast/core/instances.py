"""
Managed machines, as their controller sees them: every state, and everything that leads from one to another.

Pure: what was met is a value, and ``met`` says what follows. A key that is not the expected one is no failure like
others: somebody sits between, or has what only the instance should have. It ends in ``QUARANTINED``, which only a
person leaves (``released``), since whoever tries again by himself helps the one who waits for a mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from handfast.core.invitation import Address
from handfast.core.loopback import on_loopback
from handfast.errors import NotFound, Refused

MOST_ROLLBACKS = 3  # verifications that fail one after the other: then no more at a first one, and slowly at others
MAX_REASON = 300  # characters
T = TypeVar("T")


class State(StrEnum):
    """Where an instance is on its way. What follows each says what the controller does then."""

    PENDING = "pending"
    """Nothing: nobody has said where it is."""
    WAITING = "waiting"
    """Asks whether somebody answers. Refused connections and silence are what a machine that boots looks like."""
    INTRODUCING = "introducing"
    """Has seen its key, and asks for its evidence."""
    VERIFYING = "verifying"
    """Has issued; connects anew, and accepts the certified key alone."""
    RUNNING = "running"
    """Asks how it is."""
    RENEWING = "renewing"
    """Has asked for its next key; the old credential holds until the next one is verified."""
    UNREACHABLE = "unreachable"
    """Asks on, for as long as its credential can be succeeded: it was running."""
    TIMED_OUT = "timed-out"
    """Nothing: its secret is over. It is added anew."""
    VERIFY_FAILED = "verify-failed"
    """Nothing: time and again it was sent its first credential, and went back to what it had."""
    QUARANTINED = "quarantined"
    """Nothing. A security event."""

    @property
    def asks(self) -> bool:
        """Whether the controller connects to it by itself."""
        return self not in {State.PENDING, State.TIMED_OUT, State.VERIFY_FAILED, State.QUARANTINED}

    @property
    def introduced(self) -> bool:
        """Whether it has a credential, verified or about to be."""
        return self in {State.VERIFYING, State.RUNNING, State.RENEWING, State.UNREACHABLE}


class Mode(StrEnum):
    """What its controller knows an agent by. The last two are weaker, and nobody has them without naming them."""

    INTRODUCTION = "introduction"
    """A key that the machine has made itself, certified because of its one-time secret."""
    LEGACY = "legacy"
    """A key that the controller has made, and sends to whoever answers first where the machine should be."""
    PLAIN = "plain"
    """Nothing: HTTP without TLS, on a loopback address of the controller's own machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """
    One managed machine.

    ``address`` is ``host:port`` where its agent listens; an agent that ``dials`` has none. ``invitation`` is the key id
    of its one-time secret, which ends at ``deadline``. ``needs_key`` demands that its key is known before anything is
    asked of it, as ``expected`` (SHA-256 of the SubjectPublicKeyInfo): by a console log, or a person. Afterwards
    ``expected`` is the certified key, and ``serial`` its credential's. ``issued_key`` and ``issued_serial`` are those
    of a credential that it was sent and has not answered with yet; where a key was delivered, ``expected`` is the one
    that it went to until then. ``mode`` is by what it is known at all; of a plain one nothing is. ``seen`` is the key
    that was met instead.
    ``rollbacks`` counts credentials, one after the other, that it was sent and did not answer with.
    """

    name: str
    instance_id: str
    invitation: str
    deadline: datetime
    since: datetime
    address: str | None = None
    dials: bool = False
    needs_key: bool = False
    mode: Mode = Mode.INTRODUCTION
    state: State = State.PENDING
    reason: str = ""
    expected: bytes | None = None
    serial: int | None = None
    issued_key: bytes | None = None
    issued_serial: int | None = None
    seen: bytes | None = None
    rollbacks: int = 0


# --- what the controller met ---


@dataclass(frozen=True, slots=True)
class Silence:
    """Nobody answered, or not as an agent does."""

    reason: str


@dataclass(frozen=True, slots=True)
class Shown:
    """Somebody answered, and proved this key, which nothing vouches for yet."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """A credential was issued for a key that it proved with its evidence; or for one that was delivered ``to`` it."""

    key: bytes
    serial: int
    to: bytes | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """It answered a call over this key, with a certificate of ours for this instance."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody answers there with a key, or a proof, that cannot be the instance's; or its secret was used before."""

    reason: str
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unproved:
    """
    Somebody is there who cannot prove to be the instance, nor to have anything of it.

    Where we have dialled he sits in its place, and that is an alarm. Where it dials anybody can call by any name.
    """

    reason: str
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Somebody answered over plain HTTP, which proves nothing."""


Met = Silence | Shown | Issued | Verified | Stranger | Unproved | Answered


def met(instance: Instance, what: Met, *, at: datetime) -> Instance:
    """
    Return the instance after the controller met something.

    Where nothing changes the very same value is returned, so that nothing is written.
    """
    if not instance.state.asks:
        return instance  # a late answer of a connection from before
    match what:
        case Stranger():
            return _to(instance, State.QUARANTINED, what.reason, at=at, seen=what.key)
        case Unproved():
            return _unproved(instance, what, at=at)
        case Answered():
            if instance.mode is Mode.PLAIN:
                return _to(instance, State.RUNNING, "", at=at)
            return _to(instance, State.QUARANTINED, "it answers without TLS", at=at)
        case Silence():
            return _silent(instance, what, at=at)
        case Shown():
            return _shown(instance, what, at=at)
        case Issued():
            state = State.RENEWING if instance.serial is not None else State.VERIFYING
            held = {"issued_key": what.key, "issued_serial": what.serial, "expected": what.to or instance.expected}
            return _to(instance, state, "", at=at, seen=None, **held)
        case Verified():
            return _verified(instance, what, at=at)


def _unproved(instance: Instance, what: Unproved, *, at: datetime) -> Instance:
    if not instance.dials:
        return _to(instance, State.QUARANTINED, what.reason, at=at, seen=what.key)
    # Whoever knows a name can call by it. If that were an alarm anybody could have any instance quarantined.
    return _silent(instance, Silence(f"somebody else calls by its name: {what.reason}"), at=at)


def _silent(instance: Instance, what: Silence, *, at: datetime) -> Instance:
    if instance.state.introduced:
        return _to(instance, State.UNREACHABLE, what.reason, at=at)
    if at >= instance.deadline and instance.mode is not Mode.PLAIN:  # which has no secret that could be over
        return _to(instance, State.TIMED_OUT, f"its secret is over; the last try: {what.reason}", at=at)
    return _to(instance, State.WAITING, what.reason, at=at)


def _shown(instance: Instance, what: Shown, *, at: datetime) -> Instance:
    first = instance.serial is None and instance.issued_key is not None
    if first and what.key in {instance.issued_key, instance.expected}:  # which it may not even have got
        return _rolled_back(instance, State.WAITING, at=at)
    if instance.state.introduced:  # it has a certified key, and this is not how one is shown
        return _unproved(instance, Unproved("it shows a key without our certificate", what.key), at=at)
    if at >= instance.deadline:
        return _to(instance, State.TIMED_OUT, "its secret was over before it answered", at=at, seen=what.key)
    if instance.expected is not None and instance.expected != what.key:
        return _unproved(instance, Unproved("it shows another key than the one that was said", what.key), at=at)
    if instance.needs_key and instance.expected is None:
        return _to(instance, State.WAITING, "its key has to be confirmed", at=at, seen=what.key)
    return _to(instance, State.INTRODUCING, "", at=at, seen=what.key)


def _verified(instance: Instance, what: Verified, *, at: datetime) -> Instance:
    if instance.issued_key is not None and what.key == instance.issued_key:
        held = {"expected": what.key, "serial": instance.issued_serial, "issued_key": None, "issued_serial": None}
        return _to(instance, State.RUNNING, "", at=at, rollbacks=0, seen=None, **held)
    if instance.serial is None or what.key != instance.expected:
        return _to(instance, State.QUARANTINED, "another key than the certified one answers", at=at, seen=what.key)
    if instance.issued_key is not None:  # it was sent a successor, and still answers with what it had
        return _rolled_back(instance, State.RUNNING, at=at)
    return _to(instance, State.RUNNING, _unkept(instance.rollbacks), at=at)


def _rolled_back(instance: Instance, state: State, *, at: datetime) -> Instance:
    rollbacks = instance.rollbacks + 1
    # What it has holds: else whoever can hold up a call for a minute, three times, would take it off for good.
    over = rollbacks >= MOST_ROLLBACKS and instance.serial is None
    end = State.VERIFY_FAILED if over else state
    return _to(instance, end, _unkept(rollbacks), at=at, rollbacks=rollbacks, issued_key=None, issued_serial=None)


def _unkept(rollbacks: int) -> str:
    return f"times that it did not answer with its new credential: {rollbacks}" if rollbacks else ""


# --- what a person does ---


def existing(found: T | None, name: str) -> T:
    """Return what was found under an instance's name. :raises NotFound: nothing was."""
    if found is None:
        raise NotFound(f"no instance {name!r}", hint="see `handfast instance list`")
    return found


def placed(instance: Instance, address: str, *, at: datetime) -> Instance:
    """
    Return the instance at an address. One that is quarantined stays so: a stranger's place is left before the release.

    :raises Refused: it dials. :raises UsageError: it has no TLS, and this is no loopback address.
    """
    if instance.dials:
        raise Refused(
            f"{instance.name!r} dials the controller, and cannot be placed at {address}",
            hint="remove it, and add it anew",
        )
    if instance.mode is Mode.PLAIN:
        on_loopback(Address.parse(address), what="an agent without TLS")
    state = State.WAITING if instance.state is State.PENDING else instance.state
    return replace(instance, address=address, state=state, since=at if state != instance.state else instance.since)


def confirmed(instance: Instance, key: bytes, *, at: datetime) -> Instance:
    """
    Return the instance with the key that somebody has said it has.

    :raises Refused: it is introduced already, and this is not its key; or it is quarantined.
    """
    check_not_quarantined(instance)
    if instance.state.introduced:
        if instance.expected == key:
            return instance
        raise Refused(f"{instance.name!r} is introduced with another key", hint="see `handfast instance show`")
    return replace(instance, expected=key, reason="", since=at)


def released(instance: Instance, *, at: datetime) -> Instance:
    """
    Return an instance that a person has looked at, to be tried again; what it had before its failure is forgotten.

    :raises Refused: it has not failed, or its secret is over, so that only adding it anew helps.
    """
    if instance.state not in {State.QUARANTINED, State.VERIFY_FAILED, State.TIMED_OUT}:
        # Not its state: whether it answers at this moment the ledger does not know.
        raise Refused(f"{instance.name!r} is neither quarantined nor failed", hint="nothing is left to do")
    if instance.serial is None and at >= instance.deadline:
        raise Refused(f"the secret of {instance.name!r} is over", hint="remove it, and add it anew")
    state = State.UNREACHABLE if instance.serial is not None else State.WAITING
    return replace(
        instance, state=state, since=at, reason="released", seen=None, rollbacks=0, issued_key=None, issued_serial=None
    )


def check_not_quarantined(instance: Instance) -> None:
    """:raises Refused: it is, and only a person may go on."""
    if instance.state is State.QUARANTINED:
        raise Refused(
            f"{instance.name!r} is quarantined: {instance.reason}",
            hint=f"find out who it was; then: handfast instance release {instance.name} --reason …",
        )


def _to(instance: Instance, state: State, reason: str, *, at: datetime, **changes: object) -> Instance:
    text = "".join(filter(str.isprintable, reason))[:MAX_REASON]
    since = instance.since if state is instance.state else at
    after = replace(instance, state=state, reason=text, since=since, **changes)  # type: ignore[arg-type]
    return instance if after == instance else after


# --- what is kept ---


def lasting(instance: Instance) -> Instance:
    """
    Return what of an instance is worth writing down: not that somebody did not answer for a while.

    A failure is, and who it is; where it stands on its way is found out again by asking.
    """
    if not instance.state.asks:
        return instance
    if instance.issued_key is not None:
        state = State.RENEWING if instance.serial is not None else State.VERIFYING
    else:
        state = State.UNREACHABLE if instance.serial is not None else State.WAITING
    return replace(instance, state=state, since=instance.deadline, reason="", seen=None)
