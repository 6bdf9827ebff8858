"""
The real programs that tests meet, and how to get them. Standard library only: `./test` reads this too.

A test says `@pytest.mark.peer("nginx")`; without nginx it is skipped with the package's name as the
reason, and `./test --all` as root installs what is missing and skips nothing: but what no registry has,
which somebody has to unpack by hand, and which is named last.
"""

from __future__ import annotations

import glob
import os
import shutil
from dataclasses import dataclass
from functools import cache

# Daemons live where an ordinary user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


# Where Apache's binary zips of the toolkit are unpacked, each in the directory that it brings.
_TOOLKITS = os.environ.get("HANDFAST_NIFI_TOOLKITS", "/opt")


@dataclass(frozen=True, slots=True)
class Peer:
    """
    A program (a name on PATH, or a pattern of absolute paths), and the Debian package that brings it.

    ``by_hand``: no package does, and ``package`` says what to get instead.
    """

    program: str
    package: str
    by_hand: bool = False


def _toolkit(version: str) -> Peer:
    """
    The archive of NiFi's TLS toolkit, whose libraries lie around it.

    Maven's registry has the modules that it is built from, and not the toolkit.
    """
    home = f"{_TOOLKITS}/nifi-toolkit-{version}"
    what = f"nifi-toolkit-{version}-bin.zip of Apache NiFi, unpacked in {_TOOLKITS} (or HANDFAST_NIFI_TOOLKITS)"
    return Peer(f"{home}/lib/nifi-toolkit-tls-{version}.jar", what, by_hand=True)


PEERS = {
    "curl": Peer("curl", "curl"),
    "debootstrap": Peer("debootstrap", "debootstrap"),
    "faketime": Peer("faketime", "faketime"),
    "ip": Peer("ip", "iproute2"),
    "javac": Peer("javac", "openjdk-17-jdk-headless"),
    "keytool": Peer("keytool", "openjdk-17-jre-headless"),
    "mvn": Peer("mvn", "maven"),
    "nginx": Peer("nginx", "nginx-light"),
    "nifi-toolkit-1.11.4": _toolkit("1.11.4"),
    "nifi-toolkit-1.23.2": _toolkit("1.23.2"),
    "nifi-toolkit-1.28.1": _toolkit("1.28.1"),
    "openssl": Peer("openssl", "openssl"),
    "paraview": Peer("paraview", "paraview"),  # 1.3 GB with what it needs, 2 to 3 minutes
    "postgresql": Peer("/usr/lib/postgresql/*/bin/postgres", "postgresql"),
    "pvpython": Peer("pvpython", "python3-paraview"),
    "pvserver": Peer("pvserver", "paraview"),
    "rsync": Peer("rsync", "rsync"),
    "ssh": Peer("ssh", "openssh-client"),
    "ssh-keygen": Peer("ssh-keygen", "openssh-client"),
    "sshd": Peer("sshd", "openssh-server"),
    "systemd-analyze": Peer("systemd-analyze", "systemd"),
    "systemd-nspawn": Peer("systemd-nspawn", "systemd-container"),
    "xdotool": Peer("xdotool", "xdotool"),
    "xvfb": Peer("Xvfb", "xvfb"),
}


@cache
def find(name: str) -> str | None:
    """Return the path of the peer's program, or None where it is not installed. The newest of several."""
    program = PEERS[name].program
    if program.startswith("/"):
        return max(glob.glob(program), default=None)
    return shutil.which(program, path=_PATH)


def missing() -> list[str]:
    """The packages that would bring every peer that is not here and has one."""
    return sorted({peer.package for name, peer in PEERS.items() if not peer.by_hand and find(name) is None})
