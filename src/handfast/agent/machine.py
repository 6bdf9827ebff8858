"""
Whether this machine is the instance that its user-data is about: a copy of one is refused before it shows a key.

Two machines with one identity come from a copied disk, or from user-data that was given twice. The cloud tells them
apart by its own instance id. Where that was known before the launch it is in the user-data; otherwise the first start
writes it down, beside the key that it is to guard.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from handfast.adapters import files
from handfast.core.instancedata import OURS, InstanceData
from handfast.errors import Fault, NotFound, Refused

NAME = "machine.json"  # in the agent's directory
_HINT = "`handfast instance add` it under a name of its own, and give it an empty --state"


class _Machine(msgspec.Struct, frozen=True):
    """Which machine the instance ``instance_id`` is, by the cloud's word."""

    instance_id: str
    machine: str


def check_machine(directory: Path, data: InstanceData, machine: str | None) -> None:
    """
    Check that this is the machine of the user-data; ``machine`` is its id by the cloud's word, None where nobody says.

    ``directory`` is the agent's, held by the caller. User-data with another id of ours is another instance's: what is
    kept for the one before counts no more.

    :raises Refused: it is a copy. :raises Fault: the disk, or the file is damaged.
    """
    if machine is None:
        return
    if not data.instance_id.startswith(OURS):
        _same(data, expected=data.instance_id, machine=machine)
        return
    known = _read(directory / NAME)
    if known is not None and known.instance_id == data.instance_id:
        _same(data, expected=known.machine, machine=machine)
        return
    files.write_atomic(directory / NAME, msgspec.json.encode(_Machine(data.instance_id, machine)))


def _same(data: InstanceData, *, expected: str, machine: str) -> None:
    if machine != expected:
        raise Refused(
            f"this machine is {machine[:128]!r}, and {data.instance!r} is {expected!r}: a copy of it", hint=_HINT
        )


def _read(path: Path) -> _Machine | None:
    try:
        return msgspec.json.decode(files.read_private(path), type=_Machine)
    except NotFound:
        return None
    except msgspec.DecodeError:
        raise Fault(f"{str(path)!r} is damaged", hint="if this is no copied disk, remove it") from None
