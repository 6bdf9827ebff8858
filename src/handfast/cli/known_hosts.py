"""known-hosts: the host keys that are believed, as other programs read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from handfast.adapters.user import setting
from handfast.cli import ui
from handfast.cli.arguments import DATA, FILE, MACHINE
from handfast.cli.host import every, keys_of
from handfast.cli.ssh_config import IDENTITY, REGISTRAR
from handfast.core import knownhosts, sshkeys
from handfast.core.hosts import Grade, Host
from handfast.core.knownhosts import Speaker
from handfast.core.sshkeys import SshKey
from handfast.errors import NotFound, UsageError

if TYPE_CHECKING:
    from handfast.ssh.config import Source

Believed = tuple[Host, tuple[SshKey, ...]]
FORMATS = ("openssh", "ca", "ssh-keyscan", "json", "sshfp")


@click.command("known-hosts")
@click.argument("name", type=MACHINE, required=False)
@DATA
@REGISTRAR
@IDENTITY
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="openssh", show_default=True, help="As whom to write."
)
@click.option("--out", "-o", type=FILE, help="Write this file, all at once, and not stdout.")
def known_hosts_command(
    name: str | None, data: Path, registrar: str | None, identity: Path | None, form: str, out: Path | None
) -> None:
    """
    Print the host keys that are believed, of NAME or of all machines, for other programs.

    Without --data, --registrar and --identity: HANDFAST_DATA, HANDFAST_REGISTRAR, the registrar on this machine, or the
    one that this machine has joined.

    For one that knows no KnownHostsCommand, write a file of its own: -o ~/.ssh/known_hosts.d/handfast. With ca it is
    the one line that lets our SSH host CA speak: for the patterns of the configuration, or for these names.
    """
    source = _source(data, registrar, identity)
    known = _kept(data) if source is None else _fetched(source)
    if form == "openssh" and name is None:
        lines = knownhosts.of_all(list(known.hosts), least=known.least, speaker=known.speaker)
    else:
        believed: Iterable[Believed] = (
            (each, keys)
            for each in known.hosts
            if name in {None, each.machine} and (keys := each.believed(known.least))
        )
        if name is not None:
            believed = _of(name, believed, form)
        if form == "ca":
            lines = _authority(believed, known.speaker, every=name is None)
        else:
            lines = _json(believed) if form == "json" else list(_lines(believed, form))
    if out is None:
        for line in lines:
            ui.emit(line)
        return
    from handfast.adapters.files import write_atomic

    write_atomic(out, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)
    ui.say(f"wrote {len(lines)} line{'' if len(lines) == 1 else 's'} to {out}")


def _source(data: Path, registrar: str | None, identity: Path | None) -> Source | None:
    """Return the registrar to ask; None for the data directory. What was typed counts first, then the environment."""
    from handfast.cli.ssh_config import at_registrar, own_identity, registrar_url
    from handfast.wiring import LEDGER

    typed = click.get_current_context().get_parameter_source("data") is ParameterSource.COMMANDLINE
    if registrar is not None or identity is not None:
        if typed:
            raise UsageError("--data excludes --registrar and --identity", hint="give one source")
        return at_registrar(registrar, identity)
    if typed or setting("data"):
        return None
    if url := setting("registrar"):
        return at_registrar(registrar_url(url), None)
    return None if (data / LEDGER).exists() or own_identity() is None else at_registrar(None, None)


@dataclass(frozen=True, slots=True)
class _Known:
    """All machines, and the CA: None where it speaks for no name, and its key is not known."""

    hosts: Iterable[Host]
    least: Grade
    speaker: Speaker | None


def _kept(data: Path) -> _Known:
    store = keys_of(data)
    rules = store.rules.ssh
    return _Known(every(store), rules.accept, Speaker(rules.certificates.patterns, _host_ca(data)))


def _fetched(source: Source) -> _Known:
    from handfast.adapters.clock import SystemClock
    from handfast.cli.ssh_config import from_registrar
    from handfast.ssh import snapshot

    get, pin = from_registrar(source)
    content = snapshot.fetch(get, pin=pin, now=SystemClock().now(), held=None).content
    # It holds nothing that the registrar does not believe.
    return _Known(snapshot.hosts(content), Grade.SEEN, snapshot.speaker(content))


def _authority(believed: Iterable[Believed], speaker: Speaker | None, *, every: bool) -> list[str]:
    """Return the CA's line. :raises UsageError: the registrar has told nothing of a CA."""
    if speaker is None:
        raise UsageError(
            "this registrar's CA speaks for no name",
            hint="set patterns in [ssh.certificates] there, or run the command there with --data",
        )
    names = {name for each, _ in believed for name in (each.machine, *each.place.names)}
    patterns = speaker.patterns if every and speaker.patterns else tuple(sorted(names))
    return Speaker(patterns, speaker.key).lines


def _of(name: str, believed: Iterable[Believed], form: str) -> list[Believed]:
    """Return what there is of one machine. :raises NotFound: no key is believed, or none of it can be written so."""
    found = list(believed)
    if not found:
        raise NotFound(f"no host key of {name!r} is believed", hint=f"see `handfast host show {name}`")
    ((host, keys),) = found
    if form == "sshfp" and not host.place.names:
        raise NotFound(f"{name!r} has no DNS name", hint=f"handfast host add {name} --san NAME, with its other names")
    if form == "sshfp" and not any(map(knownhosts.sshfp, keys)):
        raise NotFound(f"no host key of {name!r} is of a type that SSHFP has", hint="ed25519, ECDSA and RSA are")
    return found


def _lines(believed: Iterable[Believed], form: str) -> Iterator[str]:
    for each, keys in believed:
        spellings = each.place.spellings(each.machine)
        if form == "sshfp":
            records = [record for key in keys if (record := knownhosts.sshfp(key)) is not None]
            yield from (f"{name}. IN SSHFP {record}" for name in each.place.names for record in records)
        elif form == "ssh-keyscan":
            yield from knownhosts.keyscan_lines(spellings, keys)
        else:
            yield from knownhosts.lines(spellings, keys)


def _json(believed: Iterable[Believed]) -> list[str]:
    made = [knownhosts.view(each.machine, each.place.spellings(each.machine), keys) for each, keys in believed]
    return [msgspec.json.encode(made).decode()]


def _host_ca(data: Path) -> SshKey:
    from handfast.authority.authority import PublicAuthority
    from handfast.wiring import AUTHORITY

    return sshkeys.parse(PublicAuthority.read(data / AUTHORITY).ssh_host_ca)
