"""SSH certificates of this machine, when it has some: kept, installed in sshd, renewed. `join` and `renew` use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from handfast.adapters.clock import SystemClock
from handfast.cli import ui
from handfast.cli.arguments import FILE
from handfast.core import sshleaf
from handfast.core.keys import format_pin
from handfast.errors import HandfastError, NotFound, Refused, UsageError, Waiting

if TYPE_CHECKING:
    from datetime import datetime

    from handfast.core.invitation import Address
    from handfast.newcomer.certificates import Certified
    from handfast.newcomer.connection import Verified
    from handfast.newcomer.keystore import Keystore
    from handfast.newcomer.renew import Held
    from handfast.newcomer.ssh_state import Installed, SshHeld

T = TypeVar("T")
_TRUST_USERS = (
    "With --install: have sshd trust the registrar's CA for users too, who then log in with its certificates alone; "
    "and the list of those revoked."
)
_REVOKED = "revoked.krl"  # in the machine's directory: the registrar's list, as it was last seen
_SSHD_CONFIG = "With --install: the configuration of the sshd, if not /etc/ssh/sshd_config."


@dataclass(frozen=True, slots=True)
class Installing:
    """That certificates are to be installed in the sshd of a configuration."""

    config: Path
    trust_users: bool


def install_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what belongs to --install; ``installing`` reads it."""
    for option in (
        click.option("--sshd-config", type=FILE, help=_SSHD_CONFIG),
        click.option("--trust-users", is_flag=True, help=_TRUST_USERS),
    ):
        command = option(command)
    return command


def installing(install: bool, trust_users: bool, sshd_config: Path | None) -> Installing | None:
    """
    Return what was asked for, when it can be done as far as that is known beforehand.

    :raises UsageError: a flag that means nothing. :raises Refused: as ``sshd.prepare``.
    """
    if not install:
        if trust_users or sshd_config is not None:
            raise UsageError("--trust-users and --sshd-config mean nothing without --install", hint="add --install")
        return None
    from handfast.newcomer import sshd
    from handfast.newcomer.running_sshd import DEFAULT_CONFIG

    config = (sshd_config or DEFAULT_CONFIG).absolute()
    sshd.prepare(config=config)
    return Installing(config, trust_users)


def held_of(keystore: Keystore) -> SshHeld | None:
    """Return the SSH certificates of the machine, if it has any. :raises Fault: what is kept of them is damaged."""
    from handfast.newcomer import ssh_state

    with suppress(NotFound):
        return ssh_state.load(keystore.directory)
    return None


def finish(keystore: Keystore, held: SshHeld, asked: Installing | None) -> None:
    """
    Keep new certificates, and put them where sshd has those before them, or where that was ``asked`` for.

    :raises HandfastError: they are kept, but not where sshd reads them; `renew --ssh` tries that again.
    """
    from handfast.newcomer import ssh_state
    from handfast.newcomer.ssh_state import Installed

    with keystore.exclusive():
        before = held_of(keystore)
        _refuse_another(before, held, asked)
        where: Installed | None = None
        if asked is not None:
            where = Installed(asked.config, asked.trust_users)
        elif before is not None and before.installed is not None:
            where = replace(before.installed, complete=False)
        fresh = replace(held, installed=where)
        ssh_state.save(keystore.directory, fresh)
        for each in fresh.certificates:
            ui.say(
                f"the SSH host key {each.key.fingerprint} ({each.key.algorithm}) is certified"
                f" as {', '.join(each.principals)}, until {each.valid_before:%Y-%m-%d %H:%M}Z"
            )
        if where is None:
            _beside(fresh, before)
        else:
            past = None if before is None else before.installed
            _install(keystore, fresh, where, unfinished=past is not None and not past.complete)
            if past is not None and past.trust_users and not where.trust_users:
                ui.say("sshd does not trust the registrar's CA for users any more")


