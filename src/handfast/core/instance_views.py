"""Managed machines as people and programs are shown them."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime

import msgspec

from handfast.core.fingerprint_words import words
from handfast.core.instances import Instance, State
from handfast.core.keys import parse_pin
from handfast.errors import Malformed

_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?")
_AGO = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class InstanceView(msgspec.Struct, frozen=True):
    """
    A managed machine. ``watched`` is whether somebody watches it now; if not, ``state`` is only what lasts.

    ``key`` is the fingerprint that it has to show; ``seen`` the one that was met instead, or that waits to be
    confirmed; both also in words. ``until`` is the end of the credential with this ``serial``, ``contact`` when it has
    last proved to be itself, since somebody watches it. ``secret_until`` is when its one-time secret ends, ``since``
    when its state began.
    """

    name: str
    instance_id: str
    state: str
    reason: str
    since: str | None
    address: str | None
    dials: bool
    needs_key: bool
    mode: str
    key: str | None
    words: str | None
    seen: str | None
    seen_words: str | None
    serial: str | None
    until: str | None
    contact: str | None
    invitation: str
    secret_until: str
    rollbacks: int
    watched: bool


def instance_view(
    instance: Instance, *, watched: bool, until: datetime | None = None, contact: datetime | None = None
) -> InstanceView:
    """Return an instance as it is shown; its credential's end and last contact where they are known."""
    return InstanceView(
        name=instance.name,
        instance_id=instance.instance_id,
        state=instance.state.value,
        reason=instance.reason or _reason(instance, watched=watched),
        since=_since(instance, watched=watched),
        address=instance.address,
        dials=instance.dials,
        needs_key=instance.needs_key,
        mode=instance.mode.value,
        key=None if instance.expected is None else fingerprint(instance.expected),
        words=None if instance.expected is None else words(instance.expected),
        seen=None if instance.seen is None else fingerprint(instance.seen),
        seen_words=None if instance.seen is None else words(instance.seen),
        serial=None if instance.serial is None else f"{instance.serial:032x}",
        until=None if until is None else written(until),
        contact=None if contact is None or instance.serial is None else written(contact),
        invitation=instance.invitation,
        secret_until=written(instance.deadline),
        rollbacks=instance.rollbacks,
        watched=watched,
    )


def _since(instance: Instance, *, watched: bool) -> str | None:
    if not instance.state.asks:
        return written(instance.since)
    known = watched and instance.since != instance.deadline  # which stands for a time that nobody wrote down
    return written(instance.since) if known else None


def _reason(instance: Instance, *, watched: bool) -> str:
    if instance.state is State.PENDING:
        return "nobody has said where it is"
    return "nobody watches it now" if instance.state.asks and not watched else ""


def fingerprint(key: bytes) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo as people compare it: ``SHA256:`` and base64."""
    return "SHA256:" + base64.b64encode(key).decode().rstrip("=")


def parse_fingerprint(text: str) -> bytes:
    """
    Read what ``fingerprint`` wrote, or the same in 64 hexadecimal digits. Never a part of one.

    :raises Malformed: anything else.
    """
    match = _FINGERPRINT.fullmatch(text.strip())
    if match is None:
        try:
            return parse_pin(text)
        except Malformed:
            raise Malformed(f"not a fingerprint: {text[:80]!r}", hint="SHA256:..., as the agent prints it") from None
    try:
        key = base64.b64decode(match[1] + "=", validate=True)
    except binascii.Error:  # unreachable: the pattern admits exactly the alphabet and length
        raise Malformed(f"not a fingerprint: {text[:80]!r}") from None
    if fingerprint(key) != f"SHA256:{match[1]}":  # bits that nobody reads: two texts would be one key
        raise Malformed(f"not a fingerprint: {text[:80]!r}", hint="SHA256:..., as the agent prints it")
    return key


def ago(since: str, now: datetime) -> str:
    """Return how long ago a time was, in its largest unit."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    size, unit = next(((size, unit) for size, unit in _AGO if seconds >= size), _AGO[-1])
    return f"{seconds // size}{unit}"


def written(at: datetime) -> str:
    """Return a time (UTC) as views have it: RFC 3339, to the second."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
