"""
The names of a cluster's members in /etc/hosts, which the original's API lets a controller write.

Whoever writes there decides where this machine's programs connect to. So the agent's policy has to name the file, there
is one block that is ours, what stands outside of it is never changed, and a name that stands there is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from handfast.adapters import places
from handfast.adapters.places import Use
from handfast.core.names import dns_name, ip_address
from handfast.errors import Conflict, Fault, Malformed, NotFound, TooMuch

MAX_MEMBERS = 1_000
MAX_FILE = 1024 * 1024  # bytes
_BEGIN, _END = "# begin: cluster members, written by handfast", "# end: cluster members"


@dataclass(frozen=True, slots=True)
class Members:
    """The block of cluster members in a hosts(5) file; for one thread at a time."""

    path: Path

    def put(self, hostname: str, address: str) -> None:
        """
        Have a name lead to an IP address, instead of the one before.

        :raises Malformed: no name of DNS, or no address, or one that is no machine's. :raises Conflict: the machine's
            own part of the file has the name. :raises TooMuch: too many. :raises Fault: the file cannot be written.
        """
        name, place = dns_name(hostname), _address(address)
        outside, members = self._read()
        if name in {each.lower() for line in outside for each in line.partition("#")[0].split()[1:]}:
            raise Conflict(f"{name!r} is in {str(self.path)!r} already", hint="whoever is root there wrote it")
        members[name] = place
        if len(members) > MAX_MEMBERS:
            raise TooMuch(f"over {MAX_MEMBERS} members", hint="remove some")
        self._write(outside, members)

    def remove(self, hostname: str) -> None:
        """Remove a name. :raises NotFound: it is none of ours. :raises Malformed, Fault: as ``put``."""
        name = dns_name(hostname)
        outside, members = self._read()
        if members.pop(name, None) is None:
            raise NotFound(f"no member {name!r}", hint="names as they were added, in lower case")
        self._write(outside, members)

    def recover(self) -> None:
        """Remove what a crash has left beside the file. :raises Unsafe, NotFound, Fault: as ``places.opened``."""
        with places.opened(self.path.parent, Use.WRITE) as place:
            place.clean(places.leftovers(self.path.name))

    def _read(self) -> tuple[list[str], dict[str, str]]:
        with places.opened(self.path.parent, Use.WRITE) as place:
            text = place.read(self.path.name, limit=MAX_FILE).decode("utf-8", "surrogateescape")
        # As hosts(5) has lines, not as Unicode has: a form feed in a comment would begin an entry.
        lines = text.removesuffix("\n").split("\n") if text else []
        if _BEGIN not in lines:
            return lines, {}
        begin = lines.index(_BEGIN)
        if _END not in lines[begin:]:
            raise Fault(f"{str(self.path)!r} has the begin of our block and no end", hint=f"write {_END!r} there")
        end = lines.index(_END, begin)
        pairs = (line.split() for line in lines[begin + 1 : end])
        return lines[:begin] + lines[end + 1 :], {pair[1]: pair[0] for pair in pairs if len(pair) == 2}

    def _write(self, outside: list[str], members: dict[str, str]) -> None:
        block = [_BEGIN, *(f"{address} {name}" for name, address in sorted(members.items())), _END]
        text = "".join(f"{line}\n" for line in [*outside, *(block if members else [])])
        with places.opened(self.path.parent, Use.WRITE) as place:
            about = place.about(self.path.name)
            if about is None:
                raise Fault(f"{str(self.path)!r} is gone", hint="somebody has removed it just now")
            owner, data = (about.st_uid, about.st_gid), text.encode("utf-8", "surrogateescape")
            place.write(self.path.name, data, mode=about.st_mode & 0o777, owner=owner)


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise Malformed(f"not an IP address: {text[:80]!r}", hint="the agent asks no resolver") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # which is where a connection to it goes
    refused = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
    # Reserved is also IPv6 with IPv4 in it, which leads where somebody translates it to. Linux takes 0/8 for its own.
    if refused or address.is_reserved or (address.version == 4 and address.packed[0] == 0):
        raise Malformed(f"{text[:80]!r} is no other machine's address", hint="give the member's own")
    return str(address)
