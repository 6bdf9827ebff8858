"""
Which addresses may be scanned: whoever can have us connect somewhere must not reach what only we can reach.

A stranger who names the targets would otherwise look with our eyes: at loopback, at the private network behind us, at
the cloud's metadata service. Names are resolved once, every address that comes out is judged, and what is connected to
is that address and not the name, which could lead elsewhere a moment later (DNS rebinding).

*Not* known here: what of the public addresses is ours in truth, such as a network's own prefix for NAT64 (RFC 6052), or
this machine's public address, which it reaches past its own firewall. Only ports for SSH are open, and a peer that does
not say that it speaks SSH is sent nothing (``core.sshwire``).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from handfast.adapters.resolve import addresses_of
from handfast.core.hosts import SSH_PORT
from handfast.core.names import IPAddress, IPNetwork, dns_name, ip_address
from handfast.errors import Malformed, PolicyRefused, TooMuch, Unreachable

MAX_ADDRESSES = 16  # of one name
PATIENCE = 5.0  # seconds for a resolver

_HINT = "the registrar's operator may list the network or port"
_SPECIAL: tuple[tuple[str, IPNetwork], ...] = tuple(
    (kind, ipaddress.ip_network(text))
    for kind, texts in {
        # Whoever reaches one of these has the machine's own cloud credentials. AWS, Azure, GCP and most others; then
        # AWS's containers, Alibaba, Oracle, Azure's host; AWS and GCP by IPv6.
        "a cloud's metadata service": (
            "169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 192.0.0.192 168.63.129.16 "
            "fd00:ec2::254 fd00:ec2::23 fd20:ce::254"
        ),
        "loopback": "127.0.0.0/8 ::1",
        "unspecified": "0.0.0.0/8 ::",  # Linux takes either for loopback
        "link-local": "169.254.0.0/16 fe80::/10",
        "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 198.18.0.0/15 fc00::/7 fec0::/10",
        "multicast": "224.0.0.0/4 ff00::/8",
        # IANA's registries of special-purpose addresses (RFC 6890). Of IPv6 only 2000::/3 is given out at all.
        "reserved": (
            "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 "
            "::/3 4000::/2 8000::/1 2001::/23 2001:db8::/32 3fff::/20"
        ),
        # RFC 3056, whose relays are gone (RFC 7526). Teredo is in 2001::/23.
        "6to4": "2002::/16",
    }.items()
    for text in texts.split()
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1: an IPv4 address in its last four bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where to scan, which only a ``Guard`` says; ``host`` is how the one who asked called it."""

    host: str
    address: IPAddress
    port: int

    def __str__(self) -> str:
        place = f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"
        return place if self.host == str(self.address) else f"{self.host!r} at {place}"


Resolve = Callable[[str], Awaitable[Sequence[IPAddress]]]


async def resolve(name: str) -> Sequence[IPAddress]:
    """
    Ask the system for the addresses of a DNS name, as it stands: no search domain is put behind it.

    :raises Unreachable: it has none, or no resolver answers in time.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(addresses_of, name)
    except (OSError, UnicodeError):  # a TimeoutError is an OSError
        raise Unreachable(f"no address of {name!r} was found", hint="look it up with `getent ahosts`") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """
    What may be scanned: public addresses at port 22, and what the operator lists.

    A network in ``allow`` opens a special range only from within: ``10.0.0.0/8`` opens itself, and ``0.0.0.0/0``
    neither this nor the metadata service. Ports in ``ports`` are open besides 22, at every address.
    """

    allow: tuple[IPNetwork, ...] = ()
    ports: tuple[int, ...] = ()

    def target(self, address: IPAddress, port: int = SSH_PORT, *, host: str = "") -> Target:
        """
        Return this address and port as a target; ``host`` is the name that led there.

        An IPv4 address within an IPv6 one, mapped or for NAT64, is judged as what it is. A mapped one becomes it: that
        is what would be connected to.

        :raises PolicyRefused: it may not be scanned. A stranger who asked by name does not learn the address.
        """
        plain = (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
        reasons = []
        if port != SSH_PORT and port not in self.ports:
            reasons.append(f"port {port} is not one to scan")
        if kind := self._closed(plain):
            where = f"{host!r} leads to an address that" if host and host != str(plain) else f"{str(plain)!r}"
            reasons.append(f"{where} is not one to scan: {kind}")
        if reasons:
            raise PolicyRefused(tuple(reasons), hint=_HINT)
        return Target(host or str(plain), plain, port)

    async def targets(self, host: str, port: int = SSH_PORT, *, resolve: Resolve = resolve) -> tuple[Target, ...]:
        """
        Return every address of a name, or the address that ``host`` is; one that may not be scanned refuses all.

        :raises Malformed: neither a name with a dot in it nor an address.
        :raises Unreachable: the name has no address.
        :raises PolicyRefused: see ``target``.
        :raises TooMuch: it has over ``MAX_ADDRESSES`` addresses.
        """
        try:
            return (self.target(ip_address(host), port),)
        except ValueError:
            name = dns_name(host)
        if "." not in name:  # it would be whoever told a DHCP server that he is called so
            raise Malformed(f"not a full DNS name: {name!r}", hint="write it with its domain, or give the address")
        addresses = tuple(dict.fromkeys(await resolve(name)))
        if not addresses:
            raise Unreachable(f"no address of {name!r} was found", hint="look it up with `getent ahosts`")
        if len(addresses) > MAX_ADDRESSES:
            raise TooMuch(f"{name!r} has over {MAX_ADDRESSES} addresses", hint="name the machines one by one")
        return tuple(dict.fromkeys(self.target(address, port, host=name) for address in addresses))

    def _closed(self, address: IPAddress) -> str | None:
        """Return what closed the address, or None."""
        judged = ipaddress.IPv4Address(address.packed[12:]) if address in _NAT64 else address
        closed = (kind for kind, special in _SPECIAL if judged in special and not self._opens(judged, special))
        return next(closed, None)

    def _opens(self, address: IPAddress, special: IPNetwork) -> bool:
        return any(address in each and _within(each, special) for each in self.allow)


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
