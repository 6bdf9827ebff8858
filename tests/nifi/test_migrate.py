"""A running toolkit CA is read whole, by its owner, and nothing of it is changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from handfast.authority.flat import FlatAuthority, adopt
from handfast.core import dn, nifi_x509
from handfast.core.javastore import StoreType
from handfast.core.secret import Secret
from handfast.errors import ConfigError, Fault, HandfastError, Malformed, NotFound, Refused, TooMuch, Unsafe
from handfast.nifi.migrate import read_toolkit
from handfast.nifi.stores import NodeCredential, Passwords, ca_keystore, keystore, truststore
from tests.authority.helpers import NOW
from tests.core.stores import DATA, PASSWORDS

STORE = "nifi-ca-keystore.jks"
PASSWORD = PASSWORDS[STORE][0]
CONFIG: dict[str, Any] = {
    "days": 400,
    "dn": "CN=localhost, OU=NIFI",
    "keyStore": STORE,
    "keyStoreType": "jks",
    "keyStorePassword": PASSWORD,
    "keyPassword": PASSWORD,
    "token": "myTestTokenUseSomethingStronger",
    "caHostname": "localhost",
    "port": 10443,
}
KEY = rsa.generate_private_key(65537, 2048)
ROOT = nifi_x509.root(KEY, subject=dn.parse("CN=ca.lan, OU=NIFI"), days=825, now=NOW)


def configure(directory: Path, **changes: Any) -> None:
    """Write config.json; None takes a field away."""
    content = {name: value for name, value in (CONFIG | changes).items() if value is not None}
    path = directory / "config.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of the real toolkit's CA."""
    shutil.copyfile(DATA / STORE, tmp_path / STORE)
    (tmp_path / STORE).chmod(0o600)
    configure(tmp_path)
    return tmp_path


def place(directory: Path, name: str, data: bytes) -> None:
    """Put a store there."""
    (directory / name).write_bytes(data)
    (directory / name).chmod(0o600)


def test_the_real_toolkits_ca_is_read_and_taken_over(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Certificate, key and configuration are there; an authority opens with them; the directory is as it was."""
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}
    found = read_toolkit(directory)
    assert (found.config.port, found.config.days, found.remarks) == (10443, 400, ())
    assert found.config.token is not None
    assert found.config.token.reveal() == b"myTestTokenUseSomethingStronger"
    assert dn.written(found.certificate.subject) == "CN=localhost, OU=NIFI"
    target = tmp_path_factory.mktemp("data") / "nifi"
    now = found.certificate.not_valid_before_utc
    assert adopt(target, certificate=found.certificate, key=found.key, now=now) == ()
    assert FlatAuthority.open(target).root == found.certificate
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()} == before


@pytest.mark.parametrize("kind", StoreType)
def test_a_store_of_either_kind_with_two_passwords(directory: Path, kind: StoreType) -> None:
    """`server -g` and PKCS #12 migrate as well, from wherever the configuration says that the store is."""
    passwords = Passwords.complete(different_key=True)
    (directory / "elsewhere").mkdir()
    place(directory, "elsewhere/ca.store", ca_keystore(KEY, ROOT, kind, passwords, created_at=NOW))
    given = {"keyStorePassword": passwords.keystore.reveal().decode(), "keyPassword": passwords.key.reveal().decode()}
    for name in ("elsewhere/ca.store", str(directory / "elsewhere/ca.store")):
        configure(directory, keyStore=name, keyStoreType=kind.suffix, **given)
        found = read_toolkit(directory)
        assert found.certificate == ROOT
        assert found.key.private_numbers() == KEY.private_numbers()


@pytest.mark.parametrize("token", [None, ""])
def test_a_ca_whose_token_came_from_a_file_is_read(directory: Path, token: str | None) -> None:
    """Its configuration has no token, and its successor may have none or another."""
    configure(directory, token=token)
    found = read_toolkit(directory)
    assert found.config.token is None
    assert dn.written(found.certificate.subject) == "CN=localhost, OU=NIFI"


def test_the_configuration_may_be_called_otherwise(directory: Path) -> None:
    """As `server -f` had it; the store is still beside it."""
    (directory / "config.json").rename(directory / "ca.json")
    assert read_toolkit(directory, "ca.json").config.port == 10443
    with pytest.raises(NotFound, match=r"no file '.*/config\.json'") as caught:
        read_toolkit(directory)
    assert caught.value.hint == "give the directory that the CA runs in"


def test_an_old_configuration_is_read_with_a_remark(directory: Path) -> None:
    """The toolkit's own later releases refuse the configuration of earlier ones; migration does not."""
    configure(directory, reorderDn=True)
    (remark,) = read_toolkit(directory).remarks
    assert "reorderDn" in remark


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keyStorePassword": None}, r"no 'keyStorePassword' in '.*/config\.json'"),
        ({"keyStore": None}, r"/config\.json': no 'keyStore'"),
        ({"trustStore": "truststore.jks"}, r"/config\.json': unknown field 'trustStore'"),
    ],
)
def test_the_configuration_of_something_else_is_refused(directory: Path, changes: dict[str, Any], message: str) -> None:
    """An incomplete one, or a node's, is no CA's."""
    configure(directory, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        read_toolkit(directory)
    assert caught.value.hint


@pytest.mark.parametrize("field", ["keyStorePassword", "keyPassword"])
def test_a_wrong_password_is_refused_without_showing_it(directory: Path, field: str) -> None:
    """The message says which password of which file it is, and not what it was."""
    configure(directory, **{field: "wrong-and-secret"})
    with pytest.raises(Refused, match=r"/nifi-ca-keystore\.jks': .*password") as caught:
        read_toolkit(directory)
    assert "wrong-and-secret" not in caught.value.message + caught.value.hint


def test_a_nodes_store_is_refused(directory: Path) -> None:
    """A chain of two is a node's: its key is no CA's."""
    passwords = Passwords.complete()
    place(directory, STORE, keystore(NodeCredential(KEY, ROOT, ROOT), StoreType.JKS, passwords, created_at=NOW))
    password = passwords.keystore.reveal().decode()
    configure(directory, keyStorePassword=password, keyPassword=password)
    with pytest.raises(Refused, match=r"the chain in '.*' has 2 certificates"):
        read_toolkit(directory)


def test_a_store_without_the_key_is_refused(directory: Path) -> None:
    """A trust store has no key."""
    place(directory, STORE, truststore(ROOT, StoreType.JKS, Secret(PASSWORD.encode()), created_at=NOW))
    with pytest.raises(Malformed, match="no entry 'nifi-key' in"):
        read_toolkit(directory)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 300),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "directory": lambda path: path.rename(path.with_suffix(".old")).parent.joinpath(path.name).mkdir(mode=0o700),
    "huge": lambda path: path.write_bytes(b" " * ((1 << 20) + 1)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["config.json", STORE])
