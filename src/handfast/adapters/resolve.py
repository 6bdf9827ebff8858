"""Which names lead to an address: asked of the system's resolver, with /etc/hosts and all that it is configured for."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from handfast.core.names import IPAddress, Names

PATIENCE = 5.0  # seconds for all names together; what does not answer in time leads nowhere
_AT_ONCE = 4  # of the loop's few threads, which nothing else waits for


async def leading_to(names: Names, source: IPAddress | None) -> Names:
    """
    Return those of ``names`` that lead to ``source``: it is among the addresses of the name, or is the address itself.

    A caller on this machine's loopback is this machine: then a name leads to it whose address is one of ours.
    """
    if source is None:
        return Names()
    turn = asyncio.Semaphore(_AT_ONCE)

    async def leads(name: str) -> bool:
        async with turn:
            return any(_same(address, source) for address in await _addresses(name))

    asked = {asyncio.ensure_future(leads(name)): name for name in names.dns}
    if asked:
        await asyncio.wait(asked, timeout=PATIENCE)
    found = {name for task, name in asked.items() if task.done() and not task.cancelled() and task.result()}
    for task in asked:
        task.cancel()
    return Names(tuple(name for name in names.dns if name in found), tuple(ip for ip in names.ips if _same(ip, source)))


async def _addresses(name: str) -> list[IPAddress]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # no such name, or one that no resolver takes
        return []
    return [_plain(ipaddress.ip_address(str(place[0]).partition("%")[0])) for *_, place in found]


def _same(address: IPAddress, source: IPAddress) -> bool:
    return address == source or (source.is_loopback and (address.is_loopback or _is_ours(address)))


def _plain(address: IPAddress) -> IPAddress:
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _is_ours(address: IPAddress) -> bool:
    """Whether an interface of this machine has it: only then can a socket be bound to it. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return not (address.is_unspecified or address.is_multicast)
