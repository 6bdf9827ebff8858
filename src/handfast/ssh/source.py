"""
Where it is looked up which host keys a machine has: a data directory, a registrar, or the snapshot of one.

The three give the same answer to the same question; how each is reached is the caller's to say.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from datetime import datetime
from mmap import mmap
from typing import Protocol
from urllib.parse import urlencode

from handfast.core.hosts import SSH_PORT, Host, HostKey, How, Place, RetiredKey, spelling
from handfast.core.names import ip_address, machine_name
from handfast.core.sshkeys import SshKey, parse
from handfast.errors import Malformed, NotFound

MAX_ANSWER = 1 << 20  # bytes; a machine with all that it may have needs a tenth
_NAME = re.compile(r"[a-z0-9:][a-z0-9._:-]*")  # a machine's name, or an address


class Hosts(Protocol):
    """The machines that are known, as ssh looks for them."""

    def lookup(self, host: str, port: int) -> Host | None:
        """Return the machine that is reached as this name or address at this port; None for one that is not ours."""


class LedgerHosts:
    """The machines of a ledger. ``host_at`` is the ledger's own, or does the same with less to load."""

    def __init__(self, host_at: Callable[[str], Host | None]) -> None:
        self._host_at = host_at

    def lookup(self, host: str, port: int) -> Host | None:
        """See ``Hosts``."""
        return self._host_at(spelling(normal(host), port))


class RegistrarHosts:
    """The machines that a registrar tells us of. ``get`` returns the body of a GET; see ``core.vouched.Get``."""

    def __init__(self, get: Callable[[str, int], bytes]) -> None:
        self._get = get

    def lookup(self, host: str, port: int) -> Host | None:
        """See ``Hosts``. :raises HandfastError: the registrar refuses, or cannot be reached."""
        if not _NAME.fullmatch(name := normal(host)):
            return None  # nobody is registered as that
        query = urlencode({"host": name, "port": port})
        try:
            return _host(self._get(f"/v1/ssh/lookup?{query}", MAX_ANSWER))
        except NotFound:
            return None


class SnapshotHosts:
    """The machines of a snapshot (``snapshot.load``), as old as that is."""

    def __init__(self, content: bytes | mmap) -> None:
        self._content = content

    def lookup(self, host: str, port: int) -> Host | None:
        """See ``Hosts``."""
        from handfast.ssh import snapshot  # only here: it loads what checks signatures

        return snapshot.lookup(self._content, host, port)


def _host(answer: bytes) -> Host:
    """
    Return the machine in a ``core.views.HostView``, with those of its keys that its registrar believes.

    :raises Malformed: not such a view, or evidence of a kind that is not known here.
    """
    try:
        value = json.loads(answer)
        keys = tuple(
            HostKey(_key(each), How(one["how"]), one["detail"], datetime.fromisoformat(one["at"]))
            for each in value["keys"]
            if each["believed"] is True
            for one in each["evidence"]
        )
        gone = tuple(
            RetiredKey(_key(each), datetime.fromisoformat(each["at"]), each["reason"]) for each in value["retired"]
        )
        place = Place.parse(
            [*value["names"], *value["addresses"]], aliases=value["aliases"], ports=tuple(value["ports"])
        )
        return Host(machine_name(value["machine"]), place, keys, gone)
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed(f"the registrar's answer is no machine: {error!r}", hint="use the same version as it") from None


def _key(view: dict[str, str]) -> SshKey:
    return parse(f"{view['algorithm']} {view['key']}")


def normal(host: str) -> str:
    """
    Return a host as it is looked for: lower case, without the root's dot, an IPv6 address in its short form.

    Without its zone, which ssh puts after a link-local one; and one that is mapped from IPv4 is that.
    """
    name = (host.lower() if host.isascii() else host).removesuffix(".")
    with contextlib.suppress(ValueError):
        address = ip_address(name.partition("%")[0] if ":" in name else name)
        return str(getattr(address, "ipv4_mapped", None) or address)
    return name


def find(hosts: Hosts, host: str, port: int) -> Host | None:
    """Return the machine at this place, or the one with this very name: it is the same whatever the port."""
    found = hosts.lookup(host, port)
    if found is None and port != SSH_PORT:
        named = hosts.lookup(host, SSH_PORT)
        return named if named is not None and named.machine == normal(host) else None
    return found
