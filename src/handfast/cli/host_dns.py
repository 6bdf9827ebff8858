"""host dns: SSHFP records of machines, put into a zone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from handfast.cli import ui
from handfast.cli.arguments import DATA, DURATION, FILE, JSON, MACHINE, SUFFIX, Parsed
from handfast.cli.host import keys_of
from handfast.core.invitation import Address
from handfast.core.names import machine_name
from handfast.errors import NotFound, UsageError

if TYPE_CHECKING:
    from handfast.core.hosts import Host
    from handfast.registrar.host_keys import HostKeys
    from handfast.ssh.dns import Change

_LONGEST = timedelta(days=1)


def _server(text: str) -> Address:
    from handfast.ssh.dns import parse_server

    return parse_server(text)


@click.command("dns")
@click.argument("names", type=MACHINE, nargs=-1, required=True)
@click.option("--server", type=Parsed("host[:port]", _server), required=True, help="The zone's primary server.")
@click.option("--zone", type=SUFFIX, required=True, help="The zone, by its exact name.")
@click.option("--key-file", type=FILE, required=True, help="A TSIG key that may change it, of BIND or Knot, mode 0600.")
@click.option(
    "--ttl", type=DURATION, default=timedelta(minutes=5), show_default="5m", help="How long resolvers may keep them."
)
@click.option("--remove", is_flag=True, help="Take the records away.")
@DATA
@JSON
def dns_command(
    names: tuple[str, ...],
    server: Address,
    zone: str,
    key_file: Path,
    ttl: timedelta,
    remove: bool,
    data: Path,
    as_json: bool,
) -> None:
    """
    Publish the host keys of the machines NAMES as SSHFP records, under their DNS names in the zone.

    What stands there becomes exactly the keys that are believed, and what is left of retired keys and removed machines
    goes. ssh believes it only where the zone is signed by DNSSEC and the resolver validates (VerifyHostKeyDNS).
    """
    from handfast.ssh.dns import change, read_key, update

    if ttl > _LONGEST:
        days = f"{ttl / _LONGEST:.3g} days"
        raise UsageError(f"resolvers may not keep them for {days}", hint="1s to 1d: a retired key lives as long")
    key = read_key(key_file)
    store = keys_of(data)
    changes: list[tuple[str, Change]] = []
    for host in [store.host(name) for name in names]:
        wanted = change(
            host,
            former=former_names(store, host),
            zone=zone,
            ttl=int(ttl.total_seconds()),
            least=store.rules.ssh.accept,
            remove=remove,
        )
        if wanted is not None:
            changes.append((host.machine, wanted))
        elif len(names) > 1:
            ui.warn(f"{host.machine!r} has no name in {zone!r}")
        else:
            add = f"handfast host add {host.machine} --san NAME.{zone}"
            raise NotFound(f"{host.machine!r} has no name in {zone!r}", hint=f"{add}, with its other names")
    for machine, wanted in changes:
        update(server, key, wanted)
        if not as_json:
            _tell(machine, wanted)
    if as_json:
        ui.emit_json([_as_json(machine, wanted) for machine, wanted in changes])


def former_names(store: HostKeys, host: Host) -> set[str]:
    """Return the DNS names that were the machine's by the log, and are no machine's now."""
    described = store.ledger.events(kind_prefix="host.described", subject=machine_name(host.machine))
    ever = {str(name) for event in described for name in msgspec.json.decode(event.fields["place"])["names"]}
    return {name for name in ever - set(host.place.names) if _owner(store, name) in {None, host.machine}}


def _owner(store: HostKeys, name: str) -> str | None:
    """Return whose name it is, at whatever port: DNS knows none."""
    named = [each for each in store.ledger.hosts(search=name, most=1000) if name in (*each.place.names, each.machine)]
    return next((each.machine for each in named if each.keys or each.place.hosts()), None)


def _tell(machine: str, wanted: Change) -> None:
    for name, records in wanted.exact.items():
        ui.say(f"{machine}: {len(records)} SSHFP records at {name}")
    for name in wanted.gone:
        ui.say(f"{machine}: no SSHFP record of its keys is left at {name}")


def _as_json(machine: str, wanted: Change) -> dict[str, object]:
    return {
        "machine": machine,
        "zone": wanted.zone,
        "ttl": wanted.ttl,
        "records": {name: [str(each) for each in records] for name, records in wanted.exact.items()},
        "removed": sorted(wanted.gone),
    }
