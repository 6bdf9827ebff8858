"""NiFi's own clients of three ages at our server: what they get, what Java makes of it, and what others do not get."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import tls
from handfast.core import dn
from tests.attacks.mitm import message
from tests.interop import nifi_node
from tests.interop.hosts import HANDFAST, Host, Network, Process, Registrar, program
from tests.interop.nifi_node import Pair
from tests.interop.nifi_toolkit import VERSIONS, Toolkit

TOKEN = "correct horse battery staple"
NEWEST = pytest.mark.peer("nifi-toolkit-1.28.1")
CA, PORT = "ca.lan", 9443
SANS = "--subjectAlternativeNames"


class NifiRegistrar(Registrar):
    """A registrar that serves NiFi's clients as well, under the name ``ca.lan``."""

    def __init__(self, host: Host, listen: str, nifi: str, *, config: str = "", hosts: Path | None = None) -> None:
        self.hosts = hosts
        flags = ["--nifi-listen", nifi, "--nifi-hostname", CA]
        flags += ["--nifi-token-file", str(host.put("nifi-token", TOKEN))]
        if config:
            flags += ["--config", str(host.put("nifi-config.toml", config))]
        super().__init__(host, listen, *flags, data="nifi-registrar")

    def up(self, listen: str | None = None, *, command: tuple[str, ...] = HANDFAST, env: Any = None) -> None:
        """Start it where /etc/hosts is another file, if there is one."""
        if self.hosts is not None:
            bound = 'mount --bind "$0" /etc/hosts && exec "$@"'
            command = ("unshare", "--mount", "sh", "-c", bound, str(self.hosts), *command)
        super().up(listen, command=command, env=env)

    @property
    def nifi_port(self) -> int:
        """Where it listens for NiFi's clients."""
        return int(str(self.ready["nifi"]).rpartition(":")[2])

    def token(self, name: str, *flags: str) -> str:
        """Return a one-time token."""
        return self.host.handfast("invite", name, "--nifi", "--data", self.data, *flags).stdout.strip()


@pytest.fixture(scope="module")
def ours(here: Host) -> NifiRegistrar:
    """A registrar on loopback; the shared token is good for the names of one domain."""
    config = "[nifi]\nallow_dn = ['CN=*.nifi.lan, OU=NIFI']\nallow_san = ['*.lan', '10.0.0.0/24', 'fd00::/64']\n"
    return NifiRegistrar(here, "", "127.0.0.1:0", config=config)


def client(here: Host, version: str = "1.28.1") -> Toolkit:
    """A toolkit which finds the CA on this machine."""
    return Toolkit(version, here, {CA: "127.0.0.1"})


def asking(port: int, name: str, token: str = TOKEN) -> tuple[str, ...]:
    """The arguments of a client that asks for a node's certificate."""
    return ("client", "-t", token, "-c", CA, "-p", str(port), "-D", f"CN={name}, OU=NIFI")


def listed(host: Host, directory: Path) -> str:
    """What keytool makes of the stores of a client's config.json."""
    config = json.loads((directory / "config.json").read_bytes())
    lists = [
        host.run(program("keytool"), "-list", "-v", "-keystore", directory / config[f"{which}Store"],
                 "-storepass", config[f"{which}StorePassword"]).stdout
        for which in ("key", "trust")
    ]  # fmt: skip
    return "".join(lists)


def properties(host: Host, directory: Path, name: str) -> Path:
    """Write what a node is told of the stores of a client."""
    config = json.loads((directory / "config.json").read_bytes())
    return host.put(f"{name}.properties", nifi_node.stores(config, directory))


