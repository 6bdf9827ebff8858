"""
A machine as it comes, in namespaces of its own: sshd on port 22, all its keys in /etc/ssh, and no systemd.

    unshare --net --mount --pid --fork --kill-child --mount-proc python -m tests.interop.sshd_default DIR

It ends with one JSON value: what was said, and what ssh then believed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.interop.hosts import Host, Registrar, program

MOUNTS = ("/run", "/etc/ssh")
CONFIG = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\nPermitRootLogin prohibit-password\n"


def main(directory: Path) -> dict[str, object]:
    """Join, and log in with nothing in known_hosts but the CA's line."""
    for mount in MOUNTS:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", mount], check=True)
    subprocess.run([program("ip"), "link", "set", "lo", "up"], check=True)
    Path("/run/sshd").mkdir()
    host = Host(directory / "machine")
    try:
        return play(host)
    finally:
        host.close()


def play(host: Host) -> dict[str, object]:
    """What is said in the end, by command."""
    etc = Path("/etc/ssh")
    (etc / "sshd_config.d").mkdir()
    (etc / "sshd_config").write_text(CONFIG)
    host.run(program("ssh-keygen"), "-A")
    sshd = host.start(program("sshd"), "-D", "-e")
    sshd.expect("Server listening on :: port 22")
    registrar = Registrar(host)
    line = registrar.invite("web1", "--san", "127.0.0.1")
    joined = host.handfast("join", "--out", "id", "--ssh", "--install", "--trust-users", stdin=line)
    ca = json.loads((host.directory / "id" / "ssh.json").read_bytes())["host_ca"]
    known = host.put("known_hosts", f"@cert-authority * {ca}\n")
    flags = (
        "-F",
        "none",
        "-o",
        f"UserKnownHostsFile={known}",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=yes",
    )
    believed = {}
    for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"):
        only = f"HostKeyAlgorithms={kind}-cert-v01@openssh.com"
        believed[kind] = host.run(program("ssh"), *flags, "-o", only, "root@127.0.0.1", code=255).stderr
    tended = host.handfast("renew", "--out", "id", "--ssh", "--if-due")
    files = sorted(path.name for path in etc.rglob("*") if path.is_file())
    gone = host.handfast("renew", "--out", "id", "--ssh", "--uninstall")
    return {
        "joined": joined.stderr,
        "believed": believed,
        "tended": tended.stderr,
        "files": files,
        "gone": gone.stderr,
        "left": sorted(path.name for path in etc.rglob("*") if "cert" in path.name or "handfast" in path.name),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
