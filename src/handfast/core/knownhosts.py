"""
Host keys as other programs read them: known_hosts (sshd(8)), what ssh-keyscan prints, JSON, SSHFP (RFC 4255).

A line names every spelling of a machine: OpenSSH before 9.6 looks for a port's key under the bare name as well. Names
are never hashed: that would hide them from nobody who has a list of names, and from everybody who has to read the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from handfast.core import sshkeys
from handfast.core.hosts import Grade, Host
from handfast.core.names import text_match
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed

AUTHORITY, REVOKED = "@cert-authority", "@revoked"

# What stands between commas must be unable to be a line, a marker, a pattern or a hash of its own.
_NAME = r"[a-z0-9_:][a-z0-9._:-]*"
_SPELLING = re.compile(rf"{_NAME}|\[{_NAME}\]:[1-9][0-9]{{0,4}}", re.ASCII)
_GLOB = r"[a-z0-9_:*?][a-z0-9._:*?-]*"
_PATTERN = re.compile(rf"!?(?:{_GLOB}|\[{_GLOB}\]:[1-9][0-9]{{0,4}})", re.ASCII)
_READ = re.compile(r"(?:(@\S+)[ \t]+)?(\S+)[ \t]+(\S+[ \t]+\S+)(?:[ \t].*)?", re.ASCII)

_SSHFP = {  # RFC 4255, 6594, 7479; what OpenSSH asks DNS about. Others have no number there.
    "ssh-rsa": 1,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "ssh-ed25519": 4,
}
_SSHFP_SHA256 = 2  # RFC 6594; the older SHA-1 is not written


@dataclass(frozen=True, slots=True)
class Sshfp:
    """The data of an SSHFP record. As text it is ``4 2 0123…``, as a zone file has it."""

    algorithm: int
    digest: bytes

    @property
    def rdata(self) -> bytes:
        """As it stands in a DNS message."""
        return bytes([self.algorithm, _SSHFP_SHA256]) + self.digest

    def __str__(self) -> str:
        return f"{self.algorithm} {_SSHFP_SHA256} {self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a known_hosts file as it was read: ``marker`` is empty, AUTHORITY or another one."""

    marker: str
    hosts: tuple[str, ...]
    key: SshKey


@dataclass(frozen=True, slots=True)
class Speaker:
    """A CA, and for which names it may speak: without a pattern for none."""

    patterns: tuple[str, ...]
    key: SshKey

    @property
    def lines(self) -> list[str]:
        """Its line, if it may speak for any name. :raises Malformed: as ``authority_line``."""
        return [authority_line(self.patterns, self.key)] if self.patterns else []


def speaks_for(patterns: Sequence[str], name: str) -> bool:
    """
    Whether a CA with these patterns may speak for a name, as ssh reads them (ssh_config(5), PATTERNS).

    One has to fit, and none with a ``!``. Names are strangers': the time grows with their length, not with the stars.
    """
    fitting = [each for each in patterns if text_match(name, each.removeprefix("!"), any_one="?")]
    return bool(fitting) and not any(each.startswith("!") for each in fitting)


class KnownKey(msgspec.Struct, frozen=True):
    """A host key in JSON: ``key`` is base64, ``fingerprint`` is ``SHA256:…``, ``sshfp`` the record's data or null."""

    algorithm: str
    key: str
    fingerprint: str
    sshfp: str | None


class KnownHost(msgspec.Struct, frozen=True):
    """A machine's entry in JSON; ``hosts`` is all that ssh may look for."""

    machine: str
    hosts: list[str]
    keys: list[KnownKey]


def lines(spellings: Sequence[str], keys: Iterable[SshKey]) -> list[str]:
    """
    Return a line for each key, with all spellings (``core.hosts.spelling``).

    :raises Malformed: no spelling, or one that would mean something else in the file.
    """
    hosts = _joined(spellings, _SPELLING)
    return [f"{hosts} {key}" for key in keys]


def authority_line(patterns: Sequence[str], key: SshKey) -> str:
    """
    Return the line that lets a CA speak for hosts: ``@cert-authority *.fleet ssh-ed25519 …``.

    :raises Malformed: no pattern, or none of ``*`` ``?`` ``!`` and a name's characters.
    """
    return f"{AUTHORITY} {_joined(patterns, _PATTERN)} {key}"


def of_all(hosts: Sequence[Host], *, least: Grade, speaker: Speaker | None) -> list[str]:
    """
    Return all that a known_hosts file has to say: the CA's line, the keys known at least that well, those revoked.

    ``hosts`` are all machines, with those that are gone. :raises Malformed: as ``lines``.
    """
    found = speaker.lines if speaker is not None else []
    for each in hosts:
        if keys := each.believed(least):
            found += lines(each.place.spellings(each.machine), keys)
    return found + revoked_lines(hosts, speaks=bool(speaker and speaker.patterns))


def revoked_lines(hosts: Iterable[Host], *, speaks: bool) -> list[str]:
    """
    Return ``@revoked * KEY`` for keys that were some machine's and are nobody's now; ``speaks`` is whether a CA does.

    Those of machines that live: what a user's own file has may still name them. Those of machines that are gone, only
    where a CA speaks: else nothing makes anybody believe them, and they are many.
    """
    retired: set[SshKey] = set()
    current: set[SshKey] = set()
    for each in hosts:
        current |= each.current
        if each.lives or speaks:
            retired |= {gone.key for gone in each.retired}
    return [f"{REVOKED} * {key}" for key in sorted(retired - current)]


def keyscan_lines(spellings: Sequence[str], keys: Iterable[SshKey]) -> list[str]:
    """Return a line for each spelling and key, as ssh-keyscan prints them. :raises Malformed: as ``lines``."""
    found = list(keys)
    return [line for each in spellings for line in lines([each], found)]


def view(machine: str, spellings: Sequence[str], keys: Iterable[SshKey]) -> KnownHost:
    """Return a machine's entry for JSON."""
    return KnownHost(
        machine,
        list(spellings),
        [KnownKey(each.algorithm, each.base64, each.fingerprint, _maybe(sshfp(each))) for each in keys],
    )


def sshfp(key: SshKey) -> Sshfp | None:
    """Return what DNS says of the key; None for a type without a number of its own there."""
    number = _SSHFP.get(key.algorithm)
    return None if number is None else Sshfp(number, hashlib.sha256(key.blob).digest())


def read(text: str) -> list[Line]:
    """
    Read a known_hosts file, or what ssh-keyscan printed; comments and empty lines are skipped.

    *Not* checked: that a host is a name. Patterns and hashed names are returned as they stand.

    :raises Malformed: another line, by its number.
    """
    found = []
    for place, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _READ.fullmatch(line.strip())
        try:
            if not match:
                raise Malformed("not a line of known_hosts", hint="")
            found.append(Line(match[1] or "", tuple(match[2].split(",")), sshkeys.parse(match[3])))
        except HandfastError as error:
            raise Malformed(
                f"line {place}: {error.message}", hint="a line reads `host ssh-ed25519 AAAA...`; remove it"
            ) from None
    return found


def _joined(hosts: Sequence[str], allowed: re.Pattern[str]) -> str:
    if not hosts:
        raise Malformed("a line of known_hosts without a host", hint="give the machine a name")
    for host in hosts:
        if not allowed.fullmatch(host):
            raise Malformed(f"not for a known_hosts file: {host[:80]!r}", hint="give a host, or [host]:port")
    return ",".join(hosts)


def _maybe(record: Sshfp | None) -> str | None:
    return None if record is None else str(record)
