"""
The list of revoked SSH keys: what the registrar serves, and how it gets to where sshd and ssh read it.

A list proves nothing by itself (``core.krl``), and OpenSSH takes an older one as readily. So the registrar's word is
beside it, and whoever holds one takes none with a lower version. sshd refuses every key, and ssh every host, while the
file that their configuration names is missing or cut off: so it is there before it is named, and replaced by a rename.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from handfast.adapters.files import faults, write_atomic
from handfast.core import krl, vouched, wire
from handfast.core.keys import format_pin
from handfast.core.krl import Krl
from handfast.core.records import KrlState
from handfast.core.sshkeys import SshKey
from handfast.core.views import time_text
from handfast.core.vouched import Get, Signature
from handfast.errors import Fault, Malformed, UntrustedPeer

LABEL = b"handfast/1 ssh revoked keys"
CONTENT_PATH, SIGNATURE_PATH = "/v1/ssh/krl", "/v1/ssh/krl/signature"
OLDEST = timedelta(days=1)  # of the registrar's word, which it gives anew each time; more is somebody else's to send
_WHAT = "list of revoked SSH keys"
_ANEW = "ask again; both sides should run the same version"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A list as bytes and read, and when the registrar said that it is the newest."""

    content: bytes
    krl: Krl
    at: datetime


def build(state: KrlState, *, host_ca: SshKey, user_ca: SshKey, pin: bytes, at: datetime) -> bytes:
    """
    Return the list as sshd and ssh read it, made at ``at``; its comment says of which authority it is.

    Of one that would be too long it leaves out host keys that were merely replaced, the oldest first: with a list that
    nobody can read nobody would hear of those that were stolen.

    :raises Malformed: a serial, or a version, that no list can have.
    :raises Fault: it would be longer than anybody reads even so; who has the last one keeps it.
    """
    sections = (krl.revoked(host_ca, serials=state.hosts), krl.revoked(user_ca, serials=state.users))
    certificates = tuple(each for each in sections if each.serials)
    whole = Krl(state.version, at, certificates, digests=state.digests, comment=_comment(pin))
    made = krl.build(whole)
    if len(made) > krl.MAX_KRL:
        surplus = -(-(len(made) - krl.MAX_KRL) // krl.DIGEST_ROOM)
        made = krl.build(replace(whole, digests=state.digests - set(state.sound[:surplus])))
    if len(made) > krl.MAX_KRL:
        raise Fault(
            f"the {_WHAT} has {len(made)} bytes, and at most {krl.MAX_KRL} are read",
            hint="report it: too many are on it",
        )
    return made


def _comment(pin: bytes) -> str:
    return f"handfast {format_pin(pin)}"


def refresh(path: Path, get: Get, *, pin: bytes, now: datetime) -> Fetched:
    """
    Get the registrar's list, and put it in the place of the one at ``path``: that, or this one, is there at any moment.

    Anybody may read it. *Not* kept off: another refresh of the same file at the same time.

    :raises UntrustedPeer: as ``fetch``; the file stays as it was. :raises Fault: the disk says no.
    """
    held = read(path)
    fetched = fetch(get, pin=pin, now=now, held=held)
    keep(path, fetched.content, before=held)
    return fetched


def keep(path: Path, content: bytes, *, before: bytes | None = None) -> None:
    """Put a list in the place of the one from ``before``, if it is another. :raises Fault: the disk says no."""
    if content != before:
        write_atomic(path, content, mode=0o644)


def read(path: Path) -> bytes | None:
    """Return what is at ``path``, whole or not; None where nothing is. :raises Fault: the disk says no."""
    with faults("read", path):
        try:
            with path.open("rb") as file:
                return file.read(krl.MAX_KRL + 1)
        except FileNotFoundError:
            return None


def fetch(get: Get, *, pin: bytes, now: datetime, held: bytes | None) -> Fetched:
    """
    Return the list that the registrar under ``pin`` vouches for now; ``held`` is the one that is here already.

    One that cannot be read, or is another authority's, says nothing of what may come after it. A lower version that
    revokes no less is no step back: another process made it of the same ledger.

    :raises UntrustedPeer: the registrar's word does not fit, is old, or is for a list of another authority, or for one
        that is older than what is held.
    :raises Unreachable: no whole answer.
    """
    before = _ours(held, pin)
    signature = wire.decode(get(SIGNATURE_PATH, wire.MAX_ANSWER), Signature)
    same = held is not None and before is not None and hashlib.sha256(held).digest() == signature.sha256
    content = held if held is not None and same else get(CONTENT_PATH, krl.MAX_KRL)
    if not same and hashlib.sha256(content).digest() != signature.sha256:  # it changed between the two
        signature = wire.decode(get(SIGNATURE_PATH, wire.MAX_ANSWER), Signature)
    found, at = verify(content, signature, pin=pin, now=now)
    if before is not None and found.version <= before.version and not krl.covers(found, before):
        raise UntrustedPeer(
            f"the registrar sent version {found.version} of the {_WHAT}, which lacks what version {before.version} has",
            hint="an old answer was replayed; or its ledger was restored from a backup: then put what `handfast ca krl`"
            " prints in the place of the file",
        )
    return Fetched(content, found, at)


def _ours(held: bytes | None, pin: bytes) -> Krl | None:
    if held is None:
        return None
    try:
        found = krl.read(held)
    except Malformed:  # damaged: sshd refuses every key until there is another one
        return None
    return found if found.comment == _comment(pin) else None


def verify(content: bytes, signature: Signature, *, pin: bytes, now: datetime) -> tuple[Krl, datetime]:
    """
    Return the list, and when the registrar under ``pin`` said that it is the newest; see ``vouched.verify``.

    Checked besides: that it can be read, that it is this authority's, and that its word is not older than a day.

    :raises UntrustedPeer: any of it is wrong.
    """
    at = vouched.verify(content, signature, label=LABEL, what=_WHAT, pin=pin, now=now, anew=_ANEW)
    if at < now - OLDEST:
        raise UntrustedPeer(
            f"the registrar's word for the {_WHAT} is of {time_text(at)}, and here it is {time_text(now)}",
            hint="an old answer was replayed, or the clock of this machine or the registrar's is wrong",
        )
    try:
        found = krl.read(content)
    except Malformed as error:
        raise UntrustedPeer(f"the registrar vouches for what cannot be read: {error.message}", hint=_ANEW) from None
    if found.comment != _comment(pin):
        raise UntrustedPeer(f"the {_WHAT} is one of {found.comment[:80]!r}, not of {_comment(pin)!r}", hint=_ANEW)
    return found, at
