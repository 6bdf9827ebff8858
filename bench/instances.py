"""
What managed machines cost: their controller, and themselves.

    introduced   instances a minute from the moment `up` watches; all of them wait for it        goal: 1,000
    polled       CPU of `up` while all of them run, each asked every 15 s                        goal: 30 % of one core
    agent        resident memory of one agent, and its CPU while it is asked every 15 s          goal: 60 MB, 0.1 %
    deploy       MB/s of an artifact to an agent, against the disk and against a bare TLS stream

Agents are real (`agent.run`): many in one process, which shares the two cores with `up`, and one alone, as it is run.
The many keep what they have in memory: each would have a disk of its own, and one disk for all of them measures that.
CPU time is a process's own, all threads. Every introduction is whole: evidence, two durable commits, a verified call.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import uvloop

from handfast import wiring
from handfast.adapters import logs
from handfast.adapters.tls import controller_context
from handfast.agent.run import Ready, run
from handfast.controller.http import Connection
from handfast.core import instancedata
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from handfast.newcomer.keystore import Keystore
from handfast.registrar.instances import Wanted

HOUR = timedelta(hours=1)
PIECE = 256 * 1024
POLICY = '[service.web]\nkind = "mock"\noperations = ["status", "artifacts"]\nartifacts = "{}"\n'


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--instances", type=int, default=1000)
    options.add_argument("--seconds", type=int, default=60, help="for which CPU is measured")
    options.add_argument("--megabytes", type=int, default=512, help="of an artifact")
    options.add_argument("--rounds", type=int, default=3, help="of deployments")
    options.add_argument("--data", type=Path, help="where the ledger and artifacts go: its disk is measured too")
    chosen = options.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(dir=chosen.data) as scratch, ExitStack() as stack:
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        place = Path(scratch)
        data = place / "registrar"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text("[instances]\nwatch = true\n")
        wiring.open_service(data, wiring.Overrides(listen=Address("127.0.0.1", 0)), passphrase=None).ledger.close()
        (one,) = add(data, ["one.bench.internal"], first=chosen.instances)
        alone = stack.enter_context(Child(alone_command(place, one, chosen.instances)))
        if chosen.instances:
            names = [f"i{number}.bench.internal" for number in range(chosen.instances)]
            agents = Agents(add(data, names, first=0), memory)
            stack.callback(agents.close)
        began = time.monotonic()
        up = stack.enter_context(Child([sys.executable, "-m", "handfast", "up", *flags(data)]))
        introduced(data, up, began, chosen.instances + 1)
        idle(up, alone, chosen.seconds, chosen.instances + 1)
        deploys(place, data, chosen.instances, chosen.megabytes, chosen.rounds)


def flags(data: Path) -> list[str]:
    """Return the flags of `up`."""
    return ["--data", str(data), "--listen", "127.0.0.1:0", "--json"]


def address(number: int) -> Address:
    """Return where an agent listens: each has an address of loopback's sixteen million."""
    return Address(f"127.76.{number // 200}.{number % 200 + 1}", 7575)


def add(data: Path, names: list[str], *, first: int) -> list[InstanceData]:
    """Add instances; threads share the ledger's commits."""
    instances = wiring.open_instances(data, addresses=(Address("127.0.0.1", 7443),))

    def one(numbered: tuple[int, str]) -> InstanceData:
        number, name = numbered
        return instances.add(Wanted(name=name, lasting=HOUR, address=address(number)))[0]

    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(one, enumerate(names, first)))


class Child:
    """A program, and what it costs."""

    def __init__(self, command: list[str]) -> None:
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._popen.stdout is not None
        if not self._popen.stdout.readline():  # when it is ready it says so
            raise SystemExit(f"it ended at once: {command}")

    def cpu(self) -> float:
        """Return the CPU seconds of all its threads."""
        return time.clock_gettime(~self._popen.pid << 3 | 2)

    def memory(self) -> tuple[float, float]:
        """Return what it has resident, and what of that is not shared with a file, in MB."""
        lines = Path(f"/proc/{self._popen.pid}/status").read_text().splitlines()
        values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss") or "VmRSS" in line}
        return int(values["VmRSS"]) / 1000, int(values["RssAnon"]) / 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        self._popen.wait()


def alone_command(place: Path, data: InstanceData, number: int) -> list[str]:
    """Return the command of one agent, as a machine runs it."""
    (place / "artifacts").mkdir()
    (place / "policy.toml").write_text(POLICY.format(place / "artifacts"))
    (place / "user-data").write_text(instancedata.written(data))
    (place / "user-data").chmod(0o600)
    where = ["--listen", str(address(number)), "--policy", str(place / "policy.toml")]
    given = ["--user-data", str(place / "user-data"), "--state", str(place / "one"), *where]
    return [sys.executable, "-m", "handfast", "agent", "run", *given, "--json"]


class Agents:
    """Many agents in one process."""

    def __init__(self, given: list[InstanceData], place: Path) -> None:
        here, there = multiprocessing.Pipe()
        texts = [instancedata.written(each) for each in given]
        self._process = multiprocessing.get_context("spawn").Process(target=_many, args=(there, texts, place))
        self._process.start()
        here.recv()

    def close(self) -> None:
        """End them at once: nothing of theirs is wanted any more."""
        self._process.kill()
        self._process.join()


