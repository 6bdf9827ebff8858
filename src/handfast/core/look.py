"""
What looking at hosts is: names that are to lead to addresses, and host keys that are to answer there.

A value only. Who looks, and how often, is ``ssh.look``; what follows from it is ``policy.look``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from handfast.core.hosts import SSH_PORT
from handfast.core.names import IPAddress
from handfast.core.sshkeys import SshKey

MAX_NAMES = 64
MAX_ADDRESSES = 16
MAX_PORTS = 4


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be looked at: ``keys`` say which host key algorithms to ask for."""

    names: tuple[str, ...]
    addresses: tuple[IPAddress, ...]
    keys: tuple[SshKey, ...]
    ports: tuple[int, ...] = (SSH_PORT,)


@dataclass(frozen=True, slots=True)
class Led:
    """To which addresses a name leads; none, and ``failed`` says why."""

    name: str
    addresses: tuple[IPAddress, ...]
    failed: str = ""

    def only_to(self, given: AbstractSet[IPAddress]) -> bool:
        """Whether it leads to some of these addresses, and nowhere else."""
        return not self.failed and bool(self.addresses) and set(self.addresses) <= given


@dataclass(frozen=True, slots=True)
class Answered:
    """
    What answered at an address: each of ``keys``, and the key in each of ``certificates`` (wire form), was proved.

    None of either, and ``failed`` says why: for our log, not for a stranger, to whom it would map our network.
    """

    address: IPAddress
    port: int
    keys: tuple[SshKey, ...] = ()
    certificates: tuple[bytes, ...] = ()
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen from one place: every name and every address with every port that was to be looked at."""

    led: tuple[Led, ...]
    answered: tuple[Answered, ...]
    by: str = "registrar"
