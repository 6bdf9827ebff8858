"""ssh-config, doctor: plain ``ssh host`` knows our machines' host keys."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from handfast import config as settings
from handfast.adapters.clock import SystemClock
from handfast.adapters.files import FileLock, private_directory
from handfast.adapters.process import OURSELVES
from handfast.adapters.user import state_directory
from handfast.cli import ui
from handfast.cli.arguments import DURATION, FOLDER, JSON, Parsed
from handfast.core import sshkeys
from handfast.core.invitation import Address, parse_registrar
from handfast.core.keys import format_pin
from handfast.core.knownhosts import Speaker
from handfast.errors import HandfastError, Malformed, NotFound, UsageError
from handfast.ssh import config, krl, snapshot
from handfast.ssh.config import Source, Where

if TYPE_CHECKING:
    from handfast.core.vouched import Get
    from handfast.ssh.snapshot import Kept

REFUSED = 3
_INSTALL = "handfast ssh-config install --registrar https://HOST:PORT#PIN, or --data DIR"


def registrar_url(text: str) -> str:
    """Return ``https://host:port#PIN`` as it is kept. :raises UsageError: of whoever typed it."""
    try:
        address, pin = parse_registrar(text)
    except Malformed as error:
        raise UsageError(error.message, hint=error.hint) from None
    return f"https://{address}#{format_pin(pin)}"


REGISTRAR = click.option(
    "--registrar", type=Parsed("url#pin", registrar_url), help="The registrar: https://HOST:PORT#PIN of its root."
)
IDENTITY = click.option(
    "--identity", type=FOLDER, help="Ask with the credential in this directory; its registrar, if no other is given."
)
DATA = click.option("--data", type=FOLDER, help="Read a registrar's data directory on this machine instead.")


@click.group("ssh-config")
def ssh_config_command() -> None:
    """Have plain ssh, scp, sftp, rsync and git know our machines' host keys, and refuse all others for them."""


@ssh_config_command.command("install")
@REGISTRAR
@IDENTITY
@DATA
@click.option(
    "--most-age",
    type=DURATION,
    default="7d",
    show_default=True,
    help="Refuse our machines when nothing was heard of the registrar for so long.",
)
@click.option("--known-hosts-file", is_flag=True, help="Also write ~/.ssh/known_hosts.d/handfast, for other programs.")
def install_command(
    registrar: str | None, identity: Path | None, data: Path | None, most_age: timedelta, *, known_hosts_file: bool
) -> None:
    """Get the machines' host keys, and put one Include line in front of ~/.ssh/config. Again changes nothing."""
    where = _where()
    source = _source(where, registrar, identity, data)
    source = msgspec.structs.replace(
        source,
        most=int(most_age.total_seconds()),
        known_hosts=str(where.known_hosts) if known_hosts_file else None,
    )
    private_directory(where.state)
    with _lock(where):
        kept = _refresh(where, source)
        refresh = (*OURSELVES, "ssh-config", "refresh")
        for line in config.install(where, source, refresh=refresh, python=_python()):
            ui.say(line)
    about = snapshot.about(kept.content)
    machines = "1 machine" if about.machines == 1 else f"{about.machines} machines"
    ui.say(f"{machines} of registrar {about.registrar} known; `handfast doctor HOST` explains one")


@ssh_config_command.command("remove")
def remove_command() -> None:
    """Take it away again; ~/.ssh/config is then what it was, byte for byte."""
    for line in config.remove(_where()):
        ui.say(line)


@ssh_config_command.command("refresh")
def refresh_command() -> None:
    """Get what the registrar knows now. ssh has this done in the background."""
    where = _where()
    try:
        source = config.load_source(where)
    except NotFound:
        raise NotFound("ssh-config is not installed: there is nothing to refresh", hint=_INSTALL) from None
    with _lock(where):
        config.copy_launcher(where)
        kept = _refresh(where, source)
        if source.known_hosts is not None:
            config.write_known_hosts(where)
    ui.say(f"{snapshot.about(kept.content).machines} machines, as of {kept.at:%Y-%m-%d %H:%M}Z")


