"""
Scans of SSH host keys, against ssh-keyscan: the same targets, in turn, in one run.

    light server   1,000 targets, one ed25519 key of each: what a scanner itself costs
    sshd           16 targets that share one sshd, which forks for each connection: all three kinds of keys

Ours runs within this process, as it does in the registrar, and checks each server's signature; ssh-keyscan prints the
key before it was proved. CPU is the scanner's alone. Linux only: every address of 127.0.0.0/8 is this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import ipaddress
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from handfast.core.sshdata import mpint, string
from handfast.core.sshwire import ALGORITHMS, packet
from handfast.ssh.guard import Guard
from handfast.ssh.scan import Limits, Scanned, Scanner

VERSION = b"SSH-2.0-bench"


def main() -> None:
    """Run all rounds and print a table in Markdown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--targets", type=int, default=1000, help="of the light server")
    options.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # the light server: port, number of addresses
    chosen = options.parse_args()
    _files()
    if chosen.serve:
        uvloop.run(serve(*map(int, chosen.serve)))
        return
    print("| targets | handfast /s | ssh-keyscan /s | ratio | CPU µs each | ssh-keyscan's | ratio |")
    print("|---|---|---|---|---|---|---|")
    with light(chosen.targets) as port:
        report("light server", port, addresses(chosen.targets), ("ssh-ed25519",), chosen.rounds)
    if shutil.which("sshd", path="/usr/sbin:/usr/local/sbin"):
        with sshd() as port:
            report("sshd", port, addresses(16), ALGORITHMS, chosen.rounds)


def addresses(number: int) -> list[str]:
    """Return so many addresses of this machine."""
    return [f"127.1.{each // 250}.{each % 250 + 1}" for each in range(number)]


def report(name: str, port: int, hosts: list[str], algorithms: Sequence[str], rounds: int) -> None:
    """Print one line: medians over the rounds, ratios within a round."""
    kinds = 1 if len(algorithms) == 1 else 3
    ours(port, hosts, algorithms, kinds)  # wakes everything up
    pairs = []
    for _ in range(rounds):
        if name == "sshd":
            time.sleep(2)  # for the last round's processes to end
        pairs.append((ours(port, hosts, algorithms, kinds), theirs(port, hosts, kinds)))
    rate = [statistics.median(len(hosts) / pair[who][0] for pair in pairs) for who in (0, 1)]
    cpu = [statistics.median(pair[who][1] / len(hosts) * 1e6 for pair in pairs) for who in (0, 1)]
    faster = statistics.median(pair[1][0] / pair[0][0] for pair in pairs)
    lighter = statistics.median(pair[1][1] / pair[0][1] for pair in pairs)
    print(f"| {name} | {rate[0]:.0f} | {rate[1]:.0f} | {faster:.1f} | {cpu[0]:.0f} | {cpu[1]:.0f} | {lighter:.1f} |")


def ours(port: int, hosts: list[str], algorithms: Sequence[str], kinds: int) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    guard = Guard(allow=(ipaddress.ip_network("127.0.0.0/8"),), ports=(port,))
    found: list[object] = []

    async def scan() -> None:
        targets = [guard.target(ipaddress.ip_address(host), port) for host in hosts]
        await Scanner(Limits(patience=60)).scan_all(targets, lambda _, result: found.append(result), algorithms)

    wall, cpu = time.perf_counter(), time.process_time()
    uvloop.run(scan())
    taken = time.perf_counter() - wall, time.process_time() - cpu
    assert all(isinstance(each, Scanned) and len(each.keys) == kinds for each in found), found[:3]
    assert len(found) == len(hosts)
    return taken