@pytest.mark.peer("keytool")
@pytest.mark.parametrize(
    ("version", "kind"),
    [
        pytest.param(version, kind, marks=pytest.mark.peer(f"nifi-toolkit-{version}"), id=f"{version} {kind[-1]}")
        for version, kind in (
            ("1.28.1", ("-T", "jks")),
            ("1.28.1", ("-T", "PKCS12")),
            ("1.23.2", ("-g",)),
            ("1.11.4", ("-T", "PKCS12")),
        )
    ],
)
def test_real_clients(here: Host, ours: NifiRegistrar, version: str, kind: tuple[str, ...]) -> None:
    """Each release enrols with the shared token; addresses stay addresses; keytool reads what it wrote."""
    toolkit, where = client(here, version), f"{version}{''.join(kind)}"
    name = f"node{VERSIONS.index(version)}{kind[-1].strip('-').lower()}.nifi.lan"
    toolkit.run(where, *asking(ours.nifi_port, name), SANS, "balancer.lan,10.0.0.7,fd00::7", *kind)
    read = listed(here, toolkit.path(where))
    for line in (
        "Alias name: nifi-key", "Entry type: PrivateKeyEntry", "Certificate chain length: 2",
        "Alias name: nifi-cert", "Entry type: trustedCertEntry",
        f"Owner: CN={name}, OU=NIFI", f"Issuer: CN={CA}, OU=NIFI",
        f"DNSName: {name}", "DNSName: balancer.lan", "IPAddress: 10.0.0.7", "IPAddress: fd00:0:0:0:0:0:0:7",
    ):  # fmt: skip
        assert line in read
    shown = ours.show(name)
    assert (shown["role"], shown["credentials"][0]["method"]) == ("peer", "nifi")
    assert ours.show(name)["alarms"] == []


@pytest.mark.peer("javac", "nifi-toolkit-1.28.1", "nifi-toolkit-1.11.4")
def test_two_java_nodes_meet(here: Host, ours: NifiRegistrar) -> None:
    """Nodes of the newest and the oldest release, by a shared and by a one-time token, verify each other's names."""
    token = ours.token("two.far.lan", "--san", "two.far.lan")
    client(here).run("one", *asking(ours.nifi_port, "one.nifi.lan"))
    client(here, "1.11.4").run("two", *asking(ours.nifi_port, "two.far.lan", token), "-g")
    one, two = (properties(here, here.directory / name, name) for name in ("one", "two"))
    for serving, calling, called, caller in (
        (one, two, "one.nifi.lan", "two.far.lan"),
        (two, one, "two.far.lan", "one.nifi.lan"),
    ):
        pair = Pair(here, serving)
        try:
            said = pair.call(calling, called).stdout
            assert said == f"hello CN={caller},OU=NIFI, you said good morning\n"
            assert "No subject alternative DNS name" in pair.call(calling, "three.lan", code=1).stderr
        finally:
            pair.process.stop()


@pytest.mark.peer("nifi-toolkit-1.23.2")
@pytest.mark.parametrize(("disabled", "code"), [("TLSv1.3", 0), ("TLSv1.2", 0), ("TLSv1.2, TLSv1.3", 3)])
def test_java_of_any_age(here: Host, ours: NifiRegistrar, disabled: str, code: int) -> None:
    """Java 8 speaks TLS 1.2, later ones 1.3: either is enough, and without both there is nothing older."""
    security = here.put("java.security", f"jdk.tls.disabledAlgorithms={disabled}\n")
    env = {"JAVA_TOOL_OPTIONS": f"-Djava.security.properties={security}"}
    name = f"java{len(disabled)}{'old' if '2' in disabled else 'new'}.nifi.lan"
    client(here, "1.23.2").run(name, *asking(ours.nifi_port, name), code=code, env=env)


@NEWEST
@pytest.mark.parametrize(
    ("name", "token", "reason"),
    [
        ("a.nifi.lan", "another token of many bytes", '"error":"forbidden"'),
        ("elsewhere.lan", TOKEN, "not entitled to"),
        ("a.nifi.lan, O=Us", TOKEN, "not entitled to the subject"),
    ],
)
def test_real_clients_are_refused(here: Host, ours: NifiRegistrar, name: str, token: str, reason: str) -> None:
    """The original ends with 3 and prints what we said; it writes nothing."""
    toolkit = client(here)
    done = toolkit.run("refused", *asking(ours.nifi_port, name, token), code=3)
    assert "Received response code 403 with payload" in done.stdout
    assert reason in done.stdout
    assert toolkit.files("refused") == set()


@NEWEST
def test_a_one_time_token_burns(here: Host, ours: NifiRegistrar) -> None:
    """One node has it; the next is refused and is an alarm; the first one's files open nothing anew."""
    token = ours.token("burnt.lan")
    toolkit = client(here)
    toolkit.run("burnt", *asking(ours.nifi_port, "burnt.lan", token))
    done = toolkit.run("burnt-again", *asking(ours.nifi_port, "burnt.lan", token), code=3)
    assert "Received response code 403" in done.stdout
    assert ours.list()["burnt.lan"]["alarm_count"] == 1


