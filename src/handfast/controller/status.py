"""
How instances are at this moment, for whoever asks beside the one who watches: a file in the controller's directory.

The ledger has what lasts. Whether a machine answers does not, changes often, and is worth nothing once nobody watches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from handfast.adapters.files import faults, write_atomic
from handfast.controller.credential import DIRECTORY
from handfast.core.instances import Instance, lasting

NAME = "status.json"
REFRESH = timedelta(seconds=10)  # how often it is written where nothing changes
_STALE = 3 * REFRESH


class _Status(msgspec.Struct):
    at: datetime
    instances: list[Instance]
    contacts: dict[str, datetime] = {}


def publish(
    data: Path, instances: Sequence[Instance], *, at: datetime, contacts: Mapping[str, datetime] | None = None
) -> None:
    """Write how they are, and when each by its name has last proved to be itself. :raises Fault: the disk."""
    status = _Status(at, list(instances), dict(contacts or {}))
    write_atomic(data / DIRECTORY / NAME, msgspec.json.encode(status))


def withdraw(data: Path) -> None:
    """Say no more: nobody watches. :raises Fault: the disk."""
    path = data / DIRECTORY / NAME
    with faults("remove", path):
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Current:
    """An instance as it is; whether somebody ``watched`` it; when it has last proved to be itself, as far as he saw."""

    instance: Instance
    watched: bool
    contact: datetime | None


def current(data: Path, kept: Sequence[Instance], *, at: datetime) -> list[Current]:
    """
    Return each instance as whoever watches it has it; else as the ledger does.

    What the ledger says counts: where somebody has changed an instance since, it is as it is there.
    """
    status = _read(data, at)
    live, contacts = {each.name: each for each in status.instances}, status.contacts
    return [
        Current(found, True, contacts.get(each.name))
        if (found := live.get(each.name)) is not None and lasting(found) == lasting(each)
        else Current(each, False, contacts.get(each.name))
        for each in kept
    ]


def _read(data: Path, at: datetime) -> _Status:
    path = data / DIRECTORY / NAME
    with faults("read", path):
        try:
            status = msgspec.json.decode(path.read_bytes(), type=_Status)
        except (FileNotFoundError, msgspec.DecodeError):
            return _Status(at, [])
    return status if abs(at - status.at) < _STALE else _Status(at, [])
