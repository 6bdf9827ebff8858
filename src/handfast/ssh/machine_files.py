"""
What lies in the user's state directory for each machine that ``handfast ssh`` goes to.

    known_hosts.*  the machine's keys, under its own name alone: those registered, and those that ssh has learned. ssh
                   itself adds these, once the server has proved that it has them over a connection authenticated with
                   one of the others (hostkeys-prove-00@openssh.com; PROTOCOL of OpenSSH, section 2.5).
    explain        run by ssh as KnownHostsCommand. It gives no keys: it ends the connection with our sentence where
                   ssh would show a banner that tells people to remove the right key.

A learned key is as good as the keys it was learned with, its basis. So there is one ``known_hosts`` for each basis,
named by a digest of it, and its first line says which keys those are, and since when they were registered: once one of
them is not believed any more, nothing learned is. The same goes for one that was itself learned, and is retired.

ssh writes to the file that it was started with, and may do so much later: whoever holds up a connection decides when.
A session that was authenticated with a key which was taken back in between writes to a file that nobody reads.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from handfast.adapters.files import private_directory, read_private, write_atomic
from handfast.core.hosts import Grade, Host
from handfast.core.sshkeys import SshKey, parse
from handfast.errors import Malformed, NotFound, UsageError

KNOWN_HOSTS, EXPLAIN = "known_hosts", "explain"
_BASIS = "# handfast ssh; learned with "
_LAST = re.compile(r"^# Beside (known_hosts\.[0-9a-f]{16})$", re.MULTILINE)  # in `explain`: the one of the last start
_KEPT = 8  # files of earlier bases: what was started with one of them has to find it still
# Paths stand in ssh's configuration, which cuts at blanks, expands % ~ $ and knows quotes, a little differently in
# each version. Blanks are quoted; the rest is refused.
_PATH = re.compile(r"/[\w@+=:,./ -]*")


@dataclass(frozen=True, slots=True)
class Files:
    """The two files of a machine, and which keys ssh has learned that the registry does not have."""

    known_hosts: Path
    explain: Path
    learned: tuple[SshKey, ...]


def prepare(directory: Path, host: Host, *, least: Grade) -> Files:
    """
    Write the files for the keys known at least that well, and what was learned beside them.

    :raises Unsafe, Refused: others can read or write the directory. :raises UsageError: ssh cannot be told its path.
    :raises Fault: the disk says no.
    """
    check_path(directory)
    private_directory(directory)
    rests_on = basis(host, least)
    known_hosts, explain = directory / _name(rests_on), directory / EXPLAIN
    explained = _read(explain)
    last = _LAST.search(explained)
    # Of the last start alone: what an earlier file has, the machine may have given up since, and ssh forgotten.
    learned = _learned(_read(directory / last[1]), last[1], host, least) if last is not None else ()
    keys = (*host.believed(least), *learned)
    lines = [_BASIS + " ".join(sorted(rests_on)), *(f"{host.machine} {key}" for key in keys)]
    for path, old, text in (
        (known_hosts, _read(known_hosts), "".join(f"{line}\n" for line in lines)),
        (explain, explained, _script(host, keys, least, beside=known_hosts.name)),
    ):
        if old != text:  # flushing to the disk is the slowest thing that we do
            write_atomic(path, text.encode())
            if path == known_hosts:
                _tidy(directory, known_hosts)
    return Files(known_hosts, explain, learned)


def basis(host: Host, least: Grade) -> frozenset[str]:
    """
    Return what learned keys rest upon: the believed keys, each with the time from which it is, and which were retired.

    The time, so that the keys of a machine that was removed and came back are others. Those that were retired, as a
    connection may have been authenticated with one of them that was only learned when it began.
    """
    since = {}
    for each in sorted(host.keys, key=lambda known: known.at, reverse=True):
        if each.how.grade >= least:
            since[each.key] = each.at
    gone = {f"-{_dated(each.key, each.at)}" for each in host.retired}
    return frozenset({_dated(key, at) for key, at in since.items()} | gone)


def _dated(key: SshKey, at: datetime) -> str:
    return f"{key.fingerprint}@{at:%Y-%m-%dT%H:%M:%SZ}"


def _name(rests_on: Iterable[str]) -> str:
    digest = hashlib.sha256("\0".join(sorted(rests_on)).encode()).hexdigest()
    return f"{KNOWN_HOSTS}.{digest[:16]}"


def _learned(text: str, name: str, host: Host, least: Grade) -> tuple[SshKey, ...]:
    """Return the keys in a file that are not registered, if what they may rest upon still holds."""
    first, *lines = text.splitlines() or [""]
    believed = basis(host, least)
    rests_on = frozenset(first.removeprefix(_BASIS).split())
    if not first.startswith(_BASIS) or _name(rests_on) != name or not rests_on or not rests_on <= believed:
        return ()
    # Whoever is known less well than we ask for is not let in by another door.
    known = host.current
    retired = {each.key for each in host.retired}
    found = set()
    for line in lines:
        name, _, key = line.partition(" ")
        try:
            if name == host.machine:
                found.add(parse(key))
        except Malformed:
            continue  # a half-written line: ssh reads none of it either
    return tuple(sorted(found - known)) if not found & retired else ()


def _tidy(directory: Path, current: Path) -> None:
    """Remove the files of earlier bases but the latest few."""
    with suppress(OSError):  # somebody else does it at the same time; and it is no reason not to connect
        others = [(each.stat().st_mtime_ns, each) for each in directory.glob(f"{KNOWN_HOSTS}*") if each != current]
        for _, each in sorted(others)[:-_KEPT]:
            each.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return read_private(path).decode("utf-8", "replace")
    except NotFound:
        return ""


def _script(host: Host, keys: tuple[SshKey, ...], least: Grade, *, beside: str) -> str:
    """
    Return the KnownHostsCommand: it is given why ssh asks, and fingerprint and type of what the server has shown.

    Only built-in commands of the shell: it must not matter what PATH is.
    """
    good = "|".join(f"HOSTNAME\\ {key.fingerprint}" for key in keys)
    error = f"handfast: error: this is not {host.machine}: it shows"
    hint = (
        f"handfast: hint: its keys are {_described(host, least)}. Nothing was sent. Somebody is in between, or the "
        "machine was made anew: ask whoever runs it"
    )
    lines = [
        "# Written by `handfast ssh`. It only explains: what is accepted stands in known_hosts.*",
        f"# Beside {beside}",
        'case "$1 $2" in',
        f"{good}) exit 0;;",
    ]
    for gone in host.retired:
        why = _quoted(f", which was retired on {gone.at:%Y-%m-%d}: {gone.reason}")
        lines.append(f"HOSTNAME\\ {gone.key.fingerprint}) why={why};;")
    lines += [
        "HOSTNAME\\ *) why=;;",
        "*) exit 0;;",
        "esac",
        f'printf "%s\\n" {_quoted(error)}" $3 $2$why" {_quoted(hint)} >&2',
        "exit 1",
    ]
    return "".join(f"{line}\n" for line in lines)


def _described(host: Host, least: Grade) -> str:
    parts = []
    for key in host.believed(least):
        best = max((each for each in host.keys if each.key == key), key=lambda known: known.how.grade)
        parts.append(f"{key.algorithm} {key.fingerprint} ({best.how.words}, {best.at:%Y-%m-%d})")
    return " and ".join(parts)


def _quoted(text: str) -> str:
    """Return text as one word of the shell, with what a terminal would act on escaped: operators paste reasons."""
    return shlex.quote("".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text))


def check_path(path: Path) -> None:
    """:raises UsageError: a path that cannot stand in ssh's configuration."""
    if not _PATH.fullmatch(str(path)):
        raise UsageError(
            f"ssh cannot be given a path like {str(path)!r}", hint="set XDG_STATE_HOME to a directory without signs"
        )