@ssh_config_command.command("check")
@click.argument("host")
@JSON
def check_command(host: str, *, as_json: bool) -> int:
    """Whether ssh asks us for HOST, and what is in the way. Exit code 0 if it does, 3 if not."""
    effect = config.check(_where(), host, python=_python())
    if as_json:
        ui.emit_json({"asked": effect.asked, "findings": effect.findings, "ssh": effect.options})
    else:
        ui.emit(f"ssh {'asks' if effect.asked else 'does NOT ask'} us for {host}")
        for line in effect.findings:
            ui.emit(line)
    return 0 if effect.asked else REFUSED


@click.command("doctor")
@click.argument("host")
@JSON
def doctor_command(host: str, *, as_json: bool) -> int:
    """
    Why ssh would or would not accept HOST, in sentences.

    Exit code 0: its keys are known and nothing else is accepted; 3: it would be refused, or is no machine of ours;
    4: the registrar cannot be reached, and there is no snapshot.
    """
    from handfast.ssh.doctor import diagnose

    where = _where()
    found = diagnose(where, host, python=_python(), now=SystemClock().now(), refresh=_refresher(where))
    if as_json:
        ui.emit_json(found.view())
    else:
        for sentence in found.sentences:
            ui.emit(sentence)
    return 0 if found.accepted else REFUSED