def first(keystore: Keystore, credential: Held, directory: Path | None, asked: Installing | None) -> bool:
    """
    Ask for certificates for the host keys of a machine that has a credential, where it has published them; then finish.

    :raises HandfastError: as ``certificates.obtain`` and ``finish``.
    """
    from handfast.core.hosts import SSH_PORT
    from handfast.newcomer import hostkeys
    from handfast.newcomer.ssh_state import SshHeld

    about = credential.material.identity
    published, ports = about.get("ssh_dir"), about.get("ssh_ports")
    where = directory or (Path(published) if isinstance(published, str) else hostkeys.DEFAULT_DIRECTORY)
    numbers = tuple(each for each in ports if isinstance(each, int)) if isinstance(ports, list) else (SSH_PORT,)
    certified, agent = _obtained(where.absolute(), None, credential.addresses, credential.pin, credential.issued_at)
    held = SshHeld(certified, credential.addresses, credential.pin, where.absolute(), numbers, agent)
    finish(keystore, held, asked)
    return True


def renew(keystore: Keystore, held: SshHeld, *, if_due: bool, asked: Installing | None) -> bool:
    """
    Get the next certificates, or with ``if_due`` see that these are where they belong; return whether they are others.

    They are due also when a host key was made anew, or when the registrar has taken one back: what it said is true no
    more, and whoever reads the registrar's list refuses the host until it shows another.

    :raises HandfastError: as ``certificates.obtain`` and ``finish``; those that there are stay.
    """
    with keystore.exclusive():
        if if_due and SystemClock().now() < held.due_at and not _made_anew(held):
            _tend(keystore, held, asked)  # first of all: whom sshd refuses does not wait for our own certificates
            if not _taken_back(keystore, held):
                ui.say(f"SSH certificates are not due before {held.due_at:%Y-%m-%d %H:%M}Z")
                return False
        certified = (
            _looked_at_again(held)
            or _obtained(held.directory, held.agent, held.addresses, held.pin, held.certified.time)[0]
        )
        finish(keystore, replace(held, certified=certified), asked)
        return certified.certificates != held.certificates


def keep_fresh(out: Path, asked: Installing, *, command: str | None = None, unit_dir: Path | None = None) -> None:
    """
    Have systemd renew what was installed, or say that somebody has to: without that, the host is unknown in days.

    Of an sshd with a configuration of its own nothing is known, and so nothing is written for it unasked.

    :raises Fault: systemctl failed.
    """
    from handfast.newcomer import timer as units
    from handfast.newcomer.running_sshd import DEFAULT_CONFIG

    if command is None and unit_dir is None and units.has_timer(out):
        ui.say("the timer that is there already renews them along")  # a new one would drop its hook
    elif unit_dir is not None or (asked.config == DEFAULT_CONFIG and units.runs_systemd()):
        timer(out, command=command, unit_dir=unit_dir, ssh=True)
    else:
        ui.warn(
            f"nothing renews them by itself yet: have cron run `handfast renew --ssh --if-due --out {out.absolute()}`"
        )


def timer(out: Path, *, command: str | None, unit_dir: Path | None, ssh: bool) -> None:
    """Write the units of the timer. :raises UsageError, Fault: as ``install_timer``."""
    from handfast.newcomer.timer import install_timer

    for line in install_timer(out, command=command, unit_dir=unit_dir, ssh=ssh):
        ui.say(line)


def uninstall(keystore: Keystore) -> None:
    """Take the certificates out of sshd. :raises NotFound: they are in none. :raises Refused: as ``sshd.remove``."""
    from handfast.newcomer import ssh_state, sshd

    with keystore.exclusive():
        held = ssh_state.load(keystore.directory)
        if held.installed is None:
            raise NotFound("the SSH certificates of this machine are installed in no sshd", hint="`handfast status`")
        config = held.installed.config
        sshd.remove(pin=held.pin, config=config)
        ssh_state.save(keystore.directory, replace(held, installed=None))
    ui.say(
        f"took the SSH certificates out of the sshd of {config}, and their files away;"
        " the next renewal writes new ones beside the keys"
    )


