"""
Which names lead to an address: asked of the system's resolver, and of /etc/hosts.

A name with a dot in it is asked for as it stands, and never with a search domain behind it. Where a resolver searches
first (Kubernetes sets ``ndots:5``), ``node1.lan`` would be whoever has ``node1.lan.svc.cluster.local``.

A name without a dot counts only where this machine's administrator wrote it into /etc/hosts. Elsewhere it is whoever
told a DHCP server, or answered on the local network, that he is called so; and a user may be called the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from pathlib import Path

from handfast.core.names import IPAddress, Names

PATIENCE = 5.0  # seconds for all names together; what does not answer in time leads nowhere
# RFC 5737, RFC 3849: for documentation. Where one can be had, every address can, and being had means nothing.
_NOBODYS = {4: ipaddress.ip_address("192.0.2.1"), 6: ipaddress.ip_address("2001:db8::1")}
_LOOPBACK = ipaddress.ip_address("127.0.0.1")
_AT_ONCE = 4  # of the loop's few threads, which nothing else waits for
_HOSTS = Path("/etc/hosts")  # read here: the C library does not find a name with its final dot there


async def leading_to(names: Names, source: IPAddress | None) -> Names:
    """
    Return those of ``names`` that lead to ``source``: it is among the addresses of the name, or is the address itself.

    A caller from an address of ours is this machine: then a name leads to it whose address is another one of ours,
    such as the 127.0.1.1 under which Debian knows the host's own name.
    """
    if source is None:
        return Names()
    turn, here = asyncio.Semaphore(_AT_ONCE), _is_ours(source)

    def same(address: IPAddress) -> bool:
        return address == source or (here and _is_ours(address))

    listed = _listed() if names.dns else {}

    async def leads(name: str) -> bool:
        async with turn:
            return any(same(address) for address in [*listed.get(name, ()), *await _addresses(name)])

    asked = {asyncio.ensure_future(leads(name)): name for name in names.dns}
    if asked:
        await asyncio.wait(asked, timeout=PATIENCE)
    found = {name for task, name in asked.items() if task.done() and not task.cancelled() and task.result()}
    for task in asked:
        task.cancel()
    return Names(tuple(name for name in names.dns if name in found), tuple(ip for ip in names.ips if same(ip)))


def addresses_of(name: str) -> list[IPAddress]:
    """
    Return the addresses of a name with a dot in it, as it stands; /etc/hosts counts before DNS. For a thread.

    :raises OSError, UnicodeError: it has none, or is none that a resolver takes.
    """
    if listed := _hosts_file().get(name.lower()):
        return listed
    found = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM)
    return [_plain(ipaddress.ip_address(str(place[0]).partition("%")[0])) for *_, place in found]


def _listed() -> dict[str, list[IPAddress]]:
    """Return our own names and those that /etc/hosts has, and their addresses."""
    # RFC 6761 §6.3; and who we are ourselves is for nobody else to say.
    ours = {name: [_LOOPBACK] for name in ("localhost", socket.gethostname().lower())}
    found = _hosts_file()
    return found | {name: [*addresses, *found.get(name, [])] for name, addresses in ours.items()}


def _hosts_file() -> dict[str, list[IPAddress]]:
    found: dict[str, list[IPAddress]] = {}
    try:
        lines = _HOSTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return found
    for line in lines:
        text, *names = line.partition("#")[0].split() or [""]
        with contextlib.suppress(ValueError):
            address = _plain(ipaddress.ip_address(text.partition("%")[0]))
            for name in names:
                found.setdefault(name.lower(), []).append(address)
    return found


async def _addresses(name: str) -> list[IPAddress]:
    if "." not in name:
        return []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # no such name, or one that no resolver takes
        return []
    return [_plain(ipaddress.ip_address(str(place[0]).partition("%")[0])) for *_, place in found]


def _plain(address: IPAddress) -> IPAddress:
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _is_ours(address: IPAddress) -> bool:
    """Whether it is on loopback or an interface of this machine has it."""
    if address.is_unspecified or address.is_multicast:
        return False
    return address.is_loopback or (_can_bind(address) and not _can_bind(_NOBODYS[address.version]))


def _can_bind(address: IPAddress) -> bool:
    """Whether a socket can have the address: only one of ours, unless ip_nonlocal_bind is on. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
