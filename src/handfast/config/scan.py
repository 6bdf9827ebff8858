"""The table ``[ssh.scan]`` of ``config.toml``: what the registrar may look at for others, and who looks with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handfast.config.reader import Reader, each
from handfast.core.invitation import Address, parse_registrar
from handfast.core.names import machine_name, network
from handfast.errors import Malformed
from handfast.ssh.guard import Guard

MOST_PORTS = 16  # each is a service that a stranger can have us knock at
MOST_POINTS = 8
AGENT = "agent:"
_Registrar = tuple[Address, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSettings:
    """
    ``guard`` is what may be scanned. ``vantage`` are other registrars, each with its pin, that have to see the same.

    ``credentials`` are the directories of what they let us in with. ``agents`` are instances of ours that have to see
    the same, by their names.
    """

    guard: Guard = field(default_factory=Guard)
    vantage: tuple[_Registrar, ...] = ()
    credentials: tuple[Path, ...] = ()
    agents: tuple[str, ...] = ()


def scan_settings(table: Reader) -> ScanSettings:
    """Read the table; where ``allow`` and ``ports`` are missing, only public addresses and port 22 are open."""
    points = table.take("vantage", _points, ())
    settings = ScanSettings(
        guard=Guard(allow=table.take("allow", each(network), ()), ports=table.take("ports", _ports, ())),
        vantage=tuple(each for each in points if not isinstance(each, str)),
        credentials=table.take("credential", _directories, ()),
        agents=tuple(each for each in points if isinstance(each, str)),
    )
    if settings.vantage and not settings.credentials:
        table.mistake("credential", "is missing: the directory of what the vantage points let us in with")
    return settings


def check_agents(reader: Reader, scan: ScanSettings, *, watch: bool) -> None:
    """Remember that agents are to look, and nobody here could ask them: nothing would ever be certified."""
    if scan.agents and not watch:
        where = f"{AGENT}{scan.agents[0]}"
        reader.mistake("ssh.scan.vantage", f"{where!r} is asked by its controller: [instances] watch = true")


def _ports(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError(values)
    for value in values:
        if not 0 < value < 65536:
            raise Malformed(f"not a port: {value}")
    if len(values) > MOST_PORTS:
        raise Malformed(f"{len(values)} ports, at most {MOST_PORTS}")
    return tuple(values)


def _points(values: Any) -> tuple[_Registrar | str, ...]:
    found: tuple[_Registrar | str, ...] = each(_point)(values)
    if len(found) > MOST_POINTS:
        raise Malformed(f"{len(found)} vantage points, at most {MOST_POINTS}")
    if len(set(found)) != len(found):
        raise Malformed("one of them stands there twice: it would look twice from one place")
    return found


def _point(text: str) -> _Registrar | str:
    if text.startswith(AGENT) and "#" not in text:  # with a pin it is a registrar, on a host that is called so
        return machine_name(text.removeprefix(AGENT))
    return parse_registrar(text)


def _directories(value: Any) -> tuple[Path, ...]:
    """Read one directory, or several, where the vantage points are of several authorities."""
    return tuple(Path(each) for each in _texts([value] if isinstance(value, str) else value))


def _texts(values: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = each(str)(values)
    if not all(found):
        raise Malformed("an empty path")
    return found