@pytest.mark.root
@pytest.mark.peer("ip", "nifi-toolkit-1.28.1")
def test_names_that_lead_to_the_caller(net: Network) -> None:
    """Across a cable the registrar asks its own resolver: a node gets the names of its address, and no other's."""
    hosts = net.registrar.put("hosts", f"127.0.0.1 localhost\n{net.SERVER} node1.lan\n{net.OFFICE} node2.lan\n")
    NifiRegistrar(net.registrar, f"{net.REGISTRAR}:7443", f"{net.REGISTRAR}:{PORT}", hosts=hosts)
    toolkit = Toolkit("1.28.1", net.server, {CA: net.REGISTRAR})
    toolkit.run("own", *asking(PORT, "node1.lan"), SANS, net.SERVER)
    for name, sans in (("node2.lan", net.SERVER), ("node1.lan", net.OFFICE), ("node1.lan", "node2.lan")):
        done = toolkit.run("others", *asking(PORT, name), SANS, sans, code=3)
        assert "only what leads to its address" in done.stdout


@pytest.mark.root
@pytest.mark.peer("ip")
def test_addresses_that_a_machine_only_might_have(net: Network) -> None:
    """Where any address can be bound, as keepalived wants it, a caller still is this machine or is not."""
    code = (
        "import asyncio, ipaddress; from handfast.adapters.resolve import leading_to; from handfast.core.names import"
        " Names; print(asyncio.run(leading_to(Names.parse(['10.77.2.1', '10.77.2.2']),"
        f" ipaddress.ip_address('{net.REGISTRAR}'))).texts())"
    )
    assert net.registrar.run(sys.executable, "-c", code).stdout == "('10.77.2.1',)\n"
    setting = "/proc/sys/net/ipv4/ip_nonlocal_bind"
    net.registrar.run("sh", "-c", f"echo 1 > {setting}")
    try:
        assert net.registrar.run(sys.executable, "-c", code).stdout == "()\n"
    finally:
        net.registrar.run("sh", "-c", f"echo 0 > {setting}")


