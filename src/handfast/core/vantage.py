"""
The messages with which one registrar has another one look at hosts: from elsewhere somebody in the middle is not there.

Whoever looks says of each thing he was asked whether it is so, and no more: not where else a name leads, nor what else
answered. So his networks stay his own, and the word of one who is not honest only takes away.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from handfast.core.look import MAX_ADDRESSES, MAX_NAMES, MAX_PORTS, Answered, Led, Look, Seen
from handfast.core.names import ip_address
from handfast.core.sshkeys import MAX_BLOB, MAX_KEYS
from handfast.core.wire import NameText
from handfast.errors import Malformed

PATH = "/v1/ssh/look"
MAX_HOSTS = MAX_ADDRESSES * MAX_PORTS
_ELSEWHERE = "nowhere, or also to other addresses than those given"

_Port = Annotated[int, Meta(ge=1, le=65535)]
_Fingerprint = Annotated[str, Meta(max_length=60)]


class LookRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/ssh/look: see ``core.look.Look``. All stand in their one form, each once; ``keys`` in wire form."""

    names: Annotated[list[NameText], Meta(max_length=MAX_NAMES)]
    addresses: Annotated[list[Annotated[str, Meta(max_length=45)]], Meta(min_length=1, max_length=MAX_ADDRESSES)]
    ports: Annotated[list[_Port], Meta(min_length=1, max_length=MAX_PORTS)]
    keys: Annotated[list[Annotated[bytes, Meta(max_length=MAX_BLOB)]], Meta(min_length=1, max_length=MAX_KEYS)]


class HostSeen(msgspec.Struct, frozen=True):
    """Which of the keys that were asked for answered at an address and port, by their fingerprints."""

    address: str
    port: int
    keys: Annotated[list[_Fingerprint], Meta(max_length=MAX_KEYS)]


class SeenAnswer(msgspec.Struct, frozen=True):
    """Which of the names lead to the addresses given and nowhere else, and what answered where."""

    names: Annotated[list[str], Meta(max_length=MAX_NAMES)]
    hosts: Annotated[list[HostSeen], Meta(max_length=MAX_HOSTS)]


def request(look: Look) -> LookRequest:
    """Return what is asked of another registrar."""
    addresses = [str(address) for address in look.addresses]
    return LookRequest(list(look.names), addresses, list(look.ports), [key.blob for key in look.keys])


def answer(look: Look, seen: Seen) -> SeenAnswer:
    """Return what is said of what was seen."""
    given = set(look.addresses)
    names = [each.name for each in seen.led if each.only_to(given)]
    hosts = [
        HostSeen(str(each.address), each.port, [key.fingerprint for key in look.keys if key in each.keys])
        for each in seen.answered
    ]
    return SeenAnswer(names, hosts)


def seen(look: Look, said: SeenAnswer, *, by: str) -> Seen:
    """
    Return what another registrar said as what was seen from there: of what we have asked, and nothing else.

    :raises Malformed: an address that is none.
    """
    led = (Led(name, look.addresses) if name in said.names else Led(name, (), _ELSEWHERE) for name in look.names)
    return Seen(tuple(led), tuple(_answered(look, host) for host in said.hosts), by=by)


def unseen(look: Look, why: str, *, by: str) -> Seen:
    """Return that nothing was seen from there, which speaks against all of it."""
    hosts = (Answered(address, port, failed=why) for address in look.addresses for port in look.ports)
    return Seen(tuple(Led(name, (), why) for name in look.names), tuple(hosts), by=by)


def _answered(look: Look, host: HostSeen) -> Answered:
    try:
        address = ip_address(host.address)
    except ValueError:
        raise Malformed(f"not an IP address: {host.address[:80]!r}") from None
    return Answered(address, host.port, tuple(key for key in look.keys if key.fingerprint in host.keys))
