"""``standalone``: the files that it writes, what it uses again, and that it refuses before it writes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from handfast.core import dn, javastore
from handfast.core.javastore import KeyEntry, TrustedEntry
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Malformed, NotFound, Refused, Unsafe, UsageError
from handfast.nifi import properties
from handfast.nifi.standalone import Report, StandaloneOptions
from handfast.nifi.stores import find_key
from tests.nifi.local import NOW, FrozenClock, StandIn, generate

CLIENT_DN = "CN=Jane Doe, OU=NIFI"
HOST_FILES = {
    "keystore.jks",
    "truststore.jks",
    "nifi.properties",
    "nifi-chain.pem",
    "nifi-key.pem",
    "nifi-cert.pem",
}


def run(output: Path, authority: StandIn | None = None, /, **options: Any) -> Report:
    """Run ``standalone`` into ``output``."""
    return generate(StandaloneOptions(output=output, **options), authority or StandIn(), clock=FrozenClock())


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory and its content."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StandIn, Report]:
    """Two hosts, one of them with two instances, and a client certificate."""
    output, authority = tmp_path_factory.mktemp("standalone") / "out", StandIn()
    umask = os.umask(0)
    report = run(
        output,
        authority,
        hostnames=("n1.lan(2)", "10.0.0.7"),
        alternative_names=("vip.lan",),
        ca_hostname="ca.lan",
        client_dns=(CLIENT_DN,),
        days=30,
    )
    os.umask(umask)
    return output, authority, report


def test_the_files_are_those_of_the_toolkit(cluster: tuple[Path, StandIn, Report]) -> None:
    """The CA, a directory for each instance and the client's store have the toolkit's names; PEM files are beside."""
    output, _, report = cluster
    directories = ("n1.lan", "n1.lan_2", "10.0.0.7")
    stem = "CN=Jane_Doe_OU=NIFI"
    expected = {"nifi-cert.pem", "nifi-key.key", f"{stem}.p12", f"{stem}.password"}
    expected |= {f"{directory}/{name}" for directory in directories for name in HOST_FILES}
    assert snapshot(output).keys() == expected
    assert report == Report(True, tuple(output / name for name in directories), (output / f"{stem}.p12",), ())


def test_only_the_owner_can_look(cluster: tuple[Path, StandIn, Report]) -> None:
    """Files have mode 0600 and directories 0700, whatever the umask."""
    output, _, _ = cluster
    assert output.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in output.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in output.rglob("*") if path.is_dir()} == {0o700}


def test_the_requests_are_all_that_is_signed(cluster: tuple[Path, StandIn, Report]) -> None:
    """Hosts ask for their own name and the alternative one, an address as an address; a person asks for no name."""
    _, authority, _ = cluster
    assert [(dn.written(each.subject), each.names, each.role, each.days) for each in authority.issued] == [
        ("CN=n1.lan, OU=NIFI", Names.parse(["n1.lan", "vip.lan"]), Role.PEER, 30),
        ("CN=n1.lan, OU=NIFI", Names.parse(["n1.lan", "vip.lan"]), Role.PEER, 30),
        ("CN=10.0.0.7, OU=NIFI", Names.parse(["10.0.0.7", "vip.lan"]), Role.PEER, 30),
        (CLIENT_DN, Names(), Role.CLIENT, 30),
    ]
    assert len({each.public_key.public_numbers() for each in authority.issued}) == 4


def test_stores_open_with_the_passwords_in_the_properties(cluster: tuple[Path, StandIn, Report]) -> None:
    """Key store and trust store hold nifi-key and nifi-cert, and the second instance has the second ports."""
    output, _, _ = cluster
    ca = x509.load_pem_x509_certificate((output / "nifi-cert.pem").read_bytes())
    directory = output / "n1.lan_2"
    values = properties.parse((directory / "nifi.properties").read_bytes())
    password = Secret(values["nifi.security.keystorePasswd"].encode())
    assert values["nifi.security.keyPasswd"] == values["nifi.security.keystorePasswd"]
    assert len(password.reveal()) == 43
    found = find_key(javastore.read((directory / "keystore.jks").read_bytes(), password=password))
    assert found is not None
    key, chain = found
    assert chain[1] == ca
    chain[0].verify_directly_issued_by(ca)
    assert x509.load_pem_x509_certificates((directory / "nifi-chain.pem").read_bytes()) == list(chain)
    assert load_pem_private_key((directory / "nifi-key.pem").read_bytes(), None).public_key() == key.public_key()
    trust = Secret(values["nifi.security.truststorePasswd"].encode())
    (trusted,) = javastore.read((directory / "truststore.jks").read_bytes(), password=trust)
    assert isinstance(trusted, TrustedEntry)
    assert trusted.alias == "nifi-cert"
    assert trust.reveal() != password.reveal()
    assert values["nifi.web.https.port"] == "9444"


def test_the_client_store_opens_with_its_password_file(cluster: tuple[Path, StandIn, Report]) -> None:
    """The .p12 holds key and chain under nifi-key, and the .password file its password without a newline."""
    output, _, _ = cluster
    password = (output / "CN=Jane_Doe_OU=NIFI.password").read_bytes()
    assert len(password) == 43
    loaded = pkcs12.load_pkcs12((output / "CN=Jane_Doe_OU=NIFI.p12").read_bytes(), password)
    assert loaded.cert is not None
    assert loaded.cert.friendly_name == b"nifi-key"
    assert dn.written(loaded.cert.certificate.subject) == CLIENT_DN
    assert len(loaded.additional_certs) == 1


def test_the_ca_is_the_toolkits(cluster: tuple[Path, StandIn, Report]) -> None:
    """The CA has the subject and the days asked for, and its key the form that every release of the toolkit reads."""
    output, _, _ = cluster
    ca = x509.load_pem_x509_certificate((output / "nifi-cert.pem").read_bytes())
    assert dn.written(ca.subject) == "CN=ca.lan, OU=NIFI"
    assert ca.not_valid_after_utc == NOW + timedelta(days=30)
    assert (output / "nifi-key.key").read_bytes().startswith(b"-----BEGIN RSA PRIVATE KEY-----\n")


def test_a_second_run_uses_the_same_ca(tmp_path: Path) -> None:
    """New hosts come under the CA of the first run, and nothing that is there changes."""
    first = run(tmp_path / "out", hostnames=("a",))
    before = snapshot(tmp_path / "out")
    second = run(tmp_path / "out", hostnames=("b",), store_type="PKCS12")
    after = snapshot(tmp_path / "out")
    assert (first.ca_created, second.ca_created) == (True, False)
    assert before.items() <= after.items()
    values = properties.parse(after["b/nifi.properties"])
    assert values["nifi.security.keystoreType"] == "PKCS12"
    assert values["nifi.security.keystore"] == "./conf/keystore.pkcs12"
    assert "b/keystore.pkcs12" in after
    assert values["nifi.security.truststoreType"] == "jks"


def test_overwriting_replaces_what_is_made_and_keeps_the_rest(tmp_path: Path) -> None:
    """With -O a host's stores and a client's store are new; a user's own file in the directory stays."""
    options: dict[str, Any] = {"hostnames": ("a",), "client_dns": ("CN=u",)}
    run(tmp_path, **options)
    (tmp_path / "a" / "notes").write_text("mine")
    before = snapshot(tmp_path)
    run(tmp_path, **options, overwrite=True)
    after = snapshot(tmp_path)
    same = {name for name in before if before[name] == after[name]}
    assert same == {"nifi-cert.pem", "nifi-key.key", "a/nifi-cert.pem", "a/notes"}
    assert before.keys() == after.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"hostnames": ("b,a",)}, r"/a' exists"), ({"client_dns": ("CN=v", "CN=u")}, r"/CN=u\.p12' exists")],
)
def test_nothing_is_overwritten_without_being_asked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """An existing host or client is refused before its neighbours are made."""
    run(tmp_path, hostnames=("a",), client_dns=("CN=u",))
    before = snapshot(tmp_path)
    with pytest.raises(Refused, match=message):
        run(tmp_path, **options)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"hostnames": ("a[x]",)}, UsageError, "not a range"),
        ({"hostnames": ("a", "..")}, Malformed, r"not a DNS name: '\.\.'"),
        ({"hostnames": ("a", "b/../../c")}, Malformed, "not a DNS name"),
        ({"hostnames": ("nifi-cert.pem",)}, UsageError, "that of a file of the CA"),
        ({"hostnames": ("a",), "alternative_names": ("*.lan",)}, Malformed, r"not a DNS name: '\*\.lan'"),
        ({"hostnames": ("a",), "dn_prefix": "node "}, Malformed, "not a subject: 'node a, OU=NIFI'"),
        ({"hostnames": ("a",), "global_port_sequence": ("b",)}, UsageError, "not in the global port sequence"),
        ({"client_dns": ("jane",)}, Malformed, "not a subject: 'jane'"),
        ({"client_dns": ("CN=a b", "CN=a!b")}, UsageError, r"two client certificates would be 'CN=a_b\.p12'"),
        (
            {"client_dns": (f"CN=a, {', '.join(f'OU=u{n}' for n in range(60))}",)},
            UsageError,
            "too long for a file name",
        ),
        ({"hostnames": ("a,b,c",), "keystore_passwords": 2}, UsageError, "2 key store passwords for 3 hosts"),
        ({"hostnames": ("a,b,c",), "key_passwords": 2}, UsageError, "2 key passwords for 3 hosts"),
        ({"hostnames": ("a,b,c",), "truststore_passwords": 2}, UsageError, "2 trust store passwords for 3 hosts"),
        ({"client_dns": ("CN=a",), "client_passwords": 2}, UsageError, "2 client passwords"),
        ({"client_dns": ("CN=a", "CN=b", "CN=c"), "client_passwords": 2}, UsageError, "2 client passwords for 3"),
        ({"hostnames": ("a",), "keystore_passwords": (Secret(b""),)}, UsageError, "empty or not UTF-8"),
        ({"hostnames": ("a",), "key_passwords": (Secret(b"\xff"),)}, UsageError, "empty or not UTF-8"),
        ({"store_type": "BCFKS"}, UsageError, "BCFKS"),
        ({"key_algorithm": "EC"}, UsageError, "key algorithm 'EC'"),
        ({"key_size": 1024}, UsageError, "an RSA key of 1024 bits"),
        ({"days": 0}, UsageError, "0 days"),
        ({"days": 100_000}, UsageError, "100000 days"),
        ({"ca_hostname": "a=b,"}, Malformed, "not a subject"),
        ({"template": Path("/nonexistent")}, NotFound, "no file '/nonexistent'"),
        ({"additional_ca": Path("/nonexistent")}, Refused, "no intermediate CA in"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], kind: type[HandfastError], message: str
) -> None:
    """Whatever is wrong is found first: not even the directory is made, and no certificate is asked for."""
    authority = StandIn()
    given = {
        name: tuple(Secret(b"password%d" % n) for n in range(value))
        if name.endswith("passwords") and isinstance(value, int)
        else value
        for name, value in options.items()
    }
    with pytest.raises(kind, match=message) as refused:
        run(tmp_path / "out", authority, **given)
    assert refused.value.hint
    assert "password0" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    assert authority.issued == []


