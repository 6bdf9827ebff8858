"""
What a session's tunnel carries, against stunnel4, ghostunnel, nginx and a bare TCP proxy, all of them in each round.

Every tunnel is both its ends, as it is used: plain TCP into one process, mutual TLS 1.3 to the other, plain TCP from
there to a service; all on loopback, with full handshakes. Ratios are taken within a round, so that a machine that gets
slower changes all alike; printed are medians over the rounds.

    down, up      MB/s from and to the service, one stream and eight at once
    echo          64 bytes there and back, µs: median and 99th percentile, one connection and eight at once
    new           connections a second, eight at once: opened, 64 bytes there and back, closed
    memory        KiB of both processes together for a connection that is idle, from the first 200; measured once
    CPU           of both processes: ms for a MB (one stream down and up), ms for a new connection
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import tunnel_load as load
import tunnel_peers as peers
from tunnel_peers import Tunnel

Row = dict[str, float]
IDLE = 200  # connections
COLUMNS = {  # key: heading, and whether more is better
    "down 1": ("down 1", True),
    "up 1": ("up 1", True),
    "down 8": ("down 8", True),
    "up 8": ("up 8", True),
    "p50 1": ("echo 1 p50", False),
    "p99 1": ("p99", False),
    "p50 8": ("echo 8 p50", False),
    "p99 8": ("p99", False),
    "new": ("new/s", True),
    "memory": ("KiB idle", False),
    "cpu MB": ("CPU ms/MB", False),
    "cpu new": ("CPU ms/new", False),
}


def main() -> None:
    """Run all rounds and print two tables in Markdown: figures, and ours as a ratio to each."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--megabytes", type=int, default=256, help="of each transfer")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        peers.authority(scratch)
        tunnels = [peers.service(scratch)]
        try:
            tunnels += [start(scratch, tunnels[0].port) for start in peers.available()]
            once = {each.name: idle_memory(each) for each in tunnels}
            rounds = [{each.name: measure(each, chosen.megabytes) for each in tunnels} for _ in range(chosen.rounds)]
        finally:
            for each in tunnels:
                each.close()
    for rows in rounds:
        for name, row in rows.items():
            row["memory"] = once[name]
    report(rounds)


def idle_memory(tunnel: Tunnel) -> float:
    """Return the KiB that an idle connection takes, after one that warmed things up."""
    for each in load.idle(tunnel.port, 1):
        each.close()
    before = load.memory(tunnel.pids)
    opened = load.idle(tunnel.port, IDLE)
    time.sleep(0.5)  # what is given back is given back by then
    taken = (load.memory(tunnel.pids) - before) / IDLE
    for each in opened:
        each.close()
    return taken


def measure(tunnel: Tunnel, megabytes: int) -> Row:
    """Return one round's figures of one tunnel."""
    port, row = tunnel.port, Row()
    load.down(port, load.MEGABYTE)  # wakes everything up
    before = load.cpu(tunnel.pids)
    row["down 1"] = load.rate(port, load.down, megabytes, 1)
    row["up 1"] = load.rate(port, load.up, megabytes, 1)
    row["cpu MB"] = (load.cpu(tunnel.pids) - before) / megabytes / 2 * 1e3
    row["down 8"] = load.rate(port, load.down, megabytes, 8)
    row["up 8"] = load.rate(port, load.up, megabytes, 8)
    row["p50 1"], row["p99 1"] = load.echo(port, 3000, 1)
    row["p50 8"], row["p99 8"] = load.echo(port, 6000, 8)
    before = load.cpu(tunnel.pids)
    row["new"] = load.connections(port, 400, 8)
    row["cpu new"] = (load.cpu(tunnel.pids) - before) / 400 * 1e3
    return row


def report(rounds: list[dict[str, Row]]) -> None:
    """Print medians, and the medians of the rounds' ratios."""
    names = list(rounds[0])
    head = " | ".join(heading for heading, _ in COLUMNS.values())
    rule = "|---" * (len(COLUMNS) + 1) + "|"
    print(f"| tunnel, medians of {len(rounds)} rounds | {head} |\n{rule}")
    for name in names:
        values = [statistics.median(rows[name][key] for rows in rounds) for key in COLUMNS]
        print(f"| {name} | " + " | ".join(f"{value:.0f}" if value >= 20 else f"{value:.2g}" for value in values) + " |")
    print(f"\n| handfast is better by, against | {head} |\n{rule}")
    for name in names:
        if name != "handfast":
            print(f"| {name} | " + " | ".join(ratio(rounds, name, key) for key in COLUMNS) + " |")


def ratio(rounds: list[dict[str, Row]], name: str, key: str) -> str:
    """Return by how much ours is better (over 1) or worse, the median over rounds."""
    values = []
    for rows in rounds:
        ours, theirs = rows["handfast"][key], rows[name][key]
        if min(ours, theirs) <= 0:
            return "-"
        values.append(ours / theirs if COLUMNS[key][1] else theirs / ours)
    return f"{statistics.median(values):.2f}"


if __name__ == "__main__":
    main()
