"""
What was asked for years ago: a certificate by ACME introduces its host, and leads to a host certificate for its names.

Every program is real: pebble, Knot, lego, sshd, ssh, and ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.interop.acme_stage import ZONE, Acme, User
from tests.interop.hosts import Network, Registrar, program
from tests.interop.ssh_stage import Sshd, make_key

pytestmark = [
    pytest.mark.peer("curl", "ip", "knotd", "lego", "openssl", "pebble", "ssh", "ssh-keygen", "sshd"),
    pytest.mark.root,
    pytest.mark.timeout(300),
]
NAMES = (f"web1.{ZONE}", f"www.{ZONE}")
_CONFIG = """\
[methods]
x5c = ["server"]

[x5c]
roots = ["{root}"]
names = ["*.{zone}"]

[ssh.certificates]
patterns = ["*.{zone}"]
"""


@pytest.fixture(scope="module")
def acme(net: Network) -> Acme:
    """Their authority, and names that lead to the server."""
    return Acme(net, f"web1 A {net.SERVER}", f"www A {net.SERVER}", f"old A {net.SERVER}", f"new A {net.SERVER}")


@pytest.fixture(scope="module")
def registrar(net: Network, acme: Acme) -> Registrar:
    """Ours, which trusts their root for the names of the zone."""
    (net.registrar.directory / "registrar").mkdir(mode=0o700)
    net.registrar.put("registrar/config.toml", _CONFIG.format(root=acme.root, zone=ZONE))
    return Registrar(net.registrar, f"{net.REGISTRAR}:7443")


@pytest.fixture(scope="module")
def sshd(net: Network) -> Sshd:
    """The server's sshd, which takes up certificates where `join` writes them."""
    make_key(net.server.directory / "id")
    kinds, etc = ("ed25519", "ecdsa"), net.server.directory / "web1" / "etc"
    settings = "".join(f"HostCertificate {etc}/ssh_host_{kind}_key-cert.pub\n" for kind in kinds)
    return Sshd(net.server, "web1", address=net.SERVER, port=22, kinds=kinds, settings=settings)


def target(registrar: Registrar) -> str:
    """URL#PIN, as it is typed."""
    return f"{registrar.ready['url']}#{registrar.ready['pin']}"


def keys_of(sshd: Sshd) -> Path:
    """The sshd's host keys, where `--ssh-dir` looks for them."""
    directory = sshd.directory / "etc"
    directory.mkdir(exist_ok=True)
    for kind in sshd.keys:
        for suffix in ("", ".pub"):
            shutil.copy(sshd.directory / f"{kind}{suffix}", directory / f"ssh_host_{kind}_key{suffix}")
    return directory


def test_P24_from_acme_to_ssh(net: Network, acme: Acme, registrar: Registrar, sshd: Sshd) -> None:
    """A certificate by ACME leads to certificates for exactly its names; ssh needs to know no more than our CA."""
    certificate, key = acme.certificate(net.server, *NAMES)
    etc = keys_of(sshd)
    joined = net.server.handfast("join", "--x5c", certificate, key, target(registrar), "--out", "id1", "--ssh-dir", etc)
    assert f"joined as {NAMES[0]} (server)" in joined.stderr
    about = json.loads((net.server.directory / "id1" / "identity.json").read_bytes())
    assert (about["method"], sorted(about["names"])) == ("x5c", sorted(NAMES))

    shown = net.registrar.handfast("host", "show", NAMES[0], "--data", registrar.data, "--json").json()
    assert {one["how"] for each in shown["keys"] for one in each["evidence"]} == {"x5c"}
    assert sorted(shown["names"]) == sorted(NAMES)

    for kind in sshd.keys:
        listed = net.server.run(program("ssh-keygen"), "-L", "-f", etc / f"ssh_host_{kind}_key-cert.pub").stdout
        principals = listed.split("Principals:")[1].split("Critical Options:")[0].split()
        assert sorted(principals) == sorted(NAMES), listed

    sshd.restart(*sshd.keys)
    line = net.registrar.handfast("ca", "ssh", "--data", registrar.data).stdout
    user = User(net, net.server.directory / "id", line)
    for name in NAMES:
        assert user.ssh(name).stdout.strip() == "web1"
    refused = user.ssh(f"old.{ZONE}", code=255).stderr  # leads there too, and is not in the certificate
    assert "Host key verification failed" in refused


def test_a_certificate_is_for_one_key(net: Network, acme: Acme, registrar: Registrar) -> None:
    """The same certificate with a second key is refused, and told to the operator; one anew is welcome."""
    certificate, key = acme.certificate(net.server, f"old.{ZONE}")
    at = target(registrar)
    net.server.handfast("join", "--x5c", certificate, key, at, "--out", "old1")
    again = net.server.handfast("join", "--x5c", certificate, key, at, "--out", "old1", "--json")
    assert again.json()["name"] == f"old.{ZONE}"
    refused = net.server.handfast("join", "--x5c", certificate, key, at, "--out", "old2", code=3)
    assert "another key" in refused.stderr
    alarms = registrar.show(f"old.{ZONE}")["alarms"]
    assert [alarm["kind"] for alarm in alarms] == ["alarm.second-key"]
    net.server.handfast("renew", "--out", "old1")


def test_other_host_keys_wait_for_a_person(net: Network, acme: Acme, registrar: Registrar) -> None:
    """Who comes with a new certificate for a known host, and other host keys, gets nothing until somebody says yes."""
    data, at = ("--data", registrar.data), target(registrar)
    certificate, key = acme.certificate(net.server, f"new.{ZONE}")
    first, second = (net.server.directory / name for name in ("keys1", "keys2"))
    for directory in (first, second):
        directory.mkdir()
        make_key(directory / "ssh_host_ed25519_key")
    net.server.handfast("join", "--x5c", certificate, key, at, "--out", "new1", "--ssh-dir", first)
    certificate, key = acme.certificate(net.server, f"new.{ZONE}")
    again = ("join", "--x5c", certificate, key, at, "--out", "new2", "--ssh-dir", second)
    waiting = net.server.handfast(*again, code=6)
    assert "a person has to approve these host keys" in waiting.stderr
    assert not (second / "ssh_host_ed25519_key-cert.pub").exists()

    [asked] = net.registrar.handfast("approve", "list", *data, "--json").json()
    net.registrar.handfast("approve", "accept", asked["approval_id"], *data, "--reason", "a new board")
    net.server.handfast(*again)
    assert (second / "ssh_host_ed25519_key-cert.pub").exists()
