"""
``handfast ssh`` and ``handfast-ssh``: our own flags, where the host keys come from, and then ssh.

Whoever types this waits for it, at every connection: click, SQLAlchemy and what speaks TLS are imported only where they
are needed. ``bench/ssh_wrapper.py`` holds it to 150 ms.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from handfast.adapters.process import OURSELVES, child_environment, leave_no_core
from handfast.adapters.user import find_program, setting, state_directory
from handfast.cli import ui
from handfast.cli.exit_codes import INTERRUPTED, exit_code
from handfast.core.hosts import Grade, Host
from handfast.core.sshkeys import SshKey
from handfast.errors import Fault, HandfastError, NotFound, Unreachable, UsageError
from handfast.ssh.source import Hosts, LedgerHosts
from handfast.ssh.wrapper import Ended, Register, Setting, prepare

DATA, REGISTRAR, IDENTITY, HELP = "--data", "--registrar", "--identity", "--help"
LEDGER, CONFIG = "ledger.sqlite3", "config.toml"  # as wiring has them, which takes too long to import

_AGAIN = (*OURSELVES[:-1], "handfast.cli.ssh_run")


def main() -> NoReturn:
    """Be ``handfast-ssh``: one word, for programs that take no more (``scp -S``, ansible_ssh_executable, ParaView)."""
    leave_no_core()
    sys.exit(run(sys.argv[1:]))


def run(given: Sequence[str]) -> int:
    """Become ssh; or return the exit code where that was not to be."""
    try:
        source, rest = split(given)
        if source == (HELP, ""):
            from handfast.cli.ssh import ssh_command

            return int(ssh_command.main([HELP], prog_name="handfast ssh", standalone_mode=False) or 0)
        become_ssh(source, rest)
    except Ended as ended:
        sys.stderr.buffer.write(ended.stderr)
        return ended.code
    except HandfastError as error:
        ui.complain(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def split(given: Sequence[str]) -> tuple[tuple[str, str] | None, list[str]]:
    """
    Return our own flag with its value, and the arguments that are ssh's. Ours come first: ssh has no long options.

    :raises UsageError: an unknown flag in front, one without its value, or two sources.
    """
    rest = list(given)
    source: tuple[str, str] | None = None
    while rest and rest[0].startswith("--") and rest[0] != "--":
        flag, equals, value = rest.pop(0).partition("=")
        if flag == HELP:
            return (HELP, ""), []
        if flag not in {DATA, REGISTRAR, IDENTITY}:
            ours = "our own are --data, --registrar and --identity; all others are ssh's"
            raise UsageError(f"no such option: {flag}", hint=ours)
        if not equals and rest:
            value = rest.pop(0)
        if not value:
            raise UsageError(f"{flag} needs a value", hint="see `handfast ssh --help`")
        if source is not None:
            raise UsageError("two sources of host keys", hint="give one of --data, --registrar and --identity, once")
        source = (flag, value)
    return source, rest


def become_ssh(source: tuple[str, str] | None, given: Sequence[str]) -> NoReturn:
    """
    Replace this process by ssh.

    :raises HandfastError: the machine is not known, or its keys cannot be had.
    :raises Ended: ssh refused the arguments.
    """
    if setting("SSH_ASKS"):
        raise Fault(
            "the `ssh` on PATH starts `handfast ssh`, which would start itself for ever",
            hint="put the directory of the real ssh first on PATH",
        )
    ssh = find_program("ssh", but=Path(sys.argv[0]))
    if ssh is None:
        raise Fault("there is no ssh on PATH", hint="install OpenSSH's client")
    made = prepare(given, _setting(ssh, *(source or _default())))
    os.execve(made.program, made.argv, child_environment())  # stdout and stderr have nothing left in them


def _default() -> tuple[str, str]:
    """Return the source from the environment, else the registrar on this machine, else the one it has joined."""
    for flag in (DATA, REGISTRAR):
        if value := setting(flag.removeprefix("--")):
            return flag, value
    from handfast import config

    directory = config.data_directory()
    if (directory / LEDGER).exists():
        return DATA, str(directory)
    identity = config.identity_directory()
    if (identity / "identity.json").exists():
        return IDENTITY, str(identity)
    raise UsageError(
        "from which registry?", hint="give --registrar https://HOST:PORT#PIN or --data DIR, or set HANDFAST_REGISTRAR"
    )


def _setting(ssh: Path, flag: str, value: str) -> Setting:
    if flag != REGISTRAR:
        value = str(Path(value).absolute())  # a jump host's ssh may run elsewhere
    if flag == DATA:
        hosts, least, register = from_data(Path(value))
    else:
        hosts, least, register = _from_registrar(flag, value), Grade.SEEN, None  # it gives what it believes
    # What was learned from one registry's keys means nothing beside another's.
    state = state_directory() / "ssh-hosts" / hashlib.sha256(f"{flag} {value}".encode()).hexdigest()[:12]
    return Setting(ssh, hosts, least, state, (*_AGAIN, flag, value), ui.say, register)


def from_data(data: Path) -> tuple[Hosts, Grade, Register]:
    """Return a data directory's machines, how well their keys have to be known there, and what records more keys."""
    from handfast.ledger.host_lookup import host_at

    ledger = data / LEDGER

    def at(spelling: str) -> Host | None:
        if not ledger.exists():
            raise NotFound(f"no registrar's data in {str(data)!r}", hint="`handfast up` makes it; or give --registrar")
        return host_at(ledger, spelling)

    def register(machine: str, keys: tuple[SshKey, ...], *, basis: tuple[SshKey, ...], detail: str) -> None:
        from handfast.core.hosts import How
        from handfast.wiring import open_host_keys

        open_host_keys(data).register(machine, keys, how=How.HOSTKEYS_PROVE, detail=detail, basis=basis)

    return LedgerHosts(at), accepted(data / CONFIG), register


