"""JKS as Java writes and reads it."""

from __future__ import annotations

import hashlib
import re
import struct
import time
from os import urandom
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.javaentry import Entry, KeyEntry, TrustedEntry
from handfast.core.jks import read_jks, write_jks
from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused, UsageError
from tests.core.stores import DATA, KEY, MADE, ONE, PASSWORDS, key_entry, keytool, pkcs8, plain, sample
from tests.newcomer.material import certificate

PASSWORD = Secret("pässword-\N{KEY}".encode())  # a character of Latin-1, and one beyond UTF-16's first plane
HEAD = bytes.fromhex("feedfeed 00000002")
TRUSTED = struct.pack(">IH1sQH5sI3s", 2, 1, b"a", 0, 5, b"X.509", 3, b"DER")


def write(*entries: Entry, password: Secret = PASSWORD) -> bytes:
    """A store."""
    return write_jks(entries, password=password, created_at=MADE, random_bytes=urandom)


def seal(body: bytes) -> bytes:
    """The body with the digest that Java would accept."""
    passphrase = PASSWORD.reveal().decode().encode("utf-16-be")
    return body + hashlib.sha1(passphrase + b"Mighty Aphrodite" + body).digest()


def test_starts_and_ends_as_the_format_says() -> None:
    """The head is the magic number, version 2 and the count; the tail is the digest Java recomputes."""
    store = write(TrustedEntry("root", ONE.trust[0]))
    assert store.startswith(bytes.fromhex("feedfeed 00000002 00000001 00000002 0004") + b"root")
    assert store == seal(store[:-20])


def test_key_is_not_in_the_clear_and_salted() -> None:
    """The same key is never stored twice in the same bytes."""
    first, second = write(key_entry()), write(key_entry())
    assert first != second
    assert ONE.private_key.private_numbers().private_value.to_bytes(32)[:8] not in first


@given(st.binary(max_size=300), st.text(min_size=1), st.text(min_size=1), st.lists(st.binary(max_size=40), min_size=1))
def test_round_trip(key: bytes, store: str, other: str, chain: list[bytes]) -> None:
    """What is written is read again, whatever the sizes and the characters of the passwords."""
    password, key_password = (Secret(text.encode(errors="replace")) for text in (store, other))
    entries = (TrustedEntry("ca", chain[0]), KeyEntry("key", Secret(key), tuple(chain), key_password))
    data = write_jks(entries, password=password, created_at=MADE, random_bytes=urandom)
    assert plain(read_jks(data, password=password, key_password=key_password)) == plain(entries)


def test_alias_is_folded() -> None:
    """An alias is stored and read in lower case, as Java does it."""
    (entry,) = read_jks(write(TrustedEntry("NiFi-Cert", b"DER")), password=PASSWORD)
    assert entry.alias == "nifi-cert"


@pytest.mark.parametrize(
    ("stored", "alias"),
    [
        ("schlüssel".encode(), "schlüssel"),
        (b"a\xc0\x80b", "a\0b"),
        (b"\xed\xa0\xbd\xed\xb4\x91", "\N{KEY}"),
        (b"UPPER", "upper"),
    ],
)
def test_modified_utf8(stored: bytes, alias: str) -> None:
    """Aliases are read in Java's own encoding: NUL in two bytes, surrogates one by one."""
    entry = struct.pack(">IH", 2, len(stored)) + stored + TRUSTED[7:]
    (read,) = read_jks(seal(HEAD + struct.pack(">I", 1) + entry), password=PASSWORD)
    assert read.alias == alias


@pytest.mark.parametrize("alias", ["", "x" * 256, "schlüssel", "a\nb", "a\0"])
def test_bad_alias(alias: str) -> None:
    """An alias that Java would encode differently from us is refused."""
    with pytest.raises(UsageError, match="not an alias") as caught:
        write(TrustedEntry(alias, ONE.leaf))
    assert caught.value.hint


def test_alias_twice() -> None:
    """Aliases that Java folds into one are refused: one entry would hide the other."""
    with pytest.raises(UsageError, match="there twice"):
        write(TrustedEntry("A", ONE.leaf), TrustedEntry("a", ONE.leaf))


def test_key_without_certificate() -> None:
    """A key without a certificate is refused: Java has no such entry."""
    with pytest.raises(UsageError, match="'handfast' has no certificate"):
        write(KeyEntry("handfast", pkcs8(ONE.private_key), (), PASSWORD))


