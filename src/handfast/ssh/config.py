"""
Make plain ``ssh host`` ask us: two files of ours, and one line in the user's ``~/.ssh/config``.

ssh goes on without a KnownHostsCommand that is not there (measured on 9.2: with ``accept-new`` it records the
stranger's key). So a shell stands before the launcher, which is always there, and says no when the rest is gone.

ssh takes the first value that it finds for an option. So the line is the file's first, and ``check`` asks ssh itself.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from handfast.adapters.files import faults, private_directory, read_private, write_atomic
from handfast.core import knownhosts, wire
from handfast.errors import HandfastError, NotFound, Refused, Unsafe, UsageError
from handfast.ssh import launcher, snapshot

SOURCE = "source.json"
LAUNCHER = "launcher.py"
MOST = timedelta(days=7)
OLDEST_SSH = (8, 5)  # the first with KnownHostsCommand, March 2021
_VERSION = re.compile(r"OpenSSH_(?:for_Windows_)?([0-9]+)\.([0-9]+)")
_NOBODY = "nobody.invalid"  # a host that no line of a configuration is about
_TOKENS = "%I %h %p %n %k %H %t %f %K"  # as launcher.Call takes them
_SHELL = (
    '[ -x "$0" ] && [ -r "$1/launcher.py" ] && exec "$0" -IS "$1/launcher.py" "$@"; '
    'echo "handfast: no connection: what checks host keys is gone: $0 or $1" >&2; '
    'echo "handfast: mend it: handfast ssh-config install; or do without: delete ~/.ssh/config.d/handfast.conf" >&2; '
    "exit 1"
)
_HEAD = """\
# Written by `handfast ssh-config install`; `handfast ssh-config remove` takes it away again.
# ssh asks this before it believes a host key: the keys of our machines are known, and nothing changes for others.
# But for this: on loopback, where tunnels end, no host key is left unchecked, as we would not be asked about any.
Host *
    NoHostAuthenticationForLocalhost no
"""


class Source(msgspec.Struct, frozen=True):
    """
    Where the snapshot comes from: a registrar ``https://host:port#PIN``, or a data directory of this machine.

    ``identity`` is the directory of the credential to ask with. ``known_hosts`` is the file written for other
    programs. ``made`` are the paths that ``install`` made and ``remove`` takes away if nothing else is in them.
    """

    registrar: str | None = None
    identity: str | None = None
    data: str | None = None
    known_hosts: str | None = None
    most: int = int(MOST.total_seconds())
    made: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """The directory of the user's ssh, as ssh sees it (by the user's id, not by HOME), and ours with the snapshot."""

    ssh: Path
    state: Path

    @property
    def config(self) -> Path:
        """The user's own configuration."""
        return self.ssh / "config"

    @property
    def dropin(self) -> Path:
        """Ours."""
        return self.ssh / "config.d" / "handfast.conf"

    @property
    def known_hosts(self) -> Path:
        """The file for programs that ask nobody."""
        return self.ssh / "known_hosts.d" / "handfast"

    @property
    def revoked(self) -> Path:
        """The list of revoked keys and certificates, which ssh reads itself."""
        return self.state / launcher.REVOKED

    @property
    def include(self) -> bytes:
        """The line in the user's configuration."""
        return f'Include "{_quotable(self.dropin)}"\n'.encode()

    def command(self, python: Path) -> str:
        """Return the value of KnownHostsCommand. ssh splits it by its quotes before it fills in the tokens."""
        return f'/bin/sh -c \'{_SHELL}\' "{_quotable(python)}" "{_quotable(self.state)}" {_TOKENS}'


@dataclass(frozen=True, slots=True)
class Effect:
    """What ssh would do for a host: its options, whether it asks us, and what is in the way or worth knowing."""

    options: dict[str, str]
    asked: bool
    findings: tuple[str, ...]


