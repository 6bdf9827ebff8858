"""
A user who types plain ssh, with our line in the configuration, and what was last heard of a registry.

ssh reads the configuration from a file of the test (-F), as it would read ~/.ssh/config.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handfast.core.hosts import Grade, HostKey, How, Place, RetiredKey
from handfast.core.hosts import Host as Machine
from handfast.core.sshkeys import SshKey
from handfast.ssh import config, snapshot
from handfast.ssh.config import Source, Where
from handfast.ssh.snapshot import Kept
from tests.interop.hosts import Done, Host, program
from tests.interop.ssh_stage import Sshd, make_key

PYTHON = Path(sys.executable).resolve()
USER = pwd.getpwuid(os.getuid()).pw_name
KINDS = ("ed25519", "ecdsa")


class Site:
    """One user's machine, ``host``, and those that ssh goes to."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.where = Where(host.directory / ".ssh", host.directory / "state")
        self.known_hosts = self.where.ssh / "known_hosts"
        make_key(host.directory / "id")
        self.machines: list[Sshd] = []

    def machine(self, name: str, kinds: tuple[str, ...] = KINDS, *, address: str = "127.0.0.1") -> Sshd:
        """A machine with new host keys, which the user's configuration has under its name."""
        self.machines.append(Sshd(self.host, name, kinds=kinds, address=address))
        return self.machines[-1]

    def instead(self, machine: Sshd, name: str = "mallory", settings: str = "") -> Sshd:
        """Put another sshd, with host keys of its own, where a machine is."""
        machine.process.stop()
        kinds = tuple(machine.keys)
        return Sshd(self.host, name, port=machine.port, address=machine.address, kinds=kinds, settings=settings)

    def tell(self, *machines: Machine | Sshd, age: timedelta = timedelta(0)) -> None:
        """Have the user know of these machines what the registry knows."""
        known = [each if isinstance(each, Machine) else entry(each) for each in machines]
        content = snapshot.build(known, least=Grade.REPORTED, registrar="fleet", pin=bytes(32))
        snapshot.keep(self.where.state, Kept(content, datetime.now(UTC) - age, None))

    def configure(self, *lines: str, install: bool = True) -> None:
        """Write the user's own configuration, and then ours in front of it."""
        self.where.ssh.mkdir(mode=0o700, exist_ok=True)
        hosts = [f"Host {each.name}\n HostName {each.address}\n Port {each.port}" for each in self.machines]
        common = [
            "Host *",
            *lines,
            f"IdentityFile {self.host.directory}/id",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            "BatchMode yes",
            f"User {USER}",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile none",
        ]
        self.host.put(".ssh/config", "\n".join([*hosts, *common, ""]))
        if install:
            config.install(self.where, Source(data="/nonexistent"), refresh=(), python=PYTHON)

    def poison(self, machine: Sshd, keys: Iterable[SshKey]) -> None:
        """Have the user's known_hosts say that somebody's keys are the machine's, under every name."""
        names = f"{machine.name},[{machine.name}]:{machine.port},[{machine.address}]:{machine.port},{machine.address}"
        self.known_hosts.write_text("".join(f"{names} {key}\n" for key in keys))

    @property
    def ssh(self) -> str:
        """The command line for what takes one."""
        return f"{program('ssh')} -F {self.where.config}"

    def run(self, *arguments: str, code: int | None = 0) -> Done:
        """Run ssh as the user does."""
        return self.host.run(*self.ssh.split(" "), *arguments, code=code)


def entry(machine: Sshd, *, keys: Iterable[SshKey] | None = None, retired: Iterable[SshKey] = ()) -> Machine:
    """What the registry knows of a machine; its own host keys, if no others are given."""
    now = datetime.now(UTC)
    current = machine.keys.values() if keys is None else keys
    return Machine(
        machine.name,
        Place.parse((machine.address, f"{machine.name}.internal"), ports=(machine.port,)),
        tuple(HostKey(key, How.INVITATION, "invitation 0123", now) for key in current),
        tuple(RetiredKey(key, now, "superseded") for key in retired),
    )


def removed(machine: Sshd) -> Machine:
    """What is left of a machine that was destroyed: its name, and keys that nobody believes."""
    return Machine(machine.name, Place(), (), entry(machine, keys=(), retired=machine.keys.values()).retired)
