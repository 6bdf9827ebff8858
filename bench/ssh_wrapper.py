"""
What `handfast ssh` adds to ssh: wall and CPU time of whole processes, which end where ssh would begin to connect.

A login would add the same to all of them, and ten times its own noise. The limit is 150 ms with 100,000 machines
registered; the ways of starting it run in turn with plain ssh, so that a drifting machine moves all of them. On a
machine with other work the CPU time is what can be compared.

    BENCH_MACHINES=100000 python bench/ssh_wrapper.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from handfast.core.flow import HostGrant
from handfast.core.hosts import How, Place
from handfast.core.sshkeys import from_blob
from handfast.ledger import open_sqlite

ROUNDS = 21
LIMIT = 150  # ms
MACHINES = int(os.environ.get("BENCH_MACHINES", "10000"))
PYTHON = [sys.executable, "-P"]
WAYS = {
    "ssh": ["ssh"],
    "python": [*PYTHON, "-c", "pass"],
    "handfast ssh": [*PYTHON, "-m", "handfast", "ssh"],
    "handfast-ssh": [*PYTHON, "-m", "handfast.cli.ssh_run"],
}


class Cost(NamedTuple):
    """Milliseconds of one run."""

    wall: float
    cpu: float


def main() -> None:
    """Print medians in milliseconds, and what our two ways of starting add."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir(mode=0o700)
        fill(data / "ledger.sqlite3")
        environment = {**os.environ, "HANDFAST_DATA": str(data), "XDG_STATE_HOME": f"{scratch}/s"}
        times: dict[str, list[Cost]] = {name: [] for name in WAYS}
        for number in range(ROUNDS + 1):
            for name, command in WAYS.items():
                # -G: ssh reads its configuration with our options in it, and ends before it connects.
                line = command if name == "python" else [*command, "-F/dev/null", "-G", "machine7.lan"]
                cost = measure(line, environment)
                if number:  # the first round warms the caches, and writes the machine's files
                    times[name].append(cost)
    report(times)


def measure(command: list[str], environment: dict[str, str]) -> Cost:
    """Return what one successful run costs."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost((time.perf_counter() - begun) * 1e3, cpu * 1e3)


def fill(ledger: Path) -> None:
    """Register machines, each with three keys."""
    store, at = open_sqlite(ledger), datetime.now(UTC)
    head = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
    waiting = []
    for number in range(MACHINES):
        keys = tuple(from_blob(head + (3 * number + each).to_bytes(32)) for each in range(3))
        name = f"machine{number}"
        place = Place.parse([f"{name}.lan", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"])
        waiting.append(store.register(HostGrant(name, keys, How.INVITATION, "", place), None, at=at))
    for each in waiting:
        each.result()
    store.close()


def report(times: dict[str, list[Cost]]) -> None:
    """Print the table."""
    for name, costs in times.items():
        text = f"{name:13}"
        for kind in ("wall", "cpu"):
            values = [getattr(cost, kind) for cost in costs]
            added = statistics.median(
                value - getattr(plain, kind) for value, plain in zip(values, times["ssh"], strict=True)
            )
            text += f"   {kind} {statistics.median(values):4.0f} ms ({min(values):.0f}-{max(values):.0f}), +{added:.0f}"
        print(text + (f"   of {LIMIT}" if name.startswith("handfast") else ""))


if __name__ == "__main__":
    main()