def install(where: Where, source: Source, *, refresh: Sequence[str], python: Path, ssh: str = "ssh") -> list[str]:
    """
    Write everything, the line in the user's file last; again is harmless. Return what was done.

    The snapshot has to be in place: without it no connection would go on. Where a CA speaks in it, ssh is told of the
    list of revoked keys, if that is there: machines that are known are judged without it. ssh reads a single list:
    where the user or the system has set another one, that stays, and no CA speaks.

    :raises NotFound: there is no snapshot.
    :raises Refused: ssh is too old, or a path cannot be written in its configuration.
    :raises Unsafe: a file or directory is another user's, or others can write it.
    """
    check_version(ssh)
    speaks = snapshot.speaker(snapshot.load(where.state).content) is not None
    include, command = where.include, where.command(python)
    made = list(_earlier(where).made)
    directories = [where.ssh, where.dropin.parent] + [where.known_hosts.parent] * (source.known_hosts is not None)
    for directory in directories:
        made += _make_directory(directory)
    target = _own(where.config)
    before = _content(target)
    if before is None:
        made.append(str(where.config))
    copy_launcher(where)
    other = _other_list(where, ssh) if speaks else None
    options = [f"KnownHostsCommand {command}"]
    settings = [f"most {source.most}", *(f"refresh {word}" for word in refresh)]
    if speaks and other is None and where.revoked.exists():
        options.append(f'RevokedHostKeys "{_quotable(where.revoked)}"')
        settings.append("revoked here")
    write_atomic(where.state / launcher.SETTINGS, "".join(f"{line}\n" for line in settings).encode())
    source = msgspec.structs.replace(source, made=tuple(dict.fromkeys(made)))
    write_atomic(where.state / SOURCE, msgspec.json.encode(source))
    done = [f"{where.state} has the snapshot and what looks into it"]
    if source.known_hosts is not None:
        write_known_hosts(where)
        done.append(f"{where.known_hosts} has the keys for programs that read such a file")
    _own(where.dropin)
    write_atomic(where.dropin, (_HEAD + "".join(f"    {option}\n" for option in options)).encode())
    if other is not None:
        done.append(f"RevokedHostKeys {other} stays: ssh does not read our list, and is told of no certificate's CA")
    after = include + _without(before or b"", include)
    if after == before:
        return [*done, f"{where.config} includes {where.dropin} already"]
    _replace(target, after)
    return [*done, f"{where.config} includes {where.dropin} in its first line"]


def copy_launcher(where: Where) -> None:
    """Put the launcher of this version in place, before the snapshot that it has to understand."""
    code, place = Path(launcher.__file__).read_bytes(), where.state / LAUNCHER
    if _content(place) != code:
        write_atomic(place, code)


def remove(where: Where) -> list[str]:
    """
    Take away what ``install`` wrote, the user's line first; the user's file is then what it was, byte for byte.

    :raises Unsafe: a file is another user's, or others can write it.
    """
    source = _earlier(where)
    target = _own(where.config)
    before = _content(target)
    done = []
    if before is not None and (after := _without(before, where.include)) != before:
        if not after and str(where.config) in source.made:
            _unlink(where.config)
        else:
            _replace(target, after)
        done.append(f"{where.config} is as it was")
    ours = [where.dropin, where.known_hosts]
    ours += [where.state / name for name in (*_STATE, launcher.REVOKED, launcher.SIGNATURE, launcher.HOSTS, SOURCE)]
    done += [f"removed {path}" for path in ours if _unlink(path)]
    for path in (where.known_hosts.parent, where.dropin.parent, where.ssh):
        if str(path) in source.made and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return done or ["nothing was installed"]


_STATE = (LAUNCHER, launcher.SETTINGS, launcher.ASKED, "lock")


def _other_list(where: Where, ssh: str) -> str | None:
    """Return the list of revoked host keys that ssh reads, if it is not ours."""
    listed = effective(_NOBODY, ssh=ssh).get("revokedhostkeys", "none")
    return None if listed in {"none", str(where.revoked)} else listed


def _speaks(where: Where) -> bool:
    try:
        return snapshot.speaker(snapshot.load(where.state).content) is not None
    except HandfastError:  # no snapshot, or a damaged one: the launcher vetoes, and the doctor says it
        return False


def load_source(where: Where) -> Source:
    """:raises NotFound: nothing is installed."""
    return wire.decode(read_private(where.state / SOURCE), Source)


def _earlier(where: Where) -> Source:
    try:
        return load_source(where)
    except NotFound:
        return Source()


def write_known_hosts(where: Where) -> None:
    """Write the keys of the snapshot as a known_hosts file, for programs that do not know KnownHostsCommand."""
    kept = snapshot.load(where.state)
    least = snapshot.about(kept.content).least
    hosts = list(snapshot.hosts(kept.content))
    lines = knownhosts.of_all(hosts, least=least, speaker=snapshot.speaker(kept.content))
    _own(where.known_hosts)
    write_atomic(where.known_hosts, "".join(f"{line}\n" for line in lines).encode())


# --- whether it is in effect ---

# What ssh believes before it asks us (read in sshconnect.c; the second is a patch of Debian's and others').
_WORTH_KNOWING = {
    "verifyhostkeydns": "VerifyHostKeyDNS is on: a key that DNSSEC vouches for is believed before we are asked",
    "gssapikeyexchange": "GSSAPIKeyExchange is on: where Kerberos vouches for a host, we are not asked",
    "nohostauthenticationforlocalhost": "NoHostAuthenticationForLocalhost is on: on loopback no host key is checked",
}


