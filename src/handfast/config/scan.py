"""The table ``[ssh.scan]`` of ``config.toml``: what the registrar may look at for others, and who looks with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handfast.config.reader import Reader, each
from handfast.core.invitation import Address, parse_registrar
from handfast.core.names import network
from handfast.errors import Malformed
from handfast.ssh.guard import Guard

MOST_PORTS = 16  # each is a service that a stranger can have us knock at
MOST_POINTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSettings:
    """
    ``guard`` is what may be scanned. ``vantage`` are other registrars, each with its pin, that have to see the same.

    ``credentials`` are the directories of what they let us in with.
    """

    guard: Guard = field(default_factory=Guard)
    vantage: tuple[tuple[Address, bytes], ...] = ()
    credentials: tuple[Path, ...] = ()


def scan_settings(table: Reader) -> ScanSettings:
    """Read the table; where ``allow`` and ``ports`` are missing, only public addresses and port 22 are open."""
    settings = ScanSettings(
        guard=Guard(allow=table.take("allow", each(network), ()), ports=table.take("ports", _ports, ())),
        vantage=table.take("vantage", _points, ()),
        credentials=table.take("credential", _directories, ()),
    )
    if settings.vantage and not settings.credentials:
        table.mistake("credential", "is missing: the directory of what the vantage points let us in with")
    return settings


def _ports(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError(values)
    for value in values:
        if not 0 < value < 65536:
            raise Malformed(f"not a port: {value}")
    if len(values) > MOST_PORTS:
        raise Malformed(f"{len(values)} ports, at most {MOST_PORTS}")
    return tuple(values)


def _points(values: Any) -> tuple[tuple[Address, bytes], ...]:
    found: tuple[tuple[Address, bytes], ...] = each(parse_registrar)(values)
    if len(found) > MOST_POINTS:
        raise Malformed(f"{len(found)} vantage points, at most {MOST_POINTS}")
    if len(set(found)) != len(found):
        raise Malformed("one of them stands there twice: it would look twice from one place")
    return found


def _directories(value: Any) -> tuple[Path, ...]:
    """Read one directory, or several, where the vantage points are of several authorities."""
    return tuple(Path(each) for each in _texts([value] if isinstance(value, str) else value))


def _texts(values: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = each(str)(values)
    if not all(found):
        raise Malformed("an empty path")
    return found
