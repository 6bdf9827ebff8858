"""
Ask machines on the network for their SSH host keys, as anybody could; each shows a key only with proof that it has it.

What was seen is what answered at an address at that moment, from here: behind it may be whoever sits between, who then
shows a key of his own; a key of somebody else he cannot show, except by passing the connection on to its owner.

One connection shows one key, since a server signs with one. The first offers every algorithm, and shows which others
the server has; these are asked for one after the other. To sshd each of them is somebody who left without logging in:
since OpenSSH 9.8 that counts one second against our address, and over 15 of them shut us out, with everybody behind it
(PerSourcePenalties). ``Place`` keeps us from that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

from handfast.core.names import IPAddress
from handfast.core.sshkeys import SshKey
from handfast.core.sshwire import ALGORITHMS, FAMILIES, Shown, converse
from handfast.errors import HandfastError, Malformed, TooMuch, Unreachable, UntrustedPeer
from handfast.ssh.guard import Target

_READ = 16 * 1024  # bytes
_PENALTY = 1.0  # seconds that sshd counts for a connection: `noauth` of PerSourcePenalties in sshd_config(5)
_DEBT = 10.0  # seconds of it that we run up; sshd's `min` is 15, and others behind our address need their share


@dataclass(frozen=True, slots=True)
class Scanned:
    """
    What a server showed. It has the private key of each of ``keys``, and of the key in each of ``certificates``.

    ``offered`` are all the host key algorithms that it has by its own word, also those that we do not ask for.
    ``banner`` is its version line. *Not* checked: the certificates' authority, names and times.
    """

    address: IPAddress
    port: int
    keys: tuple[SshKey, ...]
    certificates: tuple[bytes, ...]
    offered: tuple[str, ...]
    banner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What scans may cost."""

    patience: float = 15.0  # seconds for all of one target, however slowly it answers
    at_once: int = 128  # targets, with one connection each
    queue: int = 4  # scans that wait for another one of the same target


@dataclass(slots=True)
class Place:
    """What goes on at one address and port: one connection at a time, and what its sshd holds against us."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    forgotten: float = 0.0  # when sshd holds nothing against us any more, by the clock of the loop

    @property
    def earliest(self) -> float:
        """When the next connection is within what sshd tolerates."""
        return self.forgotten + _PENALTY - _DEBT

    def count(self, now: float) -> None:
        """Count a connection that ended now, which is when sshd counts it."""
        self.forgotten = max(self.forgotten, now) + _PENALTY


class Scanner:
    """Scans targets, many at once, each by one connection at a time. There is one for each event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._room = asyncio.Semaphore(self._limits.at_once)
        self._places: dict[tuple[IPAddress, int], Place] = {}
        self._sweep = 1024

    async def scan(self, target: Target, algorithms: Sequence[str] = ALGORITHMS) -> Scanned:
        """
        Return the keys and certificates that the target shows for these ``algorithms``, of ``core.sshwire``.

        All or nothing: one key that is not proved, and the scan says so instead.

        :raises Unreachable: nobody answers in time, or not as far as a key.
        :raises Malformed: what answers does not keep to SSH's protocol, or shows a key too weak to prove anything.
        :raises UntrustedPeer: it shows a key whose private key it does not have, or is not the same each time.
        :raises TooMuch: it was scanned too often just now; ``after`` says when to come again.
        """
        place = self._place(target)
        if place.users > self._limits.queue:
            raise TooMuch(f"{target} is being scanned by others", hint="try again", after=int(self._limits.patience))
        place.users += 1
        try:
            async with place.turn, self._room:
                return await self._scan(target, place, algorithms)
        finally:
            place.users -= 1

    async def scan_all(
        self,
        targets: Iterable[Target],
        tell: Callable[[Target, Scanned | HandfastError], None],
        algorithms: Sequence[str] = ALGORITHMS,
    ) -> None:
        """Scan targets, and ``tell`` each with its result as it comes. They are taken when there is room for them."""
        waiting = iter(targets)

        async def work() -> None:
            for target in waiting:
                result: Scanned | HandfastError
                try:
                    result = await self.scan(target, algorithms)
                except HandfastError as error:
                    result = error
                tell(target, result)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._limits.at_once):
                group.create_task(work())

    def _place(self, target: Target) -> Place:
        if len(self._places) >= self._sweep:  # of the many that were scanned, few still count
            now = asyncio.get_running_loop().time()
            self._places = {key: each for key, each in self._places.items() if each.users or each.forgotten > now}
            self._sweep = max(1024, 2 * len(self._places))
        return self._places.setdefault((target.address, target.port), Place())

    async def _scan(self, target: Target, place: Place, algorithms: Sequence[str]) -> Scanned:
        end = asyncio.get_running_loop().time() + self._limits.patience
        try:
            async with asyncio.timeout_at(end):
                first = await self._ask(target, place, algorithms, end)
                shown = [first]
                for family in FAMILIES:
                    wanted = [name for name in family if name in algorithms and name in first.offered]
                    if wanted and first.algorithm not in family:
                        shown.append(await self._ask(target, place, wanted, end))
                        _same(target, first, shown[-1])
        except TimeoutError:
            late = f"{target} does not answer, or not to the end, within {self._limits.patience:g} s"
            raise Unreachable(late, hint="is it up, and its port open from here?") from None
        return Scanned(
            target.address,
            target.port,
            tuple(each.key for each in shown if each.key is not None and not each.certificate),
            tuple(each.certificate for each in shown if each.certificate),
            first.offered,
            first.banner,
        )

    async def _ask(self, target: Target, place: Place, algorithms: Sequence[str], end: float) -> Shown:
        """Make one connection when sshd will not mind it, and return what it showed."""
        loop = asyncio.get_running_loop()
        delay = place.earliest - loop.time()
        if place.earliest > end:
            why = "asked again so soon, its sshd would shut us out"
            raise TooMuch(f"{target} was scanned often just now: {why}", hint="try later", after=ceil(delay))
        if delay > 0:
            await asyncio.sleep(delay)
        try:
            return await _connect(target, algorithms)
        except Malformed as error:
            hint = f"see what answers there: `ssh -v -p {target.port} {target.address}`"
            raise Malformed(f"{target}: {error.message}", hint=hint) from None
        except (Unreachable, UntrustedPeer) as error:
            raise type(error)(f"{target}: {error.message}", hint=error.hint) from None
        except OSError as error:
            # asyncio has words of its own for some
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Unreachable(f"cannot reach {target}: {reason}", hint="is sshd running, and the port open?") from None
        finally:
            place.count(loop.time())


def _same(target: Target, first: Shown, other: Shown) -> None:
    """Keys of several servers are not to be taken for one's."""
    if (first.banner, first.offered) != (other.banner, other.offered):
        raise UntrustedPeer(
            f"{target} is another server from one connection to the next: {first.banner!r}, then {other.banner!r}",
            hint="is it a load balancer, or somebody in between?",
        )


async def _connect(target: Target, algorithms: Sequence[str]) -> Shown:
    """Connect to exactly this address, and speak until a key is proved."""
    reader, writer = await asyncio.open_connection(str(target.address), target.port, limit=_READ)
    try:
        conversation = converse(algorithms)
        sending = next(conversation)
        while True:
            if sending:
                writer.write(sending)
            try:
                sending = conversation.send(await reader.read(_READ))
            except StopIteration as stop:
                shown: Shown = stop.value
                return shown
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
