"""Java key stores of either format."""

from __future__ import annotations

from os import urandom
from pathlib import Path

import pytest

from handfast.core.javastore import StoreType, read, write
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Refused, UsageError
from tests.core.stores import DATA, KEY, MADE, PASSWORDS, STORE, java_copy, plain, sample


@pytest.mark.parametrize("text", ["jks", "JKS", "Jks"])
def test_type_in_any_case(text: str) -> None:
    """A type is named in any case, as Java takes it, and gives the end of a file name."""
    assert StoreType.parse(text) is StoreType.JKS
    assert StoreType.JKS.suffix == "jks"
    assert StoreType.parse("pkcs12").suffix == "pkcs12"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("bcfks", "'bcfks' needs BouncyCastle", "use PKCS12"),
        ("jceks", "unknown store type 'jceks'", "known types: JKS, PKCS12"),
        ("", "unknown store type ''", "known types: JKS, PKCS12"),
        ("p\N{LATIN SMALL LETTER LONG S}", "unknown store type", "known types: JKS, PKCS12"),
    ],
)
def test_other_types(text: str, message: str, hint: str) -> None:
    """Another type is refused with what to use instead."""
    with pytest.raises(UsageError, match=message) as caught:
        StoreType.parse(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize("store_type", StoreType)
@pytest.mark.parametrize("key", [STORE, KEY])
def test_round_trip(store_type: StoreType, key: Secret) -> None:
    """Both formats keep all entries in order, with one password and with two; the format is found when reading."""
    entries = sample(password=key)
    data = write(entries, store_type, password=STORE, created_at=MADE, random_bytes=urandom)
    assert plain(read(data, password=STORE, key_password=key)) == plain(entries)


@pytest.mark.parametrize("store_type", StoreType)
def test_wrong_passwords_are_told_apart(store_type: StoreType) -> None:
    """In both formats a wrong store password and a wrong key password are different messages."""
    data = write(sample(password=KEY), store_type, password=STORE, created_at=MADE, random_bytes=urandom)
    with pytest.raises(Refused, match="the store password is wrong"):
        read(data, password=KEY, key_password=KEY)
    with pytest.raises(Refused, match="the key password does not open the entry 'handfast'"):
        read(data, password=STORE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a JKS nor a PKCS #12 store"),
        (b"-----BEGIN CERTIFICATE-----", "neither a JKS nor a PKCS #12 store"),
        (bytes.fromhex("cececece 00000002"), "a JCEKS store"),
        (bytes.fromhex("feedfeed"), "the store password is wrong, or the store was changed"),
        (b"\x30", "not a PKCS #12 store"),
        (b"\x30\x80", "not a PKCS #12 store"),
    ],
)
def test_other_bytes(data: bytes, message: str) -> None:
    """Bytes that are no store are refused by what they look like."""
    with pytest.raises(Refused, match=message) as caught:
        read(data, password=STORE)
    assert caught.value.hint


@pytest.mark.parametrize("name", PASSWORDS)
def test_real_stores(name: str) -> None:
    """Every store of the real toolkit is read without saying what it is, and written and read again."""
    store, key = (Secret(text.encode()) if text else None for text in PASSWORDS[name])
    assert store is not None
    entries = read((DATA / name).read_bytes(), password=store, key_password=key)
    for store_type in StoreType:
        data = write(entries, store_type, password=store, created_at=MADE, random_bytes=urandom)
        assert plain(read(data, password=store, key_password=key)) == plain(entries)


def test_no_secret_in_messages() -> None:
    """No error has a password in its words."""
    data = write(sample(password=KEY), StoreType.PKCS12, password=STORE, created_at=MADE, random_bytes=urandom)
    for store, key in ((KEY, KEY), (STORE, STORE)):
        with pytest.raises(HandfastError) as caught:
            read(data, password=store, key_password=key)
        assert not any(one.reveal().decode() in str(caught.value) + caught.value.hint for one in (STORE, KEY))


@pytest.mark.peer("javac")
@pytest.mark.parametrize("store_type", StoreType)
def test_java_program(tmp_path: Path, store_type: StoreType) -> None:
    """A Java program gets our entries, keys by their own password, and we get those of the store it writes."""
    entries = sample(password=KEY)
    (tmp_path / "in").write_bytes(write(entries, store_type, password=STORE, created_at=MADE, random_bytes=urandom))
    seen = java_copy(tmp_path / "in", tmp_path / "out", store_type.value, store=STORE, key=KEY)
    assert [line.rsplit(" ", 1)[0] for line in seen] == ["key handfast 2", "key lone 1", "trusted root"]
    data = (tmp_path / "out").read_bytes()
    assert sorted(plain(read(data, password=STORE, key_password=KEY))) == sorted(plain(entries))
    with pytest.raises(Refused, match="the key password"):
        read(data, password=STORE)
