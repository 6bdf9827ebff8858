"""
What NiFi's protocol costs: an enrolment at the server in CPU time, and a whole client run in wall time.

    server   enrolments on open connections       goal: 2x one CSR check and one RSA-2048 signature
             the same on fresh connections         goal: 2x that, and one TLS 1.3 handshake with an RSA-2048 key
    client   `handfast tls-toolkit client`         goal: under 1 s with a new RSA-2048 key

Every enrolment has a key of its own, and so a serial, two durable commits and a certificate. With the original toolkit
on this machine (`--toolkit DIR`, its unpacked zip), the same clients and the same server are its Java, in turn.
Linux only; everything is on loopback, in a network namespace of its own (`unshare --net`), as the original listens on
every address.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import newcomers
import uvloop
from commands import HANDFAST
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from newcomers import Load
from servers import UNLIMITED, Server, start

from handfast import wiring
from handfast.core import dn
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.introducers import nifi
from handfast.server.run import serve

TOKEN = "bench 4fV9 token of 32 characters"
CONNECTIONS = (1, 8, 32)
FRESH = 8
PORT = 9443


def main() -> None:
    """Measure in turn and print medians and ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--enrolments", type=int, default=400, help="of each kind, in each round")
    options.add_argument("--toolkit", type=Path, help="the original's directory, with lib/ and classpath/")
    chosen = options.parse_args()
    if os.environ.get("HANDFAST_BENCH_ALONE") is None:
        subprocess.run([*HANDFAST, "--version"], check=True, capture_output=True)  # the first run may have to install
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, *sys.argv]
        raise SystemExit(
            subprocess.run(command, env={**os.environ, "HANDFAST_BENCH_ALONE": "1"}, check=False).returncode
        )
    served(chosen.rounds, chosen.enrolments)
    ran(chosen.rounds, chosen.toolkit)


# --- the server ---


