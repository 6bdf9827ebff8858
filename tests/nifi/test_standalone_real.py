"""Our ``standalone`` and the real one, on each other's directories."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.adapters.clock import SystemClock
from handfast.core import javastore
from handfast.core.secret import Secret
from handfast.nifi.split import SplitOptions, split_keystore
from handfast.nifi.standalone import StandaloneOptions
from handfast.nifi.stores import find_key
from tests.interop.hosts import Host
from tests.interop.nifi_toolkit import VERSIONS, Toolkit
from tests.nifi.local import StandIn, generate

pytestmark = pytest.mark.peer("keytool")
EACH = [pytest.param(version, marks=pytest.mark.peer(f"nifi-toolkit-{version}")) for version in VERSIONS]
HOSTS = ("n01.lan", "n01.lan_2", "n02.lan", "n02.lan_2")
FLAGS = (
    *("-n", "n[01-02].lan(2)", "-C", "CN=Jane Doe,OU=NIFI", "-C", "CN=a/b, O=x", "-S", "store-pass"),
    *("-c", "ca.lan", "--subjectAlternativeNames", "vip.lan", "-d", "400"),
)
PASSWORD = Secret(b"store-pass")
Extension = TypeVar("Extension", bound=x509.ExtensionType)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """This machine: ``standalone`` has nothing to do with the network."""
    return Host(tmp_path / "host")


def chain(directory: Path) -> tuple[x509.Certificate, ...]:
    """Return the chain in a host's key store."""
    found = find_key(javastore.read((directory / "keystore.jks").read_bytes(), password=PASSWORD))
    assert found is not None
    return found[1]


def value(certificate: x509.Certificate, kind: type[Extension]) -> Extension:
    """Return an extension."""
    return certificate.extensions.get_extension_for_class(kind).value


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


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Toolkit:
    """What one command line makes, by the real toolkit in ``real`` and by our command in ``ours``."""
    toolkit = Toolkit("1.28.1", Host(tmp_path_factory.mktemp("both") / "host"), {})
    toolkit.run("real", "standalone", *FLAGS, "-o", ".")
    toolkit.host.handfast("tls-toolkit", "standalone", *FLAGS, "-o", "ours")
    return toolkit


@pytest.mark.peer("nifi-toolkit-1.28.1")
def test_the_same_files_have_the_same_names(both: Toolkit) -> None:
    """Every file of the real one is there under the same name; ours has the PEM files and the ledger besides."""
    ours = {name for name in both.files("ours") if not name.startswith(".handfast/")}
    pem = {f"{host}/{name}" for host in HOSTS for name in ("nifi-chain.pem", "nifi-key.pem", "nifi-cert.pem")}
    assert ours - pem == both.files("real")
    assert pem <= ours


@pytest.mark.peer("nifi-toolkit-1.28.1")
def test_hosts_have_the_same_certificates(both: Toolkit) -> None:
    """Issuer, subject, usages, names, days and algorithms are the real one's; ours has a SPIFFE ID besides."""
    for name in HOSTS:
        (real, real_ca), (ours, our_ca) = (chain(both.path(who) / name) for who in ("real", "ours"))
        for theirs, mine in ((real, ours), (real_ca, our_ca)):
            assert mine.subject == theirs.subject
            assert mine.issuer == theirs.issuer
            assert mine.signature_algorithm_oid == theirs.signature_algorithm_oid
            assert abs(mine.not_valid_after_utc - theirs.not_valid_after_utc) < timedelta(minutes=5)
            assert value(mine, x509.ExtendedKeyUsage) == value(theirs, x509.ExtendedKeyUsage)
            assert value(mine, x509.BasicConstraints).ca == value(theirs, x509.BasicConstraints).ca
        assert value(ours, x509.KeyUsage) == value(real, x509.KeyUsage)
        names = [value(each, x509.SubjectAlternativeName).get_values_for_type(x509.DNSName) for each in (ours, real)]
        assert names[0] == names[1]


@pytest.mark.peer("nifi-toolkit-1.28.1")
def test_clients_have_the_same_subjects(both: Toolkit) -> None:
    """Each .p12 opens with its .password and has the real one's subject; it can pose as no server."""
    for stem in ("CN=Jane_Doe_OU=NIFI", "CN=a_b_O=x"):
        found = []
        for who in ("ours", "real"):
            path = both.path(who) / stem
            password = path.with_name(f"{stem}.password").read_bytes()
            loaded = pkcs12.load_pkcs12(path.with_name(f"{stem}.p12").read_bytes(), password)
            assert loaded.cert is not None
            assert loaded.cert.friendly_name == b"nifi-key"
            found.append(loaded.cert.certificate)
        assert found[0].subject == found[1].subject
        assert list(value(found[0], x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert value(found[0], x509.SubjectAlternativeName).get_values_for_type(x509.DNSName) == []


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
