"""
The offline snapshot: every machine that ssh may ask about, in one file that is looked into without being read.

Text: lines end with a line feed, fields stand between tabs, words between blanks. Read here and by ``launcher``:

    handfast-ssh-hosts 1 · registrar · pin · least grade · machines · offset of the index · size of the file
    ca PATTERNS ALGORITHM BASE64                               the SSH host CA, if it may speak for any name
    how METHOD WORDS                                           one for each method: how a key became known, for people
    MACHINE · place NAMES ADDRESSES ALIASES PORTS · key ALGORITHM BASE64 GRADE METHOD TIME DETAIL · … · old ALGORITHM
        BASE64 TIME REASON · …                                 one for each machine; fields of other kinds are skipped
    SPELLING · offset                                          the index, sorted by bytes: what ssh may look for

The same machines give the same bytes. So the registrar's signature is beside it and has the time: whoever has the
file already fetches the signature alone, and knows that nothing has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from handfast.adapters.files import private_directory, read_private, write_atomic
from handfast.core import knownhosts, sshkeys, vouched, wire
from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey
from handfast.core.keys import format_pin
from handfast.core.knownhosts import AUTHORITY, Speaker
from handfast.core.views import time_text
from handfast.core.vouched import Get, Signature
from handfast.errors import Malformed, UntrustedPeer
from handfast.ssh import launcher

LABEL = b"handfast/1 ssh snapshot"
MAX_SNAPSHOT = 1 << 30  # bytes; 100,000 machines with three keys each need about 90 million
MOST_MACHINES = 10**9  # more than that has room for
CONTENT_PATH, SIGNATURE_PATH = "/v1/ssh/snapshot", "/v1/ssh/snapshot/signature"
_BEGIN = 10  # digits of a number in the first line, so that it is as long before they are known


@dataclass(frozen=True, slots=True)
class About:
    """What the first line says."""

    registrar: str
    pin: bytes
    least: Grade
    machines: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot in the user's directory. ``signature`` is None where a data directory of this machine was read."""

    content: launcher.Data
    at: datetime
    signature: Signature | None


def build(hosts: Iterable[Host], *, least: Grade, registrar: str, pin: bytes, speaker: Speaker | None = None) -> bytes:
    """
    Return the snapshot of these machines; keys known less well than ``least`` are not in it.

    ``speaker`` is for names that none of them has: a machine that came after it was made is known by its certificate.

    A machine of which nothing is known well enough is left out: ssh then behaves as if it were nobody's. One that
    only has retired keys is in it, so that its name is refused. A machine's own name is its own, whoever else
    claims it, but for one that is gone; of two that claim another spelling, the one that comes first has it.
    """
    head = _head(registrar, pin, least)
    lines = [f"ca{line.removeprefix(AUTHORITY)}\n".encode() for line in (speaker.lines if speaker else ())]
    lines += [f"how {how} {how.words}\n".encode() for how in How]
    offset = len(head(0, 0, 0)) + sum(map(len, lines))
    gone: dict[bytes, int] = {}
    names: dict[bytes, int] = {}
    others: dict[bytes, int] = {}
    machines = 0
    for host in hosts:
        line = _line(host, least)
        if line is None:
            continue
        lines.append(line)
        machines += 1
        (names if host.lives else gone)[host.machine.encode()] = offset
        for each in host.place.spellings(host.machine)[1:]:
            others.setdefault(each.encode(), offset)
        offset += len(line)
    index = [b"%b\t%d\n" % item for item in sorted((gone | others | names).items())]
    body = b"".join(index)
    return head(machines, offset, offset + len(body)) + b"".join(lines) + body


def _head(registrar: str, pin: bytes, least: Grade) -> Callable[[int, int, int], bytes]:
    words = f"{_word(registrar, 253)}\t{format_pin(pin)}\t{least.name.lower()}"

    def head(machines: int, index: int, size: int) -> bytes:
        numbers = f"{machines:0{_BEGIN}}\t{index:0{_BEGIN}}\t{size:0{_BEGIN}}"
        return b"%b\t%b\n" % (launcher.MAGIC, f"{words}\t{numbers}".encode())

    return head


def _line(host: Host, least: Grade) -> bytes | None:
    best: dict[sshkeys.SshKey, HostKey] = {}
    for each in sorted(host.keys, key=lambda known: (-known.how.grade, known.at)):
        if each.how.grade >= least:
            best.setdefault(each.key, each)
    if not best and not host.retired:
        return None
    place = host.place
    parts = [
        host.machine,
        f"place {_list(place.names)} {_list(place.addresses)} {_list(place.aliases)} {_list(place.ports)}",
    ]
    parts += [
        f"key {each.key} {each.how.grade.name.lower()} {each.how.value} {_stamp(each.at)} {_word(each.detail)}"
        for _, each in sorted(best.items())
    ]
    parts += [f"old {each.key} {_stamp(each.at)} {_word(each.reason)}" for each in host.retired]
    return ("\t".join(parts) + "\n").encode()


_stamp = lru_cache(maxsize=4096)(time_text)  # 100,000 machines came in far fewer seconds


def _list(values: Iterable[object]) -> str:
    return ",".join(map(str, values)) or "-"


def _word(text: str, most: int = 200) -> str:
    """Return text that is one field: a tab or a line feed in it would begin another."""
    if text.isprintable() and len(text) <= most:
        return text
    return "".join(each if each.isprintable() else "?" for each in text[:most])


# --- reading ---


def about(content: launcher.Data) -> About:
    """:raises Malformed: not a whole snapshot of this version."""
    try:
        head = bytes(content[: content.find(b"\n")]).decode().split("\t")
        if head[0].encode() != launcher.MAGIC or int(head[6]) != len(content):
            raise ValueError(head[0])
        return About(head[1], bytes.fromhex(head[2]), Grade[head[3].upper()], int(head[4]))
    except (ValueError, IndexError, KeyError):
        raise Malformed("not a whole snapshot of SSH hosts, or of another version", hint=_ANEW) from None


