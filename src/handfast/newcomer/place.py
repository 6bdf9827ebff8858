"""As what and where this machine is reached, as far as it knows itself; nobody has to believe it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

from handfast.core.invitation import Address
from handfast.core.names import IPAddress, dns_name
from handfast.errors import Malformed, Unreachable, UsageError

_HINT = "say it with --name: the name that others reach this machine by"


def own_name() -> str:
    """
    Return this machine's full DNS name: its host name, or what that is completed to (``hostname -f``).

    :raises UsageError: it has none.
    """
    name = socket.gethostname()
    if "." not in name:
        with suppress(OSError, UnicodeError):
            name = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)[0][3] or name
    try:
        full = dns_name(name)
    except Malformed as error:
        raise UsageError(f"this machine's name cannot be used: {error.message}", hint=_HINT) from None
    if "." not in full or full.startswith("localhost."):
        raise UsageError(f"this machine is called {full!r}, which is not a full DNS name", hint=_HINT)
    return full


def own_addresses(names: Sequence[str], registrar: Address) -> tuple[IPAddress, ...]:
    """
    Return the addresses that these names lead to from here, or else the one from which we reach the registrar.

    What leads back to this machine alone is left out: in ``/etc/hosts`` of Debian its own name is 127.0.1.1.

    :raises Unreachable: neither leads anywhere.
    """
    found = {address for name in names for address in _public(_resolved(name))}
    found = found or set(_public(_outward(registrar)))
    if not found:
        raise Unreachable(
            f"no address of {', '.join(names)} was found, and no way to {registrar}",
            hint="say it with --address: where sshd of this machine is reached",
        )
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def _public(addresses: Iterable[IPAddress]) -> Iterable[IPAddress]:
    """Leave out what means this machine or this link alone."""
    for address in addresses:
        plain = getattr(address, "ipv4_mapped", None) or address
        if not (plain.is_loopback or plain.is_link_local or plain.is_unspecified or plain.is_multicast):
            yield plain


def _resolved(name: str) -> list[IPAddress]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]


def _outward(registrar: Address) -> list[IPAddress]:
    """Ask the kernel from where we would call; connecting a datagram socket sends nothing."""
    try:
        places = socket.getaddrinfo(registrar.host, registrar.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    for family, kind, protocol, _, place in places:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(place)
            except OSError:
                continue
            return [ipaddress.ip_address(str(probe.getsockname()[0]).partition("%")[0])]
    return []
