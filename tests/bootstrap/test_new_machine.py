"""A Debian 12 with python3, git, certificates and nothing else: what a new user meets, run for real in a chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bootstrap.checkout import copy_to

SUITE = "bookworm"
USER = 1000

# Mounts end with the namespace that they were made in.
_ENTER = """
set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
exec chroot --userspec="$1" "$0" env -C "$2" "HOME=${2%/*}" sh -c "$3"
"""


class Machine:
    """A root file system of its own, on this machine's kernel and network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # What this machine's administrator had to set up to reach anything: names, certificates, proxies.
        for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
            if Path(file).exists():
                shutil.copy(file, root / file[1:])
        settings = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
        proxies = [line for line in settings.splitlines() if "Proxy" in line]
        (root / "etc/apt/apt.conf.d/00proxy").write_text("\n".join(proxies))

    def clone(self, home: str, owner: int) -> None:
        """Put the checkout into ``home`` as ``owner``, as `git clone` would."""
        place = self.root / home[1:] / "handfast"
        copy_to(place)
        subprocess.run(["git", "init", "--quiet"], cwd=place, check=True)
        subprocess.run(["git", "add", "--all"], cwd=place, check=True)
        subprocess.run(["chown", "-R", f"{owner}:{owner}", place.parent], check=True)

    def run(self, home: str, command: str, *, user: int) -> subprocess.CompletedProcess[str]:
        """Run a shell command as ``user`` in its checkout."""
        passed = {
            k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_CERT")) or k.lower().endswith("_proxy")
        }
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", _ENTER, self.root, f"{user}:{user}", f"{home}/handfast", command],
            env=passed | {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )


def mirror() -> list[str]:
    """Return where this machine gets the suite from; nothing (debootstrap's own choice) when it is another one."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(SUITE) $(REPO_URI)", "Created-By: Packages"]
    sources = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[-1] for line in sources if line.split()[0] == SUITE][:1]


def unpacked(folder: Path) -> Machine:
    """A fresh machine in ``folder``, unpacked from a tree that is made once and kept with the other caches."""
    kept = Path(sys.prefix, "cache", f"{SUITE}.tar")
    if not kept.exists():
        made = folder / "made"
        packages = "--include=python3,ca-certificates,git"
        subprocess.run(["debootstrap", "--variant=minbase", packages, SUITE, made, *mirror()], check=True)
        new = kept.with_suffix(f".{os.getpid()}")  # two workers may make it at once
        new.parent.mkdir(exist_ok=True)
        subprocess.run(["tar", "-C", made, "-cf", new, "."], check=True)
        new.replace(kept)
        shutil.rmtree(made)
    root = folder / "machine"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", kept], check=True)
    return Machine(root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A fresh machine."""
    return unpacked(tmp_path)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.peer("debootstrap")
@pytest.mark.timeout(600)
def test_the_two_commands_on_a_minimal_debian(machine: Machine) -> None:
    """A user without ensurepip gets the hint; root gets the package and Handfast; then the user gets both commands."""
    machine.clone("/home/new", USER)
    machine.clone("/root", 0)

    refused = machine.run("/home/new", "./handfast --version", user=USER)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "handfast: hint: apt-get install python3-venv" in refused.stderr

    for user, home in ((0, "/root"), (USER, "/home/new")):
        first = machine.run(home, "./handfast --version", user=user)
        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("handfast")
        assert ("apt-get install -y python3-venv" in first.stderr) == (user == 0)
        again = machine.run(home, "./handfast --version", user=user)
        assert (again.stdout, again.stderr) == (first.stdout, "")

    tested = machine.run("/home/new", "./test tests/bootstrap", user=USER)
    assert tested.returncode == 0, tested.stdout + tested.stderr
