"""Takes values out of TOML tables, remembers every mistake with its place, and finds what nobody asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from handfast.core.invitation import Address
from handfast.core.roles import GRANTABLE, Role
from handfast.errors import HandfastError, Malformed, UsageError

LONGEST = timedelta(days=100 * 365)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
E = TypeVar("E", bound=StrEnum)


class Reader:
    """Keys with their values, such as ``registrar.name``; ``place`` stands before them in what is said of them."""

    def __init__(self, values: Mapping[str, Any], *, place: str = "") -> None:
        self._left, self._place = dict(values), place
        self._mistakes: list[str] = []
        self._parts: list[Reader] = []

    @classmethod
    def of_tables(cls, tree: Mapping[str, Any]) -> Reader:
        """Return a reader of a file's tables, and of lists of them; any other key outside of one is a mistake."""
        tables = {name: body for name, body in tree.items() if isinstance(body, dict)}
        lists = {name: body for name, body in tree.items() if isinstance(body, list) and _are_tables(body)}
        flat = {f"{table}.{key}": value for table, body in tables.items() for key, value in body.items()}
        reader = cls(flat | lists)
        reader._mistakes += [f"{key}: belongs in a table" for key in tree if key not in tables | lists]
        return reader

    def take(self, key: str, parse: Any, default: Any) -> Any:
        """Return what ``parse`` makes of a value; the default where there is none, or where it is a mistake."""
        if key not in self._left:
            return default
        value = self._left.pop(key)
        try:
            return parse(value)
        except HandfastError as error:
            self.mistake(key, error.message)
        except (TypeError, ValueError, AttributeError):
            self.mistake(key, f"{value!r} is not of the right kind")
        return default

    def table(self, key: str) -> Reader:
        """Return a reader of a table within; an empty one where there is none."""
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            self.mistake(key, "has to be a table")
            value = {}
        return self._part(value, key)

    def tables(self, key: str) -> list[Reader]:
        """Return a reader of each table in a list of them (``[[key]]``), counted from 1 in what is said of it."""
        values = self._left.pop(key, [])
        if not isinstance(values, list) or (values and not _are_tables(values)):
            self.mistake(key, f"has to be tables: [[{self._place}{key}]]")
            return []
        return [self._part(value, f"{key}[{number}]") for number, value in enumerate(values, 1)]

    def _part(self, values: Mapping[str, Any], key: str) -> Reader:
        self._parts.append(Reader(values, place=f"{self._place}{key}."))
        return self._parts[-1]

    def names(self, table: str) -> list[str]:
        """Return the keys that are left in a table."""
        return [key.removeprefix(f"{table}.") for key in self._left if key.startswith(f"{table}.")]

    def has(self, key: str) -> bool:
        """Whether a key is there and was not taken yet."""
        return key in self._left

    def mistake(self, key: str, what: str) -> None:
        """Remember what is wrong with a key."""
        self._mistakes.append(f"{self._place}{key}: {what}")

    def mistakes(self) -> list[str]:
        """Return all of them, those in the tables within too, and every key that was not asked for."""
        within = [mistake for part in self._parts for mistake in part.mistakes()]
        return [*self._mistakes, *within, *(f"{self._place}{key}: unknown" for key in sorted(self._left))]


def _are_tables(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def each(parse: Any) -> Any:
    """Return what reads a list of texts, each with ``parse``."""

    def parse_list(values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list):
            raise TypeError(values)
        if not all(isinstance(value, str) for value in values):
            raise TypeError(values)  # ipaddress would read the number 5 as 0.0.0.5
        return tuple(parse(value) for value in values)

    return parse_list


def one_of(kind: type[E]) -> Callable[[str], E]:
    """Return what reads a member of an enumeration."""

    def parse(value: str) -> E:
        try:
            return kind(value)
        except ValueError:
            raise Malformed(f"{value!r} is none of {', '.join(kind)}") from None

    return parse


def parse_listen(text: str) -> Address:
    """
    Read an address to listen on; port 0 asks the system for a free one.

    :raises UsageError: not ``host:port``.
    """
    host, colon, port = text.rpartition(":")
    try:
        if colon and port == "0":
            return Address(Address.parse(f"{host}:1").host, 0)
        return Address.parse(text)
    except Malformed as error:
        raise UsageError(error.message, hint="write it as 127.0.0.1:7443, [::1]:7443 or name:7443") from None


def yes_or_no(value: Any) -> bool:
    """Read ``true`` or ``false``."""
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def duration(text: str) -> timedelta:
    """
    Read ``90s``, ``15m``, ``1h``, ``7d`` or ``2w``; a bare number is refused, for its unit is a guess.

    :raises UsageError: anything else, or nothing at all (``0h``).
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"not a duration: {text[:40]!r}", hint="write it as 90s, 15m, 1h, 7d or 2w")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST.total_seconds():  # the calendar ends in the year 9999
        raise UsageError(f"too long a duration: {text[:40]!r}", hint=f"at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_role(text: str) -> Role:
    """
    Read a role that may be granted.

    :raises UsageError: unknown, or ``registrar``, which nobody is granted.
    """
    known = ", ".join(sorted(GRANTABLE))
    try:
        role = Role(text)
    except ValueError:
        raise UsageError(f"unknown role {text[:40]!r}", hint=f"one of {known}") from None
    if role not in GRANTABLE:
        raise UsageError(f"role {text!r} is never granted", hint=f"one of {known}")
    return role
