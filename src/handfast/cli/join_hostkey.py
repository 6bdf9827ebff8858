"""join --ssh-hostkey: certificates for this host's SSH keys, by the host-key challenge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from handfast.adapters.clock import SystemClock
from handfast.adapters.user import agent_socket
from handfast.cli import ssh_certificates, ui
from handfast.cli.arguments import REGISTRAR, Parsed
from handfast.core.challenge import full_name
from handfast.core.names import dns_name, ip_address
from handfast.errors import Malformed, UsageError

if TYPE_CHECKING:
    from handfast.cli.ssh_certificates import Installing
    from handfast.core.hostproof import HostSigner
    from handfast.core.invitation import Address
    from handfast.core.names import IPAddress
    from handfast.newcomer.challenge import Wanted
    from handfast.newcomer.keystore import Keystore


def _name(text: str) -> str:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return full_name(dns_name(text))
    raise Malformed(f"an address, and no name: {text[:80]!r}", hint="say it with --address")


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise Malformed(f"not an IP address: {text[:80]!r}", hint="in full, and without a zone (%eth0)") from None


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what belongs to --ssh-hostkey; ``given`` reads it."""
    for option in (
        click.option(
            "--address",
            "addresses",
            type=Parsed("address", _address),
            multiple=True,
            help="With --ssh-hostkey: where its sshd is reached, if not where its names lead (repeatable).",
        ),
        click.option(
            "--name",
            "names",
            type=Parsed("name", _name),
            multiple=True,
            help="With --ssh-hostkey: a DNS name of this host; the first becomes the machine's (repeatable).",
        ),
        click.option(
            "--ssh-hostkey",
            type=REGISTRAR,
            metavar="URL#PIN",
            help="Join for SSH certificates alone, without an invitation: the registrar looks at this host, twice.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Given:
    """What was typed; no names, addresses or ports are those that this host finds out itself."""

    registrar: tuple[Address, bytes]
    names: tuple[str, ...]
    addresses: tuple[IPAddress, ...]
    ports: tuple[int, ...]
    directory: Path | None


def given(
    registrar: tuple[Address, bytes] | None,
    names: tuple[str, ...],
    addresses: tuple[IPAddress, ...],
    ports: tuple[int, ...],
    directory: Path | None,
    *,
    others: Sequence[str],
) -> Given | None:
    """
    Return what was typed, if it is this way to join; ``others`` are flags of others that were given.

    :raises UsageError: flags that mean nothing together.
    """
    if registrar is None:
        if names or addresses:
            raise UsageError("--name and --address mean nothing without --ssh-hostkey", hint="names of others: --san")
        return None
    if others:
        listed = " and ".join(others)
        raise UsageError(
            f"--ssh-hostkey is for SSH certificates alone, and {listed} for other ways to join",
            hint=f"leave out {listed}, or --ssh-hostkey",
        )
    return Given(registrar, names, addresses, ports, directory)


def flags(**values: object) -> tuple[str, ...]:
    """Return the flags that were given, as they are typed."""
    return tuple(f"--{name.replace('_', '-')}" for name, value in values.items() if value)


def join(given: Given, keystore: Keystore, asked: Installing | None, *, as_json: bool) -> None:
    """
    Take all five steps, and keep what comes of them.

    :raises HandfastError: as ``newcomer.challenge.enrol``, and as ``ssh_certificates.finish``.
    """
    from handfast.newcomer import hostkeys
    from handfast.newcomer.challenge import enrol
    from handfast.newcomer.host_signers import host_signers
    from handfast.newcomer.ssh_state import SshHeld

    directory = (given.directory or hostkeys.DEFAULT_DIRECTORY).absolute()
    address, pin = given.registrar
    with keystore.exclusive():
        with host_signers(directory, agent=agent_socket()) as keys:
            for remark in keys.remarks:
                ui.warn(remark)
            wanted = _wanted(given, keys.signers)
            where = ", ".join(map(str, wanted.addresses))
            ui.say(f"asking the registrar at {address} to look at {', '.join(wanted.names)}, at {where}")
            certified = enrol(wanted, [address], pin=pin, now=SystemClock().now)
        held = SshHeld(certified, (address,), pin, directory, wanted.ports, keys.agent)
        ssh_certificates.finish(keystore, held, asked)
    if as_json:
        ui.emit_json(ssh_certificates.view(ssh_certificates.held_of(keystore)))


def _wanted(given: Given, signers: tuple[HostSigner, ...]) -> Wanted:
    from handfast.core.hosts import Place
    from handfast.newcomer import place
    from handfast.newcomer.challenge import Wanted

    names = tuple(dict.fromkeys(given.names)) or (place.own_name(),)
    addresses = given.addresses or place.own_addresses(names, given.registrar[0])
    read = Place.parse(tuple(map(str, addresses)), ports=given.ports)
    return Wanted(signers, names, read.addresses, read.ports)
