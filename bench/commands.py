"""
What a person waits for, and what an idle registrar holds: wall time and memory of whole processes.

The limit of each command is the same interpreter doing the least: `python -c pass` for `--help`; for `join`, the
imports it cannot do without. The commands run in turn, so that a drifting machine moves all of them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 11
ROOT = Path(__file__).resolve().parent.parent
# As its first line has it, with this interpreter: a version manager's `python3` on the path is a shell script.
HANDFAST = [str(Path(sys.executable).resolve()), "-IS", str(ROOT / "handfast")]
IMPORTS = "import ssl, http.client, click, msgspec, cryptography.x509.verification"


def main() -> None:
    """Print medians in milliseconds, ratios to the limits, and the idle registrar's resident memory."""
    times: dict[str, list[float]] = {name: [] for name in ("python", "help", "imports", "join")}
    with tempfile.TemporaryDirectory() as scratch:
        data = str(Path(scratch) / "registrar")
        run([*HANDFAST, "--version"])  # the first run may set up
        command = [*HANDFAST, "up", "--data", data, "--listen", "127.0.0.1:0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as registrar:
            ready = json.loads(registrar.stdout.readline() if registrar.stdout is not None else b"null")
            for number in range(ROUNDS + 1):
                line = subprocess.run(
                    [*HANDFAST, "invite", "bench.internal", "--data", data], check=True, capture_output=True
                ).stdout
                row = {
                    "python": run([sys.executable, "-c", "pass"]),
                    "help": run([*HANDFAST, "--help"]),
                    "imports": run([sys.executable, "-c", IMPORTS]),
                    "join": run([*HANDFAST, "join", "--out", f"{scratch}/{number}"], line),
                }
                if number:  # the first round warms the caches
                    for name, seconds in row.items():
                        times[name].append(seconds)
            resident = memory(ready["pid"])
            registrar.terminate()
    report(times, resident)


def run(command: list[str], stdin: bytes = b"") -> float:
    """Return the wall seconds of one successful process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, input=stdin, capture_output=True)
    return time.perf_counter() - begun


def memory(pid: int) -> int:
    """Return a process's resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(times: dict[str, list[float]], resident: int) -> None:
    """Print the table."""
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, limit in (("help", "python"), ("join", "imports")):
        ratio = statistics.median(a / b for a, b in zip(times[name], times[limit], strict=True))
        print(
            f"handfast {name:6} {middle[name] * 1e3:6.0f} ms   {ratio:.2f} x {limit} ({middle[limit] * 1e3:.0f} ms),"
            f" {min(times[name]) * 1e3:.0f}-{max(times[name]) * 1e3:.0f} ms"
        )
    print(f"idle registrar  {resident / 1e6:6.0f} MB resident")


if __name__ == "__main__":
    main()
