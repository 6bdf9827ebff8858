"""Machines for the pages to show: with every kind of evidence, with history, and with hostile texts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.adapters.process import OURSELVES
from handfast.core.flow import HostGrant
from handfast.core.hosts import Host, How, Place
from handfast.core.sshkeys import SshKey
from handfast.errors import Refused
from handfast.ledger.store import SqlLedger
from handfast.server.pages import Pages
from handfast.server.web import run
from handfast.wiring import Overrides, open_service
from tests.core import sshmaterial
from tests.ledger import material

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\" onload='alert(2)' &amp; {{ 7*7 }} </pre></title>"
PLACE = Place.parse(["web1.lan", "www.example.org", "10.0.0.7", "fd00::7"], aliases=["shop"], ports=(22, 2222))


def ed25519(number: int) -> SshKey:
    """A public key that looks like any other, and is always the same."""
    seed = hashlib.sha256(f"key {number}".encode()).digest()
    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return sshmaterial.key("ssh-ed25519", raw)


def ecdsa(number: int) -> SshKey:
    """A P-256 key of which only the looks count."""
    point = b"\x04" + hashlib.sha512(f"point {number}".encode()).digest()
    return sshmaterial.key("ecdsa-sha2-nistp256", b"nistp256", point)


def unknown(number: int) -> SshKey:
    """A key of a type that nobody knows yet."""
    return sshmaterial.key("ssh-mldsa87-ed25519@openssh.com", hashlib.sha512(f"pq {number}".encode()).digest())


def register(
    ledger: SqlLedger,
    machine: str,
    *keys: SshKey,
    how: How = How.INVITATION,
    detail: str = "invitation 4f1c0b7a9e2d6c58",
    place: Place | None = None,
    complete: bool = False,
    at: datetime = NOW,
    basis: tuple[SshKey, ...] = (),
) -> Host:
    """Record host keys as if they had been decided."""
    granted = HostGrant(machine, keys, how, detail, place, complete, basis)
    return ledger.register(granted, None, at=at).result()


def fill(ledger: SqlLedger) -> None:
    """Register the machines that the tests look at."""
    old, kept, rsa = ed25519(1), ecdsa(1), sshmaterial.rsa_key(3072)
    day = timedelta(days=1)
    register(ledger, "web1.lan", old, kept, place=PLACE, at=NOW - 40 * day)
    ledger.retire("web1.lan", old, reason="rotated after the backup was lost", at=NOW - day).result()
    over = {"how": How.HOSTKEYS_PROVE, "detail": "seen by alice", "basis": (ecdsa(1),)}
    register(ledger, "web1.lan", ed25519(2), rsa, at=NOW - 3 * day, **over)  # type: ignore[arg-type]
    register(ledger, "web1.lan", ed25519(2), how=How.OPERATOR, detail="entered by root", at=NOW - 2 * day)
    reported = {"how": How.CONSOLE, "detail": "console.log of the hypervisor h3"}
    register(ledger, "db1.lan", ed25519(3), place=Place.parse(["10.0.0.8"]), at=NOW, **reported)  # type: ignore[arg-type]
    register(ledger, "lab.lan", ed25519(4), unknown(1), how=How.SCAN, detail="scanned from vantage 192.0.2.9", at=NOW)
    register(ledger, "gone.lan", ed25519(5), place=Place.parse(["10.0.0.9"]), at=NOW - 9 * day)
    ledger.remove_host("gone.lan", reason="destroyed", at=NOW - 8 * day).result()
    register(ledger, "evil.lan", ed25519(6), detail=HOSTILE, at=NOW - day)
    ledger.retire("evil.lan", ed25519(6), reason=HOSTILE, at=NOW).result()
    register(ledger, "evil.lan", ed25519(7), detail=HOSTILE, at=NOW)
    material.join(ledger, 901, machine="ops.lan")
    register(ledger, "ops.lan", ed25519(8))
    with contextlib.suppress(Refused):  # an alarm: two machines with one key
        register(ledger, "ops.lan", kept)


def many(ledger: SqlLedger, count: int) -> None:
    """Register machines for several pages of the list."""
    waiting = [
        ledger.register(
            HostGrant(f"node{number:05}.fleet.lan", (ed25519(number + 1000),), How.INVITATION, "", complete=True),
            None,
            at=NOW,
        )
        for number in range(count)
    ]
    for each in waiting:
        each.result()


@contextmanager
def directory(data: Path, *, nodes: int = 0) -> Iterator[SqlLedger]:
    """A registrar's data directory with these machines; nothing serves it."""
    service = open_service(data, Overrides(), passphrase=None)
    try:
        fill(service.ledger)
        many(service.ledger, nodes)
        yield service.ledger
    finally:
        service.ledger.close()


@dataclass
class Web:
    """A running `handfast web`, by its one-time link."""

    link: str

    @property
    def origin(self) -> str:
        return self.link.partition("/open/")[0]

    @property
    def path(self) -> str:
        """The link without the origin."""
        return self.link.removeprefix(self.origin)

    @property
    def port(self) -> int:
        return int(self.origin.rpartition(":")[2])


@dataclass
class Command(Web):
    """As a process of its own."""

    process: subprocess.Popen[str]

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return the exit code, what else was on stdout, and stderr."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@contextmanager
def command(data: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Command]:
    """Run `handfast web` on a directory, until the block ends."""
    started = [*OURSELVES, "web", "--data", str(data), *arguments]
    pipe, env = subprocess.PIPE, {**os.environ, **(environment or {})}
    with subprocess.Popen(started, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            yield Command(process.stdout.readline().rstrip("\n"), process)
        finally:
            process.kill()


@contextmanager
def web(pages: Pages) -> Iterator[Web]:
    """Serve pages as `handfast web --no-browser` does, in a thread, until the block ends."""
    links: queue.Queue[Web] = queue.Queue()
    loops: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Queue[signal.Signals]]] = queue.Queue()

    async def serve() -> None:
        asked = asyncio.Queue[signal.Signals]()
        loops.put((asyncio.get_running_loop(), asked))
        await run(pages, asked, ready=lambda link: links.put(Web(link)), browse=lambda _link: False)

    thread = threading.Thread(target=uvloop.run, args=(serve(),))
    thread.start()
    loop, asked = loops.get(timeout=30)
    try:
        yield links.get(timeout=30)
    finally:
        loop.call_soon_threadsafe(asked.put_nowait, signal.SIGTERM)
        thread.join(30)
