"""
What knowing host keys costs at the start of ssh, with 100,000 machines known: ssh's own start with and without us.

`ssh -G` ends before it asks, so real connections to a real sshd on loopback are made, and ended by the refusal of the
user's key. Both kinds are made in turn, so that a drifting machine moves both. Two calls are made for each connection.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from handfast.core import sshkeys
from handfast.core.hosts import Grade, Host, HostKey, How, Place
from handfast.core.sshkeys import SshKey
from handfast.ssh import config, launcher, snapshot
from handfast.ssh.config import Source, Where

MACHINES = 100_000
ROUNDS = 41
GOAL = 25.0  # milliseconds for each call
PYTHON = Path(sys.executable).resolve()


def main() -> None:
    """Print what building and finding cost, and what a connection costs more with us than without."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        where = Where(folder / ".ssh", folder / "state")
        where.ssh.mkdir(mode=0o700)
        key = make_key(folder / "host")
        content = fleet(key, port := free_port())
        snapshot.keep(where.state, snapshot.Kept(content, datetime.now(UTC), None))
        config.install(where, Source(), refresh=(), python=PYTHON)
        (where.ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
        calls(where.state, key, port)
        with subprocess.Popen(sshd(folder, port), stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            next(line for line in server.stderr if "Server listening" in line)
            connections(where, port)
            server.terminate()


def fleet(key: SshKey, port: int) -> bytes:
    """Return the snapshot of the machines, the last of them with this key on loopback."""
    at = datetime.now(UTC)

    def machine(number: int) -> Host:
        name, address = f"m{number:06}", ipaddress.ip_address(0x0A000000 + number)
        keys = [made(number, "ssh-ed25519", 32), made(number, "ecdsa-sha2-nistp256", 84), made(number, "ssh-rsa", 390)]
        known = tuple(HostKey(each, How.INVITATION, f"invitation {number:016x}", at) for each in keys)
        return Host(f"{name}.fleet.internal", Place((f"{name}.example",), (address,), (name,)), known)

    def machines() -> Iterator[Host]:
        yield from map(machine, range(MACHINES - 1))
        place = Place(("loopback.example",), (ipaddress.ip_address("127.0.0.1"),), (), (port,))
        yield Host("loopback", place, (HostKey(key, How.INVITATION, "bench", at),))

    every = list(machines())
    begun = time.process_time()
    content = snapshot.build(every, least=Grade.REPORTED, registrar="bench", pin=bytes(32))
    spent = time.process_time() - begun
    print(f"snapshot of {MACHINES} machines   {len(content) / 1e6:.0f} MB, built in {spent:.1f} s of CPU time")
    begun = time.perf_counter()
    for each in every[:: MACHINES // 1000]:
        assert launcher.find(content, each.machine.encode())
    print(f"finding one of them             {(time.perf_counter() - begun) * 1e3:.0f} µs")
    return content


def made(number: int, algorithm: str, length: int) -> SshKey:
    """Return a key that nobody has, of the length of a real one."""
    body = hashlib.shake_128(f"{number} {algorithm}".encode()).digest(length)
    name = algorithm.encode()
    return SshKey(algorithm, struct.pack(">I", len(name)) + name + struct.pack(">I", length) + body)


def make_key(path: Path) -> SshKey:
    """Make a host key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return sshkeys.parse(path.with_name(f"{path.name}.pub").read_text())


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def sshd(folder: Path, port: int) -> list[str]:
    """Return the command of a server with the host key."""
    settings = folder / "sshd_config"
    settings.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\nMaxStartups 100\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    path = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert path is not None
    Path("/run/sshd").mkdir(exist_ok=True)
    return [path, "-D", "-e", "-f", str(settings)]


def calls(state: Path, key: SshKey, port: int) -> None:
    """Print what one call costs, as ssh makes it, and the parts of it that nobody can spare."""
    tokens = ["HOSTNAME", "127.0.0.1", str(port), "loopback", "loopback", f"[127.0.0.1]:{port}"]
    tokens += [key.algorithm, key.fingerprint, key.base64]
    script = Where(state, state).command(PYTHON).split("'")[1]
    rows = measured(
        {
            "/bin/sh -c exit": ["/bin/sh", "-c", "exit"],
            "python -IS -c pass": [str(PYTHON), "-IS", "-c", "pass"],
            "one call": ["/bin/sh", "-c", script, str(PYTHON), str(state), *tokens],
        }
    )
    for name, times in rows.items():
        wall, cpu = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        print(f"{name:31} {wall:.1f} ms, CPU time {cpu:.1f} ms")
    more = ratio(rows["one call"], rows["python -IS -c pass"], 1)
    print(f"one call takes                  {more:.2f} x the CPU time of an empty python; the goal is {GOAL:.0f} ms")


def connections(where: Where, port: int) -> None:
    """Print what a connection costs with and without us."""
    common = ["-p", str(port), "-o", "BatchMode=yes", "-o", "IdentityFile=none", "-o", "IdentityAgent=none"]
    common += ["-o", f"UserKnownHostsFile={where.ssh}/known_hosts", "-o", "GlobalKnownHostsFile=none"]
    common += ["127.0.0.1", "true"]
    rows = measured(
        {"without": ["ssh", "-F", "none", *common], "with": ["ssh", "-F", str(where.config), *common]}, code=255
    )
    for column, unit in ((0, "wall"), (1, "CPU time")):
        middle = {name: statistics.median(each[column] for each in times) * 1e3 for name, times in rows.items()}
        added = statistics.median(a[column] - b[column] for a, b in zip(rows["with"], rows["without"], strict=True))
        print(
            f"a connection, {unit:17} {middle['without']:.0f} ms without, {middle['with']:.0f} ms with us:"
            f" {ratio(rows['with'], rows['without'], column):.2f} x, {added / 2 * 1e3:.1f} ms for each of the two calls"
        )


def ratio(these: list[tuple[float, float]], those: list[tuple[float, float]], column: int) -> float:
    """Return how often one is the other, by pairs that were measured together."""
    return statistics.median(a[column] / b[column] for a, b in zip(these, those, strict=True))


def measured(commands: dict[str, list[str]], *, code: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Return the wall and CPU seconds of each command with its children, run in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
            wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
            assert done.returncode == code, done
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if number:  # the first round warms the caches
                times[name].append((wall, cpu))
    return times


if __name__ == "__main__":
    main()