def test_an_authority_that_refuses_leaves_the_ca_alone(tmp_path: Path) -> None:
    """When one leaf is refused no host is written, and the next run uses the CA that was made."""
    with pytest.raises(Refused, match="not this one"):
        run(tmp_path / "out", StandIn(refuse=2), hostnames=("a,b",))
    assert snapshot(tmp_path / "out").keys() == {"nifi-cert.pem", "nifi-key.key"}
    assert not run(tmp_path / "out", hostnames=("a,b",)).ca_created


def test_passwords_are_used_in_turn_or_for_all(tmp_path: Path) -> None:
    """One password goes to every host and several to one each; -g makes another for the key; too many are left."""
    run(
        tmp_path,
        hostnames=("a,b",),
        keystore_passwords=(Secret(b"first!"), Secret(b"second"), Secret(b"unused")),
        truststore_passwords=(Secret(b"shared"),),
        different_key_password=True,
        client_dns=("CN=u", "CN=v"),
        client_passwords=(Secret(b"client"),),
    )
    keys = set()
    for host, password in (("a", "first!"), ("b", "second")):
        values = properties.parse((tmp_path / host / "nifi.properties").read_bytes())
        assert values["nifi.security.keystorePasswd"] == password
        assert values["nifi.security.truststorePasswd"] == "shared"
        key_password = values["nifi.security.keyPasswd"]
        (entry,) = javastore.read(
            (tmp_path / host / "keystore.jks").read_bytes(),
            password=Secret(password.encode()),
            key_password=Secret(key_password.encode()),
        )
        assert isinstance(entry, KeyEntry)
        keys.add(key_password)
    assert len(keys) == 2
    assert not keys & {"first!", "second"}
    assert {path.read_bytes() for path in tmp_path.glob("*.password")} == {b"client"}


