"""host scan, console, collect: host keys from the network, a console log, a bucket."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import DATA, JSON, MACHINE, NETWORK
from handfast.cli.exit_codes import exit_code
from handfast.cli.host import counted, default_place, keys_of, living, place_of, unreadable, with_place
from handfast.core import views
from handfast.core.hosts import Host, How
from handfast.core.names import IPNetwork, network
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed, NotFound, PolicyRefused, UsageError

if TYPE_CHECKING:
    from handfast.registrar.host_keys import HostKeys
    from handfast.ssh.guard import Target
    from handfast.ssh.scan import Scanned

KNOWN, NEW, OTHER, RETIRED = "known", "not known", "ANOTHER KEY", "RETIRED"
WRONG_PEER, UNREACHABLE = 5, 4


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen of one machine at one place; ``problem`` is why nothing was."""

    host: Host
    where: str
    verdicts: tuple[tuple[SshKey, str], ...] = ()
    problem: HandfastError | None = None


@click.command("scan")
@click.argument("names", type=MACHINE, nargs=-1, required=True)
@click.option("--allow", type=NETWORK, multiple=True, help="A private network that may be scanned (repeatable).")
@click.option("--from", "vantage", default=socket.gethostname, show_default="this machine's name", help="From where.")
@click.option("--register", is_flag=True, help="Record keys not known yet, as seen and no better: trust on first use.")
@DATA
@JSON
def scan_command(
    names: tuple[str, ...], allow: tuple[IPNetwork, ...], vantage: str, register: bool, data: Path, as_json: bool
) -> int:
    """
    Look at what the machines NAMES show on the network, and compare it with what is known of them.

    Their addresses may be private; what their names lead to only with --allow. Exit code 5 if one shows another key.
    --register counts only where the registrar's configuration lists "scan" in [ssh] evidence.
    """
    store = keys_of(data)
    if register and How.SCAN not in store.rules.ssh.evidence:
        raise PolicyRefused(
            ("'scan' does not count as evidence of a host key here",),
            hint='list "scan" in [ssh] evidence of the registrar\'s configuration, or look without --register',
        )
    found = asyncio.run(_scan([store.host(name) for name in names], allow))
    _tell(found, as_json=as_json)
    # What was refused is told after the alarms, and never in their place.
    refused = list(_register(store, found, vantage)) if register else []
    if any(verdict in {OTHER, RETIRED} for each in found for _, verdict in each.verdicts):
        return WRONG_PEER
    if refused:
        return exit_code(refused[0])
    return UNREACHABLE if any(each.problem is not None for each in found) else 0


def _tell(found: list[Found], *, as_json: bool) -> None:
    if as_json:
        ui.emit_json([_as_json(each) for each in found])
    else:
        rows = [
            [each.host.machine, each.where, key.algorithm, key.fingerprint, verdict]
            for each in found
            for key, verdict in each.verdicts
        ]
        ui.table(["name", "seen at", "type", "fingerprint", "which is"], rows)
    for each in found:
        if each.problem is not None:
            ui.warn(f"{each.host.machine}: {each.problem.message}")
            if each.problem.hint:
                ui.say(f"handfast: hint: {each.problem.hint}")
        for key, verdict in each.verdicts:
            if verdict in {OTHER, RETIRED}:
                ui.warn(
                    f"{each.host.machine} at {each.where} shows {key.fingerprint} ({key.algorithm}), which is"
                    f" {'retired' if verdict is RETIRED else 'not its key'}: somebody may sit in between, or it was"
                    " made anew"
                )


async def _scan(hosts: Iterable[Host], allow: tuple[IPNetwork, ...]) -> list[Found]:
    from handfast.ssh.guard import Guard
    from handfast.ssh.scan import Scanner

    wanted: dict[Target, Host] = {}
    found: list[Found] = []
    for host in hosts:
        place = host.place
        # What an operator has entered as its address he has allowed; what DNS says leads where DNS says.
        own = tuple(network(str(address)) for address in place.addresses)
        guard = Guard(allow=(*own, *allow), ports=place.ports)
        for where in place.addresses or place.names:
            for port in place.ports:
                try:
                    wanted |= dict.fromkeys(await guard.targets(str(where), port), host)
                except HandfastError as error:
                    found.append(Found(host, str(where), problem=error))
        if not place.addresses and not place.names:
            nowhere = NotFound(
                f"it is not known where {host.machine!r} is", hint="handfast host add NAME --san ADDRESS"
            )
            found.append(Found(host, "", problem=nowhere))

    def tell(target: Target, result: Scanned | HandfastError) -> None:
        host = wanted[target]
        if isinstance(result, HandfastError):
            found.append(Found(host, str(target), problem=result))
        else:
            found.append(Found(host, str(target), _verdicts(host, result.keys)))

    await Scanner().scan_all(wanted, tell)
    return sorted(found, key=lambda each: (each.host.machine, each.where))


def _verdicts(host: Host, seen: Iterable[SshKey]) -> tuple[tuple[SshKey, str], ...]:
    known, retired = host.current, {each.key for each in host.retired}
    # Who shows none of its keys is not the machine, whatever the types are; one more type beside them is only new.
    other = {each.algorithm for each in known}
    stranger = bool(known) and not known & set(seen)

    def verdict(key: SshKey) -> str:
        if key in known:
            return KNOWN
        if key in retired:
            return RETIRED
        return OTHER if stranger or key.algorithm in other else NEW

    return tuple((key, verdict(key)) for key in seen)


