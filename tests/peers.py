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
from pathlib import Path

# Daemons live where an ordinary user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


UNPACKED = Path(__file__).resolve().parent.parent / ".peers"

# Where Apache's binary zips of the toolkit are unpacked, each in the directory that it brings.
_TOOLKITS = os.environ.get("HANDFAST_NIFI_TOOLKITS", "/opt")


@dataclass(frozen=True, slots=True)
class Peer:
    """
    A program (a name on PATH, or a pattern of absolute paths), and the Debian package that brings it.

    ``by_hand``: no package does, and ``package`` says what to get instead. ``unpacked``: the package must not be
    installed, as it would take over this machine when it boots; it is unpacked into ``UNPACKED``, where ``program`` is.
    """

    program: str
    package: str
    by_hand: bool = False
    unpacked: bool = False


def _toolkit(version: str) -> Peer:
    """
    The archive of NiFi's TLS toolkit, whose libraries lie around it.

    Maven's registry has the modules that it is built from, and not the toolkit.
    """
    home = f"{_TOOLKITS}/nifi-toolkit-{version}"
    what = f"nifi-toolkit-{version}-bin.zip of Apache NiFi, unpacked in {_TOOLKITS} (or HANDFAST_NIFI_TOOLKITS)"
    return Peer(f"{home}/lib/nifi-toolkit-tls-{version}.jar", what, by_hand=True)


PEERS = {
    "ansible": Peer("ansible", "ansible-core"),
    "busybox": Peer("busybox", "busybox"),
    "chromium": Peer("chromium", "chromium"),
    "cloud-init-console": Peer("usr/lib/cloud-init/write-ssh-key-fingerprints", "cloud-init", unpacked=True),
    "curl": Peer("curl", "curl"),
    "debootstrap": Peer("debootstrap", "debootstrap"),
    "faketime": Peer("faketime", "faketime"),
    "git": Peer("git", "git"),
    "glewlwyd": Peer("usr/bin/glewlwyd", "glewlwyd", unpacked=True),
    "ip": Peer("ip", "iproute2"),
    "javac": Peer("javac", "openjdk-17-jdk-headless"),
    "kadmin.local": Peer("kadmin.local", "krb5-admin-server"),
    "kdb5_util": Peer("kdb5_util", "krb5-kdc"),
    "kdig": Peer("kdig", "knot-dnsutils"),
    "keymgr": Peer("keymgr", "knot"),
    "keytool": Peer("keytool", "openjdk-17-jre-headless"),
    "knotd": Peer("knotd", "knot"),
    "krb5kdc": Peer("krb5kdc", "krb5-kdc"),
    "lego": Peer("lego", "lego"),
    "libcbor": Peer("/usr/lib/*/libcbor.so", "libcbor-dev"),  # of glewlwyd
    "libconfig": Peer("/usr/lib/*/libconfig.so", "libconfig-dev"),  # of glewlwyd
    "libhoel": Peer("/usr/lib/*/libhoel.so", "libhoel-dev"),  # of glewlwyd
    "libiddawc": Peer("/usr/lib/*/libiddawc.so", "libiddawc-dev"),  # of glewlwyd
    "liboath": Peer("/usr/lib/*/liboath.so", "liboath-dev"),  # of glewlwyd
    "mvn": Peer("mvn", "maven"),
    "nft": Peer("nft", "nftables"),
    "nginx": Peer("nginx", "nginx-light"),
    "nifi-toolkit-1.11.4": _toolkit("1.11.4"),
    "nifi-toolkit-1.23.2": _toolkit("1.23.2"),
    "nifi-toolkit-1.28.1": _toolkit("1.28.1"),
    "openssl": Peer("openssl", "openssl"),
    "paraview": Peer("paraview", "paraview"),  # 1.3 GB with what it needs, 2 to 3 minutes
    "pebble": Peer("pebble", "pebble"),
    "postgresql": Peer("/usr/lib/postgresql/*/bin/postgres", "postgresql"),
    "pvpython": Peer("pvpython", "python3-paraview"),
    "pvserver": Peer("pvserver", "paraview"),
    "rsync": Peer("rsync", "rsync"),
    "ssh": Peer("ssh", "openssh-client"),
    "ssh-agent": Peer("ssh-agent", "openssh-client"),
    "ssh-keygen": Peer("ssh-keygen", "openssh-client"),
    "sshd": Peer("sshd", "openssh-server"),
    "supervisord": Peer("supervisord", "supervisor"),
    "systemd-analyze": Peer("systemd-analyze", "systemd"),
    "systemd-nspawn": Peer("systemd-nspawn", "systemd-container"),
    "unbound": Peer("unbound", "unbound"),
    "xdotool": Peer("xdotool", "xdotool"),
    "xvfb": Peer("Xvfb", "xvfb"),
    "zbarimg": Peer("zbarimg", "zbar-tools"),
}


@cache
def find(name: str) -> str | None:
    """Return the path of the peer's program, or None where it is not installed. The newest of several."""
    program = PEERS[name].program
    if PEERS[name].unpacked:
        program = str(UNPACKED / PEERS[name].package / program)
    if program.startswith("/"):
        return max(glob.glob(program), default=None)
    return shutil.which(program, path=_PATH)


def missing(*, unpacked: bool = False) -> list[str]:
    """The packages to install, or to unpack, that would bring every peer that is not here and has one."""
    wanted = {name: peer for name, peer in PEERS.items() if not peer.by_hand and peer.unpacked is unpacked}
    return sorted({peer.package for name, peer in wanted.items() if find(name) is None})
