"""Scans of Debian's sshd, compared with what ssh-keyscan sees there and with the files that it has."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import socket
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handfast.core import sshcert, sshkeys
from handfast.core.sshkeys import SshKey
from handfast.core.sshwire import ALGORITHMS
from handfast.errors import Malformed, Unreachable
from handfast.ssh.guard import Guard
from handfast.ssh.scan import Scanned, Scanner
from tests.interop.hosts import Host, Process, program

pytestmark = pytest.mark.peer("ssh", "sshd", "ssh-keygen")  # ssh-keyscan comes with ssh
KINDS = {"ed25519": "", "ecdsa": "-b 384", "rsa": "-b 2048"}
PLACE = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Sshd:
    """An sshd with keys of its own, at a free port."""

    host: Host
    directory: Path
    process: Process
    port: int

    @classmethod
    def start(cls, host: Host, name: str, kinds: dict[str, str], *settings: str, certificates: bool = False) -> Sshd:
        """Make the keys, and wait until it listens."""
        directory = host.directory / name
        directory.mkdir()
        for kind, flags in kinds.items():
            host.run("ssh-keygen", "-q", "-t", kind, *flags.split(), "-N", "", "-f", directory / kind)
        keys = [f"HostKey {directory / kind}" for kind in kinds]
        if certificates:
            host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "ca")
            for kind in kinds:
                sign = ("-s", directory / "ca", "-I", name, "-h", "-n", "db1.example", directory / f"{kind}.pub")
                host.run("ssh-keygen", "-q", *sign)
            keys += [f"HostCertificate {directory / kind}-cert.pub" for kind in kinds]
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself up; packages leave it to systemd
        with socket.create_server((PLACE, 0)) as probe:
            port: int = probe.getsockname()[1]
        lines = [f"ListenAddress {PLACE}:{port}", *keys, "UsePAM no", "StrictModes no", "PidFile none", *settings]
        config = host.put(f"{name}.conf", "".join(f"{line}\n" for line in lines))
        process = host.start(program("sshd"), "-D", "-e", "-f", config)
        process.expect(f"Server listening on {PLACE}")
        return cls(host, directory, process, port)

    def public(self, kind: str) -> SshKey:
        """The key in its file."""
        return sshkeys.parse((self.directory / f"{kind}.pub").read_text())

    def scan(self, algorithms: tuple[str, ...] = ALGORITHMS) -> Scanned:
        """Scan it, by a scanner that allows loopback."""
        guard = Guard(allow=(ipaddress.ip_network("127.0.0.0/8"),), ports=(self.port,))
        return asyncio.run(Scanner().scan(guard.target(ipaddress.ip_address(PLACE), self.port), algorithms))

    def keyscan(self, *flags: str) -> set[tuple[str, str]]:
        """What ssh-keyscan sees there: algorithm and base64. Before certificates it prints no host."""
        lines = self.host.run("ssh-keyscan", "-p", str(self.port), *flags, PLACE).stdout.splitlines()
        return {(fields[-2], fields[-1]) for fields in map(str.split, lines) if not fields[0].startswith("#")}


@pytest.fixture(scope="module")
def sshd(here: Host) -> Iterator[Sshd]:
    """An sshd with three kinds of keys, each with a certificate."""
    started = Sshd.start(here, "every", KINDS, certificates=True)
    yield started
    started.process.stop()


def test_the_keys_are_those_of_its_files(sshd: Sshd) -> None:
    """Every key and every certificate is shown, exactly as it lies on the machine's disk, whatever its kind."""
    scanned = sshd.scan()
    assert set(scanned.keys) == {sshd.public(kind) for kind in KINDS}
    files = [(sshd.directory / f"{kind}-cert.pub").read_text().split() for kind in KINDS]
    shown = {b64encode(each).decode() for each in scanned.certificates}
    assert shown == {fields[1] for fields in files}
    assert {sshcert.read(each).key for each in scanned.certificates} == set(scanned.keys)
    assert scanned.banner.startswith("SSH-2.0-OpenSSH")
    assert {"ssh-ed25519", "rsa-sha2-256-cert-v01@openssh.com"} <= set(scanned.offered)


def test_ssh_keyscan_agrees(sshd: Sshd) -> None:
    """ssh-keyscan sees the same keys, and with -c the same certificates."""
    scanned = sshd.scan()
    assert {(key.algorithm, key.base64) for key in scanned.keys} == sshd.keyscan("-t", "ed25519,ecdsa,rsa")
    shown = {b64encode(each).decode() for each in scanned.certificates}
    assert shown == {text for _, text in sshd.keyscan("-c", "-t", "ed25519,ecdsa,rsa")}


@pytest.mark.parametrize("exchange", ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256"])
def test_each_key_exchange(here: Host, exchange: str) -> None:
    """An sshd that allows but one of them is scanned all the same; the other side computes what we compute."""
    sshd = Sshd.start(here, exchange.replace("@", "-"), {"ed25519": ""}, f"KexAlgorithms {exchange}")
    assert sshd.scan().keys == (sshd.public("ed25519"),)
    sshd.process.stop()


def test_an_exchange_of_tomorrow(here: Host) -> None:
    """An sshd that allows only what is thought safe from quantum computers is scanned, where sshd has that."""
    known = here.run("ssh", "-Q", "kex").stdout.split()
    wanted = "mlkem768x25519-sha256" if "mlkem768x25519-sha256" in known else "sntrup761x25519-sha512@openssh.com"
    sshd = Sshd.start(here, "quantum", {"ed25519": ""}, f"KexAlgorithms {wanted}")
    if wanted.startswith("mlkem"):
        assert sshd.scan().keys == (sshd.public("ed25519"),)
    else:
        with pytest.raises(Unreachable, match=f"no key exchange in common with us, only '{wanted}"):
            sshd.scan()
    sshd.process.stop()


def test_only_rsa_with_sha256(here: Host) -> None:
    """Where a server signs by RSA with SHA-256 alone, that is asked for; ssh-rsa with SHA-1 is named and left."""
    setting = "HostKeyAlgorithms rsa-sha2-256,ssh-rsa"
    sshd = Sshd.start(here, "rsa256", {"rsa": "-b 3072"}, setting)
    scanned = sshd.scan()
    assert (scanned.keys, scanned.offered) == ((sshd.public("rsa"),), ("rsa-sha2-256", "ssh-rsa"))
    sshd.process.stop()


def test_only_sha1_is_left(here: Host) -> None:
    """A server that signs with SHA-1 alone proves nothing, and what it offers is known."""
    sshd = Sshd.start(here, "sha1", {"rsa": "-b 2048"}, "HostKeyAlgorithms ssh-rsa")
    scanned = sshd.scan()
    assert (scanned.keys, scanned.offered) == ((), ("ssh-rsa",))
    sshd.process.stop()


def test_a_weak_key_is_refused(here: Host) -> None:
    """A real RSA key of 1024 bits is not taken, and the scan says why."""
    sshd = Sshd.start(here, "weak", {"rsa": "-b 1024"}, "RequiredRSASize 1024")
    with pytest.raises(Malformed, match="1024 bits"):
        sshd.scan()
    sshd.process.stop()


def test_a_key_that_changed_between_two_scans(here: Host) -> None:
    """A machine that was made anew at the same place shows its new key."""
    first = Sshd.start(here, "first", {"ed25519": ""})
    seen = first.scan().keys
    first.process.stop()
    shutil.rmtree(first.directory)
    second = Sshd.start(here, "second", {"ed25519": ""})
    assert seen != second.scan().keys == (second.public("ed25519"),)
    second.process.stop()
