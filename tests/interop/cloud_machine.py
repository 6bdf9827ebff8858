"""A Debian 12 with cloud-init as clouds have it, booted by systemd-nspawn in a network of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bootstrap.test_new_machine import Machine, unpacked
from tests.interop.hosts import Host, Process
from tests.interop.nspawn import booting

PACKAGES = "cloud-init openssh-server curl systemd dbus python3-venv"
OVER = "the first boot is over"
_KEPT = "bookworm-cloud-init.tar"
_SILENCE = 10  # times 30 seconds without a line: a machine that boots on a busy one may say nothing for long
_VENDOR = """\
#cloud-config
locale: false
ssh_authorized_keys: [{key}]
final_message: {over}
"""


def image(folder: Path) -> Machine:
    """The tree, without host keys as in every image; made once (two minutes) and kept with the other caches."""
    kept = Path(sys.prefix, "cache", _KEPT)
    if kept.exists():
        root = folder / "machine"
        root.mkdir()
        subprocess.run(["tar", "-C", root, "-xf", kept], check=True)
        return Machine(root)
    machine = unpacked(folder)
    place = machine.root / "opt/handfast"
    place.mkdir(parents=True)
    install = f"env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends {PACKAGES}"
    made = machine.run("/opt", f"apt-get update -qq && {install} && apt-get clean && rm -f /etc/ssh/ssh_host_*", user=0)
    assert made.returncode == 0, made.stderr
    place.rmdir()
    new = kept.with_suffix(f".{os.getpid()}")  # two workers may make it at once
    subprocess.run(["tar", "-C", machine.root, "-cf", new, "."], check=True)
    new.replace(kept)
    return machine


@dataclass
class Cloud:
    """What makes machines of one image: each boots as new, and leaves the image as it was."""

    image: Machine
    host: Host
    """Where they appear: its network is theirs, at ``address``."""
    address: str

    @contextlib.contextmanager
    def booted(self, user_data: str, name: str, authorized: Path) -> Iterator[Process]:
        """
        A new machine with this user-data, from when cloud-init says that its first boot is over.

        ``authorized`` is the public key of whoever may log in as `debian`, which the cloud gives to the machine too.
        """
        assert self.host.namespace is not None
        seed = self.host.directory / f"seed-{name}"
        seed.mkdir()
        (seed / "user-data").write_text(user_data)
        (seed / "meta-data").write_text(f"instance-id: i-{name}\nlocal-hostname: {name}\n")
        (seed / "vendor-data").write_text(_VENDOR.format(key=authorized.read_text().strip(), over=OVER))
        # Not by `ip netns exec`: it takes the namespace by its path, and needs this machine's mounts.
        command = booting(
            "--volatile=overlay",
            "--directory",
            self.image.root,
            f"--network-namespace-path=/run/netns/{self.host.namespace}",
            f"--bind-ro={seed}:/var/lib/cloud/seed/nocloud",
        )
        process = Process(command, cwd=self.host.directory, env=self.host.environment())
        try:
            until(process, OVER)
            yield process
        finally:
            _end(process)


def _end(process: Process) -> None:
    """End the machine at once. SIGKILL would end its keeper alone, and leave it running."""
    os.kill(process.pid, signal.SIGTERM)  # if it has ended it still has its number: nobody has waited for it
    with contextlib.suppress(AssertionError):
        process.expect("Trying to halt container")  # a second one counts when the first one did
    process.stop()


def until(process: Process, text: str) -> None:
    """Wait for a line with ``text``. :raises AssertionError: it ended, or was silent for five minutes."""
    for _ in range(_SILENCE):
        try:
            process.expect(text)
        except AssertionError as failed:
            if "in time" not in str(failed):
                raise
        else:
            return
    raise AssertionError(f"no {text!r} from {process}")
