"""
``handfast ssh``: ssh itself, told which host keys the machine has, and to believe no others.

ssh says what its arguments and its configuration come to (``ssh -G``), the machine is looked up by that, and the
process becomes ssh: its signals, its terminal and its exit code are ssh's own, and no argument is changed. What is
added are options in front, as of each option ssh takes the first value that it meets: arguments before files, in their
order.

A jump host is reached by another ssh, which ssh starts by the name that it was itself started with (argv[0], since
7.8) and without our options. That name is a script of ours, ``hop``, which is ``handfast ssh`` again: so each hop is
looked up and checked like the machine behind it. A ``ProxyCommand`` is the user's own program, and left alone: what
comes through it is checked.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from handfast.adapters.files import private_directory, read_private, write_atomic
from handfast.adapters.process import child_environment
from handfast.core.hosts import Grade, Host, How
from handfast.core.sshkeys import SshKey
from handfast.errors import Fault, HandfastError, NotFound, Refused, UsageError
from handfast.ssh import arguments as grammar
from handfast.ssh import machine_files
from handfast.ssh.machine_files import Files
from handfast.ssh.source import Hosts, find, normal

# Whatever machine it is. Each is held by tests/interop/test_ssh_wrapper.py.
STRICT = (
    "StrictHostKeyChecking=yes",  # no key is believed because nobody knows better
    "GlobalKnownHostsFile=/dev/null",  # others' words; before 8.5 `none` is a file in the working directory
    "VerifyHostKeyDNS=no",  # a validated SSHFP record would be believed before ssh looks at any key of ours
    "NoHostAuthenticationForLocalhost=no",  # a forwarded port is on localhost too
    "CheckHostIP=no",  # a machine is its name; an address may have been another's yesterday
    "UpdateHostKeys=yes",  # learn what the machine proves to have (see machine_files); no question is asked
    "HashKnownHosts=no",  # what is learned has to be read back
    "FingerprintHash=sha256",  # the form in which `explain` knows the keys
)
_COMMAND = "KnownHostsCommand=none"  # the user's could add keys; replaced by our own, which adds none
# A patch of Debian's and others': Kerberos vouches for the host instead of a host key, which is then not looked at.
# Any host of the realm would do; and the keys that it shows afterwards would be learned as the machine's.
_KERBEROS = "GSSAPIKeyExchange=no"
_NOT_ALL_HAVE = (_COMMAND, _KERBEROS)  # an ssh without the option refuses it, or complains at each start
NO_SOCKET = "none"
_NEEDED = ("hostname", "port")
_LONGEST_SOCKET = 107 - 17  # sun_path, less the random suffix under which ssh binds it first
_SHELL_SAFE = re.compile(r"[A-Za-z0-9_@+=:,./-]+")  # ssh puts argv[0] into a line for the shell as it is


@dataclass(frozen=True, slots=True)
class Meant:
    """What ``ssh -G`` says that the arguments come to. ``alias``, ``jump`` and ``socket`` are None where not set."""

    typed: str
    host: str
    port: int
    alias: str | None
    jump: str | None
    socket: str | None


class Register(Protocol):
    """Records for everybody what ssh has learned of a machine, unless what that rests upon has changed since."""

    def __call__(
        self, machine: str, keys: tuple[SshKey, ...], /, *, basis: tuple[SshKey, ...], detail: str
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What a run needs besides its arguments.

    ``state`` is the directory for this source of hosts, ours alone; ``again`` starts ``handfast ssh`` with the same
    source. ``register`` is None where nothing can be recorded.
    """

    ssh: Path
    hosts: Hosts
    least: Grade
    state: Path
    again: tuple[str, ...]
    say: Callable[[str], None]
    register: Register | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What to become: a program, and its arguments with argv[0]."""

    program: Path
    argv: tuple[str, ...]


class Ended(Exception):
    """ssh itself has refused its arguments: its exit code, and what it wrote to stderr. No error of ours."""

    def __init__(self, code: int, stderr: bytes) -> None:
        super().__init__(code)
        self.code, self.stderr = code, stderr


def prepare(given: Sequence[str], setting: Setting) -> Run:
    """
    Return the ssh that ``given``, ssh's own arguments, stand for.

    :raises Ended: ssh refuses them.
    :raises NotFound: the destination is not one of ours. :raises Refused: none of its keys is known well enough.
    :raises HandfastError: as the source of hosts, and ``machine_files.prepare``.
    """
    strict, meant = _ask(setting.ssh, given)
    if meant is None:  # -V, -Q: nobody is connected to; and if somebody were, nobody's key would be known
        return Run(setting.ssh, ("ssh", *_options([*strict, "UserKnownHostsFile=/dev/null"]), *given))
    host = _identify(meant, setting)
    private_directory(setting.state)
    files = machine_files.prepare(setting.state / "machines" / host.machine, host, least=setting.least)
    _hand_on(host, files, setting)
    own = [f"HostKeyAlias={host.machine}", f'UserKnownHostsFile="{files.known_hosts}"']
    if _COMMAND in strict:
        strict.remove(_COMMAND)
        own.append(f'KnownHostsCommand=/bin/sh "{files.explain}" %I %f %t')
    socket = _socket(meant, host, setting)
    argv = (*_options([*strict, *own, f'ControlPath="{socket}"']), *given)
    if meant.socket is not None:
        argv = _socket_last(argv, socket, setting.ssh)
    return Run(setting.ssh, ("ssh" if meant.jump is None else str(_hop(setting)), *argv))


def _options(settings: Sequence[str]) -> list[str]:
    return [f"-o{each}" for each in settings]


# --- what ssh makes of its arguments ---


def _ask(ssh: Path, given: Sequence[str]) -> tuple[list[str], Meant | None]:
    """Return the strict options that this ssh knows, and what it means; None where it would connect to nobody."""
    strict = [*STRICT, *_NOT_ALL_HAVE]
    code, out, err = _run(ssh, ["-G", *_options(strict), *given])
    while lacking := _lacking(strict, err):
        strict.remove(lacking)
        code, out, err = _run(ssh, ["-G", *_options(strict), *given])
    if code != 0:
        raise Ended(code, err)
    return strict, _meant(out.decode("utf-8", "replace"), grammar.read(given).host)


def _lacking(strict: Sequence[str], err: bytes) -> str | None:
    """Return the first of our options that ssh says it does not have: unknown to it, or left out when it was built."""
    said = err.lower()
    for option in _NOT_ALL_HAVE:
        name = option.partition("=")[0].lower().encode()
        complaints = (b"bad configuration option: " + name, b'unsupported option "' + name + b'"')
        if option in strict and any(each in said for each in complaints):
            return option
    return None


def _meant(printed: str, typed: str | None) -> Meant | None:
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    if not all(key in found for key in _NEEDED):
        return None
    once = ("host", *_NEEDED, "hostkeyalias", "proxyjump", "controlpath", "stricthostkeychecking", "gssapikeyexchange")
    if twice := [key for key in once if len(found.get(key, ())) > 1]:
        # Only a line break in an option does that: it could pass one destination off as another.
        raise UsageError(f"ssh reads {twice[0]!r} twice in these arguments", hint="is there a line break in an option?")
    one = {key: values[0] for key, values in found.items()}
    if one.get("stricthostkeychecking") not in {"true", "yes"}:
        raise Fault("ssh did not take StrictHostKeyChecking=yes", hint="`ssh -V` says which it is; report it")
    if one.get("gssapikeyexchange", "no") not in {"false", "no"}:  # not printed: this ssh does not have it
        raise Fault("ssh did not take GSSAPIKeyExchange=no", hint="`ssh -V` says which it is; report it")
    return Meant(
        one.get("host") or typed or one["hostname"],
        one["hostname"],
        int(one["port"]),
        one.get("hostkeyalias"),
        one.get("proxyjump"),
        one.get("controlpath") if one.get("controlpath") != NO_SOCKET else None,
    )


def _run(ssh: Path, arguments: Sequence[str]) -> tuple[int, bytes, bytes]:
    """Run ssh to its end and return exit code, stdout and stderr. ``subprocess`` would take as long to import."""
    out, err = os.memfd_create("ssh-out"), os.memfd_create("ssh-err")
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),  # what `Match exec` runs must not eat our input
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, err, 2),
        ]
        pid = os.posix_spawn(ssh, ["ssh", *arguments], child_environment(HANDFAST_SSH_ASKS="1"), file_actions=actions)
        _, status = os.waitpid(pid, 0)
        printed, said = (os.pread(each, os.fstat(each).st_size, 0) for each in (out, err))
    except OSError as error:
        raise Fault(f"cannot run {str(ssh)!r}: {error.strerror}") from error
    finally:
        os.close(out)
        os.close(err)
    return os.waitstatus_to_exitcode(status), printed, said


# --- who that is ---


def _identify(meant: Meant, setting: Setting) -> Host:
    """
    Return the machine that is meant, which has keys that we believe.

    A HostKeyAlias of the user's configuration says who it is, wherever it leads. Without one it is whoever is
    registered as what was typed, or as where the configuration leads, and the two must not be two machines.

    :raises NotFound: nobody. :raises Refused: two, or one without keys that are known well enough.
    """
    hosts, port = setting.hosts, meant.port
    if meant.alias is not None:
        host = find(hosts, meant.alias, port)
    else:
        typed = find(hosts, meant.typed, port)
        reached = typed if normal(meant.typed) == normal(meant.host) else find(hosts, meant.host, port)
        if typed is not None and reached is not None and typed.machine != reached.machine:
            raise Refused(
                f"{meant.typed!r} is the machine {typed.machine!r}, but ssh is configured to go to {meant.host!r}, "
                f"which is {reached.machine!r}",
                hint=f"correct HostName in ssh's configuration, or say who it is: -o HostKeyAlias={reached.machine}",
            )
        host = typed or reached
    if host is None:
        place = meant.alias or (meant.typed if meant.typed == meant.host else f"{meant.typed} ({meant.host})")
        raise NotFound(
            f"no machine is registered as {place!r}, port {port}",
            hint="plain `ssh` goes to hosts of others; to register one of yours, see `handfast host add`",
        )
    if not host.believed(setting.least):
        raise _keyless(host, setting.least)
    return host


def _keyless(host: Host, least: Grade) -> Refused:
    """Return why no key is believed: a machine that has none yet was not removed."""
    hint = f"see `handfast host show {host.machine}` where it is registered"
    if host.keys:
        known = f"none that is at least {least.name.lower()}"
    elif not host.retired:  # also where the registrar has some that it does not believe, and does not give
        known, hint = "none that counts is registered yet", f"enter one: handfast host add {host.machine}"
    elif host.lives:
        known = "none, since all that it had were retired"
    else:
        known = "none, since it was removed"
    return Refused(f"no host key of {host.machine!r} can be believed: {known}", hint=hint)


def _hand_on(host: Host, files: Files, setting: Setting) -> None:
    """Have recorded what ssh has learned; it is used here in any case."""
    # ssh does not say which key the connection was authenticated with, and what came over it is no better known.
    believed = host.believed(setting.least)
    worst = min(max(each.how.grade for each in host.keys if each.key == key) for key in believed)
    if not files.learned or setting.register is None or worst < How.HOSTKEYS_PROVE.grade:
        return
    detail = f"over a connection authenticated with {' or '.join(key.fingerprint for key in believed)}"
    try:
        # It is a while since the registry was read: whoever retires one of these now must not be overtaken.
        setting.register(host.machine, files.learned, basis=believed, detail=detail)
    except HandfastError as error:
        setting.say(f"handfast: warning: new host keys of {host.machine} were not recorded: {error.message}")


# --- what else ssh is started with ---


def _socket(meant: Meant, host: Host, setting: Setting) -> str:
    """
    Return where connections of these arguments are shared, where the user has configured that they are; else "none".

    Never the user's own socket: whatever is behind that was not checked by our rules. Ours is another one for each of
    theirs, and another one when the keys that it was checked with are not believed any more.
    """
    if meant.socket is None:
        return NO_SOCKET
    # Without what was learned: else the first connection would not find the second.
    parts = (meant.socket, host.machine, *sorted(machine_files.basis(host, setting.least)))
    path = setting.state / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        setting.say(f"handfast: warning: connections are not shared: the path {str(path)!r} is too long for a socket")
        return NO_SOCKET
    return str(path)


def _socket_last(argv: tuple[str, ...], socket: str, ssh: Path) -> tuple[str, ...]:
    """Return the arguments with our socket in effect, also against ``-S``, of which ssh takes the last."""
    found = grammar.read(argv)
    if found.has("S"):
        argv = (*argv[: found.end], "-S", socket, *argv[found.end :])
    code, out, err = _run(ssh, ["-G", *argv])
    if code != 0:
        raise Ended(code, err)
    meant = _meant(out.decode("utf-8", "replace"), None)
    if meant is None or (meant.socket or NO_SOCKET) != socket:
        raise Fault("ssh would use another ControlPath than ours", hint="leave out -S, or -o ControlPath=none")
    return argv


def _hop(setting: Setting) -> Path:
    """
    Return the script that is ``handfast ssh`` with this source, under whose name ssh is started.

    :raises Fault: ssh could not run it, and would quietly take plain ssh for the jump host.
    """
    path = setting.state / "hop"
    content = f'#!/bin/sh\nexec {shlex.join(setting.again)} "$@"\n'.encode()
    try:
        before = read_private(path)
    except NotFound:
        before = b""
    if before != content:
        write_atomic(path, content, 0o700)
    if not _SHELL_SAFE.fullmatch(str(path)) or not os.access(path, os.X_OK):
        raise Fault(
            f"ssh could not check the jump host with {str(path)!r}",
            hint="set XDG_STATE_HOME to a directory without blanks, where programs may be run",
        )
    return path