_ANEW = "get it anew with `handfast ssh-config refresh`; both sides should run the same version"


def speaker(content: launcher.Data) -> Speaker | None:
    """Return the SSH host CA, with the names for which it may speak; None where it may for none."""
    for line in launcher.authority(content):
        (read,) = knownhosts.read(line.decode())
        return Speaker(read.hosts, read.key)
    return None


def lookup(content: launcher.Data, host: str, port: int) -> Host | None:
    """Return the machine that is reached so, with the keys believed and those retired; None for one not ours."""
    line = launcher.at(content, launcher.normal(os.fsencode(host)), str(port).encode())
    return None if line is None else read(line)


def hosts(content: launcher.Data) -> Iterator[Host]:
    """Return all machines. :raises Malformed: a line that cannot be read."""
    at, end = content.find(b"\n") + 1, launcher.index(content)
    while at < end:
        stop = content.find(b"\n", at)
        line = content[at:stop]
        if not line.startswith((b"how ", b"ca ")):
            yield read(line)
        at = stop + 1


def read(line: bytes) -> Host:
    """Return the machine of a line. :raises Malformed: it cannot be read."""
    try:
        name, *parts = line.decode().split("\t")
        place, keys, retired = Place(), [], []
        for part in parts:
            kind, _, rest = part.partition(" ")
            if kind == "place":
                names, addresses, aliases, ports = (text.split(",") if text != "-" else [] for text in rest.split(" "))
                place = Place.parse([*names, *addresses], aliases=aliases, ports=tuple(map(int, ports)))
            elif kind == "key":
                algorithm, blob, _grade, how, at, detail = rest.split(" ", 5)
                keys.append(HostKey(sshkeys.parse(f"{algorithm} {blob}"), How(how), detail, _time(at)))
            elif kind == "old":
                algorithm, blob, at, reason = rest.split(" ", 3)
                retired.append(RetiredKey(sshkeys.parse(f"{algorithm} {blob}"), _time(at), reason))
        return Host(name, place, tuple(keys), tuple(retired))
    except ValueError as error:
        raise Malformed(f"a line of the snapshot cannot be read: {str(error)[:100]!r}", hint=_ANEW) from None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# --- the registrar's word for it ---


def verify(content: launcher.Data, signature: Signature, *, pin: bytes, now: datetime) -> datetime:
    """
    Return when the registrar under ``pin`` said that this is what it knows; see ``vouched.verify``.

    Checked besides: that the snapshot names this pin.

    :raises UntrustedPeer: any of it is wrong.
    """
    at = vouched.verify(content, signature, label=LABEL, what="snapshot", pin=pin, now=now, anew=_ANEW)
    try:
        said = about(content)
    except Malformed as error:
        raise UntrustedPeer(f"the registrar vouches for what is no snapshot: {error.message}", hint=_ANEW) from None
    if said.pin != pin:
        raise UntrustedPeer(f"the snapshot is one of the authority {format_pin(said.pin)}", hint=_ANEW)
    return at


# --- getting and keeping it ---


def fetch(get: Get, *, pin: bytes, now: datetime, held: Kept | None) -> Kept:
    """
    Return what the registrar vouches for now, with the content held already where that is still it.

    :raises UntrustedPeer: it does not prove itself, or is older than what is held.
    :raises Unreachable: no whole answer.
    """
    if held is not None and about(held.content).pin != pin:
        held = None  # another authority's says nothing about this one
    signature = wire.decode(get(SIGNATURE_PATH, wire.MAX_ANSWER), Signature)
    same = held is not None and hashlib.sha256(held.content).digest() == signature.sha256
    content = held.content if held is not None and same else get(CONTENT_PATH, MAX_SNAPSHOT)
    if not same and hashlib.sha256(content).digest() != signature.sha256:  # it changed between the two
        signature = wire.decode(get(SIGNATURE_PATH, wire.MAX_ANSWER), Signature)
    at = verify(content, signature, pin=pin, now=now)
    if held is not None and held.signature is not None and at < held.at:
        raise UntrustedPeer(
            f"the registrar sent a snapshot of {time_text(at)}, and there is one of {time_text(held.at)} here",
            hint="an old answer was replayed, or its clock was set back; `handfast ssh-config remove` forgets this one",
        )
    return Kept(content, at, signature)


def keep(directory: Path, kept: Kept, *, before: Kept | None = None) -> None:
    """
    Write a snapshot for the launcher; the content only where it is not the one from ``before``.

    A crash between the two files leaves the new content with the old time, which is only thought to be older.

    :raises Unsafe: others can read or write the directory.
    """
    private_directory(directory)
    if before is None or before.content != kept.content:
        write_atomic(directory / launcher.HOSTS, bytes(kept.content))
    proof = msgspec.json.encode(kept.signature) if kept.signature is not None else b""
    write_atomic(directory / launcher.SIGNATURE, b"%d\n%b\n" % (int(kept.at.timestamp()), proof))


def load(directory: Path) -> Kept:
    """
    Return the snapshot that the launcher sees.

    *Not* checked: the signature, which was when it was fetched; see ``verify``.

    :raises NotFound: there is none.
    :raises Malformed: it is not whole.
    """
    first, _, proof = read_private(directory / launcher.SIGNATURE).partition(b"\n")
    content = read_private(directory / launcher.HOSTS, limit=MAX_SNAPSHOT)
    about(content)
    signature = wire.decode(proof, Signature) if proof.strip() else None
    return Kept(content, datetime.fromtimestamp(int(first), UTC), signature)