def _from_registrar(flag: str, value: str) -> Hosts:
    """Return the registrar's own answers; while it cannot be reached, those of the snapshot that ssh-config keeps."""
    from handfast.cli.ssh_config import at_registrar, from_registrar, registrar_url
    from handfast.ssh.config import Source
    from handfast.ssh.source import RegistrarHosts

    source = at_registrar(registrar_url(value), None) if flag == REGISTRAR else Source(identity=value)
    get, pin = from_registrar(source)
    return _Offline(RegistrarHosts(get), pin)


class _Offline:
    """Asks the registrar; where it does not answer, asks what it has signed last, and says how old that is."""

    def __init__(self, hosts: Hosts, pin: bytes) -> None:
        self._hosts, self._pin = hosts, pin

    def lookup(self, host: str, port: int) -> Host | None:
        """See ``Hosts``. :raises Unreachable: and there is no snapshot, or one that is too old."""
        try:
            return self._hosts.lookup(host, port)
        except Unreachable as error:
            self._hosts = offline(self._pin, error)
            return self._hosts.lookup(host, port)


def offline(pin: bytes, error: Unreachable) -> Hosts:
    """Return what ``ssh-config install`` keeps of this registrar, if plain ssh would go by it too."""
    from handfast.adapters.clock import SystemClock
    from handfast.ssh import launcher, snapshot
    from handfast.ssh.source import SnapshotHosts

    directory = state_directory() / "ssh"
    try:
        kept = snapshot.load(directory)
        most = int(launcher.dict_of_settings(str(directory / launcher.SETTINGS))[b"most"][0])
        if snapshot.about(kept.content).pin != pin:
            raise error
    except (HandfastError, OSError, LookupError, ValueError):
        raise error from None
    age = (SystemClock().now() - kept.at).total_seconds()
    if not -launcher.OLD < age < most:  # from the future: this clock was set back, and says nothing about its age
        raise Unreachable(
            f"{error.message}; what it said last is {launcher.days(age)}, and {most / 86400:.1f} days are allowed",
            hint="is this machine's clock right? `handfast ssh-config install --most-age` says what is allowed",
        )
    ui.warn(f"{error.message}; going by what it said {age / 3600:.1f} hours ago")
    return SnapshotHosts(kept.content)


def accepted(path: Path) -> Grade:
    """Return how well a key has to be known, which only who has set it waits for."""
    try:
        if b"accept" not in path.read_bytes():
            return Grade.CHALLENGED
    except FileNotFoundError:
        return Grade.CHALLENGED
    except OSError as error:
        raise Fault(f"cannot read {str(path)!r}: {error.strerror}", hint="check who owns it") from error
    from handfast.config.settings import load

    return load(path).rules.ssh.accept


if __name__ == "__main__":  # how a jump host's ssh starts us, see wrapper.py
    main()
