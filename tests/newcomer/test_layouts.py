"""Each layout, read by the program it is for or by the library such programs use."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs12

from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.newcomer.layouts import LAYOUTS, Place, layout_names, render
from tests.newcomer.material import material

ONE = material(0xA)
PASSWORD = b"changeit-please"
PLACE = Place(Path("/etc/handfast/web1"), Secret(PASSWORD))

FULL_CHAIN = (ONE.leaf, *ONE.chain)
PEM_FILES = {
    "cert.pem": (ONE.leaf,),
    "chain.pem": ONE.chain,
    "fullchain.pem": FULL_CHAIN,
    "trust.pem": ONE.trust,
    "tls.crt": FULL_CHAIN,
    "ca.crt": ONE.trust,
    "server.crt": FULL_CHAIN,
    "postgresql.crt": FULL_CHAIN,
    "root.crt": ONE.trust,
    "svid.pem": FULL_CHAIN,
    "svid_bundle.pem": ONE.trust,
}
KEY_FILES = {"privkey.pem", "tls.key", "server.key", "postgresql.key", "svid_key.pem"}
NAMES = {
    "pem": {"cert.pem", "chain.pem", "fullchain.pem", "privkey.pem", "trust.pem"},
    "kubernetes": {"tls.crt", "tls.key", "ca.crt"},
    "postgresql": {"server.crt", "server.key", "root.crt", "postgresql.crt", "postgresql.key"},
    "nginx": {"handfast-nginx.conf"},
    "spiffe": {"svid.pem", "svid_key.pem", "svid_bundle.pem"},
    "pkcs12": {"keystore.p12", "truststore.p12", "store-password"},
    "jks": {"keystore.jks", "truststore.jks", "store-password"},
}
EVERYTHING = render(LAYOUTS, ONE, PLACE)


@pytest.mark.parametrize("name", LAYOUTS)
def test_names(name: str) -> None:
    """A layout has exactly the names its programs look for, and ``pem`` comes with each."""
    assert set(render([name], ONE, PLACE)) == NAMES[name] | NAMES["pem"]


def test_layouts_do_not_collide() -> None:
    """No two layouts give one name two contents; the two Java ones share their password."""
    for one, two in itertools.combinations(NAMES, 2):
        assert NAMES[one] & NAMES[two] <= {"store-password"}


@pytest.mark.parametrize("name", PEM_FILES)
def test_certificates(name: str) -> None:
    """A PEM file has these certificates in this order: the leaf first, the root only as trust."""
    found = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(EVERYTHING[name])]
    assert tuple(found) == PEM_FILES[name]


@pytest.mark.parametrize("name", sorted(KEY_FILES))
def test_keys(name: str) -> None:
    """A key file is unencrypted PKCS #8 and holds our key."""
    assert EVERYTHING[name].startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert load_pem_private_key(EVERYTHING[name], None).public_key() == ONE.private_key.public_key()


def test_no_file_is_forgotten_here() -> None:
    """Every file of every layout is checked by one of the tests above or below."""
    others = {"handfast-nginx.conf", "keystore.p12", "truststore.p12", "keystore.jks", "truststore.jks"}
    assert set(EVERYTHING) == set(PEM_FILES) | KEY_FILES | others | {"store-password"}


def test_unknown() -> None:
    """An unknown layout is a usage error which lists the known ones."""
    with pytest.raises(UsageError, match="unknown layout 'apache'") as caught:
        layout_names(["pem", "apache"])
    assert caught.value.hint == "known layouts: pem, kubernetes, postgresql, nginx, spiffe, pkcs12, jks"


def test_once_and_pem_first() -> None:
    """Layouts are taken once each, ``pem`` always."""
    assert layout_names(["jks", "jks", "pem"]) == ("pem", "jks")


def test_stores_open_with_the_password_only() -> None:
    """The key store holds key, leaf and chain, under the password in the file beside it."""
    password = EVERYTHING["store-password"].removesuffix(b"\n")
    assert password == PASSWORD
    store = pkcs12.load_pkcs12(EVERYTHING["keystore.p12"], password)
    assert store.key is not None
    assert store.key.public_key() == ONE.private_key.public_key()
    assert store.cert is not None
    assert store.cert.certificate == ONE.certificate
    assert [one.certificate.public_bytes(Encoding.DER) for one in store.additional_certs] == list(ONE.chain)
    with pytest.raises(ValueError, match="password"):
        pkcs12.load_pkcs12(EVERYTHING["keystore.p12"], b"changeit")