def view(held: SshHeld | None) -> dict[str, object]:
    """Return what --json of `join`, `renew` and `status` says of them, if there are any."""
    from handfast.newcomer import ssh_state

    return {} if held is None else ssh_state.view(held)


def lines(held: SshHeld, now: datetime) -> list[str]:
    """Return what `status` prints of them."""
    where = held.installed
    state = "no sshd; beside the keys" if where is None else f"the sshd of {where.config}"
    if where is not None and not where.complete:
        state += ", unfinished: `handfast renew --ssh` tries again"
    if where is not None and where.trust_users:
        state += ", which trusts the registrar's CA for users"
    found = [
        f"ssh       {each.key.fingerprint} ({each.key.algorithm}) as {', '.join(each.principals)},"
        f" serial {each.serial}, {'ends' if now < each.valid_before else 'ended'} {each.valid_before:%Y-%m-%d %H:%M}Z,"
        f" by {sshleaf.evidence_words(sshleaf.evidence_of(each))}"
        for each in held.certificates
    ]
    return [*found, f"ssh due   {held.due_at:%Y-%m-%d %H:%M}Z, installed in {state}"]


def sentences(held: SshHeld) -> list[str]:
    """Return what `explain` says of them."""
    names = ", ".join(dict.fromkeys(name for each in held.certificates for name in each.principals))
    places = " or ".join(map(str, held.addresses))
    where = held.installed
    by = f"the host CA {held.certified.host_ca.fingerprint} of the registrar under {format_pin(held.pin)[:16]}…"
    said = [
        f"Its SSH host keys are certified as {names}, by {by}, at {places}.",
        "Each of these keys asks for its next certificate by itself: whoever has it is this host.",
    ]
    if where is not None and where.trust_users:
        trusts = "and lets in whoever has a certificate by the registrar's CA for users"
        said.append(f"The sshd of {where.config} shows them, {trusts}.")
    elif where is not None:
        said.append(f"The sshd of {where.config} shows them; whom it lets in is not for the registrar to say.")
    return said


# --- within ---


def _refuse_another(before: SshHeld | None, held: SshHeld, asked: Installing | None) -> None:
    """Nobody would renew, or take out, what is in an sshd that is not known here any more."""
    past = None if before is None else before.installed
    if before is None or past is None:
        return
    hint = "take them out first: handfast renew --ssh --uninstall"
    if before.pin != held.pin:
        raise Refused(f"the certificates of another registrar are installed in the sshd of {past.config}", hint=hint)
    if asked is not None and asked.config != past.config:
        raise Refused(f"these certificates are installed in the sshd of {past.config}", hint=hint)


def _made_anew(held: SshHeld) -> bool:
    """Whether a key that is certified is not there any more. Of one that came besides, the registrar hears in time."""
    from handfast.newcomer import hostkeys

    there = {hostkeys.public(path) for path in held.directory.glob("ssh_host_*_key*") if path.suffix in {"", ".pub"}}
    return any(each.key not in there for each in held.certificates)


def _beside(held: SshHeld, before: SshHeld | None) -> None:
    from handfast.newcomer import hostkeys, sshd

    keys = hostkeys.located(held.directory)
    ours = {each.certified.host_ca for each in (held, before) if each is not None}
    for path, _ in sshd.place(held.certificates, keys, ours=ours):
        ui.say(f"wrote {path}; sshd shows it once its configuration has `HostCertificate {path}`, and it was reloaded")


def _install(keystore: Keystore, held: SshHeld, where: Installed, *, unfinished: bool) -> None:
    from handfast.newcomer import ssh_state, sshd, sshd_files
    from handfast.newcomer.sshd_files import Users

    listed = sshd_files.revoked_file(where.config)
    users = Users(held.certified.user_ca, _revoked(held, listed)) if where.trust_users else None
    placed = sshd.install(held.certificates, pin=held.pin, config=where.config, users=users, unfinished=unfinished)
    for remark in placed.remarks:
        ui.warn(remark)
    ssh_state.save(keystore.directory, replace(held, installed=replace(where, complete=True)))
    for path, each in placed.certificates:
        ui.say(f"sshd shows the certificate {each.serial}, {path}")
    if users is not None:
        ui.say("sshd lets in whoever has a certificate by the registrar's CA for users, as the user that it names")


