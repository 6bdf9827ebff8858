"""
This machine's sshd: what its configuration means by its own word, having it read again, and what it shows then.

``sshd -t`` ends with 0 for a host certificate that is another key's, over, garbage or missing, and for files of revoked
keys and CAs that are not there. So what counts is what a connection sees.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from handfast.adapters.process import child_environment
from handfast.core.sshcert import SshCertificate
from handfast.core.sshkeys import CERTIFICATE_SUFFIX
from handfast.core.sshwire import ALGORITHMS, Shown, converse
from handfast.errors import Fault, HandfastError, NotFound, Refused, Unreachable

DEFAULT_CONFIG = Path("/etc/ssh/sshd_config")
PATIENCE = 15.0  # seconds for sshd to be there again
_COMMAND = 30.0  # seconds for `sshd -t` and systemctl
_READ = 16 * 1024  # bytes
_CONNECT = 5.0  # seconds to reach our own machine
_NOBODY = {errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_ELSEWHERE = "/usr/local/sbin:/usr/sbin:/sbin"  # what PATH of cron does not have
_SYSTEMD = Path("/run/systemd/system")
_UNITS = ("ssh.service", "sshd.service")  # Debian's, and everybody else's
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, never bound
_RSA = ("rsa-sha2-512", "rsa-sha2-256")  # what keys of the type `ssh-rsa` sign with


@dataclass(frozen=True, slots=True)
class Settings:
    """What counts of a configuration, as sshd reads it (``sshd -T``). None is ``none``."""

    listens: tuple[tuple[str, int], ...]
    host_keys: tuple[Path, ...]
    host_certificates: tuple[Path, ...]
    algorithms: frozenset[str]
    user_authorities: Path | None
    revoked_keys: Path | None
    pid_file: Path | None


class Sshd:
    """The sshd that reads one configuration; for root."""

    def __init__(self, config: Path = DEFAULT_CONFIG) -> None:
        self.config = config.absolute()
        found = shutil.which("sshd") or shutil.which("sshd", path=_ELSEWHERE)
        if found is None:
            raise NotFound("no sshd on this machine", hint="install OpenSSH's server, or leave --install away")
        self._program = os.path.abspath(found)

    def check(self) -> None:
        """:raises Refused: ``sshd -t`` finds a mistake; a reload would end sshd."""
        self._ask("-t")

    def settings(self) -> Settings:
        """Return what the configuration means now. :raises Refused: as ``check``."""
        found: dict[str, list[str]] = {}
        for line in self._ask("-T").splitlines():
            name, _, value = line.partition(" ")
            found.setdefault(name.lower(), []).append(value)

        def path(name: str) -> Path | None:
            value = found.get(name, ["none"])[0]
            return None if value in {"none", ""} else Path(value)

        return Settings(
            tuple(_listen(each) for each in found.get("listenaddress", [])),
            tuple(map(Path, found.get("hostkey", []))),
            tuple(map(Path, found.get("hostcertificate", []))),
            frozenset(",".join(found.get("hostkeyalgorithms", [])).split(",")),
            path("trustedusercakeys"),
            path("revokedkeys"),
            path("pidfile"),
        )

    def reload(self, settings: Settings) -> bool:
        """
        Have sshd read its configuration again, and wait until it has; return whether that can be known.

        It writes its pid file anew when it listens again. One that is started for each connection needs no reload.

        :raises Fault: systemd says no.
        """
        before = _written(settings.pid_file)
        if not self._reload_unit():
            pid = _running(settings.pid_file)
            if pid is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
        end = time.monotonic() + PATIENCE
        while settings.pid_file is not None and time.monotonic() < end:
            now = _written(settings.pid_file)
            if now not in {None, before}:
                return True
            time.sleep(0.02)  # a file's change is no event that we could wait for without more code than this
        return False

    def _reload_unit(self) -> bool:
        if self.config != DEFAULT_CONFIG or not _SYSTEMD.is_dir():
            return False
        for unit in _UNITS:
            if _run(["systemctl", "is-active", "--quiet", unit]).returncode == 0:
                done = _run(["systemctl", "reload", unit])
                if done.returncode:
                    said = done.stderr.strip()[:200]
                    raise Fault(f"systemctl reload {unit} failed: {said}", hint=f"see `systemctl status {unit}`")
                return True
        return False

    def _ask(self, flag: str) -> str:
        done = _run([self._program, flag, "-f", str(self.config)])
        if done.returncode:
            said = "; ".join(done.stderr.split("\n")).strip("; ")[-400:]
            raise Refused(f"`sshd {flag}` finds a mistake: {said}", hint=f"see `sshd -t -f {self.config}`")
        return done.stdout


def not_shown(settings: Settings, certificates: Sequence[SshCertificate], *, certain: bool) -> tuple[str, ...]:
    """
    Connect to our own sshd, and return why it does not show exactly these certificates; nothing where it does.

    Where it is not ``certain`` that sshd has read its configuration again, it is asked again until it has.
    """
    end, pause = time.monotonic() + PATIENCE, 0.1
    while True:
        reasons = tuple(filter(None, (_differs(settings, each, end) for each in certificates)))
        if not reasons or certain or time.monotonic() + pause > end:
            return reasons
        time.sleep(pause)
        pause *= 2  # each connection counts against us for a second, by sshd's PerSourcePenalties


def answers(settings: Settings) -> bool:
    """Whether sshd proves any host key where it should listen."""
    try:
        return _shown(settings, ALGORITHMS, time.monotonic() + PATIENCE).key is not None
    except HandfastError:
        return False


def may_listen(settings: Settings) -> bool:
    """Whether somebody may listen where sshd should; one that turns us away does (MaxStartups, PerSourcePenalties)."""
    for place in settings.listens:
        try:
            socket.create_connection(place, timeout=_CONNECT).close()
        except OSError as error:
            if error.errno not in _NOBODY:
                return True  # filtered, for instance
        else:
            return True
    return False


def algorithms(certificate: SshCertificate) -> tuple[str, ...]:
    """Return the algorithms of the handshake that show it."""
    plain = certificate.key.algorithm
    return tuple(name + CERTIFICATE_SUFFIX for name in (_RSA if plain == "ssh-rsa" else (plain,)))


def _differs(settings: Settings, certificate: SshCertificate, end: float) -> str | None:
    asked = f"the certificate {certificate.serial} of {certificate.key.fingerprint}"
    try:
        shown = _shown(settings, algorithms(certificate), end)
    except HandfastError as error:
        return f"{asked} cannot be seen: {error.message}"
    if shown.certificate == certificate.blob:
        return None
    if not shown.certificate:
        return f"{asked} is not shown, nor another one for such a key"
    return f"{asked} is not shown, but another one"


def _shown(settings: Settings, wanted: Sequence[str], end: float) -> Shown:
    """Return what sshd shows, when it answers. :raises Unreachable: it does not."""
    if not settings.listens:
        raise Unreachable("sshd listens nowhere", hint="see `sshd -T`")
    while True:
        failures = []
        for host, port in settings.listens:
            try:
                return _converse(host, port, wanted, end)
            except OSError as error:
                failures.append(f"sshd at {host} port {port}: {str(error.strerror or error).lower()}")
            except Unreachable as error:
                failures.append(f"sshd at {host} port {port} {error.message}")
        if time.monotonic() > end:
            raise Unreachable("; ".join(failures), hint="is sshd running?")
        time.sleep(0.2)


def _converse(host: str, port: int, wanted: Sequence[str], end: float) -> Shown:
    with socket.create_connection((host, port), timeout=max(1.0, end - time.monotonic())) as connection:
        conversation = converse(wanted)
        sending = next(conversation)
        while True:
            connection.sendall(sending)
            try:
                sending = conversation.send(connection.recv(_READ))
            except StopIteration as stop:
                shown: Shown = stop.value
                return shown


def _listen(text: str) -> tuple[str, int]:
    """Return where to connect to for ``[::]:22`` or ``10.0.0.1:22 rdomain …``."""
    host, _, port = text.split(maxsplit=1)[0].rpartition(":")
    address = host.strip("[]")
    return _WILDCARDS.get(address, address), int(port)


def _written(pid_file: Path | None) -> tuple[int, int] | None:
    """What tells one pid file from the next at the same place, if there is one with something in it."""
    if pid_file is None:
        return None
    try:
        status = pid_file.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status.st_size else None


def _running(pid_file: Path | None) -> int | None:
    """Return the process that the pid file names, if it is an sshd: others may have got the number, and SIGHUP ends."""
    if pid_file is None:
        return None
    try:
        pid = int(pid_file.read_text("ascii", errors="replace"))
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and os.path.basename(program) == "sshd" else None


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_COMMAND, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Fault(f"`{' '.join(command[:2])}` does not end", hint="run it by hand") from None
