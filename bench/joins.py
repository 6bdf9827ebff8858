"""
What a join costs the registrar, in CPU time, against the limits of its parts.

    kept alive       joins on open connections      goal: 2x one CSR check and one ECDSA signature
    fresh            connect, hello, join, close    goal: 2x that, and one TLS 1.3 handshake of the standard library

CPU time of the registrar's process (all threads) divided by joins is the steadiest figure on a shared machine, and
only ratios within a round are compared. Every join is complete (an invitation of its own, another machine, two
durable commits, a signed answer) and every answer is checked for its status.

    our cryptography   CSR check, Ed25519 check, certificate built and signed, answer signed: one after the other
    bare HTTP          aiohttp on uvloop with TLS, a body of this size in, an answer of this size out, nothing between
    ledger             the two commits of each join, by this code in a process that does nothing else
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

import limits
import newcomers
import uvloop
from newcomers import Load
from servers import Server, bare_http, bare_tls, registrar, start

from handfast import wiring
from handfast.registrar.administer import Administration

KEPT = (1, 8, 32)  # connections
FRESH = 8
Row = dict[str, float]


def main() -> None:
    """Run all rounds and print medians and ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--joins", type=int, default=800, help="of each kind, in each round")
    options.add_argument("--data", type=Path, help="where the ledger goes: its disk is measured too")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.data) as scratch:
        servers = [start(target, Path(scratch) / "registrar") for target in (registrar, bare_http, bare_tls)]
        administration = wiring.open_administration(Path(scratch) / "registrar")
        try:
            rows = [one_round(servers, administration, number, chosen.joins) for number in range(chosen.rounds + 1)]
        finally:
            for server in servers:
                server.close()
    report(rows[1:])  # the first round warms caches and fills the ledger


def one_round(servers: list[Server], administration: Administration, number: int, joins: int) -> Row:
    """Measure everything once, in turn; return microseconds of CPU time, joins a second, and milliseconds."""
    ours, http, tls = servers
    row = limits.measure(joins)
    lines = newcomers.invite(administration, joins * (len(KEPT) + 1), first=number * joins * (len(KEPT) + 1))
    bodies = uvloop.run(newcomers.evidence(ours.address, lines))
    same = [bodies[0]] * joins
    row["tls"], _ = spent(tls, joins, lambda: newcomers.handshakes(tls.address, joins, connections=FRESH))
    row["http"], _ = spent(http, joins, lambda: newcomers.kept_alive(http.address, same, connections=8))
    row["http fresh"], _ = spent(http, joins, lambda: newcomers.fresh(http.address, same, connections=FRESH))
    for connections in KEPT:
        part = [bodies.pop() for _ in range(joins)]
        kept = lambda part=part, n=connections: newcomers.kept_alive(ours.address, part, connections=n)  # noqa: E731
        row[f"kept {connections}"], load = spent(ours, joins, kept)
        row[f"rate {connections}"] = joins / load.seconds
        row[f"middle {connections}"], row[f"slow {connections}"] = latencies(load)
    row["fresh"], load = spent(ours, joins, lambda: newcomers.fresh(ours.address, bodies, connections=FRESH))
    row["fresh rate"] = joins / load.seconds
    row["goal kept"], row["goal fresh"] = row["bare crypto"], row["bare crypto"] + row["tls"]
    return row


def spent(server: Server, joins: int, work: Callable[[], Coroutine[None, None, Load]]) -> tuple[float, Load]:
    """Return the microseconds of CPU time that the server spends on each join, and what the load saw."""
    before = server.cpu()
    load: Load = uvloop.run(work())
    return (server.cpu() - before) / joins * 1e6, load


def latencies(load: Load) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds."""
    cuts = statistics.quantiles(load.each, n=100)
    return cuts[49] * 1e3, cuts[98] * 1e3


def report(rows: list[Row]) -> None:
    """Print medians, ranges and ratios."""
    print("limits, µs of CPU time                      median       range")
    for key, label in (
        ("bare crypto", "CSR check and one signature"),
        ("cold crypto", "the same, each after 2 ms of sleep"),
        ("our crypto", "our cryptography"),
        ("tls", "TLS 1.3 handshake"),
        ("http", "bare HTTP, kept alive"),
        ("http fresh", "bare HTTP, fresh, two requests"),
        ("ledger 1", "ledger, one caller"),
        ("ledger 8", "ledger, eight in a commit"),
    ):
        print(f"  {label:40} {middle(rows, key):6.0f}   {span(rows, key)}")
    print("joins, µs of CPU time                       median       range   ratio to the goal's limit    to our crypto")
    for key, label, goal in (
        *((f"kept {n}", f"kept alive, {n} connections", "goal kept") for n in KEPT),
        ("fresh", f"fresh, {FRESH} connections at once", "goal fresh"),
    ):
        print(f"  {label:40} {middle(rows, key):6.0f}   {span(rows, key)}   {ratio(rows, key, goal)}", end="")
        print(f"   {ratio(rows, key, 'our crypto')}" if key != "fresh" else "")
    print("joins, wall time                          a second       range   median and 99th percentile, ms")
    for n in KEPT:
        times = f"{middle(rows, f'middle {n}'):.2f}  {middle(rows, f'slow {n}'):.2f}"
        label, rate = f"kept alive, {n} connections", f"rate {n}"
        print(f"  {label:40} {middle(rows, rate):6.0f}   {span(rows, rate)}   {times}")
    print(f"  {f'fresh, {FRESH} at once':40} {middle(rows, 'fresh rate'):6.0f}   {span(rows, 'fresh rate')}")


def middle(rows: list[Row], key: str) -> float:
    """Return the median of a column."""
    return statistics.median(row[key] for row in rows)


def span(rows: list[Row], key: str) -> str:
    """Return a column's range."""
    text = f"{min(row[key] for row in rows):.0f}-{max(row[key] for row in rows):.0f}"
    return f"{text:>9}"


def ratio(rows: list[Row], key: str, to: str) -> str:
    """Return the median of the rounds' ratios, with their range."""
    values = [row[key] / row[to] for row in rows]
    return f"{statistics.median(values):.2f} x ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
