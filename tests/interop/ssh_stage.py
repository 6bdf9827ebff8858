"""OpenSSH's real server and client, a registry that knows the one, and whoever poses as it."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from handfast.authority import ceremony
from handfast.core import sshkeys
from handfast.core.flow import HostGrant
from handfast.core.hosts import Host as Machine
from handfast.core.hosts import How, Place
from handfast.core.sshkeys import SshKey
from handfast.ledger import open_sqlite
from tests.interop.hosts import Done, Host, Process, program
from tests.ports import free_port

LEDGER = "ledger.sqlite3"


def make_key(path: Path, kind: str = "ed25519") -> SshKey:
    """Make a pair of keys with ssh-keygen, and return the public one."""
    command = [program("ssh-keygen"), "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return sshkeys.parse(path.with_name(f"{path.name}.pub").read_text())


class Sshd:
    """One sshd on a host, with its own host keys. The stage's key may log in everywhere: only host keys count."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        port: int | None = None,
        address: str = "127.0.0.1",
        kinds: tuple[str, ...] = ("ed25519",),
        settings: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.host, self.name, self.address, self.port = host, name, address, port or free_port()
        self.directory = host.directory / name
        self.directory.mkdir()
        self.keys = {kind: make_key(self.directory / kind, kind) for kind in kinds}
        self._settings, self._env = settings, env
        self.start(kinds)

    def start(self, kinds: tuple[str, ...]) -> None:
        """Begin to listen, with these of its keys."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd of root locks itself up
        config = self.host.put(
            f"{self.name}.conf",
            f"Port {self.port}\nListenAddress {self.address}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PermitRootLogin yes\nAuthorizedKeysFile {self.host.directory}/id.pub\nSubsystem sftp internal-sftp\n"
            f"SetEnv SSHD={self.name}\nAcceptEnv FOO\n"
            + "".join(f"HostKey {self.directory}/{kind}\n" for kind in kinds)
            + self._settings,
        )
        self.process: Process = self.host.start(program("sshd"), "-D", "-e", "-f", config, env=self._env)
        self.process.expect("Server listening")

    def restart(self, *kinds: str) -> None:
        """Come back with these keys only, as after a change of sshd_config."""
        self.process.stop()
        self.start(kinds)

    @property
    def key(self) -> SshKey:
        """Its ed25519 key."""
        return self.keys["ed25519"]


class HeldUp:
    """
    Somebody in front of an sshd who lets one connection come as far as the check of its host key, and holds it there.

    ``held`` is set when ssh has believed the key (it says NEWKEYS, RFC 4253 section 7.3); it goes on with ``release``.
    """

    _NEWKEYS = 21

    def __init__(self, sshd: Sshd) -> None:
        self.held, self.release = threading.Event(), threading.Event()
        self._sshd, self._listener = sshd, socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with closing(self._listener), self._listener.accept()[0] as near:
            far = socket.create_connection((self._sshd.address, self._sshd.port))
            threading.Thread(target=self._copy, args=(far, near), daemon=True).start()
            with far, near.makefile("rb") as said, suppress(OSError):
                far.sendall(said.readline())  # the version
                packet_type = 0
                while packet_type != self._NEWKEYS:
                    head = said.read(6)  # length, padding's length, type; until then nothing is encrypted
                    if len(head) < 6:  # it has left
                        return
                    packet_type = head[5]
                    packet = head + said.read(int.from_bytes(head[:4], "big") - 2)
                    if packet_type == self._NEWKEYS:
                        self.held.set()
                        self.release.wait()
                    far.sendall(packet)
                while data := said.read1(65536):
                    far.sendall(data)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class Stage:
    """A host with a registry, a user's key, and the commands that a user has."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.data = host.directory / "registry"
        self.data.mkdir(mode=0o700)
        ceremony.create(self.data / "authority", name="home", now=datetime.now(UTC))
        open_sqlite(self.data / LEDGER).close()
        make_key(host.directory / "id")
        self.bin = host.directory / "bin"
        self.bin.mkdir()
        self.config = host.put("config", "")
        self.configure("")
        start = shlex.join([sys.executable, "-P"])
        self._script("handfast", f'exec {start} -m handfast "$@"')
        self._script("handfast-ssh", f'exec {start} -m handfast.cli.ssh_run "$@"')

    def _script(self, name: str, line: str) -> None:
        path = self.host.put(f"bin/{name}", f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def configure(self, text: str) -> None:
        """Write the user's configuration; ``text`` comes first, as what a user has in his file would."""
        identity = f"IdentityFile {self.host.directory}/id\nIdentitiesOnly yes\nIdentityAgent none\n"
        self.config.write_text(f"{text}\nHost *\n{identity}BatchMode yes\nLogLevel info\n")

    def environment(self, **added: str) -> dict[str, str]:
        """Our commands on PATH, and the registry where they look for it."""
        path = f"{self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        state = str(self.host.directory / "s")
        return {"PATH": path, "HANDFAST_DATA": str(self.data), "XDG_STATE_HOME": state, "SHELL": "/bin/sh"} | added

    def register(
        self,
        machine: str,
        *keys: SshKey,
        at: tuple[str, ...] = ("127.0.0.1", "localhost"),
        ports: tuple[int, ...] = (22,),
        how: How = How.INVITATION,
    ) -> Machine:
        """Register a machine, as its introduction would."""
        ledger = open_sqlite(self.data / LEDGER)
        place = Place.parse(list(at), ports=ports)
        try:
            grant = HostGrant(machine, keys, how, "", place, complete=False)
            return ledger.register(grant, None, at=datetime.now(UTC)).result()
        finally:
            ledger.close()

    def known(self, machine: str) -> Machine:
        """Return a machine as it is registered."""
        ledger = open_sqlite(self.data / LEDGER)
        try:
            found = ledger.host(machine)
        finally:
            ledger.close()
        assert found is not None
        return found

    def retire(self, machine: str, key: SshKey) -> None:
        """Take a key back."""
        ledger = open_sqlite(self.data / LEDGER)
        try:
            ledger.retire(machine, key, reason="it was stolen", at=datetime.now(UTC)).result()
        finally:
            ledger.close()

    def remove(self, machine: str) -> None:
        """Retire all keys of a machine that is gone."""
        ledger = open_sqlite(self.data / LEDGER)
        try:
            ledger.remove_host(machine, reason="it is gone", at=datetime.now(UTC)).result()
        finally:
            ledger.close()

    def ssh(self, *arguments: str | Path, code: int | None = 0, stdin: str = "", **env: str) -> Done:
        """Run `handfast-ssh` with the user's configuration."""
        line = ("handfast-ssh", "-F", self.config, *arguments)
        return self.run(*line, code=code, stdin=stdin, **env)

    def run(self, *command: str | Path, code: int | None = 0, stdin: str = "", **env: str) -> Done:
        """Run a command as the user."""
        environment = self.environment(**env)
        name, *rest = command
        path = self.bin / name if (self.bin / name).exists() else name
        return self.host.run(path, *rest, env=environment, code=code, stdin=stdin)