def test_a_template_of_ones_own_is_kept(tmp_path: Path) -> None:
    """With -f comments and unknown keys come out in their places, and a broken template is refused at once."""
    template = tmp_path / "mine.properties"
    template.write_bytes(b"# mine\nx.y = 1\nnifi.web.https.port=1\n")
    run(tmp_path / "out", hostnames=("a",), template=template)
    written = (tmp_path / "out" / "a" / "nifi.properties").read_bytes()
    assert written.startswith(b"# mine\nx.y = 1\nnifi.web.https.port=9443\n")
    template.write_bytes(b"a=1\na=2\n")
    with pytest.raises(UsageError, match="twice"):
        run(tmp_path / "other", hostnames=("a",), template=template)
    assert not (tmp_path / "other").exists()


def test_ports_follow_the_global_sequence(tmp_path: Path) -> None:
    """The instance's directory has its number, and its ports have its rank."""
    run(tmp_path, hostnames=("b(2-2)",), global_port_sequence=("b(2)", "a"))
    values = properties.parse((tmp_path / "b_2" / "nifi.properties").read_bytes())
    assert values["nifi.cluster.node.protocol.port"] == "11445"


def test_what_does_not_pair_is_told(tmp_path: Path) -> None:
    """Three names for two hosts, and a run that only makes a CA, come with a remark."""
    report = run(tmp_path / "one", hostnames=("a,b",), alternative_names=("u,v", "w"))
    assert report.remarks == ("3 alternative names for 2 hosts: every host gets all of them",)
    assert "only the CA" in run(tmp_path / "two").remarks[0]