@pytest.mark.parametrize("path", ['/a"b', "/a\\b", "/a$b", "/a\nssl_verify_client off;"])
def test_nginx_path_cannot_add_directives(path: str) -> None:
    """A path that nginx would read as something else is refused."""
    with pytest.raises(UsageError, match="nginx cannot be told") as caught:
        render(["nginx"], ONE, Place(Path(path), PLACE.password))
    assert caught.value.hint


def write(directory: Path, *layouts: str) -> None:
    """Write the files of these layouts."""
    for name, data in render(layouts, ONE, Place(directory, PLACE.password)).items():
        (directory / name).write_bytes(data)


@pytest.mark.peer("openssl")
class TestOpenssl:
    """OpenSSL reads what we write."""

    def run(self, *arguments: object) -> str:
        done = subprocess.run(["openssl", *map(str, arguments)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_reads_the_key_store(self, tmp_path: Path) -> None:
        """OpenSSL finds AES-256 and SHA-256, our key and two certificates."""
        write(tmp_path, "pkcs12")
        password = f"file:{tmp_path / 'store-password'}"
        store = tmp_path / "keystore.p12"
        info = subprocess.run(
            ["openssl", "pkcs12", "-in", store, "-passin", password, "-info", "-nokeys"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert info.returncode == 0, info.stderr
        assert "MAC: sha256" in info.stderr
        assert "PBES2, PBKDF2, AES-256-CBC" in info.stderr
        assert info.stdout.count("BEGIN CERTIFICATE") == 2
        key = self.run("pkcs12", "-in", store, "-passin", password, "-nocerts", "-noenc")
        found = load_pem_private_key(key[key.index("-----") :].encode(), None)
        assert found.public_key() == ONE.private_key.public_key()

    def test_chain(self, tmp_path: Path) -> None:
        """What we call trust and chain verifies the leaf."""
        write(tmp_path)
        chain = ["-CAfile", tmp_path / "trust.pem", "-untrusted", tmp_path / "chain.pem"]
        assert "OK" in self.run("verify", "-no_check_time", *chain, tmp_path / "cert.pem")


@pytest.mark.peer("nginx")
def test_nginx_accepts_the_snippet(tmp_path: Path) -> None:
    """nginx loads what we wrote, from a directory with a space in its name."""
    directory = tmp_path / "web 1"
    directory.mkdir()
    write(directory, "nginx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # the syntax test binds, and port 0 is not for nginx
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port} ssl;\n"
        f'include "{directory}/handfast-nginx.conf"; }} }}\n'
    )
    done = subprocess.run(
        ["nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "test is successful" in done.stderr


@pytest.mark.peer("keytool")
@pytest.mark.parametrize("kind", ["p12", "jks"])
class TestJava:
    """Java's own keytool reads what we write."""

    def list(self, store: Path) -> str:
        done = subprocess.run(
            [
                *("keytool", "-J-Duser.language=en", "-list", "-v", "-keystore", store),
                *("-storepass:file", store.parent / "store-password"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def test_key_store(self, tmp_path: Path, kind: str) -> None:
        """Java sees one key with its chain: leaf, then issuer."""
        write(tmp_path, "pkcs12", "jks")
        seen = self.list(tmp_path / f"keystore.{kind}")
        assert re.findall(r"Alias name: (.+)", seen) == ["handfast"]
        assert re.findall(r"Entry type: (.+)", seen) == ["PrivateKeyEntry"]
        assert re.findall(r"Owner: (.+)", seen) == ["CN=web1.lan", "CN=Issuing CA"]

    def test_trust_store(self, tmp_path: Path, kind: str) -> None:
        """Java trusts the root; a plain PKCS #12 file would look empty to it."""
        write(tmp_path, "pkcs12", "jks")
        seen = self.list(tmp_path / f"truststore.{kind}")
        assert re.findall(r"Alias name: (.+)", seen) == ["handfast-root-1"]
        assert re.findall(r"Entry type: (.+)", seen) == ["trustedCertEntry"]
        assert re.findall(r"Owner: (.+)", seen) == ["CN=Root CA"]

    def test_key_is_recovered(self, tmp_path: Path, kind: str) -> None:
        """Java takes our key out of the store and writes it into another, which we open."""
        write(tmp_path, "pkcs12", "jks")
        store, out, password = tmp_path / f"keystore.{kind}", tmp_path / "out.p12", tmp_path / "store-password"
        done = subprocess.run(
            [
                *("keytool", "-importkeystore", "-noprompt", "-srckeystore", store, "-destkeystore", out),
                *("-srcstorepass:file", password, "-deststorepass:file", password, "-deststoretype", "PKCS12"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        recovered = pkcs12.load_pkcs12(out.read_bytes(), PASSWORD)
        assert recovered.key is not None
        assert recovered.key.public_key() == ONE.private_key.public_key()