def _where() -> Where:
    # ssh takes the home directory of the user's id, whatever HOME says.
    return Where(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh", state_directory() / "ssh")


def _python() -> Path:
    # Not the link in a virtual environment: it would look for one at each start.
    return Path(sys.executable).resolve()


def _lock(where: Where) -> FileLock:
    return FileLock(where.state / "lock", patience=60.0, hint="another refresh is running: wait until it has finished")


def _source(where: Where, registrar: str | None, identity: Path | None, data: Path | None) -> Source:
    """Return where the snapshot comes from: what was said, else what was said before."""
    if data is not None and (registrar or identity):
        raise UsageError("--data excludes --registrar and --identity", hint="give one source")
    if data is not None:
        return Source(data=str(data.absolute()))
    if registrar is None and identity is None:
        with contextlib.suppress(NotFound):
            return config.load_source(where)
    return at_registrar(registrar, identity)


def at_registrar(registrar: str | None, identity: Path | None) -> Source:
    """
    Return the registrar to ask, with this machine's own credential where no other was given.

    ``registrar`` is as ``registrar_url`` returns it. A credential of another authority, or one that TLS takes from
    servers only, is left out: the registrar may tell anybody.

    :raises UsageError: there is neither. :raises HandfastError: this machine's own credential cannot be read.
    """
    own = own_identity()
    if identity is None and own is not None and (registrar is None or _fits(own, registrar)):
        identity = own
    if registrar is None and identity is None:
        raise UsageError(
            "from which registrar?", hint="give --registrar https://HOST:PORT#PIN, --identity DIR, or --data DIR"
        )
    return Source(registrar=registrar, identity=None if identity is None else str(identity.absolute()))


def own_identity() -> Path | None:
    """Return the directory of this machine's own credential, if it has one."""
    directory = settings.identity_directory()
    return directory.absolute() if (directory / "identity.json").exists() else None


def remembered_registrar() -> str | None:
    """Return the registrar that ssh-config was installed with, as ``registrar_url`` has it; None without one."""
    with contextlib.suppress(NotFound):
        return config.load_source(_where()).registrar
    return None


def _fits(identity: Path, registrar: str) -> bool:
    from handfast.newcomer.keystore import Keystore
    from handfast.newcomer.renew import held

    holding = held(Keystore(identity))
    return holding.identity.role.dials and holding.pin == parse_registrar(registrar)[1]


def _refresher(where: Where) -> Callable[[], Kept] | None:
    try:
        source = config.load_source(where)
    except NotFound:
        return None

    def refresh() -> Kept:
        with _lock(where):
            return _refresh(where, source)

    return refresh


def _refresh(where: Where, source: Source) -> Kept:
    """Get the snapshot, write it, return it. :raises HandfastError: it cannot be had, or is not the registrar's."""
    now = SystemClock().now()
    try:
        held = snapshot.load(where.state)
    except HandfastError:  # none, or one that was damaged: what is fetched counts by itself
        held = None
    before = krl.read(where.revoked)
    if source.data is not None:
        kept, get, pin = _from_data(Path(source.data)), None, b""
    else:
        get, pin = from_registrar(source)
        kept = snapshot.fetch(get, pin=pin, now=now, held=held)
    revoked = None
    # Where no CA speaks ssh does not ask for the list, unless it was told of it before.
    if before is not None or snapshot.speaker(kept.content) is not None:
        revoked = _list_of(source) if get is None else krl.fetch(get, pin=pin, now=now, held=before).content
    private_directory(where.state)
    if revoked is not None:
        krl.keep(where.revoked, revoked, before=before)  # first: the snapshot's age is taken for both
    snapshot.keep(where.state, kept, before=held)
    return kept


def _list_of(source: Source) -> bytes:
    from handfast.cli.ca import made

    return made(Path(source.data or ""))


def _from_data(data: Path) -> Kept:
    from handfast import wiring
    from handfast.authority.authority import PublicAuthority
    from handfast.ssh.snapshot import Kept

    known = wiring.open_host_keys(data)
    public = PublicAuthority.read(data / wiring.AUTHORITY)
    hosts = known.ledger.hosts(most=snapshot.MOST_MACHINES)  # one statement: see server.hosts
    rules = known.rules.ssh
    speaker = Speaker(rules.certificates.patterns, sshkeys.parse(public.ssh_host_ca))
    content = snapshot.build(hosts, least=rules.accept, registrar=public.trust_domain, pin=public.pin, speaker=speaker)
    return Kept(content, SystemClock().now(), None)


def from_registrar(source: Source) -> tuple[Get, bytes]:
    """
    Return what asks the registrar of a source, and its pin; nothing is sent yet.

    Each question makes a connection that proves the pin first. The credential is presented where it is of the same
    authority; without one, whoever reads must be anybody (``[ssh] readers``).

    :raises NotFound: there is no credential in ``identity``. :raises UsageError: it is one that TLS takes from servers
        only.
    """
    import ssl

    from handfast.adapters.tls import newcomer_context, pinned_client_context
    from handfast.newcomer.connection import problem, verified
    from handfast.newcomer.keystore import Keystore
    from handfast.newcomer.renew import held

    context, pin = newcomer_context(), b""
    addresses: tuple[Address, ...] = ()
    if source.identity is not None:
        keystore = Keystore(Path(source.identity))
        holding = held(keystore)
        addresses, pin = holding.addresses, holding.pin
        if not holding.identity.role.dials:
            role = holding.identity.role
            raise UsageError(
                f"the credential in {source.identity!r} has role {role}, which TLS takes from servers only",
                hint="ask with one of role client, peer or operator: handfast invite NAME --role client",
            )
        if source.registrar is None or parse_registrar(source.registrar)[1] == pin:
            roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in holding.material.trust)
            directory = keystore.directory
            context = pinned_client_context(roots, (directory / "fullchain.pem", directory / "privkey.pem"))
    if source.registrar is not None:
        address, pin = parse_registrar(source.registrar)
        addresses = (address,)

    def get(path: str, most: int) -> bytes:
        now = SystemClock().now()
        with verified(addresses, context, pin=pin, judge=lambda _claimed: now) as peer:
            status, answer = peer.connection.request("GET", path, limit=most)
            if status >= 400:
                raise problem(answer, status, str(peer.connection.address))
            return answer

    return get, pin
