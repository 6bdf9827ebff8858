"""A Debian 12 with nginx and PostgreSQL and Handfast in its image, launched with user-data, and turned off and on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.bootstrap.test_new_machine import Machine
from tests.interop.cloud_machine import OVER, image, until
from tests.interop.hosts import Host, Process
from tests.interop.nspawn import booting

POLICY = """\
[service.nginx]
kind = "systemd"
unit = "nginx.service"
full_name = "The web server"
operations = ["status", "start", "stop", "restart", "configure", "artifacts", "logs"]
logs = "/var/log/nginx"
artifacts = "/srv/www"
[service.nginx.files.site]
path = "/etc/nginx/conf.d/site.conf"
check = ["nginx", "-t"]

[service.postgresql]
kind = "systemd"
unit = "postgresql@15-main.service"
operations = ["status", "start", "stop", "restart", "configure", "logs"]
logs = "/var/log/postgresql"
[service.postgresql.files.memory]
path = "/etc/postgresql/15/main/conf.d/memory.conf"
check = ["runuser", "-u", "postgres", "--", "/usr/lib/postgresql/15/bin/postgres", "-C", "work_mem", "-D",
         "/var/lib/postgresql/15/main", "-c", "config_file=/etc/postgresql/15/main/postgresql.conf"]
"""
_SETTINGS = f"#cloud-config\nlocale: false\nfinal_message: {OVER}\n"
_INSTALL = """\
set -e
apt-get update -qq
wanted="nginx-light postgresql logrotate systemd-sysv"
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $wanted
systemctl disable --quiet nginx postgresql ssh
./handfast --version
"""


def prepared(folder: Path) -> Machine:
    """The image: what it has to run is there, and nothing runs before somebody says so."""
    made = image(folder)
    made.clone("/opt", 0)
    prevents = made.root / "usr/sbin/policy-rc.d"  # a chroot shares this machine's ports
    prevents.write_text("#!/bin/sh\nexit 101\n")
    prevents.chmod(0o755)
    done = made.run("/opt", _INSTALL, user=0)
    assert done.returncode == 0, done.stdout + done.stderr
    prevents.unlink()
    (made.root / "usr/local/bin/handfast").symlink_to("/opt/handfast/handfast")
    (made.root / "srv/www").mkdir(exist_ok=True)
    policy = made.root / "etc/handfast/agent/policy.toml"
    policy.parent.mkdir(parents=True)
    policy.write_text(POLICY)
    return made


def copy_disk(source: Path, target: Path) -> None:
    """Copy what is there, as it is: owners, links and all."""
    subprocess.run(["cp", "--archive", source, target], check=True)


class Launched:
    """One machine: a disk, which keeps what is written, with its network in ``host``'s namespace."""

    def __init__(self, root: Path, host: Host) -> None:
        self.root, self._host = root, host

    def seed(self, user_data: str, *, instance_id: str, name: str) -> None:
        """Say what the cloud tells it at its next boot."""
        seed = self.root / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True, exist_ok=True)
        (seed / "user-data").write_text(user_data)
        (seed / "meta-data").write_text(f"instance-id: {instance_id}\nlocal-hostname: {name}\n")
        (seed / "vendor-data").write_text(_SETTINGS)

    def copied(self, root: Path, host: Host) -> Launched:
        """Copy its disk, while it is off, for a machine of its own."""
        copy_disk(self.root, root)
        return Launched(root, host)

    def start(self) -> None:
        """Turn it on, and wait until cloud-init is done."""
        self.boot()
        self.booted()

    def boot(self) -> None:
        """Turn it on."""
        assert self._host.namespace is not None
        command = booting("--directory", self.root, f"--network-namespace-path=/run/netns/{self._host.namespace}")
        self.process = Process(command, cwd=self._host.directory, env=self._host.environment())

    def booted(self) -> None:
        """Wait until cloud-init is done."""
        until(self.process, OVER)

    @property
    def console(self) -> str:
        """What its console has shown since it was turned on."""
        return "".join(f"{line}\n" for line in self.process.lines)

    def stop(self) -> None:
        """Turn it off as its power button does, and wait until it is off."""
        os.kill(self.process.pid, signal.SIGTERM)
        self.process._popen.wait(120)

    def halt(self) -> None:
        """End it, however it is."""
        for number in range(2):  # a second signal counts when the first one did
            if self.process._popen.poll() is None:
                os.kill(self.process.pid, signal.SIGTERM)
                try:
                    self.process._popen.wait(5 + 60 * number)
                except subprocess.TimeoutExpired:
                    continue

    def run(self, *command: str) -> str:
        """Run a command in it, and return what it says."""
        done = subprocess.run(self._inside(*command), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def begin(self, *command: str) -> Process:
        """Start a command in it."""
        return Process(self._inside(*command), cwd=self._host.directory, env=self._host.environment())

    def _inside(self, *command: str) -> tuple[str, ...]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        into = ("nsenter", "--target", children[-1], "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--")
        return (*into, *command)