def _register(store: HostKeys, found: list[Found], vantage: str) -> Iterator[HandfastError]:
    """Record what is new, and give what was refused: one machine must not keep the others from it."""
    for each in found:
        fresh = tuple(key for key, verdict in each.verdicts if verdict is NEW)
        if not fresh:
            continue
        try:
            store.register(each.host.machine, fresh, how=How.SCAN, detail=f"seen at {each.where} from {vantage}")
        except HandfastError as error:
            ui.complain(error)
            yield error
        else:
            ui.warn(f"{each.host.machine}: {_recorded(len(fresh))} as seen; nothing vouches for what a scan finds")


def _recorded(number: int) -> str:
    return f"{counted(number)} {'is' if number == 1 else 'are'} recorded"


def _as_json(found: Found) -> dict[str, object]:
    return {
        "machine": found.host.machine,
        "where": found.where,
        "problem": None if found.problem is None else found.problem.message,
        "keys": [
            {"algorithm": key.algorithm, "key": key.base64, "fingerprint": key.fingerprint, "verdict": verdict}
            for key, verdict in found.verdicts
        ],
    }


@click.command("console")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", type=MACHINE, help="Record the keys as those of this machine.")
@with_place
@DATA
@JSON
def console_command(file: Path, **given: Any) -> None:
    """
    Read the host keys in a console log, FILE or - for stdin, as cloud-init prints them at the first boot.

    Without --name they are only shown. A console log is worth as much as who can write to it: every root process.
    """
    from handfast.ssh.console import MAX_LOG, host_keys

    _report(How.CONSOLE, host_keys(_content(file, MAX_LOG)), f"console log {file.name}", **given)


@click.command("attributes")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", type=MACHINE, help="Record the keys as those of this machine.")
@with_place
@DATA
@JSON
def attributes_command(file: Path, **given: Any) -> None:
    """
    Read the host keys in a cloud's guest attributes: FILE or - for stdin, as `gcloud` prints them in JSON.

    Without --name they are only shown. Every process on the machine may write them: read them early.
    """
    from handfast.core.guest_attributes import MAX_ATTRIBUTES
    from handfast.ssh.guest_attributes import host_keys

    _report(How.GUEST_ATTRIBUTES, host_keys(_content(file, MAX_ATTRIBUTES)), f"guest attributes {file.name}", **given)


def _report(
    how: How,
    keys: tuple[SshKey, ...],
    detail: str,
    *,
    name: str | None,
    sans: tuple[str, ...],
    aliases: tuple[str, ...],
    ports: tuple[int, ...],
    data: Path,
    as_json: bool,
) -> None:
    if name is None and (sans or aliases or ports):
        raise UsageError("--san, --alias and --port are of a machine", hint="give --name as well, to record the keys")
    if name is not None:
        store = keys_of(data)
        known = living(store, name)
        place = place_of(name, sans, aliases, ports, known=known) or default_place(name, known=known)
        host = store.register(name, keys, how=how, detail=detail, place=place)
        ui.say(f"{host.machine}: {_recorded(len(keys))}: {how.words}")
        if as_json:
            ui.emit_json(views.host_view(host, accept=store.rules.ssh.accept))
            return
    if as_json:
        ui.emit_json([{"algorithm": key.algorithm, "key": key.base64, "fingerprint": key.fingerprint} for key in keys])
        return
    for key in keys:
        ui.emit(f"{key.fingerprint} {key}")


def _content(file: Path, most: int) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(most + 1)
        with file.open("rb") as opened:
            return opened.read(most + 1)
    except OSError as error:
        raise unreadable(file, error, hint="give a file, or - for stdin") from None


@click.command("collect")
@click.option(
    "--bucket", "url", metavar="URL", required=True, help="s3://BUCKET[/PREFIX]; the AWS_ variables say whose."
)
@DATA
@JSON
def collect_command(url: str, data: Path, as_json: bool) -> int:
    """
    Fetch, verify and record what the machines uploaded that `handfast userdata --bucket` was printed for.

    Exit code 3 if an upload was refused, 4 if the store could not be asked; machines that have not uploaded yet wait.
    """
    from handfast.adapters.aws import account
    from handfast.core.flow import Evidence
    from handfast.ssh.bucket import Bucket, collect

    store = keys_of(data)

    def publish(evidence: Evidence) -> Host:
        return asyncio.run(store.publish(evidence))

    try:
        bucket = Bucket.parse(url, account())
    except Malformed as error:  # of whoever typed it
        raise UsageError(error.message, hint=error.hint) from None
    collected = collect(bucket, store.ledger.invitations(), publish, now=SystemClock().now)
    if not collected:
        ui.say("no upload is awaited: `handfast userdata NAME --bucket URL` prints what a machine uploads with")
    if as_json:
        ui.emit_json(
            [
                {
                    "machine": each.invitation.machine,
                    "invitation": each.invitation.key_id,
                    "collected": each.host is not None,
                    "problem": None if each.problem is None else each.problem.message,
                }
                for each in collected
            ]
        )
    for each in collected:
        machine = each.invitation.machine
        if each.problem is not None:
            ui.complain(each.problem)
        elif each.host is not None:
            ui.say(f"{machine}: {_recorded(len(each.host.current))}")
        else:
            ui.say(f"{machine}: nothing was uploaded yet")
    problems = [each.problem for each in collected if each.problem is not None]
    return exit_code(problems[0]) if problems else 0
