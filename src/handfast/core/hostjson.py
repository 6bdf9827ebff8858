"""
A machine out of the JSON in which the ledger keeps it, whoever has parsed that: ``handfast ssh`` loads no library.

What was decided is given back as it was, without deciding again. ``ledger.host_entries`` writes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from handfast.core import sshkeys
from handfast.core.hosts import Host, HostKey, How, Place, RetiredKey
from handfast.core.names import ip_address


def host_from(value: dict[str, Any]) -> Host:
    """Return the machine. :raises ValueError, KeyError, TypeError, HandfastError: it is something else."""
    return Host(
        machine=value["machine"],
        place=place_from(value["place"]),
        keys=tuple(
            HostKey(sshkeys.parse(key), How(how), detail, datetime.fromisoformat(at))
            for key, how, detail, at in value["keys"]
        ),
        retired=tuple(
            RetiredKey(sshkeys.parse(key), datetime.fromisoformat(at), reason) for key, at, reason in value["retired"]
        ),
    )


def place_from(value: dict[str, list[Any]]) -> Place:
    """Return the place. :raises ValueError, KeyError, TypeError: it is something else."""
    return Place(
        tuple(map(str, value["names"])),
        tuple(ip_address(str(address)) for address in value["addresses"]),
        tuple(map(str, value["aliases"])),
        tuple(int(port) for port in value["ports"]),
    )