def check(where: Where, host: str, *, python: Path, ssh: str = "ssh") -> Effect:
    """
    Ask ssh what it would do for a host, and say what is in the way.

    :raises UsageError: a host that ssh does not take.
    """
    options = effective(host, ssh=ssh)
    asked = options.get("knownhostscommand") == where.command(python)
    findings = [] if asked else list(_in_the_way(where, options))
    findings += [words for key, words in _WORTH_KNOWING.items() if options.get(key) in ("true", "yes")]
    listed = options.get("revokedhostkeys", "none")
    if listed == str(where.revoked) and not where.revoked.exists():
        findings.append(f"{where.revoked} is not there, and ssh refuses every host: run `handfast ssh-config refresh`")
    elif asked and listed != str(where.revoked) and _speaks(where):
        findings.append(
            f"RevokedHostKeys is {listed[:200]}: ssh does not read what our registrar has taken back, and is told of no"
            " machine that came since; `handfast ssh-config install` sets it if it is not set"
        )
    if options.get("stricthostkeychecking") in ("false", "no", "off"):
        findings.append("StrictHostKeyChecking is off: our machines are checked all the same, others are not")
    return Effect(options, asked, tuple(findings))


def effective(host: str, *, ssh: str = "ssh") -> dict[str, str]:
    """Return ssh's options for a host as ``ssh -G`` shows them. :raises UsageError: ssh does not take it."""
    run = _run([ssh, "-G", "--", host])
    if run.returncode:
        reason = run.stderr.strip().splitlines() or ["no reason given"]
        raise UsageError(f"ssh does not take {host[:80]!r}: {reason[-1]}", hint=f"see `ssh -G {host[:80]}`")
    options: dict[str, str] = {}
    for line in run.stdout.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key, value)
    return options


def check_version(ssh: str = "ssh") -> None:
    """:raises Refused: ssh is not OpenSSH, or too old to ask anybody."""
    told = _run([ssh, "-V"]).stderr.strip()
    match = _VERSION.search(told)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_SSH:
        raise Refused(
            f"{ssh} says it is {told[:60]!r}: it cannot ask for host keys, OpenSSH {OLDEST_SSH[0]}.{OLDEST_SSH[1]} can",
            hint="`handfast ssh` works with it, and `handfast known-hosts` prints lines for its known_hosts file",
        )


def _in_the_way(where: Where, options: dict[str, str]) -> Iterable[str]:
    if not where.dropin.exists():
        yield f"{where.dropin} is not there: run `handfast ssh-config install`"
        return
    include = where.include.strip()
    try:
        lines = where.config.read_bytes().splitlines()
    except OSError as error:
        yield f"{where.config} cannot be read: {(error.strerror or 'error').lower()}"
        return
    if include not in lines:
        yield f"{where.config} does not include {where.dropin}: run `handfast ssh-config install`"
        return
    number = lines.index(include)
    for at, line in enumerate(lines[:number], 1):
        words = line.strip().lower().replace(b"=", b" ").split()
        if words and words[0] in (b"host", b"match", b"include", b"knownhostscommand"):
            text = line.strip().decode("utf-8", "backslashreplace")
            yield f"line {at} of {where.config} comes before our Include, which has to be the first: {text!r}"
    other = options.get("knownhostscommand", "none")
    if LAUNCHER in other:
        yield "what ssh runs is of another version or installation of ours: run `handfast ssh-config install`"
    elif other != "none":
        yield f"another KnownHostsCommand is in effect: {other[:200]}"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    with faults("run", Path(command[0])):
        return subprocess.run(
            command, capture_output=True, text=True, errors="backslashreplace", check=False, stdin=subprocess.DEVNULL
        )


# --- the user's files ---


def _quotable(path: Path) -> str:
    """Return a path as it stands between double quotes in ssh's configuration, where it means itself."""
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or set(text) & set("'\"\\$%*?[]{}`"):
        raise Refused(f"ssh's configuration cannot name {text!r}", hint="use a path without quotes, $, %, *, ?, [ or {")
    return text


def _without(content: bytes, line: bytes) -> bytes:
    return b"".join(each for each in content.splitlines(keepends=True) if each != line)


def _own(path: Path) -> Path:
    """
    Return where a path leads, checked as ssh checks it: ours, in a directory of ours, and for nobody else to write.

    A link of one's own is followed: some keep their configuration elsewhere.
    """
    target = path.resolve()
    for each in (path, path.parent, target, target.parent):
        try:
            status = each.lstat()
        except FileNotFoundError:
            continue
        if status.st_uid not in {0, os.geteuid()}:
            raise Unsafe(
                f"{str(each)!r} belongs to user id {status.st_uid}", hint="run the command as the user it is for"
            )
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022:
            raise Unsafe(f"others can write {str(each)!r}: ssh refuses that as well", hint=f"chmod go-w {each}")
    return target


def _make_directory(path: Path) -> list[str]:
    if path.is_dir():
        _own(path)
        return []
    private_directory(path)
    return [str(path)]


def _content(path: Path) -> bytes | None:
    with faults("read", path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew with the mode and the group that it has."""
    try:
        status = path.stat()
    except FileNotFoundError:
        write_atomic(path, content)
        return
    write_atomic(path, content, stat.S_IMODE(status.st_mode))
    if path.stat().st_gid != status.st_gid:
        with faults("give its group to", path):
            os.chown(path, -1, status.st_gid)


def _unlink(path: Path) -> bool:
    with faults("remove", path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True
