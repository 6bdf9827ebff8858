"""
ssh's command line, read with ssh's own grammar and changed in nothing (ssh(1); ``main`` in OpenSSH's ssh.c).

What the arguments and the configuration *mean* only ssh can say, and ``ssh -G`` does. Found here is what that does not
say: where the options end, so that one more can be the last of them, and, for OpenSSH before 9.3, what was typed as
the destination. If a later ssh has options that are not known here, a wrong place is found; so whoever uses it has
``ssh -G`` confirm the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

# The letters of ssh.c's getopt string that take a value. `P` has one since 9.4; before, it did nothing.
_WITH_VALUE = frozenset("BDEFIJLOPQRSWbceilmopw")
_END = "--"
_URI = "ssh://"


@dataclass(frozen=True, slots=True)
class Arguments:
    """
    What was found in ssh's arguments.

    ``options`` are letters with their values, "" for a letter that has none; ``destination`` is as typed, and None
    where there is none (``-V``, a mistake). A further option put at index ``end`` is the last one that ssh reads.
    """

    options: tuple[tuple[str, str], ...]
    destination: str | None
    end: int

    def has(self, letter: str) -> bool:
        """Whether an option is there."""
        return any(each == letter for each, _ in self.options)

    @property
    def host(self) -> str | None:
        """The host in the destination, without user and port, in the form that was typed."""
        return None if self.destination is None else host_of(self.destination)


def read(arguments: Sequence[str]) -> Arguments:
    """Read the arguments that follow the program's name."""
    options: list[tuple[str, str]] = []
    at = _options(arguments, 0, options)
    end, terminated = _before_end(arguments, at)
    if at >= len(arguments):
        return Arguments(tuple(options), None, end)
    destination = arguments[at]
    if not terminated:  # after the destination options may follow again: `ssh host -p 2222 command`
        end, _ = _before_end(arguments, _options(arguments, at + 1, options))
    return Arguments(tuple(options), destination, end)


def host_of(destination: str) -> str:
    """Return the host of ``[user@]host`` or ``ssh://[user@]host[:port]``."""
    if destination.startswith(_URI):
        try:
            host = urlsplit(destination).netloc.rpartition("@")[2]
        except ValueError:
            return destination  # ssh will refuse it
        return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return destination.rpartition("@")[2]


def _options(arguments: Sequence[str], at: int, found: list[tuple[str, str]]) -> int:
    """Read options from index ``at`` on, as getopt(3) of BSD does, and return the index of what is none."""
    while at < len(arguments):
        word = arguments[at]
        if word == "-" or not word.startswith("-"):
            return at
        at += 1
        if word == _END:
            return at
        for place, letter in enumerate(word[1:], 2):
            if letter not in _WITH_VALUE:
                found.append((letter, ""))
                continue
            value = word[place:]
            if not value and at < len(arguments):
                value, at = arguments[at], at + 1
            found.append((letter, value))
            break
    return at


def _before_end(arguments: Sequence[str], at: int) -> tuple[int, bool]:
    """Return ``at``, or the index of the ``--`` before it, and whether there is one, which ssh asks in this way too."""
    return (at - 1, True) if at > 0 and arguments[at - 1] == _END else (at, False)
