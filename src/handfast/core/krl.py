"""
Lists of revoked keys and certificates, as sshd's ``RevokedKeys`` and ssh's ``RevokedHostKeys`` read them.

A list (OpenSSH's PROTOCOL.krl) is bytes that depend on its content alone. Nothing in it proves who made it or that it
is the newest: OpenSSH has given up signatures within (9.4), and takes an older list as readily. Whoever fetches one has
to know by whom it was sent, and that its version did not fall.

The reader refuses what it does not understand: to pass over a section would be to believe what it revokes.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from handfast.core import sshkeys
from handfast.core.sshcert import SshCertificate, text
from handfast.core.sshdata import Reader, string, strings
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SERIALS
from handfast.errors import Malformed

MAX_KRL = 8 * 1024 * 1024  # bytes; a million serials
MAX_RANGES = 1 << 20  # of serials; a bitmap of a few bytes could stand for many
MAX_BITMAP = 1 << 20  # bytes

Range = tuple[int, int]
"""The first and the last of serials that follow each other."""

_MAGIC, _FORMAT = b"SSHKRL\n\0", 1
_CERTIFICATES, _KEYS, _SHA256 = 1, 2, 5
_SERIALS, _RANGE, _BITMAP, _KEY_IDS = 0x20, 0x21, 0x22, 0x23
_LONG = 3  # a range of three takes 21 bytes, three serials 24
_DIGEST = 32  # bytes
DIGEST_ROOM = 4 + _DIGEST  # bytes that one takes in a list
_ONES = re.compile("1+")
_WHAT = "the list of revoked SSH keys"
_HINT = "fetch it again from the registrar"


@dataclass(frozen=True, slots=True)
class Certificates:
    """
    Which certificates of an authority are revoked; of any authority where it is None. Make one with ``revoked``.

    ``serials`` are in order, apart from each other.
    """

    authority: SshKey | None
    serials: tuple[Range, ...] = ()
    key_ids: frozenset[str] = frozenset()

    def has(self, serial: int) -> bool:
        """Whether the serial is among those revoked."""
        place = bisect(self.serials, (serial, SERIALS[-1]))
        return place > 0 and self.serials[place - 1][0] <= serial <= self.serials[place - 1][1]


@dataclass(frozen=True, slots=True)
class Krl:
    """
    A list: ``version`` grows from one to the next, ``at`` is when it was made, in whole seconds, UTC.

    A key in ``keys``, or whose SHA-256 is in ``digests``, is revoked as it stands, in every certificate, and as an
    authority.
    """

    version: int
    at: datetime
    certificates: tuple[Certificates, ...] = ()
    keys: frozenset[SshKey] = frozenset()
    digests: frozenset[bytes] = frozenset()
    comment: str = ""


def revoked(authority: SshKey | None, *, serials: Iterable[int] = (), key_ids: Iterable[str] = ()) -> Certificates:
    """
    Return these certificates of an authority as revoked; ``authority`` None means of any.

    :raises Malformed: a serial outside 1 to 2^64-1.
    """
    return Certificates(authority, _merged((serial, serial) for serial in serials), frozenset(key_ids))


def _merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    found: list[Range] = []
    for first, last in sorted(ranges):
        if not SERIALS[0] <= first <= last <= SERIALS[-1]:
            raise Malformed(f"no serials to revoke: {first:#x} to {last:#x}", hint="1 to 2^64-1")
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def is_revoked(krl: Krl, subject: SshKey | SshCertificate) -> str | None:
    """Return why the list forbids a key or a certificate; None where it does not."""
    if isinstance(subject, SshKey):
        if subject in krl.keys or subject.digest in krl.digests:
            return f"the key {subject.fingerprint} is revoked"
        return None
    if reason := is_revoked(krl, subject.key):
        return reason
    if is_revoked(krl, subject.authority):
        return f"its authority {subject.authority.fingerprint} is revoked"
    for each in krl.certificates:
        if each.authority in {None, subject.authority}:
            if each.has(subject.serial):
                return f"serial {subject.serial} of authority {subject.authority.fingerprint} is revoked"
            if subject.key_id in each.key_ids:
                return f"key id {subject.key_id!r} of authority {subject.authority.fingerprint} is revoked"
    return None


def covers(krl: Krl, other: Krl) -> bool:
    """Whether it revokes all that another one does."""
    own = {each.authority: each for each in krl.certificates}
    nothing = Certificates(None)
    return (
        other.keys <= krl.keys
        and other.digests <= krl.digests
        and all(_covers(own.get(each.authority, nothing), each) for each in other.certificates)
    )


def _covers(certificates: Certificates, others: Certificates) -> bool:
    for first, last in others.serials:
        place = bisect(certificates.serials, (first, SERIALS[-1]))
        if not place or certificates.serials[place - 1][1] < last:
            return False
    return others.key_ids <= certificates.key_ids


# --- as bytes ---


def build(krl: Krl) -> bytes:
    """
    Return the list as OpenSSH reads it; equal lists give equal bytes.

    :raises Malformed: a version or time out of range, or a digest that is none.
    """
    seconds = int(krl.at.timestamp())
    if not 0 <= krl.version < 2**64 or seconds < 0:
        raise Malformed(f"a list of revoked SSH keys of version {krl.version:#x}, made at {krl.at}", hint="0 to 2^64-1")
    for each in chain([krl.comment] if krl.comment else [], *(each.key_ids for each in krl.certificates)):
        text(each.encode(), what="a key id or comment")  # what we could not read is not written
    if wrong := [each for each in krl.digests if len(each) != _DIGEST]:
        raise Malformed(f"not a SHA-256: {wrong[0][:64].hex()!r}", hint="give 32 bytes")
    head = _MAGIC + struct.pack(">IQQQ", _FORMAT, krl.version, seconds, 0) + string(b"") + string(krl.comment.encode())
    parts = [head, *(_section(_CERTIFICATES, _inner(each)) for each in sorted(krl.certificates, key=_blob))]
    if krl.keys:
        parts.append(_section(_KEYS, b"".join(sorted(string(key.blob) for key in krl.keys))))
    if krl.digests:
        parts.append(_section(_SHA256, b"".join(string(each) for each in sorted(krl.digests))))
    return b"".join(parts)


def _blob(certificates: Certificates) -> bytes:
    return certificates.authority.blob if certificates.authority is not None else b""


def _inner(certificates: Certificates) -> bytes:
    return b"".join([string(_blob(certificates)), string(b""), *_lists(certificates)])


def _lists(certificates: Certificates) -> Iterator[bytes]:
    long = [each for each in certificates.serials if each[1] - each[0] + 1 >= _LONG]
    short = (range(first, last + 1) for first, last in certificates.serials if last - first + 1 < _LONG)
    if single := list(chain.from_iterable(short)):
        yield _section(_SERIALS, struct.pack(f">{len(single)}Q", *single))
    for each in long:
        yield _section(_RANGE, struct.pack(">QQ", *each))
    if certificates.key_ids:
        yield _section(_KEY_IDS, b"".join(sorted(string(each.encode()) for each in certificates.key_ids)))


def _section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + string(content)


def read(data: bytes) -> Krl:
    """
    Read a list, also one that ``ssh-keygen -k`` made.

    *Not* checked: who made it, and whether there is a newer one.

    :raises Malformed: not a list, too long, or with anything that we would have to pass over (SHA-1 fingerprints, a
        signature, extensions).
    """
    if len(data) > MAX_KRL:
        raise Malformed(f"{_WHAT} has {len(data)} bytes, at most {MAX_KRL} are read", hint=_HINT)
    reader = Reader(data, what=_WHAT)
    if reader.take(len(_MAGIC)) != _MAGIC or reader.uint32() != _FORMAT:
        raise Malformed(f"not a list of revoked SSH keys: {data[:12].hex()!r}", hint="`ssh-keygen -k` makes one")
    version, seconds, flags = reader.uint64(), reader.uint64(), reader.uint64()
    if flags or reader.string():
        raise Malformed(f"{_WHAT} has flags that we do not know", hint=_HINT)
    comment = reader.string()
    certificates: dict[bytes, list[Certificates]] = {}
    keys: set[SshKey] = set()
    digests: set[bytes] = set()
    ranges = 0
    while reader.left:
        kind, content = reader.take(1)[0], reader.string()
        if kind == _CERTIFICATES:
            found = _certificates(content, room=MAX_RANGES - ranges)
            ranges += len(found.serials)
            certificates.setdefault(_blob(found), []).append(found)
        elif kind == _KEYS:
            keys.update(sshkeys.from_blob(each) for each in strings(content, what=_WHAT))
        elif kind == _SHA256:
            digests.update(_digest(each) for each in strings(content, what=_WHAT))
        else:
            raise Malformed(f"{_WHAT} has a section of type {kind}, which we do not know", hint=_HINT)
    return Krl(
        version,
        _time(seconds),
        tuple(_joined(each) for _, each in sorted(certificates.items())),
        frozenset(keys),
        frozenset(digests),
        text(comment, what="the comment") if comment else "",
    )


def _time(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        raise Malformed(f"{_WHAT} was made {seconds} seconds after 1970", hint=_HINT) from None


def _digest(data: bytes) -> bytes:
    if len(data) != _DIGEST:
        raise Malformed(f"{_WHAT} has a fingerprint of {len(data)} bytes", hint=_HINT)
    return data


def _joined(sections: list[Certificates]) -> Certificates:
    if len(sections) == 1:
        return sections[0]
    serials = _merged(chain.from_iterable(each.serials for each in sections))
    key_ids = frozenset(chain.from_iterable(each.key_ids for each in sections))
    return Certificates(sections[0].authority, serials, key_ids)


def _certificates(content: bytes, *, room: int) -> Certificates:
    reader = Reader(content, what=_WHAT)
    blob = reader.string()
    if reader.string():
        raise Malformed(f"{_WHAT} has something in a reserved field", hint=_HINT)
    ranges: list[Range] = []
    key_ids: set[str] = set()
    while reader.left:
        kind, inner = reader.take(1)[0], reader.string()
        if kind == _KEY_IDS:
            key_ids.update(text(each, what="a key id") for each in strings(inner, what=_WHAT))
        else:
            for each in _ranges(kind, inner):
                ranges.append(each)
                if len(ranges) > room:
                    raise Malformed(f"{_WHAT} has over {MAX_RANGES} serials", hint=_HINT)
    return Certificates(sshkeys.from_blob(blob) if blob else None, _merged(ranges), frozenset(key_ids))


def _ranges(kind: int, content: bytes) -> Iterator[Range]:
    if kind == _SERIALS and len(content) % 8 == 0:
        for (serial,) in struct.iter_unpack(">Q", content):
            yield serial, serial
    elif kind == _RANGE and len(content) == 16:
        first, last = struct.unpack(">QQ", content)
        yield first, last
    elif kind == _BITMAP and len(content) <= MAX_BITMAP:
        reader = Reader(content, what=_WHAT)
        offset, bits = reader.uint64(), f"{int.from_bytes(reader.string()):b}"[::-1]
        reader.end()
        for ones in _ONES.finditer(bits):
            yield offset + ones.start(), offset + ones.end() - 1
    else:
        raise Malformed(f"{_WHAT} has {len(content)} bytes of type {kind:#x}, which we cannot read", hint=_HINT)