def _tend(keystore: Keystore, held: SshHeld, asked: Installing | None) -> None:
    """Finish what was not finished, and have sshd know what was revoked by now."""
    from handfast.newcomer import sshd, sshd_files

    where = held.installed
    if asked is not None:
        finish(keystore, held, asked)
    elif where is not None:
        if not where.complete or not sshd.intact(held.certificates, pin=held.pin, config=where.config):
            _install(keystore, held, where, unfinished=not where.complete)
        elif where.trust_users:
            listed = sshd_files.revoked_file(where.config)
            if sshd_files.write_krl(where.config, _revoked(held, listed)):
                ui.say("sshd has a newer list of revoked SSH keys")


def _taken_back(keystore: Keystore, held: SshHeld) -> bool:
    """Whether one of these certificates is on the registrar's list. Where that cannot be learned, it is only said."""
    from handfast.core.krl import is_revoked, read
    from handfast.ssh import krl

    path = keystore.directory / _REVOKED
    try:
        content = _revoked(held, path)
        krl.keep(path, content, before=krl.read(path))
    except HandfastError as error:
        ui.warn(f"whether the registrar has taken these SSH certificates back is not known: {error.message}")
        return False
    listed = read(content)
    gone = [each for each in held.certificates if is_revoked(listed, each)]
    for each in gone:
        ui.say(f"the registrar has taken back the SSH certificate {each.serial} of {each.key.fingerprint}")
    return bool(gone)


def _revoked(held: SshHeld, path: Path) -> bytes:
    """Return the registrar's list of revoked SSH keys, which is not older than the one at ``path``."""
    from handfast.newcomer.connection import problem
    from handfast.ssh import krl

    now = SystemClock().now()

    def fetch(peer: Verified) -> bytes:
        def get(path: str, most: int) -> bytes:
            status, answer = peer.connection.request("GET", path, limit=most)
            if status >= 400:
                raise problem(answer, status, str(peer.connection.address))
            return answer

        return krl.fetch(get, pin=held.pin, now=max(now, peer.time), held=krl.read(path)).content

    fetched: bytes = _ask(held.addresses, held.pin, held.certified.time, fetch)
    return fetched


def _looked_at_again(held: SshHeld) -> Certified | None:
    """Repeat the challenge where it is all that vouches for this host; until the registrar's limit the keys will do."""
    from handfast.newcomer.challenge import repeated

    try:
        return repeated(held, now=SystemClock().now)
    except Waiting:
        raise
    except HandfastError as error:
        ui.warn(f"the registrar did not look at this host again: {error.message}")
        return None


def _obtained(
    directory: Path, agent: Path | None, addresses: Sequence[Address], pin: bytes, not_before: datetime
) -> tuple[Certified, Path | None]:
    """Ask for certificates for the host keys there, and return also the agent that one of them is in."""
    from handfast.core.sshkeys import MAX_KEYS
    from handfast.newcomer import certificates
    from handfast.newcomer.host_signers import host_signers

    with host_signers(directory, agent=agent, most=MAX_KEYS) as keys:
        for remark in keys.remarks:
            ui.warn(remark)

        def obtain(peer: Verified) -> Certified:
            return certificates.obtain(peer, keys.signers, pin=pin, remark=ui.warn)

        return _ask(addresses, pin, not_before, obtain), keys.agent


def _ask(addresses: Sequence[Address], pin: bytes, not_before: datetime, question: Callable[[Verified], T]) -> T:
    """Ask the registrar something."""
    from handfast.adapters.tls import newcomer_context
    from handfast.newcomer.connection import verified

    # Time is never rolled back: a clock that was reset to the past cannot revive an old registrar certificate.
    now = max(SystemClock().now(), not_before)
    with verified(addresses, newcomer_context(), pin=pin, judge=lambda _claimed: now) as peer:
        return question(peer)
