"""Our ``standalone`` and the real one, on each other's directories."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from handfast.adapters.clock import SystemClock
from handfast.core import javastore
from handfast.core.secret import Secret
from handfast.nifi.split import SplitOptions, split_keystore
from handfast.nifi.standalone import StandaloneOptions, generate
from handfast.nifi.stores import find_key
from tests.interop.hosts import Host
from tests.interop.nifi_toolkit import VERSIONS, Toolkit
from tests.nifi.local import StandIn

pytestmark = pytest.mark.peer("keytool")
EACH = [pytest.param(version, marks=pytest.mark.peer(f"nifi-toolkit-{version}")) for version in VERSIONS]
PASSWORD = Secret(b"store-pass")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """This machine: ``standalone`` has nothing to do with the network."""
    return Host(tmp_path / "host")


def chain(directory: Path) -> tuple[x509.Certificate, ...]:
    """Return the chain in a host's key store."""
    found = find_key(javastore.read((directory / "keystore.jks").read_bytes(), password=PASSWORD))
    assert found is not None
    return found[1]


@pytest.mark.parametrize("version", EACH)
def test_each_goes_on_with_the_others_ca(host: Host, version: str) -> None:
    """A CA of one is the CA of the other's next run, in both directions, and nobody's hosts are touched."""
    toolkit = Toolkit(version, host, {})
    template = host.put("template", "mine=1\n")
    for first, second in (("real", "ours"), ("ours", "real")):
        output = host.directory / f"{first}-first"
        for name in (first, second):
            if name == "real":
                toolkit.run(output.name, "standalone", "-n", "real.lan", "-S", "store-pass", "-f", template)
            else:
                options = StandaloneOptions(output=output, hostnames=("ours.lan",), keystore_passwords=(PASSWORD,))
                generate(options, StandIn(), clock=SystemClock())
        ca = x509.load_pem_x509_certificate((output / "nifi-cert.pem").read_bytes())
        for name in (first, second):
            leaf, issuer = chain(output / f"{name}.lan")
            assert issuer == ca
            leaf.verify_directly_issued_by(ca)
            assert leaf.subject.rfc4514_string() == f"CN={name}.lan,OU=NIFI"


@pytest.mark.peer("nifi-toolkit-1.28.1")
def test_the_same_files_have_the_same_names(host: Host) -> None:
    """Every file of the real one is there under the same name; ours has the PEM files besides."""
    toolkit = Toolkit("1.28.1", host, {})
    flags = ("-n", "n[01-02].lan(2)", "-C", "CN=Jane Doe,OU=NIFI", "-C", "CN=a/b, O=x", "-T", "PKCS12")
    toolkit.run("real", "standalone", *flags, "-o", ".")
    options = StandaloneOptions(
        output=host.directory / "ours",
        hostnames=("n[01-02].lan(2)",),
        client_dns=("CN=Jane Doe,OU=NIFI", "CN=a/b, O=x"),
        store_type="PKCS12",
    )
    generate(options, StandIn(), clock=SystemClock())
    ours = toolkit.files("ours")
    pem = {name for name in ours if name.split("/")[-1] in {"nifi-chain.pem", "nifi-key.pem", "nifi-cert.pem"}}
    assert ours - (pem - {"nifi-cert.pem"}) == toolkit.files("real")
    for stem in ("CN=Jane_Doe_OU=NIFI", "CN=a_b_O=x"):
        subjects = []
        for who in ("real", "ours"):
            path = host.directory / who / stem
            password = path.with_name(f"{stem}.password").read_bytes()
            loaded = pkcs12.load_pkcs12(path.with_name(f"{stem}.p12").read_bytes(), password)
            assert loaded.cert is not None
            assert loaded.cert.friendly_name == b"nifi-key"
            subjects.append(loaded.cert.certificate.subject)
        assert subjects[0] == subjects[1]


@pytest.mark.peer("nifi-toolkit-1.28.1")
def test_a_store_is_split_into_the_same_bytes(host: Host) -> None:
    """A key store of ours, split by the real one and by us, gives the same certificate and key to the byte."""
    toolkit = Toolkit("1.28.1", host, {})
    output = host.directory / "out"
    options = StandaloneOptions(output=output, hostnames=("a",), keystore_passwords=(PASSWORD,))
    generate(options, StandIn(), clock=SystemClock())
    keystore = output / "a" / "keystore.jks"
    toolkit.run("real", "standalone", "--splitKeystore", keystore, "-S", "store-pass", "-o", ".")
    split_keystore(SplitOptions(keystore=keystore, output=host.directory / "ours", keystore_password=PASSWORD))
    assert toolkit.files("real") == {"nifi-key.crt", "nifi-key.key"} == toolkit.files("ours")
    for name in toolkit.files("real"):
        assert toolkit.path("real").joinpath(name).read_bytes() == toolkit.path("ours").joinpath(name).read_bytes()