def test_password_that_is_no_text() -> None:
    """A password that is not UTF-8 is refused when writing and when reading: it has no characters."""
    bad = Secret(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        write(password=bad)
    with pytest.raises(UsageError, match="not UTF-8"):
        read_jks(write(), password=bad)
    with pytest.raises(UsageError, match="not UTF-8"):
        read_jks(write(key_entry()), password=PASSWORD, key_password=bad)


def test_every_truncation() -> None:
    """No beginning of a store is a store."""
    data = write(*sample())
    for size in range(len(data)):
        with pytest.raises(Refused):
            read_jks(data[:size], password=PASSWORD)


def test_every_changed_byte() -> None:
    """A store in which any byte was changed is refused: the digest is checked before anything else."""
    data = write(*sample(password=PASSWORD))
    for place in range(4, len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(Refused, match="password is wrong, or the store was changed"):
            read_jks(changed, password=PASSWORD)


def test_wrong_password() -> None:
    """A wrong password of the store is refused; it looks like a changed byte, and the message says both."""
    with pytest.raises(Refused, match="password is wrong, or the store was changed"):
        read_jks(write(key_entry()), password=Secret(b"another"))


def test_wrong_key_password() -> None:
    """A wrong password of the key is an error of its own, which names the entry."""
    data = write(key_entry(password=KEY))
    for wrong in (None, Secret(b"another")):
        with pytest.raises(Refused, match="key password does not open the entry 'handfast'") as caught:
            read_jks(data, password=PASSWORD, key_password=wrong)
        assert "two passwords" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (HEAD, "4 bytes announced, 0 there"),
        (HEAD[:4] + struct.pack(">II", 1, 0), "version 1"),
        (HEAD + struct.pack(">I", 0) + b"x", "1 bytes after the last entry"),
        (HEAD + struct.pack(">I", 2**32 - 1), "4 bytes announced, 0 there"),
        (HEAD + struct.pack(">I", 2) + TRUSTED, "4 bytes announced, 0 there"),
        (HEAD + struct.pack(">I", 2) + TRUSTED + TRUSTED, "two entries 'a'"),
        (HEAD + struct.pack(">I", 1) + b"\0\0\0\3" + TRUSTED[4:], "of kind 3"),
        (HEAD + struct.pack(">I", 1) + TRUSTED.replace(b"X.509", b"X.510"), "kind b'X.510'"),
        (HEAD + struct.pack(">I", 1) + TRUSTED.replace(b"\0\0\0\3DER", b"\xff\xff\xff\xffDER"), "4294967295 bytes"),
        (HEAD + struct.pack(">I", 1) + TRUSTED.replace(b"a", b"\xed"), "not text"),
        (HEAD + struct.pack(">I", 1) + TRUSTED.replace(b"a", b"\xff"), "not text"),
        (HEAD + struct.pack(">IIH1sQI", 1, 1, 1, b"a", 0, 0), "not an EncryptedPrivateKeyInfo"),
        (HEAD + struct.pack(">IIH1sQI3s", 1, 1, 1, b"a", 0, 3, b"\x30\x01\0"), "not an EncryptedPrivateKeyInfo"),
    ],
)
def test_malformed_under_a_good_digest(body: bytes, reason: str) -> None:
    """Whoever knows the password cannot make the parser do anything but refuse."""
    with pytest.raises(Malformed, match=re.escape(reason)) as caught:
        read_jks(seal(body), password=PASSWORD)
    assert caught.value.hint


@pytest.mark.parametrize(
    "key",
    [
        "3014 300e 060a 2b06010401 2a021101 01 0500 0402 0000",  # too short for a salt and a digest
        "303a 300e 060a 2b06010401 2a021101 02 0500 0428" + "00" * 40,  # another algorithm
    ],
)
def test_other_key_protection(key: str) -> None:
    """A key that is protected by another algorithm, or too short to be, is refused."""
    protected = bytes.fromhex(key)
    body = HEAD + struct.pack(">IIH1sQI", 1, 1, 1, b"a", 0, len(protected)) + protected + bytes(4)
    with pytest.raises(Malformed, match="not protected the way of JKS"):
        read_jks(seal(body), password=PASSWORD)


def test_attack_a_key_of_megabytes() -> None:
    """A store that somebody hands over with its password: its key is as long as he likes, and read in seconds."""
    store = write(KeyEntry("key", Secret(bytes(1 << 22)), (b"DER",), PASSWORD))
    begin = time.process_time()
    read_jks(store, password=PASSWORD)
    assert time.process_time() - begin < 10  # copied anew for each hash it took minutes


def test_not_jks() -> None:
    """Bytes of another kind are told from a wrong password."""
    for data in (b"", b"\xfe\xed", b"-----BEGIN CERTIFICATE-----"):
        with pytest.raises(Malformed, match="not a JKS store"):
            read_jks(data, password=PASSWORD)


