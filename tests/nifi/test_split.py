"""``--splitKeystore``: PEM files of each entry, and no other file replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from handfast.core import dn, javastore
from handfast.core.javastore import Entry, KeyEntry, StoreType, TrustedEntry
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Malformed, NotFound, Refused
from handfast.nifi.split import SplitOptions, split_keystore
from tests.nifi.local import NOW, certify

STORE, KEY_PASSWORD = Secret(b"store-pass"), Secret(b"key-pass")
RSA = rsa.generate_private_key(65537, 2048)
NAME = dn.parse("CN=n1.lan, OU=NIFI")
CERTIFICATE = certify(NAME, RSA.public_key(), NAME, RSA, ca=True)
DER = CERTIFICATE.public_bytes(Encoding.DER)


def key_entry(alias: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> KeyEntry:
    """An entry under its own password."""
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return KeyEntry(alias, Secret(der), (DER, DER), KEY_PASSWORD)


def place(directory: Path, *entries: Entry, kind: StoreType = StoreType.JKS) -> Path:
    """Write a store and return its path."""
    path = directory / "store"
    data = javastore.write(entries, kind, password=STORE, created_at=NOW, random_bytes=os.urandom)
    path.write_bytes(data)
    return path


def split(keystore: Path, output: Path, **others: object) -> tuple[Path, ...]:
    """Split a store with two passwords."""
    options = {"keystore_password": STORE, "key_password": KEY_PASSWORD} | others
    return split_keystore(SplitOptions(keystore=keystore, output=output, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(StoreType))
def test_each_entry_becomes_files(tmp_path: Path, kind: StoreType) -> None:
    """Keys come in the form of their algorithm and certificates as the leaf alone, for the owner only."""
    elliptic, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    store = place(
        tmp_path,
        key_entry("nifi-key", RSA),
        key_entry("an ec/key", elliptic),
        key_entry("edwards", edwards),
        TrustedEntry("nifi-cert", DER),
        kind=kind,
    )
    written = split(store, tmp_path / "out")
    names = {"nifi-key.crt", "nifi-key.key", "an_ec_key.crt", "an_ec_key.key", "edwards.crt", "edwards.key"}
    assert {path.name for path in written} == names | {"nifi-cert.crt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in written}
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    assert x509.load_pem_x509_certificates((tmp_path / "out/nifi-key.crt").read_bytes()) == [CERTIFICATE]
    for name, form, key in (("nifi-key", b"RSA ", RSA), ("an_ec_key", b"EC ", elliptic), ("edwards", b"", edwards)):
        pem = (tmp_path / "out" / f"{name}.key").read_bytes()
        assert pem.startswith(b"-----BEGIN " + form + b"PRIVATE KEY-----\n")
        assert load_pem_private_key(pem, None).public_key() == key.public_key()


def test_one_password_is_enough(tmp_path: Path) -> None:
    """Without a key password the store's own opens the key."""
    entry = key_entry("a", RSA)
    store = place(tmp_path, KeyEntry(entry.alias, entry.private_key, entry.chain, STORE))
    assert len(split(store, tmp_path / "out", key_password=None)) == 2


def test_another_key_is_not_replaced(tmp_path: Path) -> None:
    """A node's key has the name of a standalone CA's: the toolkit overwrites the CA's, and the CA is lost."""
    store = place(tmp_path, key_entry("nifi-key", RSA))
    (tmp_path / "nifi-key.key").write_text("the key of the CA")
    with pytest.raises(Refused, match=r"nifi-key\.key' exists and has other content"):
        split(store, tmp_path)
    assert (tmp_path / "nifi-key.key").read_text() == "the key of the CA"
    assert not (tmp_path / "nifi-key.crt").exists()
    split(store, tmp_path, overwrite=True)
    assert (tmp_path / "nifi-key.key").read_bytes().startswith(b"-----BEGIN RSA")
    assert len(split(store, tmp_path)) == 2  # the same again is no overwriting


def test_two_entries_with_one_file_name_are_refused(tmp_path: Path) -> None:
    """Aliases that differ in characters which file names do not have would be one file."""
    store = place(tmp_path, TrustedEntry("a b", DER), TrustedEntry("a!b", DER))
    with pytest.raises(Refused, match=r"two entries of the store would be '.*a_b\.crt'"):
        split(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("others", "kind", "message"),
    [
        ({"keystore_password": Secret(b"wrong")}, Refused, "store password is wrong"),
        ({"key_password": Secret(b"wrong")}, Refused, "key password does not open the entry 'a'"),
        ({"keystore": Path("/nonexistent")}, NotFound, "no file '/nonexistent'"),
    ],
)
def test_what_does_not_open_is_refused(
    tmp_path: Path, others: dict[str, object], kind: type[HandfastError], message: str
) -> None:
    """A wrong password or path leaves nothing behind, and no password is in the message."""
    store = place(tmp_path, key_entry("a", RSA))
    chosen = {"keystore": store, "output": tmp_path / "out"} | others
    with pytest.raises(kind, match=message):
        split(**chosen)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    """A store without entries is a mistake, not a success with no files."""
    with pytest.raises(Refused, match="is empty"):
        split(place(tmp_path), tmp_path / "out")


def test_an_unreadable_entry_is_refused(tmp_path: Path) -> None:
    """What is no certificate is named by its alias before anything is written."""
    store = place(tmp_path, TrustedEntry("good", DER), TrustedEntry("bad", b"not DER"))
    with pytest.raises(Malformed, match="cannot read the entry 'bad'"):
        split(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
