"""
Apache NiFi's own TLS toolkit and classes do here what Handfast's counterpart is tested against.

These are tests of the peers: that they run, what they write, and the exit codes which are the measure of ours.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop import nifi_node
from tests.interop.hosts import Network
from tests.interop.nifi_node import Pair, node
from tests.interop.nifi_toolkit import TOKEN, VERSIONS, Toolkit

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "keytool", "openssl")]
NEWEST = pytest.mark.peer("nifi-toolkit-1.28.1")
EACH = [pytest.param(version, marks=pytest.mark.peer(f"nifi-toolkit-{version}")) for version in VERSIONS]
CLIENT = {"config.json", "keystore.jks", "truststore.jks", "nifi-cert.pem"}


@pytest.fixture(scope="module")
def toolkit(net: Network) -> Toolkit:
    """The last release, on the server's machine."""
    return Toolkit("1.28.1", net.server, {})


@pytest.mark.parametrize("version", EACH)
def test_the_real_client_enrolls_with_the_real_server(net: Network, version: str) -> None:
    """Each release hands its client a certificate of one TLS version or the other, and ends when it is told to."""
    toolkit = Toolkit(version, net.server, {"ca.lan": "127.0.0.1", "node.lan": net.SERVER})
    ca, client = f"ca-{version}", f"client-{version}"
    server = toolkit.serve(ca, "-t", TOKEN, "-c", "ca.lan", "-p", "9443")
    try:
        toolkit.run(client, "client", "-t", TOKEN, "-c", "ca.lan", "-p", "9443", "-D", "CN=node.lan, OU=NIFI")
        spoken = net.server.run("openssl", "s_client", "-connect", "127.0.0.1:9443", "-brief").stderr
    finally:
        code = server.stop()
    assert code == 128 + 15
    assert ("TLSv1.2" in spoken) == (version == "1.11.4")
    assert toolkit.files(ca) == {"nifi-ca-keystore.jks", "config.json"}
    assert toolkit.files(client) == CLIENT
    assert {path.stat().st_mode & 0o777 for path in toolkit.path(client).iterdir()} == {0o600}
    config = json.loads((toolkit.path(client) / "config.json").read_bytes())
    assert (config["token"], config["dn"], config["keyStore"]) == (TOKEN, "CN=node.lan, OU=NIFI", "keystore.jks")
    root = x509.load_pem_x509_certificate((toolkit.path(client) / "nifi-cert.pem").read_bytes())
    assert root.subject.rfc4514_string() == "CN=ca.lan,OU=NIFI"


@pytest.mark.peer("javac", "nifi-toolkit-1.28.1")
def test_two_java_programs_meet_with_the_stores_of_the_real_client(net: Network) -> None:
    """The pair verifies its caller, and the caller the name that it called: a name that is not there is refused."""
    toolkit = Toolkit("1.28.1", net.server, {"ca.lan": "127.0.0.1"})
    server = toolkit.serve("pair-ca", "-t", TOKEN, "-c", "ca.lan")
    try:
        for name, kind in (("one", "jks"), ("two", "pkcs12")):
            common = ("-t", TOKEN, "-c", "ca.lan", "-D", f"CN={name}.lan, OU=NIFI")
            toolkit.run(f"pair-{name}", "client", *common, "-T", kind)
    finally:
        server.stop()
    properties = [net.server.put(f"{name}.properties", _stores(toolkit, f"pair-{name}")) for name in ("one", "two")]
    pair = Pair(net.server, properties[0])
    try:
        answer = pair.call(properties[1], "one.lan")
        assert answer.stdout == "hello CN=two.lan,OU=NIFI, you said good morning\n"
        refused = pair.call(properties[1], "three.lan", code=1)
        assert "No subject alternative DNS name matching three.lan found" in refused.stderr
    finally:
        pair.process.stop()


@pytest.mark.peer("javac", "mvn", "nifi-toolkit-1.28.1")
@pytest.mark.timeout(300)
def test_nifi_reads_what_the_real_standalone_writes(toolkit: Toolkit, nifi_jars: Path) -> None:
    """NiFi's own classes find the addresses in nifi.properties, open the stores, and two nodes meet."""
    toolkit.run("alone", "standalone", "-n", "one.lan,two.lan", "-C", "CN=admin, OU=NIFI")
    written = {f"{host}.lan/{name}" for host in ("one", "two")
               for name in ("keystore.jks", "truststore.jks", "nifi.properties")}  # fmt: skip
    client = {f"CN=admin_OU=NIFI.{suffix}" for suffix in ("p12", "password")}
    assert toolkit.files("alone") == {*written, *client, "nifi-cert.pem", "nifi-key.key"}
    one, two = (nifi_node.installed(toolkit.path("alone") / f"{host}.lan") for host in ("one", "two"))
    assert node(toolkit.host, nifi_jars, "describe", one).stdout.splitlines() == [
        "web one.lan:9443",
        "site-to-site one.lan:10443 secure true",
        "cluster one.lan:11443 secure true",
        "http null",
    ]
    met = node(toolkit.host, nifi_jars, "meet", one, two).stdout
    assert met == "hello CN=two.lan,OU=NIFI, by CN=one.lan,OU=NIFI\n"


@NEWEST
@pytest.mark.parametrize(
    ("arguments", "code", "first"),
    [
        ((), 2, "Expected at least a service argument."),
        (("-h",), 2, "Unknown service: -h"),
        (("client", "-h"), 1, "usage: org.apache.nifi.toolkit.tls.TlsToolkitMain"),
        (("client",), 8, "token argument must not be empty unless useConfigJson or configJsonIn set"),
        (("server", "-t", "fifteen bytes.."), 9, "token does not meet minimum size of 16 bytes"),
        (("client", "-t", TOKEN, "-p", "x"), 7, 'Expected integer for PORT argument. (For input string: "x")'),
        (("client", "-t", TOKEN, "-d", "5"), 4, "Error parsing command line. (Unrecognized option: -d)"),
        (("client", "-t", TOKEN, "-p", "1"), 3, "Service client error: Connect to localhost:1 "),
        (("standalone", "-n", "h", "-f", "none"), 10, "Unable to read nifi.properties from none"),
        (("standalone", "-C", "CN=c", "-B", "123456", "-B", "123456"), 6, "Expected either 1 value or 1 "),
        (("standalone", "--splitKeystore", "none", "-S", "x"), 5, "Error splitting keystore. (none "),
        (("status",), 2, "Url was missing or blank"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_exit_codes(toolkit: Toolkit, arguments: tuple[str, ...], code: int, first: str) -> None:
    """The reason is the first line of stdout, the code tells its kind, and nothing is written."""
    done = toolkit.run("wrong", *arguments, code=code)
    assert done.stdout.startswith(first)
    assert toolkit.files("wrong") == set()


def _stores(toolkit: Toolkit, where: str) -> str:
    """The properties which name the stores of a client."""
    directory = toolkit.path(where)
    return nifi_node.stores(json.loads((directory / "config.json").read_bytes()), directory)
