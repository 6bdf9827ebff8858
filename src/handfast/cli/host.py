"""host add, list, show, remove, retire: which SSH host keys the machines have, and how each became known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.cli import ui
from handfast.cli.arguments import DATA, JSON, MACHINE, NAME
from handfast.cli.lazy import Lazy
from handfast.core import sshkeys, views
from handfast.core.hosts import REMOVED, Host, How, Place
from handfast.core.names import dns_name
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import evidence_words
from handfast.errors import Fault, HandfastError, Malformed, NotFound, UsageError

if TYPE_CHECKING:
    from handfast.registrar.host_keys import HostKeys

_PAGE = 1000  # machines read at once
_MOST = 1 << 20  # bytes of a file of keys
_PUB = "give a file such as ssh_host_ed25519_key.pub"
PLACE = (
    click.option(
        "--san", "sans", type=NAME, multiple=True, help="A DNS name or address it is reached as (repeatable)."
    ),
    click.option("--alias", "aliases", multiple=True, help="What people call it in ssh's configuration (repeatable)."),
    click.option("--port", "ports", type=int, multiple=True, help="Port of its sshd, if not 22 (repeatable)."),
)

HOST_COMMANDS = {
    "add": ("host", "enter a machine's host keys, or where it is reached"),
    "list": ("host", "the machines with SSH host keys"),
    "show": ("host", "one machine: keys, how each became known, where it is reached"),
    "remove": ("host", "a machine that is gone: its keys retire, its addresses are free"),
    "retire": ("host", "take one host key back"),
    "scan": ("host_scan", "compare what machines show on the network with what is known of them"),
    "console": ("host_scan", "read host keys from a console log, as cloud-init prints them"),
    "attributes": ("host_scan", "read host keys from a cloud's guest attributes"),
    "collect": ("host_scan", "fetch and verify what new machines uploaded to a bucket"),
    "dns": ("host_dns", "publish host keys as SSHFP records, by a signed update of a zone"),
}


@click.command("host", cls=Lazy, table=HOST_COMMANDS)
def host_command() -> None:
    """SSH host keys of machines: who has which, and how that became known."""


def with_place(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where a machine is reached."""
    for option in reversed(PLACE):
        command = option(command)
    return command


def place_of(
    name: str, sans: tuple[str, ...], aliases: tuple[str, ...], ports: tuple[int, ...], *, known: Host | None
) -> Place | None:
    """Return where a machine is reached, as options say it, else as it is known; None where they say nothing."""
    if not (sans or aliases or ports):
        return None
    before = known.place if known is not None else Place.parse(_dns(name))
    try:
        said = Place.parse(sans, aliases=aliases, ports=ports)
    except Malformed as error:
        raise UsageError(error.message, hint=error.hint) from None
    return Place(
        said.names if sans else before.names,
        said.addresses if sans else before.addresses,
        said.aliases if aliases else before.aliases,
        said.ports if ports else before.ports,
    )


def living(store: HostKeys, name: str) -> Host | None:
    """Return what is known of a machine; None where it was removed, too."""
    host = store.ledger.host(name)
    return host if host is not None and (host.keys or host.place.hosts()) else None


def default_place(name: str, *, known: Host | None) -> Place | None:
    """Return where a new machine is reached of which nothing was said: as its name, if DNS could know it."""
    return Place.parse(_dns(name)) if known is None else None


def _dns(name: str) -> tuple[str, ...]:
    try:
        return (dns_name(name),)
    except Malformed:
        return ()


def keys_of(data: Path) -> HostKeys:
    """Open the registrar's host keys."""
    from handfast.wiring import open_host_keys

    return open_host_keys(data)


@click.command("add")
@click.argument("name", type=MACHINE)
@click.option(
    "--key", "lines", multiple=True, metavar="'TYPE BASE64'", help="A host key as in a .pub file (repeatable)."
)
@click.option("--key-file", "paths", type=click.Path(path_type=Path), multiple=True, help="A .pub file; - is stdin.")
@with_place
@DATA
@JSON
def add_command(
    name: str,
    lines: tuple[str, ...],
    paths: tuple[Path, ...],
    sans: tuple[str, ...],
    aliases: tuple[str, ...],
    ports: tuple[int, ...],
    data: Path,
    as_json: bool,
) -> None:
    """
    Enter host keys of NAME that you know to be its own, or where it is reached.

    It is your word: look them up on the machine itself, or on its console. A key that was retired comes back by it.
    --san, --alias and --port each replace all that was said of their kind before.
    """
    found = tuple(_typed(lines)) + tuple(key for path in paths for key in _read(path))
    store = keys_of(data)
    known = living(store, name)
    place = place_of(name, sans, aliases, ports, known=known)
    if not found and place is None:
        raise UsageError("nothing to add", hint="give --key, --key-file, --san, --alias or --port")
    place = place or default_place(name, known=known)
    host = store.register(name, found, how=How.OPERATOR, detail=f"by {_who()}", place=place)
    if as_json:
        ui.emit_json(views.host_view(host, accept=store.rules.ssh.accept))
    else:
        ui.say(f"{host.machine}: {counted(len(host.current))}, reached as {_reached(host)}")


def _typed(lines: tuple[str, ...]) -> Iterator[SshKey]:
    for line in lines:
        try:
            yield sshkeys.parse(line)
        except Malformed as error:
            raise UsageError(error.message, hint=error.hint) from None


