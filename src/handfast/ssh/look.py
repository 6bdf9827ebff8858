"""
Looks at hosts for the registrar: each name is resolved once, and each address that was given is scanned.

Connected to is nothing but an address that was given and that ``ssh.guard`` let pass. A name is only asked for, and its
answer compared: one that leads elsewhere a moment later (DNS rebinding) leads nobody anywhere.

*Not* decided here: what follows from what was seen (``policy.look``), and how often anybody may have us look
(``server.looks``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from handfast.adapters.resolve import addresses_of
from handfast.core.look import MAX_ADDRESSES, MAX_NAMES, MAX_PORTS, Answered, Led, Look, Seen
from handfast.core.names import IPAddress, dns_name
from handfast.core.sshkeys import CERTIFICATE_SUFFIX, PROVABLE, SshKey
from handfast.core.sshwire import FAMILIES
from handfast.errors import HandfastError, Malformed, PolicyRefused, TooMuch, Unreachable
from handfast.ssh import guard
from handfast.ssh.guard import Guard, Resolve, Target
from handfast.ssh.scan import Scanner

T = TypeVar("T")

RESOLVING = 10.0  # seconds for all names of one look
PATIENCE = 30.0  # seconds for all hosts of one look: a scan's own time, and as much again for those before it
# Of one look at a time, so that nobody has room for all others by names whose servers never answer, or by hosts that
# never do. A thread waits on for its resolver, up to half a minute, when its look is long over.
_NAMES_AT_ONCE = 2
_HOSTS_AT_ONCE = 16
_THREADS = 32  # that wait for a resolver
_HINT = (
    "the registrar's operator lists private networks and other ports: [ssh.scan] allow and ports, in its config.toml"
)
# ssh-rsa -> what it signs with and is asked for as; the others are called alike.
_RSA = next(family for family in FAMILIES if "rsa-sha2-256" in family)


class Resolver:
    """Asks the system, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "look")

    async def __call__(self, name: str) -> Sequence[IPAddress]:
        """
        Return the addresses of a DNS name, as it stands: no search domain is put behind it.

        :raises Unreachable: it has none.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, addresses_of, name)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"no address of {name!r} was found: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLooker:
    """Looks from this machine. ``scanner`` outlives a change of ``guard``: it knows what sshd holds against us."""

    guard: Guard
    scanner: Scanner = field(default_factory=Scanner)
    resolve: Resolve = field(default_factory=Resolver)
    resolving: float = RESOLVING
    patience: float = PATIENCE

    async def look(self, look: Look) -> tuple[Seen, ...]:
        """
        Resolve every name, then scan every address at every port; who does not answer in time has ``failed``.

        :raises PolicyRefused: with every address, port, name and key that is not one to look at, before any packet.
        :raises TooMuch: more than a look may have, or hosts that were scanned too often just now.
        """
        targets = self._targets(look)
        led = await self._lead(look.names)
        return (Seen(led, await self._scan(targets, look.keys)),)

    def _targets(self, look: Look) -> tuple[Target, ...]:
        """Judge everything that was given."""
        limits = {"names": MAX_NAMES, "addresses": MAX_ADDRESSES, "ports": MAX_PORTS}
        for what, most in limits.items():
            if len(getattr(look, what)) > most:
                raise TooMuch(f"over {most} {what} to look at", hint="one machine at a time")
        reasons, targets = [*_unfit(look)], list[Target]()
        for address in look.addresses:
            for port in look.ports:
                try:
                    targets.append(self.guard.target(address, port))
                except PolicyRefused as error:
                    reasons += error.reasons
        if reasons:
            raise PolicyRefused(tuple(dict.fromkeys(reasons)), hint=_HINT)
        return tuple(dict.fromkeys(targets))

    async def _lead(self, names: Sequence[str]) -> tuple[Led, ...]:
        turn = asyncio.Semaphore(_NAMES_AT_ONCE)
        asked = {name: asyncio.ensure_future(_in_turn(turn, partial(self._addresses, name))) for name in names}
        await _within(self.resolving, [*asked.values()])
        return tuple(_led(name, task) for name, task in asked.items())

    async def _addresses(self, name: str) -> tuple[IPAddress, ...]:
        found = tuple(dict.fromkeys(map(_plain, await self.resolve(name))))
        if len(found) > guard.MAX_ADDRESSES:
            raise TooMuch(f"{name!r} has over {guard.MAX_ADDRESSES} addresses")
        return found

    async def _scan(self, targets: Sequence[Target], keys: Sequence[SshKey]) -> tuple[Answered, ...]:
        algorithms = _algorithms(keys)
        turn = asyncio.Semaphore(_HOSTS_AT_ONCE)
        asked = [asyncio.ensure_future(_in_turn(turn, partial(self._answer, target, algorithms))) for target in targets]
        await _within(self.patience, asked)
        return tuple(_answered(target, task) for target, task in zip(targets, asked, strict=True))

    async def _answer(self, target: Target, algorithms: Sequence[str]) -> Answered:
        try:
            found = await self.scanner.scan(target, algorithms)
        except TooMuch:
            raise  # who asked comes again later, and the host has done nothing wrong
        except HandfastError as error:
            return Answered(target.address, target.port, failed=error.message)
        return Answered(found.address, found.port, found.keys, found.certificates)


async def _in_turn(turn: asyncio.Semaphore, work: Callable[[], Awaitable[T]]) -> T:
    async with turn:
        return await work()


async def _within(seconds: float, tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until all are done, and cancel those that are not by then, or when nobody waits any more."""
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unfit(look: Look) -> Iterator[str]:
    """Give every reason not to look, but those of the guard."""
    if not (look.addresses and look.ports and look.keys):
        yield "there is nothing to look at: it takes an address, a port and a key"
    for name in look.names:
        with contextlib.suppress(Malformed):
            if dns_name(name) == name and "." in name:
                continue
        # One without a dot would be whoever told a DHCP server that he is called so.
        yield f"{name!r} is not a full DNS name"
    for key in look.keys:
        if key.algorithm not in PROVABLE:
            yield f"{key.fingerprint} is of a type that no scan can verify: {key.algorithm!r}"


def _algorithms(keys: Sequence[SshKey]) -> tuple[str, ...]:
    """Return what to ask for: these types of keys, and certificates for them."""
    types = {key.algorithm for key in keys}
    plain = [name for family in FAMILIES for name in family if name in types or ("ssh-rsa" in types and family is _RSA)]
    return (*plain, *(name + CERTIFICATE_SUFFIX for name in plain))


def _led(name: str, task: asyncio.Future[tuple[IPAddress, ...]]) -> Led:
    if task.cancelled():
        return Led(name, (), "no answer in time")
    error = task.exception()
    if isinstance(error, HandfastError):
        return Led(name, (), error.message)
    return Led(name, task.result())


def _answered(target: Target, task: asyncio.Future[Answered]) -> Answered:
    """:raises TooMuch: it was scanned too often just now."""
    if task.cancelled():
        return Answered(target.address, target.port, failed="no answer in time")
    try:
        return task.result()
    except TooMuch as error:
        hint = f"try again in {error.after} s"
        raise TooMuch("these hosts were looked at too often just now", hint=hint, after=error.after) from None


def _plain(address: IPAddress) -> IPAddress:
    """Return what would be connected to; in Python an address in its mapped form is another one."""
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def looker(allowed: Guard, scanner: Scanner | None = None) -> LocalLooker:
    """Return what looks from this machine, within what the operator allows."""
    return LocalLooker(guard=allowed, scanner=scanner or Scanner())
