"""
Our `tls-toolkit client` and `status` against the real toolkit's servers, and the files in the real toolkit's hands.

Each release differs on the wire or in what it issues (tests/interop/nifi_toolkit.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.interop import nifi_node
from tests.interop.hosts import HANDFAST, Done, Host, Network, Process, program
from tests.interop.nifi_node import Pair
from tests.interop.nifi_toolkit import VERSIONS, Toolkit

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "keytool")]
TOKEN = "7vTc0qJmR2kXwZ8yLbN4"
SUBJECT = "CN=node1.lan, OU=NIFI"
NAMES = ("node1.lan", "a.lan", "n1.lan", "n2.lan")
ASKED = ("-D", SUBJECT, "--subjectAlternativeNames", "a.lan,n[1-2].lan,10.0.0.7")
FILES = {"keystore.jks", "truststore.jks", "config.json", "nifi-cert.pem", "nifi-chain.pem", "nifi-key.pem"}


@dataclass(frozen=True)
class Place:
    """A real CA of one release, and directories beside it in which ours is run."""

    version: str
    host: Host
    ca: Process

    def run(self, where: str, *arguments: str | Path, code: int | None = 0) -> Done:
        """Run ``handfast tls-toolkit`` in a directory of its own."""
        (self.path(where)).mkdir(exist_ok=True)
        command = ("sh", "-c", 'cd "$0" && exec "$@"', self.path(where), *HANDFAST, "tls-toolkit", *arguments)
        return self.host.run(*command, code=code)

    def client(self, where: str, *arguments: str | Path, token: str = TOKEN, code: int | None = 0) -> Done:
        """Run ``client``."""
        file = self.host.put("token", token)
        return self.run(where, "client", *arguments, "-p", "9443", "--token-file", file, code=code)

    def path(self, where: str) -> Path:
        """Return the directory ``where``."""
        return self.host.directory / f"{where}-{self.version}"

    def config(self, where: str) -> dict[str, Any]:
        """Return config.json there."""
        content: dict[str, Any] = json.loads((self.path(where) / "config.json").read_bytes())
        return content

    def keytool(self, where: str, store: str, which: str) -> str:
        """Return what Java says of a store."""
        password = self.config(where)[f"{which}Password"]
        return self.host.run(
            program("keytool"), "-list", "-v", "-keystore", self.path(where) / store, "-storepass", password
        ).stdout


@pytest.fixture(
    scope="module",
    params=[pytest.param(version, marks=pytest.mark.peer(f"nifi-toolkit-{version}")) for version in VERSIONS],
)
def place(request: pytest.FixtureRequest, net: Network) -> Iterator[Place]:
    """A real CA that listens."""
    toolkit = Toolkit(request.param, net.office, {})
    ca = toolkit.serve(f"ca-{request.param}", "-t", TOKEN, "-c", "localhost", "-p", "9443")
    yield Place(request.param, net.office, ca)
    ca.stop()


def test_a_node_enrolls_with_the_real_ca_and_java_reads_its_stores(place: Place) -> None:
    """Subject, names, chain and issuer as they were asked for, in stores that Java opens; the PEM files agree."""
    done = place.client("jks", *ASKED)
    assert {path.name for path in place.path("jks").iterdir()} == FILES | {".tls-toolkit.lock"}
    listed = place.keytool("jks", "keystore.jks", "keyStore")
    for text in (
        "Alias name: nifi-key", "Entry type: PrivateKeyEntry", "Certificate chain length: 2", f"Owner: {SUBJECT}",
        "Issuer: CN=localhost, OU=NIFI", *(f"DNSName: {name}" for name in NAMES),
    ):  # fmt: skip
        assert text in listed
    mangled = place.version == "1.28.1"
    assert ("IPAddress: 10.0.0.7" in listed, "DNSName: #04040a000007" in listed) == (not mangled, mangled)
    assert ("wrote the address 10.0.0.7 as a DNS name" in done.stderr) == mangled
    assert "Alias name: nifi-cert\n" in place.keytool("jks", "truststore.jks", "trustStore")
    assert "trustedCertEntry" in place.keytool("jks", "truststore.jks", "trustStore")
    leaf, root = x509.load_pem_x509_certificates((place.path("jks") / "nifi-chain.pem").read_bytes())
    assert leaf.subject.rfc4514_string() == "CN=node1.lan,OU=NIFI"
    leaf.verify_directly_issued_by(root)


def test_pkcs12_is_java_s_too(place: Place) -> None:
    """-T changes the type of the key store and its name."""
    place.client("p12", "-T", "PKCS12", "-D", SUBJECT)
    assert "Entry type: PrivateKeyEntry" in place.keytool("p12", "keystore.pkcs12", "keyStore")


def test_a_key_of_ec_is_certified(place: Place) -> None:
    """What the original could ask for by its configuration alone."""
    place.client("ec", "-a", "EC", "-k", "384", "-D", SUBJECT)
    assert "384-bit EC" in place.keytool("ec", "keystore.jks", "keyStore")


def test_another_token_gets_nothing(place: Place) -> None:
    """403, in words, and 3 as the original."""
    done = place.client("wrong", token="another-token-of-20-b", code=3)
    assert "answered with status 403: 'forbidden'" in done.stderr
    assert {path.name for path in place.path("wrong").iterdir()} == {".tls-toolkit.lock", ".keystore.jks.pending"}


def test_another_name_of_the_ca_is_sent_nothing(place: Place) -> None:
    """The real CA cannot be addressed by its address: the original says so too, in its own words."""
    done = place.client("address", "-c", "127.0.0.1", code=3)
    assert "127.0.0.1" in done.stderr
    assert place.path("address").joinpath(".keystore.jks.pending").exists()


def test_the_real_client_goes_on_with_our_directory(place: Place) -> None:
    """It opens our stores with our configuration, keeps the key, and changes nothing that matters."""
    place.client("back", "-D", SUBJECT)
    config = place.config("back")
    key = place.keytool("back", "keystore.jks", "keyStore")
    config["token"] = TOKEN  # it insists on one, and does not use it
    place.host.put(f"back-{place.version}/config.json", json.dumps(config))
    toolkit = Toolkit(place.version, place.host, {})
    toolkit.run(f"back-{place.version}", "client", "-F")
    fingerprint = [line for line in key.splitlines() if "SHA256:" in line]
    assert len(fingerprint) == 2
    again = place.keytool("back", "keystore.jks", "keyStore")
    assert [line for line in again.splitlines() if "SHA256:" in line] == fingerprint


def test_we_go_on_with_the_real_client_s_directory(place: Place) -> None:
    """A node that the original enrolled is kept as it is, without a word to the CA, and gets its PEM files."""
    toolkit = Toolkit(place.version, place.host, {})
    toolkit.run(f"forth-{place.version}", "client", "-t", TOKEN, "-p", "9443", *ASKED)
    before = (place.path("forth") / "keystore.jks").read_bytes()
    done = place.run("forth", "client", "-F")
    assert f"enrolled already as {SUBJECT}" in done.stderr
    assert (place.path("forth") / "keystore.jks").read_bytes() == before
    assert {path.name for path in place.path("forth").iterdir()} == FILES | {".tls-toolkit.lock"}
    done = place.run("forth", "client", "-D", SUBJECT, "--token-file", place.host.put("token", TOKEN), "-p", "1")
    assert "enrolled already" in done.stderr


@pytest.mark.peer("javac")
def test_two_java_programs_meet_with_our_stores(place: Place) -> None:
    """Mutual TLS of nodes that ours enrolled with the real CA: JKS, and PKCS #12 with a password for the key (-g)."""
    properties = []
    for name, kind in (("one", ("-T", "jks", "-g")), ("two", ("-T", "pkcs12", "-g"))):
        place.client(name, "-D", f"CN={name}.lan, OU=NIFI", *kind)
        text = nifi_node.stores(place.config(name), place.path(name))
        properties.append(place.host.put(f"{name}-{place.version}.properties", text))
    pair = Pair(place.host, properties[0])
    try:
        assert "hello CN=two.lan,OU=NIFI" in pair.call(properties[1], "one.lan").stdout
    finally:
        pair.process.stop()


def test_status_asks_the_real_server(place: Place) -> None:
    """The CA is an HTTPS server: with the trust store of a node it is verified, with another it is not."""
    place.client("asks", "-D", SUBJECT)
    config = place.config("asks")
    password = place.host.put("password", config["trustStorePassword"])
    flags = ("-ts", "truststore.jks", "--truststore-password-file", password)
    answered = place.run("asks", "status", "-u", "https://localhost:9443", *flags)
    assert answered.stdout.startswith("Response Code - ")
    refused = place.run("asks", "status", "-u", "https://127.0.0.1:9443", *flags, code=3)
    assert "does not verify" in refused.stderr