def _read(path: Path) -> Iterator[SshKey]:
    try:
        text = sys.stdin.read(_MOST) if str(path) == "-" else path.read_text("utf-8")[:_MOST]
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {str(path)!r}: no text", hint=_PUB) from None
    except OSError as error:
        raise unreadable(path, error, hint=_PUB) from None
    found = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UsageError(f"no key in {str(path)!r}", hint=_PUB)
    return _typed(tuple(found))


def unreadable(path: Path, error: OSError, *, hint: str) -> HandfastError:
    """Return what a file is to the caller that cannot be read: one that is not there, or a failure."""
    kind = NotFound if isinstance(error, FileNotFoundError) else Fault
    return kind(f"cannot read {str(path)!r}: {error.strerror}", hint=hint)


def _who() -> str:
    from getpass import getuser

    return getuser()


@click.command("list")
@click.option("--search", default="", help="Part of a name, an alias, an address or a fingerprint.")
@DATA
@JSON
def list_command(search: str, data: Path, as_json: bool) -> None:
    """List the machines of which SSH host keys are, or were, known."""
    store = keys_of(data)
    hosts = list(every(store, search=search))
    if as_json:
        ui.emit_json([views.host_view(each, accept=store.rules.ssh.accept) for each in hosts])
        return
    if not hosts and search:
        ui.say(f"no machine with SSH host keys is known by {search!r}")
    elif not hosts:
        ui.say("no SSH host keys are known: `handfast join --ssh` on a machine publishes its own")
    rows = [
        [
            each.machine,
            _grade(each),
            ", ".join(sorted({key.key.algorithm for key in each.keys})),
            _reached(each),
        ]
        for each in hosts
    ]
    ui.table(["name", "grade", "keys", "reached as"], rows)


def every(store: HostKeys, *, search: str = "") -> Iterator[Host]:
    """Give all machines, by name."""
    after = ""
    while page := store.ledger.hosts(after=after, most=_PAGE, search=search):
        yield from page
        after = page[-1].machine


@click.command("show")
@click.argument("name", type=MACHINE)
@DATA
@JSON
def show_command(name: str, data: Path, as_json: bool) -> None:
    """Show the SSH host keys of NAME, how each became known, its certificates, and its lines for known_hosts."""
    from handfast.core import randomart

    store = keys_of(data)
    host = store.host(name)
    now = store.context.now()
    held = [views.certificate_view(each, now) for each in store.certificates(host.machine)]
    view = views.host_view(host, accept=store.rules.ssh.accept, certificates=held)
    if as_json:
        ui.emit_json(view)
        return
    ui.emit(f"{view.machine}: reached as {_reached(host)}" if host.keys or host.place.hosts() else f"{name}: removed")
    for key in view.keys:
        ui.emit(f"  {key.fingerprint}  {key.algorithm}, {key.grade}{'' if key.believed else ': not believed'}")
        for each in key.evidence:
            ui.emit(f"      {each.at}  {each.words} ({each.detail})")
    for gone in view.retired:
        ui.emit(f"  {gone.fingerprint}  {gone.algorithm}, retired {gone.at}: {gone.reason}")
    for each_held in view.certificates:
        ui.emit(f"  certificate {each_held.serial} for {each_held.fingerprint}: {standing(each_held)}")
        ui.emit(f"      {', '.join(each_held.principals)}; known by {evidence_words(each_held.evidence)}")
    if sys.stdout.isatty():
        for each_key in sorted(host.current):
            ui.emit(randomart.picture(each_key))
    for line in view.known_hosts:
        ui.emit(line)


@click.command("remove")
@click.argument("name", type=MACHINE)
@click.option("--reason", default=REMOVED, show_default=True, help="Why, for the log and for who still asks for it.")
@DATA
@JSON
def remove_command(name: str, reason: str, data: Path, as_json: bool) -> None:
    """Retire all host keys of NAME, which is gone; its certificates are taken back by `handfast revoke`."""
    store = keys_of(data)
    host = store.remove(name, reason=reason)
    if as_json:
        ui.emit_json(views.host_view(host, accept=store.rules.ssh.accept))
    else:
        ui.say(f"{host.machine}: its host keys are refused from now on, and its names and addresses are free")


@click.command("retire")
@click.argument("name", type=MACHINE)
@click.argument("fingerprint")
@click.option("--reason", default="retired", show_default=True, help="Why, for the log and for who still meets it.")
@DATA
@JSON
def retire_command(name: str, fingerprint: str, reason: str, data: Path, as_json: bool) -> None:
    """Take back one host key of NAME, by its FINGERPRINT (SHA256:...)."""
    store = keys_of(data)
    host = store.retire(name, fingerprint, reason=reason)
    if as_json:
        ui.emit_json(views.host_view(host, accept=store.rules.ssh.accept))
    else:
        left = counted(len(host.current))
        ui.say(f"{host.machine}: {fingerprint} is refused from now on, {left} left")


def standing(certificate: views.CertificateView) -> str:
    """Say until when a certificate is good, or since when and why it is not."""
    if certificate.revoked_at is not None:
        return f"revoked {certificate.revoked_at}: {certificate.revoked_reason}"
    return f"{certificate.status}, until {certificate.until}"


def counted(number: int) -> str:
    """Say how many host keys."""
    return f"{number} host key" if number == 1 else f"{number} host keys"


def _grade(host: Host) -> str:
    return host.grade.name.lower() if host.grade is not None else "removed" if not host.place.hosts() else "no keys"


def _reached(host: Host) -> str:
    ports = "" if host.place.ports == Place().ports else f" at port {', '.join(map(str, host.place.ports))}"
    return (", ".join(host.place.hosts()) or "nothing but its name") + ports
