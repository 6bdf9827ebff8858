"""
What a page costs the registrar with 100,000 machines known: listed, turned, searched, and one machine's own.

Measured is the whole work at the server but HTTP: reading the ledger and making the page. The limit of each is what
SQLite alone takes for the same rows, on a connection of its own; both are made in turn, so that a drifting machine
moves both. The machines have three keys each, as sshd makes them, two names, an address and an alias.
"""

from __future__ import annotations

import hashlib
import ipaddress
import sqlite3
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from handfast import ledger
from handfast.adapters.clock import SystemClock
from handfast.core.hosts import Grade, Host, HostKey, How, Place
from handfast.core.sshkeys import SshKey
from handfast.ledger import host_entries
from handfast.server.pages import ROWS, Pages, Sight

MACHINES = 100_000
ROUNDS = 15
GOAL = 200.0  # milliseconds
SEARCHES: Mapping[str, Mapping[str, str]] = {
    "the first page": {},
    "a page from the middle": {"after": "m050000.fleet.internal"},
    "a search that fills a page": {"search": "m0999"},
    "a search for an address": {"search": "10.1.134.159"},
    "a search that finds nothing": {"search": "nowhere"},
}


def main() -> None:
    """Print medians, the slowest, and ratios to what SQLite alone takes."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ledger"
        with ledger.open_sqlite(path) as store:
            begun = time.perf_counter()
            bare = fill(path)
            size = path.stat().st_size / 1e6
            print(f"{MACHINES} machines written in {time.perf_counter() - begun:.0f} s, {size:.0f} MB")
            pages = Pages(store, SystemClock(), Grade.REPORTED)
            for name, query in SEARCHES.items():
                report(name, lambda: pages.listing(query).body, lambda: rows(bare, query))  # noqa: B023  called here
            machine = "m099999.fleet.internal"
            state = "SELECT state FROM hosts WHERE machine = ?"
            report(
                "a machine",
                lambda: pages.machine(machine, Sight.OPERATOR).body,
                lambda: bare.execute(state, [machine]).fetchall(),
            )
            bare.close()


def fill(path: Path) -> sqlite3.Connection:
    """
    Write the rows of machines that were registered long ago, in one transaction.

    ``Ledger.register`` would take 100,000 durable changes; pages read these rows and, of one machine, its log.
    """
    at = datetime.now(UTC)
    bare = sqlite3.connect(path, isolation_level=None)
    bare.execute("BEGIN")
    for number in range(MACHINES):
        host = machine_at(number, at)
        row = (host.machine, host_entries.host_to_json(host), number + 1)
        bare.execute("INSERT INTO hosts (machine, state, revision) VALUES (?, ?, ?)", row)
        words = (host.machine, host_entries.words(host))
        bare.execute("INSERT INTO host_words (machine, words) VALUES (?, ?)", words)
    bare.execute("COMMIT")
    return bare


def machine_at(number: int, at: datetime) -> Host:
    """Return a machine as a fleet has them."""
    name = f"m{number:06}"
    lengths = {"ssh-ed25519": 32, "ecdsa-sha2-nistp256": 84, "ssh-rsa": 390}
    keys = [made(number, algorithm, length) for algorithm, length in lengths.items()]
    known = tuple(HostKey(key, How.INVITATION, f"invitation {number:016x}", at) for key in keys)
    place = Place((f"{name}.example", f"{name}.fleet.internal"), (ipaddress.ip_address(0x0A000000 + number),), (name,))
    return Host(f"{name}.fleet.internal", place, known)


def made(number: int, algorithm: str, length: int) -> SshKey:
    """Return a key that nobody has, of the length of a real one."""
    body = hashlib.shake_128(f"{number} {algorithm}".encode()).digest(length)
    name = algorithm.encode()
    return SshKey(algorithm, struct.pack(">I", len(name)) + name + struct.pack(">I", length) + body)


def rows(bare: sqlite3.Connection, query: Mapping[str, str]) -> object:
    """Return what SQLite alone gives for a page of the list."""
    like = f"%{query['search']}%" if "search" in query else "%"
    matching = "SELECT machine FROM host_words WHERE machine > ? AND words LIKE ? ORDER BY machine LIMIT ?"
    select = f"SELECT state FROM hosts WHERE machine IN ({matching}) ORDER BY machine"  # noqa: S608  nothing is given
    return bare.execute(select, [query.get("after", ""), like, ROWS + 1]).fetchall()


def report(name: str, ours: Callable[[], object], limit: Callable[[], object]) -> None:
    """Measure both in turn, and print one line."""
    spent: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        pair = (seconds(ours), seconds(limit))
        if number:  # the first round warms the caches
            spent.append(pair)
    mine, bound = (statistics.median(column) * 1e3 for column in zip(*spent, strict=True))
    slowest = max(column for column, _ in spent) * 1e3
    print(
        f"{name:28} {mine:6.1f} ms, slowest {slowest:.1f} ms; SQLite alone {bound:.1f} ms: {mine / bound:.1f} x;"
        f" the goal is {GOAL:.0f} ms"
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one run."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
