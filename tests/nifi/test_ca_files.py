"""The files that `tls-toolkit server` leaves: as the original makes them, and never over another CA's."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from handfast.core import dn, javastore, nifi_x509
from handfast.core.javastore import StoreType
from handfast.core.secret import Secret
from handfast.errors import Fault, Refused, Unsafe, UsageError
from handfast.nifi.ca_files import write_ca_files
from handfast.nifi.config import ServerConfig
from handfast.nifi.migrate import read_toolkit
from handfast.nifi.stores import find_key
from tests.authority.helpers import NOW
from tests.core.stores import keytool

SUBJECT = dn.parse("CN=ca.lan, OU=NIFI")
KEY = rsa.generate_private_key(65537, 2048)
ROOT = nifi_x509.root(KEY, subject=SUBJECT, days=825, now=NOW)
TOKEN = Secret(b"someTokenData16B-and-more")
CONFIG = ServerConfig(dn="CN=ca.lan, OU=NIFI", ca_hostname="ca.lan", token=TOKEN, port=10443, days=30)
STORE = "nifi-ca-keystore.jks"
OTHER_KEY = rsa.generate_private_key(65537, 2048)
OTHER = nifi_x509.root(OTHER_KEY, subject=SUBJECT, days=825, now=NOW)


def write(directory: Path, config: ServerConfig = CONFIG) -> ServerConfig:
    """Write the files of our CA."""
    return write_ca_files(directory, config, root=ROOT, key=KEY, now=NOW)


def content(directory: Path) -> dict[str, bytes]:
    """All files there."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("kind", ["jks", "PKCS12"])
def test_what_is_written_migrates_back(tmp_path: Path, kind: str) -> None:
    """Store and configuration are a toolkit CA's, under the original's names, for their owner alone."""
    made = write(tmp_path, ServerConfig(token=TOKEN, port=10443, days=30, key_store_type=kind))
    found = read_toolkit(tmp_path)
    assert found.certificate == ROOT
    assert found.key.private_numbers() == KEY.private_numbers()
    assert (found.config.port, found.config.days) == (10443, 30)
    names = {f"nifi-ca-keystore.{kind.lower()}", "config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    written = json.loads((tmp_path / "config.json").read_bytes())
    assert made.key_store_password is not None
    assert written["keyStore"] == made.key_store == f"nifi-ca-keystore.{kind.lower()}"
    assert written["keyStorePassword"] == written["keyPassword"] == made.key_store_password.reveal().decode()
    assert len(written["keyPassword"]) == 43
    assert written["token"] == TOKEN.reveal().decode()


@pytest.mark.peer("keytool")
@pytest.mark.parametrize("kind", ["jks", "PKCS12"])
def test_keytool_reads_the_store(tmp_path: Path, kind: str) -> None:
    """Java finds one private key under the alias, with a chain of exactly one."""
    made = write(tmp_path, ServerConfig(token=TOKEN, key_store_type=kind))
    assert made.key_store_password is not None
    password = tmp_path / "password"
    password.write_bytes(made.key_store_password.reveal())
    listed = keytool("-list", "-v", "-keystore", tmp_path / f"{made.key_store}", "-storepass:file", password)
    assert "Alias name: nifi-key" in listed.stdout
    assert "Entry type: PrivateKeyEntry" in listed.stdout
    assert "Certificate chain length: 1" in listed.stdout
    assert "Owner: CN=ca.lan, OU=NIFI" in listed.stdout


def test_what_the_configuration_says_is_kept(tmp_path: Path) -> None:
    """The name of the store and both passwords, and the name of the configuration's own file."""
    given = ServerConfig(
        token=TOKEN, key_store="ca.jks", key_store_password=Secret(b"store-pw"), key_password=Secret(b"key-pw")
    )
    write_ca_files(tmp_path, given, root=ROOT, key=KEY, now=NOW, config_file="ca.json")
    assert set(content(tmp_path)) == {"ca.jks", "ca.json"}
    entries = javastore.read(content(tmp_path)["ca.jks"], password=Secret(b"store-pw"), key_password=Secret(b"key-pw"))
    found = find_key(entries)
    assert found is not None
    assert found[1] == (ROOT,)


def test_a_second_run_with_the_configuration_changes_nothing(tmp_path: Path) -> None:
    """As the original with -F: the same CA in the same store, to the byte."""
    made = write(tmp_path)
    before = content(tmp_path)
    again = write(tmp_path, made)
    assert content(tmp_path) == before
    assert again.key_store == made.key_store


def test_a_dead_process_between_the_two_files_does_no_harm(tmp_path: Path) -> None:
    """The configuration comes first: a store whose password nobody wrote down is never there."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # enough for the configuration alone
    try:
        with pytest.raises(Fault, match="cannot write"):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert set(content(tmp_path)) == {"config.json"}
    write(tmp_path)
    assert read_toolkit(tmp_path).certificate == ROOT


# ---------------------------------------------------------------------------------------------- refusals


def test_a_store_whose_password_is_not_known_stays(tmp_path: Path) -> None:
    """As the original without -F: another run's store is not replaced, and neither is its configuration."""
    write(tmp_path)
    before = content(tmp_path)
    with pytest.raises(Refused, match=r"nifi-ca-keystore\.jks' exists, and its password is not known") as caught:
        write(tmp_path)
    assert "-F" in caught.value.hint
    assert content(tmp_path) == before


def test_the_store_of_another_ca_stays(tmp_path: Path) -> None:
    """Whoever comes with another root is refused, though it knows the password."""
    made = write_ca_files(tmp_path, CONFIG, root=OTHER, key=OTHER_KEY, now=NOW)
    before = content(tmp_path)
    with pytest.raises(Refused, match="exists and is not the store of this CA"):
        write(tmp_path, made)
    assert content(tmp_path) == before


@pytest.mark.parametrize("damage", ["password", "mode", "link"])
def test_a_store_that_cannot_be_read_stays(tmp_path: Path, damage: str) -> None:
    """A wrong password, a store that others can read and a dangling link are refused and left alone."""
    made = write(tmp_path)
    if damage == "password":
        made = ServerConfig(token=TOKEN, key_store=made.key_store, key_store_password=Secret(b"wrong"))
    elif damage == "mode":
        (tmp_path / STORE).chmod(0o644)
    else:
        (tmp_path / STORE).unlink()
        (tmp_path / STORE).symlink_to("nowhere")
    with pytest.raises(Unsafe if damage == "mode" else Refused, match=r"/nifi-ca-keystore\.jks'"):
        write(tmp_path, made)
    assert set(os.listdir(tmp_path)) == {STORE, "config.json"}
    assert (tmp_path / STORE).is_symlink() == (damage == "link")


@pytest.mark.parametrize("kind", ["BCFKS", "pem"])
def test_a_store_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=f"store type '{kind}'"):
        write(tmp_path, ServerConfig(token=TOKEN, key_store_type=kind))
    assert content(tmp_path) == {}


def test_both_kinds_are_the_originals() -> None:
    """The names that the toolkit gives its stores."""
    assert [kind.suffix for kind in StoreType] == ["jks", "pkcs12"]
