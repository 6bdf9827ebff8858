"""Machines with keys that nobody has, for tests of what is made of them; and a key that ssh learns."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from handfast.core.hosts import Host, HostKey, How, Place
from handfast.core.sshkeys import SshKey, from_blob

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def key(number: int) -> SshKey:
    """A key, which nobody has."""
    return from_blob(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes([number] * 32))


def machine(name: str, *numbers: int, at: tuple[str, ...] = (), port: int = 22, how: How = How.INVITATION) -> Host:
    """A machine with these keys."""
    keys = tuple(HostKey(key(number), how, "", NOW) for number in numbers)
    return Host(name, Place.parse(list(at), ports=(port,)), keys)


def learn(file: Path, number: int) -> None:
    """As ssh does it: a line at the end."""
    with file.open("a") as known_hosts:
        known_hosts.write(f"web1 {key(number)}\n")


WEB = machine("web1", 1, at=("web1.lan", "192.0.2.1", "2001:db8::1"))
