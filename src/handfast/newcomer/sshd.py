"""
Host certificates in this machine's sshd: files beside the host keys, and a drop-in that names them.

    ssh_host_…_key-cert.pub          beside each host key
    handfast/user_ca.pub             who may log people in, and
    handfast/revoked.krl             who no more; both only where they were asked for
    sshd_config.d/10-handfast.conf   names them

The files come first and the drop-in last, on removal the other way round: sshd without the file of its ``RevokedKeys``
lets nobody in. Then sshd is reloaded, since it reads certificates only then, and asked. Unless it shows exactly these
certificates, everything is as it was before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handfast.core import krl, sshcert
from handfast.core.keys import format_pin
from handfast.core.sshcert import SshCertificate
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, NotAuthorized, Refused, UsageError
from handfast.newcomer import hostkeys, running_sshd
from handfast.newcomer.running_sshd import DEFAULT_CONFIG, Settings, Sshd
from handfast.newcomer.sshd_files import (
    MAX_FILE,
    Changes,
    Places,
    Users,
    content,
    directory,
    forget,
    remove_file,
    write_krl,
)

_PATH = re.compile(r"/[A-Za-z0-9/._+@:,=~-]+", re.ASCII)  # one word of sshd_config, that is no pattern


@dataclass(frozen=True, slots=True)
class Placed:
    """Certificates that sshd shows, by the file of each, and why others could not be placed."""

    certificates: tuple[tuple[Path, SshCertificate], ...]
    remarks: tuple[str, ...]
    reloaded: bool


def install(
    certificates: Sequence[SshCertificate],
    *,
    pin: bytes,
    config: Path = DEFAULT_CONFIG,
    users: Users | None = None,
    unfinished: bool = False,
) -> Placed:
    """
    Have the sshd of ``config`` show these certificates, and see it do so. Doing it again mends what is half done.

    ``pin`` is the registrar's; what another registrar's certificates were installed for is left alone. ``users`` None
    is that sshd trusts no CA of ours. ``unfinished`` says that a run before did not come to its end, so that sshd may
    not have read what lies there. *Not* checked: who signed the certificates, and their times.

    :raises NotAuthorized: not root.
    :raises Refused: sshd's own configuration is wrong, does not read the drop-in, or has what contradicts it; no key
        of sshd is certified; or sshd does not show the certificates in the end. Everything is as before then.
    :raises Unsafe: a file or directory that others could write. :raises NotFound: no sshd here.
    :raises Fault: the disk is full, systemd says no. Everything is as before then, as far as it can be.
    """
    _root()
    sshd = Sshd(config)
    sshd.check()
    before = sshd.settings()
    places = Places(sshd.config, format_pin(pin))
    chosen, remarks = _choose(certificates, before)
    _check(places, chosen, before, users)
    named, listed = places.named() or (), places.revoked.exists()
    changes = Changes()
    try:
        for path, certificate in chosen:
            changes.write(path, f"{certificate}\n".encode())
        if users is not None:
            directory(places.ours, make=True)
            write_krl(config, users.krl)
            changes.write(places.user_ca, f"{users.authority}\n".encode())
        changes.write(places.drop_in, places.lines([path for path, _ in chosen], users))
        _check_read(sshd, places, chosen, users)
        # A list that is there may be named by what sshd has read, whatever its configuration says by now.
        unread = unfinished or (users is None and listed)
        reloaded = _show(sshd, before, chosen, changes, unfinished=unread)
    except BaseException as error:
        _take_back(sshd, before, places, changes, error, listed=listed)
        raise
    if users is None:
        forget(places)
    _discard(path for path in named if path not in dict(chosen))
    return Placed(chosen, remarks, reloaded)


def prepare(*, config: Path = DEFAULT_CONFIG) -> None:
    """
    Find what ``install`` would refuse whatever the certificates are, before anything is spent on them.

    :raises NotAuthorized, Refused, Unsafe, NotFound: as ``install``.
    """
    _root()
    sshd = Sshd(config)
    sshd.check()
    _check_drop_ins(Places(sshd.config, ""))


def intact(certificates: Sequence[SshCertificate], *, pin: bytes, config: Path = DEFAULT_CONFIG) -> bool:
    """
    Whether the drop-in is there, and names nothing but these certificates, as they are. sshd is not asked.

    :raises Refused, Unsafe: as ``install``.
    """
    named = Places(config.absolute(), format_pin(pin)).named()
    return bool(named) and all(_certificate(path) in certificates for path in named or ())


def place(
    certificates: Sequence[SshCertificate], keys: Mapping[SshKey, Path], *, ours: Collection[SshKey]
) -> tuple[tuple[Path, SshCertificate], ...]:
    """
    Write each certificate beside its key, for whoever tells sshd of it; return where those are that have a file.

    ``ours`` are authorities whose certificates may be replaced.

    :raises Refused: a file is in the way. :raises Unsafe: others could write there. :raises Fault: the disk.
    """
    placed = tuple((beside(keys[each.key]), each) for each in certificates if each.key in keys)
    for path, each in placed:
        _check_place(path, {each.authority, *ours})
    changes = Changes()
    for path, each in placed:
        changes.write(path, f"{each}\n".encode())
    return placed


def beside(key: Path) -> Path:
    """Return where the certificate of a host key belongs, as ``ssh-keygen -s`` has it."""
    return key.with_name(f"{key.name.removesuffix('.pub')}-cert.pub")


def _show(
    sshd: Sshd,
    settings: Settings,
    chosen: Sequence[tuple[Path, SshCertificate]],
    changes: Changes,
    *,
    unfinished: bool,
) -> bool:
    """Reload sshd if need be, and see that it shows what it should; return whether it was reloaded."""
    wanted = [certificate for _, certificate in chosen]
    fresh = any(path in changes.before for path, _ in chosen)
    shown = not fresh and not running_sshd.not_shown(settings, wanted, certain=True)
    if shown and not changes.before and not unfinished:
        return False
    changes.read = True
    certain = sshd.reload(settings)
    reasons = running_sshd.not_shown(settings, wanted, certain=certain)
    if reasons or (shown and not certain):  # what was shown before proves no reload
        hint = f"see sshd's log, and `sshd -T -f {sshd.config} | grep -i host`; everything is as it was"
        if not certain:
            hint = "sshd could not be reloaded: it has no unit, and no pid file of a running process; restart it after"
        raise Refused("; ".join(reasons) or "sshd was not reloaded", hint=hint)
    return True


def remove(*, pin: bytes, config: Path = DEFAULT_CONFIG) -> bool:
    """
    Take out what ``install`` put in; return whether there was anything.

    :raises NotAuthorized, Refused, Unsafe, NotFound, Fault: as ``install``.
    """
    _root()
    sshd = Sshd(config)
    sshd.check()
    before, places = sshd.settings(), Places(sshd.config, format_pin(pin))
    named = places.named()
    if named is None:
        return False
    # Without a list it does no harm to be wrong about what sshd has read.
    shown = not places.revoked.exists() or (running_sshd.may_listen(before) and _still_there(before, named))
    remove_file(places.drop_in)
    if not sshd.reload(before) and not _is_read(before, named, shown=shown):
        raise Refused(
            f"{str(places.drop_in)!r} is removed, but sshd was not reloaded", hint="reload sshd, then remove the rest"
        )
    _discard(named)
    forget(places)
    return True


def _check(
    places: Places, chosen: Sequence[tuple[Path, SshCertificate]], settings: Settings, users: Users | None
) -> None:
    """Find what is in the way. :raises Refused, Unsafe: it is named."""
    _check_drop_ins(places)
    named = places.named() or ()
    for path, certificate in chosen:
        if not _PATH.fullmatch(str(path)):
            raise UsageError(f"cannot put {str(path)!r} into sshd_config", hint="use a path of plain letters")
        _check_place(path, None if path in named else {certificate.authority})
    _refuse_other_certificates(settings, chosen, named)
    if users is not None:
        _refuse_other_trust("TrustedUserCAKeys", settings.user_authorities, places.user_ca)
        _refuse_other_trust("RevokedKeys", settings.revoked_keys, places.revoked)
        if places.ours.exists():
            directory(places.ours, make=False)
            for path in (places.user_ca, places.revoked):
                content(path, krl.MAX_KRL)


def _check_drop_ins(places: Places) -> None:
    where = places.drop_in.parent
    if not where.is_dir():
        hint = f"make it, and put `Include {where}/*.conf` at the top of {places.config}"
        raise Refused(f"no directory {str(where)!r}, where sshd would read our part", hint=hint)
    directory(where, make=False)


def _check_place(path: Path, ours: Collection[SshKey] | None) -> None:
    """``ours`` None is that whatever is there was written by us."""
    directory(path.parent, make=False)
    there, held = content(path, MAX_FILE) is not None, _certificate(path)
    if there and ours is not None and (held is None or held.authority not in ours):
        hint = "is this host certified by another CA? move the file away"
        raise Refused(f"{str(path)!r} is in the way, and not ours", hint=hint)


def _choose(
    certificates: Sequence[SshCertificate], settings: Settings
) -> tuple[tuple[tuple[Path, SshCertificate], ...], tuple[str, ...]]:
    """Return the certificates for keys that sshd has, each with the place beside its key, and why not the others."""
    keys = {key: path for path in settings.host_keys if (key := hostkeys.public(path)) is not None}
    chosen, remarks = list[tuple[Path, SshCertificate]](), list[str]()
    for each in certificates:
        what = f"the certificate of {each.key.fingerprint} ({each.key.algorithm}) is not installed"
        if each.key not in keys:
            remarks.append(f"{what}: the key is none of sshd's, which has {_list(settings.host_keys)}")
        elif settings.algorithms.isdisjoint(running_sshd.algorithms(each)):
            remarks.append(f"{what}: sshd's HostKeyAlgorithms do not have {running_sshd.algorithms(each)[0]}")
        else:
            chosen.append((beside(keys[each.key]), each))
    if not chosen:
        raise Refused("; ".join(remarks) or "no certificates", hint="see `sshd -T | grep -i hostkey`")
    return tuple(chosen), tuple(remarks)


def _refuse_other_certificates(
    settings: Settings, chosen: Sequence[tuple[Path, SshCertificate]], ours: Sequence[Path]
) -> None:
    """Of several certificates for one key sshd shows one, and does not say which."""
    keys = {certificate.key for _, certificate in chosen}
    paths = {path for path, _ in chosen}
    for path in settings.host_certificates:
        found = _certificate(path)
        if found is not None and found.key in keys and path not in {*ours, *paths}:
            hint = f"take its HostCertificate line out of the configuration (`grep -r {path.name} /etc/ssh`)"
            raise Refused(f"sshd has another certificate for one of these keys, {str(path)!r}", hint=hint)


def _refuse_other_trust(setting: str, held: Path | None, ours: Path) -> None:
    # sshd takes the first of several: ours would put theirs out of force, or theirs ours.
    if held not in {None, ours}:
        raise Refused(
            f"sshd has a {setting} of its own, {str(held)!r}, and reads only one",
            hint="leave --trust-users away, and add our CA and list there (`handfast ca ssh`, `handfast ca krl`)",
        )


def _check_read(sshd: Sshd, places: Places, chosen: Sequence[tuple[Path, SshCertificate]], users: Users | None) -> None:
    """See that the drop-in is part of the configuration now."""
    after = sshd.settings()
    missing = [path for path, _ in chosen if path not in after.host_certificates]
    wrong = users is not None and (after.user_authorities, after.revoked_keys) != (places.user_ca, places.revoked)
    if missing or wrong:
        raise Refused(
            f"sshd does not read {str(places.drop_in)!r}",
            hint=f"put `Include {places.drop_in.parent}/*.conf` at the top of {sshd.config}, then try again",
        )


def _take_back(
    sshd: Sshd, settings: Settings, places: Places, changes: Changes, error: BaseException, *, listed: bool
) -> None:
    """
    Undo, and have sshd know. Where an unfinished run had left all of it, the drop-in goes.

    A list of revoked keys that was there before goes only when sshd was reloaded: it may name that one still.
    """
    try:
        changes.undo()
        if changes.read and not changes.before:
            remove_file(places.drop_in)
        reloaded = sshd.reload(settings) if changes.read else not listed
        if changes.read and not running_sshd.answers(settings):
            _add(error, "sshd does not answer now")
        if reloaded and not places.drop_in.exists():
            forget(places)
    except HandfastError as other:
        _add(error, f"not everything could be taken back: {other.message}")


def _add(error: BaseException, what: str) -> None:
    if isinstance(error, HandfastError):
        error.hint = f"{error.hint}; {what}"


def _is_read(settings: Settings, named: Sequence[Path], *, shown: bool) -> bool:
    """Whether sshd has no part of ours any more, as far as a connection shows; that a certificate goes proves it."""
    return not _still_there(settings, named) if shown else not running_sshd.may_listen(settings)


def _still_there(settings: Settings, named: Sequence[Path]) -> bool:
    certificates = [each for each in map(_certificate, named) if each is not None]
    return any(not running_sshd.not_shown(settings, [each], certain=True) for each in certificates)


def _discard(paths: Iterable[Path]) -> None:
    """Remove certificates that our drop-in named; who has changed it by hand may have named anything."""
    for path in paths:
        if _certificate(path) is not None:
            remove_file(path)


def _certificate(path: Path) -> SshCertificate | None:
    try:
        return sshcert.parse(path.read_text("utf-8", errors="replace"))
    except (OSError, HandfastError):
        return None


def _root() -> None:
    if os.geteuid() != 0:
        raise NotAuthorized("only root can install certificates in sshd", hint="run it as root, or without --install")


def _list(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "none"