def test_a_directory_that_everybody_can_write_to_is_refused(tmp_path: Path) -> None:
    """Others could exchange what is written; a directory that they can only read is fine."""
    tmp_path.chmod(0o777)
    with pytest.raises(Unsafe, match="everybody can write"):
        run(tmp_path)
    tmp_path.chmod(0o755)
    assert run(tmp_path).ca_created
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_host_directory_of_others_is_refused(tmp_path: Path) -> None:
    """With -O nothing is written into a directory that others can look into."""
    run(tmp_path, hostnames=("a",))
    (tmp_path / "a").chmod(0o755)
    before = snapshot(tmp_path)
    with pytest.raises(Unsafe, match="can be read or written by others"):
        run(tmp_path, hostnames=("a",), overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """The output is a directory or nothing yet."""
    (tmp_path / "out").write_text("")
    with pytest.raises(Refused, match="is not a directory"):
        run(tmp_path / "out")


def test_keys_have_the_size_asked_for(tmp_path: Path) -> None:
    """The key size is that of the CA and of what it issues."""
    authority = StandIn()
    run(tmp_path, authority, hostnames=("a",), key_size=2056)
    ca = load_pem_private_key((tmp_path / "nifi-key.key").read_bytes(), None)
    assert isinstance(ca, rsa.RSAPrivateKey)
    assert (ca.key_size, authority.issued[0].public_key.key_size) == (2056, 2056)