class Relay:
    """Ends a client's TLS with a certificate of its own, and asks the real CA: ``rewrite`` changes what it asks."""

    def __init__(self, upstream: int, rewrite: Callable[[dict[str, str]], dict[str, str]]) -> None:
        self.upstream, self.rewrite, self.answers = upstream, rewrite, list[bytes]()
        key, name = ec.generate_private_key(ec.SECP256R1()), dn.parse("CN=localhost, OU=NIFI")
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        self._context = tls.foreign_server_context(builder.sign(key, hashes.SHA256()), key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(15)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            raw.settimeout(10)
            with suppress(OSError), raw, self._context.wrap_socket(raw, server_side=True) as victim:
                self._relay(victim)

    def _relay(self, victim: ssl.SSLSocket) -> None:
        _, _, body = message(victim).partition(b"\r\n\r\n")
        asked = json.dumps(self.rewrite(json.loads(body))).encode()
        with (
            socket.create_connection(("127.0.0.1", self.upstream), timeout=10) as out,
            tls.foreign_client_context().wrap_socket(out) as authority,
        ):
            authority.sendall(b"POST / HTTP/1.1\r\nHost: ca\r\nContent-Length: %d\r\n\r\n" % len(asked) + asked)
            self.answers.append(message(authority))
        victim.sendall(self.answers[-1])


def _unchanged(asked: dict[str, str]) -> dict[str, str]:
    return asked


def _other_name(asked: dict[str, str]) -> dict[str, str]:
    request = x509.load_pem_x509_csr(asked["csr"].encode()).public_bytes(Encoding.DER)
    altered = base64.encodebytes(request.replace(b"honest", b"thieve")).decode()
    return asked | {"csr": f"-----BEGIN CERTIFICATE REQUEST-----\n{altered}-----END CERTIFICATE REQUEST-----\n"}


def _other_key(asked: dict[str, str]) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.load_pem_x509_csr(asked["csr"].encode())
    builder = x509.CertificateSigningRequestBuilder(request.subject)
    return asked | {"csr": builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()}


@NEWEST
@pytest.mark.parametrize("program_", ["theirs", "ours"])
@pytest.mark.parametrize(
    ("rewrite", "status"), [(_unchanged, b"200"), (_other_name, b"403"), (_other_key, b"403")], ids=["", "name", "key"]
)
def test_a_relay_without_the_token(
    here: Host, ours: NifiRegistrar, program_: str, rewrite: Callable[[dict[str, str]], dict[str, str]], status: bytes
) -> None:
    """No client takes his answer; he gets a certificate for the victim's own key and name, or none at all."""
    name = f"honest{program_}{rewrite.__name__.replace('_', '')}.nifi.lan"
    where = f"relayed-{name}"
    (here.directory / where).mkdir(mode=0o700)
    with closing(Relay(ours.nifi_port, rewrite)) as relay:
        asked = ("client", "-c", "localhost", "-p", str(relay.port), "-D", f"CN={name}, OU=NIFI")
        if program_ == "theirs":
            done = client(here).run(where, *asked, "-t", TOKEN, code=3)
        else:
            command = ("sh", "-c", 'cd "$0" && exec "$@"', here.directory / where, *HANDFAST, "tls-toolkit", *asked)
            done = here.run(*command, "--wait", "0", env={"HANDFAST_NIFI_TOKEN": TOKEN}, code=3)
    reason = "man in the middle" if status == b"200" else "403"
    assert reason in done.stdout + done.stderr
    (answer,) = relay.answers
    assert answer.startswith(b"HTTP/1.1 " + status)
    kept = {path.name for path in (here.directory / where).iterdir()}
    assert not kept & {"keystore.jks", "truststore.jks", "nifi-cert.pem", "nifi-chain.pem"}
    issued = [row["names"] for row in ours.show(name)["credentials"]] if status == b"200" else []
    assert issued == ([[name]] if status == b"200" else [])
    assert not [row for row in ours.list() if row.startswith("thieve")]


@pytest.mark.root
@pytest.mark.peer("ip", "javac", "nifi-toolkit-1.28.1")
def test_a_cluster_keeps_its_trust(net: Network) -> None:
    """The original's CA is taken over: a node that it certified and one that we did verify each other, both ways."""
    toolkit = Toolkit("1.28.1", net.server, {CA: "127.0.0.1", "old.lan": "127.0.0.1", "new.lan": "127.0.0.1"})
    theirs = toolkit.serve("life", "-t", TOKEN, "-c", CA)
    toolkit.run("old", *asking(PORT, "old.lan"))
    theirs.stop()
    ours = _serve(net.server, "life-ours", "--from-nifi", toolkit.path("life"), "--allow-dn", "CN=*.lan, OU=NIFI")
    toolkit.run("new", *asking(PORT, "new.lan"), "-g")
    assert ours.stop() == 0
    stores = {name: properties(net.server, toolkit.path(name), name) for name in ("old", "new")}
    for serving, calling in (("old", "new"), ("new", "old")):
        pair = Pair(net.server, stores[serving])
        try:
            assert f"hello CN={calling}.lan,OU=NIFI" in pair.call(stores[calling], f"{serving}.lan").stdout
        finally:
            pair.process.stop()


@pytest.mark.root
@pytest.mark.peer("ip", "javac", "nifi-toolkit-1.28.1")
def test_a_node_beside_its_ca(net: Network) -> None:
    """Everything on one machine, the CA under the node's own name: one subject for both, and Java minds it not."""
    toolkit = Toolkit("1.28.1", net.server, {"one.lan": "127.0.0.1"})
    ours = _serve(net.server, "beside", "-t", TOKEN, "-c", "one.lan", "--any-name")
    common = ("-t", TOKEN, "-c", "one.lan")
    toolkit.run("beside-one", "client", *common, "-D", "CN=one.lan, OU=NIFI")
    toolkit.run("beside-two", "client", *common, "-D", "CN=two.lan, OU=NIFI", "-T", "PKCS12")
    ours.stop()
    stores = {name: properties(net.server, toolkit.path(f"beside-{name}"), name) for name in ("one", "two")}
    pair = Pair(net.server, stores["one"])
    try:
        assert "hello CN=two.lan,OU=NIFI" in pair.call(stores["two"], "one.lan").stdout
    finally:
        pair.process.stop()


def _serve(host: Host, where: str, *flags: str | Path) -> Process:
    """Run ``tls-toolkit server`` in a directory, with its data beside it."""
    there = 'umask 077 && mkdir -p "$0" && cd "$0" && exec "$@"'
    data = ("--data", host.directory / f"{where}-data")
    process = host.start("sh", "-c", there, host.directory / where, *HANDFAST, "tls-toolkit", "server", *data, *flags)
    process.expect("Server Started")
    return process
