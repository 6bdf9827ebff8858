"""
The real programs that tests meet, and how to get them. Standard library only: `./test` reads this too.

A test says `@pytest.mark.peer("nginx")`; without nginx it is skipped with the package's name as the
reason, and `./test --all` as root installs what is missing and skips nothing.
"""

from __future__ import annotations

import glob
import os
import shutil
from dataclasses import dataclass
from functools import cache

# Daemons live where an ordinary user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True, slots=True)
class Peer:
    """A program (a name on PATH, or a pattern of absolute paths), and the Debian package that brings it."""

    program: str
    package: str


PEERS = {
    "curl": Peer("curl", "curl"),
    "debootstrap": Peer("debootstrap", "debootstrap"),
    "faketime": Peer("faketime", "faketime"),
    "ip": Peer("ip", "iproute2"),
    "javac": Peer("javac", "openjdk-17-jdk-headless"),
    "keytool": Peer("keytool", "openjdk-17-jre-headless"),
    "nginx": Peer("nginx", "nginx-light"),
    "openssl": Peer("openssl", "openssl"),
    "postgresql": Peer("/usr/lib/postgresql/*/bin/postgres", "postgresql"),
    "ssh-keygen": Peer("ssh-keygen", "openssh-client"),
    "systemd-analyze": Peer("systemd-analyze", "systemd"),
    "systemd-nspawn": Peer("systemd-nspawn", "systemd-container"),
}


@cache
def find(name: str) -> str | None:
    """Return the path of the peer's program, or None where it is not installed. The newest of several."""
    program = PEERS[name].program
    if "*" in program:
        return max(glob.glob(program), default=None)
    return shutil.which(program, path=_PATH)


def missing() -> list[str]:
    """The packages that would bring every peer that is not here."""
    return sorted({peer.package for name, peer in PEERS.items() if find(name) is None})
