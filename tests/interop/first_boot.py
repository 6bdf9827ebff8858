"""
What cloud-init does with our documents, without cloud-init: the files are written, and the command runs as root.

The real one runs in test_cloud_init.py, in a machine of its own; here the same scripts meet stores and registrars many
times over. Their paths are fixed, so they run in a mount namespace where these are not this machine's.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import yaml

from tests.interop.hosts import PATIENCE, Done, program

INSTANCE = "i-0123456789abcdef0"


def host_keys(directory: Path, *kinds: str) -> Path:
    """Return an /etc/ssh with these host keys, as `ssh-keygen -A` makes them."""
    directory.mkdir()
    for kind in kinds or ("ed25519", "ecdsa", "rsa"):
        path = directory / f"ssh_host_{kind}_key"
        command = [program("ssh-keygen"), "-q", "-t", kind, "-N", "", "-C", "root@web1", "-f", str(path)]
        subprocess.run(command, check=True)
    return directory


def lines(etc_ssh: Path) -> set[str]:
    """The public keys in it, without their comments."""
    return {" ".join(path.read_text().split()[:2]) for path in etc_ssh.glob("*.pub")}


def boot(document: str, etc_ssh: Path, scratch: Path, *, path: str = "") -> Done:
    """
    Do what the document says. Stdout is what is left in /run/handfast afterwards.

    ``scratch`` is a new directory; ``path`` comes before the programs of this machine.
    """
    scratch.mkdir()
    read = yaml.safe_load(document)
    steps = ["set -e", "mount -t tmpfs tmpfs /run", f"mount --bind {etc_ssh} /etc/ssh", "mkdir /run/cloud-init"]
    steps.append(f"echo {INSTANCE} > /run/cloud-init/.instance-id")
    for number, each in enumerate(read["write_files"]):
        (scratch / str(number)).write_text(each["content"])
        steps.append(f"install -D -m {each['permissions']} {scratch}/{number} {each['path']}")
    steps += ["code=0", *(f"{shlex.join(command)} || code=$?" for command in read["runcmd"]), "ls /run/handfast"]
    environment = {"PATH": f"{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".lstrip(":")}
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "\n".join([*steps, "exit $code"])],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return Done(ended.returncode, ended.stdout, ended.stderr)
