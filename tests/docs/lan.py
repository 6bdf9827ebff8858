"""
Machines on which documents are played as they stand: each with its own name, address, files, processes and sshd.

Nothing is rewritten here: they share one network namespace, which has an address for each, and each has a namespace
for its files, whose /etc, /run, /var/lib and home directory are its own. What init would do is done by `systemctl`, a
script.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import yaml

from tests.docs.markdown import Block, Command
from tests.docs.stage import Stage
from tests.peers import find

_NETWORK = "192.0.2."
_MACHINES = {"registrar": 1, "store": 2, "desk": 10, "laptop": 11, "mallory": 66}
_SERVERS = {f"web{number}": 20 + number for number in range(1, 8)}  # with an sshd, from their first moment
_USERS = ("desk", "laptop")  # who may log in to them
_INSTANCE = "i-0123456789abcdef0"
_MAKE = """
hostname {name}
mount -t overlay overlay -o lowerdir=/etc,upperdir={host}/etc,workdir={host}/work /etc
rm -f /etc/ssh/ssh_host_*
mount --bind {base}/hosts /etc/hosts
mount --bind {host}/var/lib /var/lib
sed -i 's,:/root:,:{host}:,' /etc/passwd
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/knot /run/cloud-init
echo {instance} > /run/cloud-init/.instance-id
echo made
exec sleep infinity
"""
_SYSTEMCTL = """\
case "$1 $2" in
"restart ssh")
    before=$(grep -c '^Server listening' /run/sshd.log)
    kill -HUP "$(cat /run/sshd.pid)"
    until [ "$(grep -c '^Server listening' /run/sshd.log)" -gt "$before" ]; do sleep 0.05; done
    exit ;;