def registrar(pipe: Connection, data: Path) -> None:
    """Serve NiFi's protocol alone, without rate limits, to whoever has the token."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for the life of the process
    overrides = wiring.Overrides(
        nifi={"listen": Address("127.0.0.1", 0), "hostname": "localhost", "any_name": True},
        token=Secret(TOKEN.encode()),
        alone=True,
    )
    service = wiring.open_service(data, overrides, passphrase=None)
    serve(service, ready=lambda place: pipe.send(place.nifi), limits=UNLIMITED)


def served(rounds: int, count: int) -> None:
    """Print what an enrolment costs the server."""
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        server = start(registrar, Path(scratch) / "registrar")
        try:
            for number in range(rounds + 1):
                row = limits(count)
                kinds: list[tuple[str, Callable[[list[bytes]], Coroutine[None, None, Load]]]] = [
                    (f"kept {n}", lambda part, n=n: newcomers.kept_alive(server.address, part, connections=n))
                    for n in CONNECTIONS
                ]
                for name, load in [*kinds, ("fresh", lambda part: fresh(server.address, part))]:
                    part = requests(count)
                    before = server.cpu()
                    seconds = uvloop.run(load(part)).seconds
                    row[name], row[f"{name} rate"] = (server.cpu() - before) / count * 1e6, count / seconds
                if number:  # the first warms up
                    rows.append(row)
        finally:
            server.close()
    for name in ("check", "sign", "handshake"):
        print(f"limit: {name:12} {middle(rows, name):7.0f} µs")
    for name in (*(f"kept {n}" for n in CONNECTIONS), "fresh"):
        goal = [row["check"] + row["sign"] + (row["handshake"] if name == "fresh" else 0) for row in rows]
        ratios = [row[name] / limit for row, limit in zip(rows, goal, strict=True)]
        print(
            f"{name:12} {middle(rows, name):7.0f} µs of CPU, {middle(rows, f'{name} rate'):5.0f} a second, "
            f"{statistics.median(ratios):.2f}x the limit ({min(ratios):.2f}-{max(ratios):.2f})"
        )


def requests(count: int) -> list[bytes]:
    """Return whole requests, each with a key of its own: P-256, which is made a thousand times faster than RSA."""
    return [request(number) for number in range(count)]


def request(number: int) -> bytes:
    """Return one request."""
    key, name = ec.generate_private_key(ec.SECP256R1()), f"n{number}.bench.internal"
    asked = (
        x509.CertificateSigningRequestBuilder(dn.reverse(dn.parse(f"CN={name}, OU=NIFI")))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return nifi.encode_request(Secret(TOKEN.encode()), asked)


def limits(count: int) -> dict[str, float]:
    """Return microseconds of CPU for a CSR check, an RSA-2048 signature, and the server's half of a handshake."""
    key, body = rsa.generate_private_key(65537, 2048), request(0)
    pem = nifi.wire.decode(body, nifi.NifiRequest).csr or ""

    def check() -> None:
        assert x509.load_pem_x509_csr(pem.encode()).is_signature_valid

    def sign() -> None:
        key.sign(body, padding.PKCS1v15(), hashes.SHA256())

    return {"check": micros(check, count), "sign": micros(sign, count), "handshake": handshake(key, count // 4)}


def micros(work: Callable[[], object], count: int) -> float:
    """Return the CPU time of one run."""
    begun = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - begun) / count * 1e6


def handshake(key: rsa.RSAPrivateKey, count: int) -> float:
    """Return the CPU time of TLS 1.3 handshakes in a bare loop of the standard library, measured in its process."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=bare_tls, args=(there, key))
    process.start()
    server = Server(process, Address.parse(here.recv()))
    try:
        before = server.cpu()
        uvloop.run(newcomers.handshakes(server.address, count - count % FRESH, connections=FRESH))
        return (server.cpu() - before) / (count - count % FRESH) * 1e6
    finally:
        server.close()


def bare_tls(pipe: Connection, key: rsa.RSAPrivateKey) -> None:
    """Serve handshakes with this key, and nothing else."""
    import socket
    import ssl
    from datetime import UTC, datetime

    from handfast.adapters.tls import foreign_server_context
    from handfast.core import nifi_x509

    root = nifi_x509.root(key, subject=dn.parse("CN=localhost, OU=NIFI"), days=1, now=datetime.now(UTC))
    context = foreign_server_context(root, key)
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    pipe.send(f"127.0.0.1:{listening.getsockname()[1]}")
    while True:
        raw, _ = listening.accept()
        with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(raw, server_side=True) as tls:
            tls.recv(1)


async def fresh(address: Address, bodies: list[bytes]) -> Load:
    """Connect, post and close, for each body."""
    import asyncio

    queue, load = list(bodies), Load()

    async def work() -> None:
        while queue:
            body = queue.pop()
            peer = await newcomers.Peer.connect(address)
            await peer.request("POST", "/", body)
            await peer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(FRESH)))
    load.seconds = time.perf_counter() - begun
    return load


# --- the client ---


def ran(rounds: int, toolkit: Path | None) -> None:
    """Print what a client's run takes, against our server, and the original's beside it where it is here."""
    with tempfile.TemporaryDirectory() as scratch, our_server(Path(scratch)):
        token = Path(scratch) / "token"
        clients = {"handfast": [*HANDFAST, "tls-toolkit", "client", "--token-file", str(token)]}
        if toolkit is not None:
            java = ["java", "-cp", f"{toolkit}/classpath:{toolkit}/lib/*"]
            clients["original"] = [*java, "org.apache.nifi.toolkit.tls.TlsToolkitMain", "client", "-t", TOKEN]
        times: dict[str, list[float]] = {name: [] for name in clients}
        for number in range(rounds + 1):
            for name, command in clients.items():
                where = Path(scratch) / f"{name} {number}"
                where.mkdir()
                begun = time.perf_counter()
                call = [*command, "-c", "localhost", "-p", str(PORT), "-D", "CN=localhost, OU=NIFI"]
                subprocess.run(call, cwd=where, check=True, capture_output=True)
                if number:
                    times[name].append(time.perf_counter() - begun)
                shutil.rmtree(where)
    ours = times["handfast"]
    print(f"client: handfast {statistics.median(ours):.2f} s ({min(ours):.2f}-{max(ours):.2f})")
    if "original" in times:
        theirs = times["original"]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        print(
            f"client: original {statistics.median(theirs):.2f} s ({min(theirs):.2f}-{max(theirs):.2f}), "
            f"{statistics.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f})"
        )


@contextlib.contextmanager
def our_server(scratch: Path) -> Iterator[None]:
    """Run `handfast tls-toolkit server` for the clients."""
    token = scratch / "token"
    token.touch(0o600)
    token.write_text(TOKEN, "ascii")
    where = scratch / "server"
    where.mkdir(0o700)
    command = [*HANDFAST, "tls-toolkit", "server", "--token-file", str(token), "-c", "localhost", "-p", str(PORT)]
    with subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            for line in process.stdout or ():
                if b"Server Started" in line:
                    break
            yield
        finally:
            process.terminate()


def middle(rows: list[dict[str, float]], key: str) -> float:
    """Return the median of a column."""
    return statistics.median(row[key] for row in rows)


if __name__ == "__main__":
    main()