@pytest.mark.parametrize("name", [name for name in PASSWORDS if name.endswith(".jks")])
def test_real_stores(name: str) -> None:
    """The real toolkit's stores are read; its key passwords too, and no truncation of them is."""
    data = (DATA / name).read_bytes()
    store, key = (Secret((text or "").encode()) for text in PASSWORDS[name])
    (entry,) = read_jks(data, password=store, key_password=key)
    if isinstance(entry, KeyEntry):
        assert (entry.alias, len(entry.chain)) == ("nifi-key", 1 if "ca" in name else 2)
        assert entry.private_key.reveal().startswith(b"\x30\x82")
    else:
        assert entry.alias == "nifi-cert"
    for size in range(len(data)):
        with pytest.raises(Refused):
            read_jks(data[:size], password=store, key_password=key)


@pytest.mark.peer("keytool")
class TestJava:
    """Java's own keytool reads what we write, and we what it writes."""

    @pytest.fixture
    def password_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "password"
        path.write_bytes(PASSWORD.reveal())
        return path

    def test_entries(self, tmp_path: Path, password_file: Path) -> None:
        """Java sees a key with its chain of two, a trusted certificate, our aliases and the time we gave."""
        store = tmp_path / "store.jks"
        store.write_bytes(write(key_entry("Handfast"), TrustedEntry("root", ONE.trust[0])))
        seen = keytool("-list", "-v", "-keystore", store, "-storetype", "JKS", "-storepass:file", password_file)
        assert seen.returncode == 0, seen.stdout
        assert re.findall(r"Alias name: (\S+)", seen.stdout) == ["handfast", "root"]
        assert sorted(re.findall(r"Entry type: (\S+)", seen.stdout)) == ["PrivateKeyEntry", "trustedCertEntry"]
        assert "Certificate chain length: 2" in seen.stdout
        assert "Creation date: Jan 2, 2026" in seen.stdout

    @pytest.mark.parametrize("kind", ["ec", "rsa"])
    def test_key_is_recovered(self, tmp_path: Path, password_file: Path, kind: str) -> None:
        """Java takes the very key out again, for keys shorter and longer than one DER length octet."""
        key = ONE.private_key if kind == "ec" else rsa.generate_private_key(65537, 2048)
        leaf = certificate("web1.lan", key.public_key(), "web1.lan", key, serial=1).public_bytes(Encoding.DER)
        own = KeyEntry("handfast", pkcs8(key), (leaf,), Secret(b"another-password"))
        (tmp_path / "key-password").write_bytes(b"another-password")
        (tmp_path / "ascii").write_bytes(b"changeit")
        store, out = tmp_path / "store.jks", tmp_path / "out.p12"
        store.write_bytes(write(own))
        source = ["-srckeystore", store, "-srcstoretype", "JKS", "-srcstorepass:file", password_file]
        target = ["-destkeystore", out, "-deststoretype", "PKCS12", "-deststorepass:file", tmp_path / "ascii"]
        keys = ["-srcalias", "handfast", "-srckeypass:file", tmp_path / "key-password"]
        done = keytool("-importkeystore", "-noprompt", *source, *target, *keys, "-destkeypass:file", tmp_path / "ascii")
        assert done.returncode == 0, done.stdout
        recovered = pkcs12.load_key_and_certificates(out.read_bytes(), b"changeit")[0]
        assert isinstance(recovered, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        assert pkcs8(recovered).reveal() == pkcs8(key).reveal()

    def test_tampered_or_wrong_password(self, tmp_path: Path, password_file: Path) -> None:
        """Java refuses a changed byte and another password, so our digest is the one it checks."""
        store = tmp_path / "store.jks"
        root = TrustedEntry("root", ONE.trust[0])
        for bad in (write(root).replace(b"root", b"toor"), write(root, password=Secret(b"another"))):
            store.write_bytes(bad)
            seen = keytool("-list", "-keystore", store, "-storetype", "JKS", "-storepass:file", password_file)
            assert seen.returncode != 0
            assert "password was incorrect" in seen.stdout

    def test_reading_what_keytool_made(self, tmp_path: Path, password_file: Path) -> None:
        """A store made by keytool is read: a key with its own password, and a non-ASCII alias and password."""
        store = tmp_path / "store.jks"
        (tmp_path / "key-password").write_bytes(KEY.reveal())
        common = ["-storetype", "JKS", "-keystore", store, "-storepass:file", password_file]
        made = keytool(
            *("-genkeypair", "-alias", "Schlüssel", "-keyalg", "EC", "-dname", "CN=web1.lan"),
            *(*common, "-keypass:file", tmp_path / "key-password"),
        )
        assert made.returncode == 0, made.stdout
        (entry,) = read_jks(store.read_bytes(), password=PASSWORD, key_password=KEY)
        assert isinstance(entry, KeyEntry)
        assert entry.alias == "schlüssel"
        assert len(entry.chain) == 1
        with pytest.raises(Refused, match="key password"):
            read_jks(store.read_bytes(), password=PASSWORD)