"restart knot") exec {knotd} -d -c /etc/knot/knot.conf ;;
"restart unbound") exec {unbound} -c /etc/unbound/unbound.conf ;;
esac
echo "no such thing here: systemctl $*" >&2
exit 1
"""
_numbers = itertools.count()


class Lan(Stage):
    """The machines of a story that begins with `<!-- test: lan -->`; closing it ends all their processes."""

    def __init__(self) -> None:
        super().__init__()
        for stand_in in ("scp", "sudo", "curl"):
            (self._bin / stand_in).unlink(missing_ok=True)  # here are the real ones
        self._script("systemctl", _SYSTEMCTL.format(knotd=find("knotd"), unbound=find("unbound")))
        self._script("handfast-ssh", f'exec {self._bin}/python3 -m handfast.cli.ssh_run "$@"')
        self._addresses = {name: f"{_NETWORK}{last}" for name, last in (_MACHINES | _SERVERS).items()}
        self.pin = ""
        self._first: dict[str, subprocess.Popen[str]] = {}
        self._network = f"handfast-docs-{os.getpid()}-{next(_numbers)}"
        _ip("netns", "add", self._network)
        _ip("-n", self._network, "link", "set", "lo", "up")
        for address in self._addresses.values():
            _ip("-n", self._network, "address", "add", f"{address}/32", "dev", "lo")
        self._write_hosts()
        self._keys = "".join(self._make_user(name) for name in _USERS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for first in self._first.values():
            for pid in _beside(first.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            first.kill()
            first.wait()
        _ip("netns", "delete", self._network)
        super().__exit__(kind, error, traceback)

    def play(self, block: Block) -> None:
        """Run a block's commands, after what its marks say has happened before."""
        stranger = ""
        for mark in block.marks:
            match mark.split():
                case ["boot", name, document]:
                    self._boot(name, (self._host("registrar") / document).read_text())
                case ["address", name, of]:
                    self._stop_sshd(of)
                    self._addresses[name] = self._addresses[of]
                    self._write_hosts()
                case ["stranger", name]:
                    self._stop_sshd(name)
                    self._host("mallory")
                    self._start_sshd("mallory", self._addresses[name])
                    stranger = name
                case ["console", name, file]:
                    self._write_console(name, self._host("registrar") / file)
                case ["carry", host, file, to, path]:
                    self._write(to, path, (self._host(host) / file).read_text())
                case ["store"]:
                    self._make_store()
                case _:
                    pass  # the others are any stage's
        try:
            super().play(block)
        finally:
            if stranger:
                self._stop_sshd("mallory")
                self._start_sshd(stranger, self._addresses[stranger])

    # ------------------------------------------------------------------------------------- within

    def _host(self, name: str) -> Path:
        host = self.base / name
        if name in self._first:
            return host
        for folder in ("etc", "work", "var/lib", ".ssh"):
            (host / folder).mkdir(parents=True, exist_ok=True)
        (host / ".ssh").chmod(0o700)
        (host / ".ssh" / "authorized_keys").write_text(self._keys)
        make = _MAKE.format(name=name, host=host, base=self.base, instance=_INSTANCE)
        within = [str(find("ip")), "netns", "exec", self._network, "unshare", "--mount", "--uts"]
        first = subprocess.Popen([*within, "sh", "-ec", make], stdout=subprocess.PIPE, text=True)
        self._first[name] = first
        assert first.stdout is not None
        with first.stdout as said:
            assert said.readline() == "made\n"
        if name in _SERVERS or name == "mallory":
            self._do(name, "ssh-keygen -q -A")
        if name in _SERVERS:
            self._start_sshd(name, self._addresses[name])
        return host

    def _enter(self, host: Path) -> list[str]:
        target = str(self._first[host.name].pid)
        return ["nsenter", "-t", target, "--mount", "--uts", "--net", "env", "-C", str(host)]

    def _environment(self, host: Path) -> dict[str, str]:
        ours = super()._environment(host)
        return {name: value for name, value in ours.items() if not name.startswith(("HANDFAST_", "PG"))} | {
            "HOME": str(host),
            "BASH_ENV": f"{host}/.profile",  # as after a login
            "PATH": f"{self._bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def _on_stage(self, host: Path, text: str) -> str:
        return text.replace("#PIN", f"#{self.pin}")

    def _as_printed(self, name: str, output: str) -> str:
        return output.replace(str(self._host(name)), "/root")

    def _up_command(self, command: Command) -> tuple[int, str]:
        status, output = super()._up_command(command)
        if ready := re.search(r"^registrar ready at .*, root (\S+)", output):
            self.pin = ready[1]
        return status, output

    def _make_sshd(self) -> None:
        """Every machine has its own."""

    def _write(self, name: str, path: str, text: str) -> None:
        home = str(self._host(name))
        quoted = shlex.quote(re.sub("^/root/", f"{home}/", path))
        self._do(name, f"mkdir -p $(dirname {quoted}) && rm -f {quoted} && cat > {quoted}", text)

    def _do(self, name: str, script: str, text: str = "") -> None:
        host = self._host(name)
        line = [*self._enter(host), "sh", "-ec", script]
        subprocess.run(line, env=self._environment(host), input=text, text=True, check=True)

    def _write_hosts(self) -> None:
        lines = "".join(f"{address} {name}.lan {name}\n" for name, address in self._addresses.items())
        (self.base / "hosts").write_text(f"127.0.0.1 localhost\n{lines}")

    def _make_user(self, name: str) -> str:
        directory = self.base / name / ".ssh"
        directory.mkdir(parents=True)
        key = directory / "id_ed25519"
        subprocess.run([str(find("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        return key.with_suffix(".pub").read_text()

    def _start_sshd(self, name: str, address: str) -> None:
        settings = {
            "Include": "/etc/ssh/sshd_config.d/*.conf",  # as Debian has it, first
            "ListenAddress": address,
            "PidFile": "/run/sshd.pid",
            "PermitRootLogin": "yes",
            "StrictModes": "no",
            "Subsystem": "sftp internal-sftp",
        }
        self._write(name, "/etc/ssh/sshd_config", "".join(f"{key} {value}\n" for key, value in settings.items()))
        subprocess.run([*self._enter(self.base / name), str(find("sshd")), "-E", "/run/sshd.log"], check=True)
        self._do(name, "until grep -q '^Server listening' /run/sshd.log; do sleep 0.05; done")

    def _stop_sshd(self, name: str) -> None:
        script = "pid=$(cat /run/sshd.pid); kill $pid; while [ -d /proc/$pid ]; do sleep 0.05; done; rm /run/sshd.log"
        self._do(name, script)

    def _boot(self, name: str, document: str) -> None:
        """Do what cloud-init does with user-data; the real one runs in tests/interop/test_cloud_init.py."""
        read = yaml.safe_load(document)
        for each in read["write_files"]:
            self._write(name, each["path"], each["content"])
            self._do(name, f"chmod {each['permissions']} {shlex.quote(each['path'])}")
        for command in read["runcmd"]:
            self._do(name, shlex.join(command))

    def _write_console(self, name: str, file: Path) -> None:
        """Write what cloud-init prints on the console; the real one's is read in tests/ssh/test_console.py."""
        keys = "cat /etc/ssh/ssh_host_*_key.pub"
        line = f"echo -----BEGIN SSH HOST KEY KEYS-----; {keys}; echo -----END SSH HOST KEY KEYS-----"
        self._do(name, f"({line}) > {file}")

    def _make_store(self) -> None:
        """Start an object store which keeps what was uploaded first, with the bucket `host-keys`."""
        host, log = self._host("store"), self.base / "store.log"
        command = [sys.executable, "-m", "moto.server", "-H", self._addresses["store"], "-p", "9000"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*self._enter(host), *command],
                env=self._environment(host) | {"S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._up["store", "store"] = process
        self._wait(log, re.compile(""), re.compile("http://"), process)
        self._do("store", "curl -sSf -X PUT http://store.lan:9000/host-keys > /dev/null")


def _ip(*arguments: str) -> None:
    subprocess.run([str(find("ip")), *arguments], check=True)


def _beside(first: int) -> Iterator[int]:
    """Give the processes in the mount namespace of a machine's first; none, if it has not got as far as its own."""
    with contextlib.suppress(OSError):
        namespace = Path(f"/proc/{first}/ns/mnt").readlink()
        if namespace == Path("/proc/self/ns/mnt").readlink():
            return
        for each in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if each.name.isdigit() and (each / "ns" / "mnt").readlink() == namespace:
                    yield int(each.name)
