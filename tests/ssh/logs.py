"""Console logs as machines write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handfast.core import randomart
from handfast.core.sshkeys import SshKey

BOOT = [
    "[    0.000000] Linux version 6.1.0-18-cloud-amd64 (kernel@build.example)",
    "\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mcloud-init.service\x1b[0m.",
    "[   17.197933] cloud-init[570]: Generating public/private ed25519 key pair.",
    "[   17.198442] cloud-init[570]: +--[ED25519 256]--+",
    "ci-info: | ssh-ed25519 | 4c:73:9d:e5:f4:60:09:77:2e:09:1e:52:e3:79:78:26 |    -    | me |",
]
END = [
    "[   21.296920] cloud-init[612]: Cloud-init v. 22.4.2 finished at Sun, 22 Nov 2026 11:20:00 +0000.",
    "[  \x1b[0;32mOK\x1b[0m  ] Reached target \x1b[0;1;39mcloud-init.target\x1b[0m - Cloud-init target.",
    "",
    "Debian GNU/Linux 12 vm1 ttyS0",
    "",
    "vm1 login: ",
]
LOGGER = "<14>Nov 22 11:19:58 cloud-init: "


def block(keys: Sequence[SshKey], prefix: str = "") -> list[str]:
    """The keys between their markers."""
    lines = [f"{each} root@vm1" for each in keys]
    return [prefix + line for line in ("-----BEGIN SSH HOST KEY KEYS-----", *lines, "-----END SSH HOST KEY KEYS-----")]


def sha256(key: SshKey) -> str:
    """A fingerprint as OpenSSH has shown it since 6.8."""
    return key.fingerprint


def fingerprints(keys: Sequence[SshKey], prefix: str = LOGGER, shown: Callable[[SshKey], str] = sha256) -> list[str]:
    """The fingerprints between theirs."""
    lines = []
    for each in keys:
        name, bits = randomart.kind(each)
        lines.append(f"{bits} {shown(each)} root@vm1 ({name})")
    hashes = "#" * 61
    first, last = "-----BEGIN SSH HOST KEY FINGERPRINTS-----", "-----END SSH HOST KEY FINGERPRINTS-----"
    return [prefix + line for line in (hashes, first, *lines, last, hashes)]


def log(*parts: Sequence[str], end: str = "\r\n") -> bytes:
    """A whole log with these parts in its middle."""
    return end.join([*BOOT, *(line for part in parts for line in part), *END]).encode()