def test_damage_ends_in_our_own_error(directory: Path, name: str, damage: str) -> None:
    """Whatever happened to either file, it is refused with a reason."""
    DAMAGE[damage](directory / name)
    with pytest.raises(HandfastError) as caught:
        read_toolkit(directory)
    if damage in {"missing", "huge"}:
        assert isinstance(caught.value, NotFound | TooMuch)
        assert name in caught.value.message


def test_a_root_key_that_others_can_read_is_refused(directory: Path) -> None:
    """A root key that others have read is to be replaced and not migrated."""
    (directory / STORE).chmod(0o644)
    with pytest.raises(Unsafe, match=r"can be read or written by others \(mode 0644\)") as caught:
        read_toolkit(directory)
    assert "replace the secret" in caught.value.hint


def test_a_configuration_that_others_can_read_is_a_remark(directory: Path) -> None:
    """Orchestrators mount it so; the key is in the other file."""
    (directory / "config.json").chmod(0o644)
    (remark,) = read_toolkit(directory).remarks
    assert "config.json' can be read or written by others (mode 0644); it has secrets in it" in remark


@pytest.mark.root
def test_root_reads_the_files_of_the_directorys_owner_and_of_nobody_else(directory: Path) -> None:
    """The CA ran as its own user; what a third user put there is not taken for the CA's."""
    for path in (directory, directory / STORE, directory / "config.json"):
        os.chown(path, 12345, 12345)
    assert read_toolkit(directory).config.port == 10443
    os.chown(directory / STORE, 12346, 12346)
    with pytest.raises(Unsafe, match="belongs to user id 12346"):
        read_toolkit(directory)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong path, or one through a file, is reported as such."""
    with pytest.raises(NotFound, match=r"no directory '.*/a'"):
        read_toolkit(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(Fault, match="not a directory"):
        read_toolkit(tmp_path / "file" / "a")


def test_p12_no_secret_shows_when_it_is_printed(directory: Path) -> None:
    """P12: neither token nor key appears."""
    shown = repr(read_toolkit(directory))
    assert "myTestToken" not in shown
    assert "PRIVATE" not in shown