def _many(pipe: Any, given: list[str], place: Path) -> None:
    logs.configure(logging.ERROR)

    async def serve() -> None:
        ready = asyncio.Event()
        left = len(given)

        def told(_ready: Ready) -> None:
            nonlocal left
            left -= 1
            if not left:
                ready.set()

        running = [
            asyncio.ensure_future(
                run(instancedata.read(text.encode()), state=place / str(n), policy=None, ready=told, listen=address(n))
            )
            for n, text in enumerate(given)
        ]
        await ready.wait()
        pipe.send("ready")
        await asyncio.gather(*running)

    uvloop.run(serve())


def introduced(data: Path, up: Child, began: float, count: int) -> None:
    """Wait until all of them run, and print how long that took."""
    before, started = up.cpu(), time.monotonic()
    while (now := running(data)) < count:
        time.sleep(0.2)
        if time.monotonic() - started > 600:
            raise SystemExit(f"only {now} of {count} run after ten minutes")
    took, spent = time.monotonic() - started, up.cpu() - before
    print(f"introduced {count} in {took:.1f} s: {count / took * 60:.0f} a minute; `up` was there after "
          f"{started - began:.1f} s; its CPU {spent:.1f} s, {spent / count * 1e3:.1f} ms each")  # fmt: skip


def running(data: Path) -> int:
    """Return how many run, as `up` says."""
    with suppress(FileNotFoundError, ValueError):
        status = json.loads((data / "controller/status.json").read_bytes())
        return sum(each["state"] == "running" for each in status["instances"])
    return 0


def idle(up: Child, alone: Child, seconds: int, count: int) -> None:
    """Print what it costs when nothing happens."""
    time.sleep(20)  # until each was asked at least once as one that runs
    began, controller, agent = time.monotonic(), up.cpu(), alone.cpu()
    time.sleep(seconds)
    took = time.monotonic() - began
    (resident, own), (theirs, _) = alone.memory(), up.memory()
    print(f"polled {count} every 15 s: `up` {(up.cpu() - controller) / took:.1%} of a core, {theirs:.0f} MB resident")
    print(f"agent: {resident:.1f} MB resident ({own:.1f} MB its own), {(alone.cpu() - agent) / took:.3%} of a core")


def deploys(place: Path, data: Path, number: int, megabytes: int, rounds: int) -> None:
    """Print how fast an artifact arrives, and the two limits, in turn in each round."""
    held = Keystore(data / "controller").load()
    from cryptography import x509

    chain = [x509.load_der_x509_certificate(der) for der in (held.leaf, *held.chain)]
    context = controller_context(chain, held.private_key)
    size = megabytes * 1024 * 1024
    rows: dict[str, list[float]] = {"deploy": [], "disk": [], "disk and SHA-256": [], "TLS": []}
    for _ in range(rounds):
        rows["disk"].append(disk(place / "written", size, hashing=False))
        rows["disk and SHA-256"].append(disk(place / "written", size, hashing=True))
        rows["TLS"].append(bare_tls(data, context, size))
        began = time.perf_counter()
        uvloop.run(deploy(address(number), context, size))
        rows["deploy"].append(time.perf_counter() - began)
    for what, took in rows.items():
        rates = [size / each / 1e6 for each in took]
        print(f"{what:18} {statistics.median(rates):6.0f} MB/s  ({min(rates):.0f}-{max(rates):.0f})")
    for what in ("disk", "disk and SHA-256", "TLS"):
        ratios = [mine / limit for mine, limit in zip(rows["deploy"], rows[what], strict=True)]
        print(f"deploy takes {statistics.median(ratios):.2f} x {what}  ({min(ratios):.2f}-{max(ratios):.2f})")


async def deploy(where: Address, context: Any, size: int) -> None:
    """Send an artifact as `instance deploy` does."""

    async def pieces() -> AsyncIterator[bytes]:
        piece = os.urandom(PIECE)
        for _ in range(size // PIECE):
            yield piece

    async with await Connection.dial(where, context) as connection:
        answer = await connection.upload("/v1/services/web/artifacts/a", pieces(), size, patience=120)
        assert answer.status == 201, answer.body


def disk(path: Path, size: int, *, hashing: bool) -> float:
    """Write a file, and wait for the disk; return the seconds."""
    piece, digest, began = os.urandom(PIECE), hashlib.sha256(), time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // PIECE):
            file.write(piece)
            if hashing:
                digest.update(piece)
        os.fsync(file.fileno())
    return time.perf_counter() - began


def bare_tls(data: Path, context: Any, size: int) -> float:
    """Send as much over TLS in this standard library to a process that throws it away; return the seconds."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_sink, args=(there, data, size))
    process.start()
    port = here.recv()
    piece, began = os.urandom(PIECE), time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connected, context.wrap_socket(connected) as tls:
        for _ in range(size // PIECE):
            tls.sendall(piece)
        tls.recv(1)
    took = time.perf_counter() - began
    process.join()
    return took


def _sink(pipe: Any, data: Path, size: int) -> None:
    from cryptography import x509

    from handfast.adapters.tls import agent_context

    held = Keystore(data / "controller").load()
    chain = [x509.load_der_x509_certificate(der) for der in (held.leaf, *held.chain)]
    (root,) = (x509.load_der_x509_certificate(der) for der in held.trust)
    context = agent_context(chain, held.private_key, root, clock=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pipe.send(listening.getsockname()[1])
        accepted, _ = listening.accept()
        with context.wrap_socket(accepted, server_side=True) as tls:
            buffer, left = bytearray(PIECE), size
            while left:
                left -= tls.recv_into(buffer)
            tls.sendall(b".")


if __name__ == "__main__":
    main()