def theirs(port: int, hosts: list[str], kinds: int) -> tuple[float, float]:
    """Return wall and CPU seconds of ssh-keyscan."""
    command = ["ssh-keyscan", "-T", "60", "-p", str(port), "-t", "ed25519" if kinds == 1 else "rsa,ecdsa,ed25519"]
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run([*command, "-f", "-"], input="\n".join(hosts), capture_output=True, text=True, check=True)
    taken, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    keys = [line for line in ended.stdout.splitlines() if not line.startswith("#")]
    assert len(keys) == kinds * len(hosts), f"ssh-keyscan found {len(keys)} keys"
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextlib.contextmanager
def light(number: int) -> Iterator[int]:
    """Run the light server in a process of its own, and return its port."""
    port = free_port()
    with subprocess.Popen([sys.executable, __file__, "--serve", str(port), str(number)]) as process:
        try:
            wait(addresses(number)[-1], port)
            yield port
        finally:
            process.terminate()


@contextlib.contextmanager
def sshd() -> Iterator[int]:
    """Run Debian's sshd with three keys, and return its port."""
    port, path = free_port(), shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        lines = ["MaxStartups 1000", "UsePAM no", "PidFile none"]
        for kind in ("ed25519", "ecdsa", "rsa"):
            key = f"{directory}/{kind}"
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
            lines.append(f"HostKey {key}")
        lines += [f"ListenAddress {each}:{port}" for each in addresses(16)]
        Path(directory, "config").write_text("\n".join(lines) + "\n")
        with subprocess.Popen([str(path), "-D", "-f", f"{directory}/config"]) as process:
            try:
                wait(addresses(16)[-1], port)
                yield port
            finally:
                process.terminate()


class Light(asyncio.Protocol):
    """As little of a server as a scanner is content with: one key, one key exchange, and no check of anything."""

    key = Ed25519PrivateKey.generate()
    blob = string(b"ssh-ed25519") + string(key.public_key().public_bytes_raw())
    _lists = (
        b"curve25519-sha256",
        b"ssh-ed25519",
        *2 * [b"aes128-ctr"],
        *2 * [b"hmac-sha2-256"],
        *2 * [b"none"],
        b"",
        b"",
    )
    kexinit = b"\x14" + bytes(16) + b"".join(map(string, _lists)) + bytes(5)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport, self.come = cast("asyncio.Transport", transport), b""
        self.transport.write(VERSION + b"\r\n" + packet(self.kexinit))

    def data_received(self, data: bytes) -> None:
        """Reply when all of the client's first three messages are here."""
        self.come += data
        version, _, rest = self.come.partition(b"\n")
        payloads = []
        while len(rest) >= 5 and len(rest) >= 4 + (length := int.from_bytes(rest[:4])):
            payloads.append(rest[5 : 4 + length - rest[4]])
            rest = rest[4 + length :]
        if len(payloads) == 2:
            self.transport.write(self.reply(version.rstrip(b"\r"), payloads[0], payloads[1][5:]))

    def reply(self, version: bytes, kexinit: bytes, sent: bytes) -> bytes:
        """Prove the key."""
        ours = X25519PrivateKey.generate()
        value = ours.public_key().public_bytes_raw()
        secret = mpint(int.from_bytes(ours.exchange(X25519PublicKey.from_public_bytes(sent))))
        said = (version, VERSION, kexinit, self.kexinit, self.blob, sent, value)
        digest = hashlib.sha256(b"".join(map(string, said)) + secret).digest()
        signature = string(b"ssh-ed25519") + string(self.key.sign(digest))
        return packet(b"\x1f" + b"".join(map(string, (self.blob, value, signature))))


async def serve(port: int, number: int) -> None:
    """Be the light server at so many addresses."""
    server = await asyncio.get_running_loop().create_server(Light, addresses(number), port, backlog=1024)
    await server.serve_forever()


def _files() -> None:
    """Allow as many open files as may be: each address is a socket that listens."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    """Return a port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait(host: str, port: int) -> None:
    """Return when somebody listens there."""
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit("the server did not start") from None
            time.sleep(0.05)


if __name__ == "__main__":
    main()
