"""
What an SSH host certificate costs the registrar, in CPU time, against the bare cryptography in it.

    assembled    the certificate alone: checked, put together and signed     against one Ed25519 signature
    certified    all of the flow, for a host that asks with its key: verified, decided, two durable commits, issued,
                 answered                                                    against its three signatures

The three are the host's Ed25519 signature verified, the certificate signed by Ed25519, the answer by ECDSA. CPU time is
that of this process, all threads; HTTP and TLS are left out, since ``joins.py`` measures them. Every answer is checked
for its certificate. Goal: 2x, durable.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast import wiring
from handfast.core import sshcert, sshkeys, transcript
from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import How, Place
from handfast.core.invitation import Address
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf, issue
from handfast.core.sshsig import Signer
from handfast.introducers import ssh_pop

TOGETHER = (1, 8, 32)
_SHA256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class Prover:
    """The registrar's TLS key, as ``server.identity`` has it."""

    key: ec.EllipticCurvePrivateKey

    def prove(self, request: bytes, certificate: bytes, trust: tuple[bytes, ...], at: datetime) -> bytes:
        """Sign the answer."""
        return self.key.sign(transcript.answer(request, certificate, trust, at.isoformat()), _SHA256)


def signer() -> Signer:
    """Return a new host key."""
    key = Ed25519PrivateKey.generate()
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Signer(sshkeys.parse(line), key)


def main() -> None:
    """Run all rounds and print medians and ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--hosts", type=int, default=500, help="in each round, for each number at once")
    options.add_argument("--data", type=Path, help="where the ledger goes: its disk is measured too")
    chosen = options.parse_args()
    print("| what | µs of CPU | bare cryptography | ratio | a second |")
    print("|---|---|---|---|---|")
    rounds = [(bare_signature(2000), assembled(2000)) for _ in range(chosen.rounds)]
    line("assembled", [each[1] for each in rounds], [each[0] for each in rounds], [])
    for together in TOGETHER:
        ours, limits, rates = [], [], []
        for _ in range(chosen.rounds):
            limits.append(bare_three(1000))
            with tempfile.TemporaryDirectory(dir=chosen.data) as scratch:
                spent, rate = certified(Path(scratch) / "data", chosen.hosts, together)
            ours.append(spent)
            rates.append(rate)
        line(f"certified, {together} at once", ours, limits, rates)


def line(what: str, ours: list[float], limits: list[float], rates: list[float]) -> None:
    """Print medians, and the median of the ratios within a round."""
    ratio = statistics.median(own / limit for own, limit in zip(ours, limits, strict=True))
    rate = f"{statistics.median(rates):.0f}" if rates else ""
    print(f"| {what} | {statistics.median(ours):.0f} | {statistics.median(limits):.0f} | {ratio:.1f} | {rate} |")


def timed(count: int, work: Callable[[], object]) -> float:
    """Return microseconds of CPU time for each run."""
    begun = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - begun) / count * 1e6


def bare_signature(count: int) -> float:
    """Sign as many bytes as a certificate has."""
    key, body = Ed25519PrivateKey.generate(), os.urandom(400)
    return timed(count, lambda: key.sign(body))


def bare_three(count: int) -> float:
    """Verify and make an Ed25519 signature, and make one by ECDSA."""
    key, tls, body = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1()), os.urandom(400)
    public, made = key.public_key(), key.sign(body)
    return timed(count, lambda: (public.verify(made, body), key.sign(body), tls.sign(body, _SHA256)))


def assembled(count: int) -> float:
    """Issue a certificate for a host with three names."""
    ca, now = signer(), datetime.now(UTC).replace(microsecond=0)
    leaf = SshLeaf(
        kind=Kind.HOST,
        key=signer().public,
        key_id="host web1.lan",
        principals=("web1.lan", "www.lan", "192.0.2.7"),
        valid_after=now,
        valid_before=now + timedelta(days=7),
        evidence="invitation proved",
    )
    return timed(count, lambda: issue(leaf, ca, serial=7))


def certified(data: Path, hosts: int, together: int) -> tuple[float, float]:
    """Have every host certified once; return microseconds of CPU time for each, and how many a second."""
    service = wiring.open_service(data, wiring.Overrides(listen=Address("127.0.0.1", 7443)), passphrase=None)
    try:
        return uvloop.run(_certified(service, [prepare(service, number) for number in range(hosts)], together))
    finally:
        service.ledger.close()


async def _certified(service: wiring.Service, evidence: list[Evidence], together: int) -> tuple[float, float]:
    prover, slots = Prover(ec.generate_private_key(ec.SECP256R1())), asyncio.Semaphore(together)

    async def one(each: Evidence) -> bytes:
        async with slots:
            return (await service.certifier.certify(each, prover)).credentials[0].certificate

    async with service.ledger.in_loop():
        wall, cpu = time.perf_counter(), time.process_time()
        issued = await asyncio.gather(*map(one, evidence))
        spent, taken = time.process_time() - cpu, time.perf_counter() - wall
    assert {sshcert.read(each).kind for each in issued} == {Kind.HOST}
    return spent / len(evidence) * 1e6, len(evidence) / taken


def prepare(service: wiring.Service, number: int) -> Evidence:
    """Make a host's key known, and return the request that it sends."""
    key, machine, spki = signer(), f"web{number}.lan", os.urandom(32)
    place = Place.parse([machine, f"www{number}.lan"])
    service.host_keys.register(machine, (key.public,), how=How.OPERATOR, detail="bench", place=place)
    body, _ = ssh_pop.present(
        [key], pin=service.authority.pin, nonce=service.certifier.context.new_nonce(), server_spki=spki
    )
    return Evidence(ssh_pop.NAME, body, Channel(spki))


if __name__ == "__main__":
    main()
