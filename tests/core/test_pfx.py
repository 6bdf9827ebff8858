"""PKCS #12 as Java, OpenSSL and cryptography write and read it."""

from __future__ import annotations

import re
import subprocess
from os import urandom
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import KeySerializationEncryption, PrivateFormat, pkcs12
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import pfx
from handfast.core import pfxder as der
from handfast.core.javaentry import Entry, KeyEntry, TrustedEntry
from handfast.core.pfx import read_pfx, write_pfx
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Malformed, Refused, UsageError
from tests.core.stores import (
    DATA,
    KEY,
    MADE,
    ONE,
    PASSWORDS,
    STORE,
    key_entry,
    keytool,
    lone_entry,
    pkcs8,
    plain,
    sample,
)

WRONG = "password is wrong, or the store was changed"


def write(*entries: Entry, password: Secret = STORE) -> bytes:
    """A store."""
    return write_pfx(entries, password=password, created_at=MADE, random_bytes=urandom)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of one iteration, for tests that open thousands."""
    monkeypatch.setattr(pfx, "ITERATIONS", 1)


def seal(*parts: der.ContentInfo, version: int = 3, iterations: int = 1, mac: bool = True) -> bytes:
    """A store of these parts with a MAC that fits."""
    safe = der.sequence_of(parts)
    digest = pfx._mac(asn1.encode_der(safe), STORE, b"salt", max(1, min(iterations, 10)))
    info = der.DigestInfo(algorithm=der.Hash(algorithm=der.SHA256, parameters=asn1.Null()), digest=digest)
    data = der.MacData(mac=info, salt=b"salt", iterations=iterations) if mac else None
    return asn1.encode_der(der.Pfx(version=version, safe=pfx._data(safe), mac=data))


def bags(*values: object) -> der.ContentInfo:
    """A part of these bags, not encrypted."""
    return pfx._data(der.sequence_of(values))


def bag(kind: x509.ObjectIdentifier, value: object, *attributes: der.Attribute) -> der.Bag:
    """A bag with attributes."""
    return der.Bag(type=kind, value=der.tlv(value), attributes=der.set_of(*attributes))


def attribute(kind: x509.ObjectIdentifier, value: object) -> der.Attribute:
    """An attribute of one value."""
    return der.Attribute(type=kind, values=der.set_of(value))


TRUST = attribute(der.TRUSTED_KEY_USAGE, der.ANY_USAGE)


def encryption(password: bytes) -> KeySerializationEncryption:
    """As cryptography makes it for Java 17."""
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )


@pytest.mark.parametrize("key", [STORE, KEY])
def test_round_trip(key: Secret) -> None:
    """Keys with their chains and trusted certificates are read again, with one password and with two."""
    entries = sample(password=key)
    assert plain(read_pfx(write(*entries), password=STORE, key_password=key)) == plain(entries)


def test_empty() -> None:
    """A store may be empty."""
    assert read_pfx(write(), password=STORE) == ()


def test_two_keys_under_one_authority() -> None:
    """Two keys share the certificates above them, which are stored once."""
    entries = key_entry("a"), KeyEntry("b", pkcs8(ONE.private_key), (ONE.leaf, *ONE.chain), STORE)
    data = write(*entries)
    assert plain(read_pfx(data, password=STORE)) == plain(entries)
    assert len(pkcs12.load_pkcs12(data, STORE.reveal()).additional_certs) == 2  # the other leaf, and the authority


def test_key_is_not_in_the_clear_and_salted() -> None:
    """The same content is never stored twice in the same bytes, and neither names nor keys are legible."""
    first, second = write(key_entry()), write(key_entry())
    assert first[100:-100] != second[100:-100]
    assert ONE.private_key.private_numbers().private_value.to_bytes(32)[:8] not in first
    assert ONE.leaf[:40] not in first


def test_alias_is_folded() -> None:
    """An alias is stored and read in lower case, as Java does it."""
    (entry,) = read_pfx(write(TrustedEntry("NiFi-Cert", ONE.leaf)), password=STORE)
    assert entry.alias == "nifi-cert"


@pytest.mark.parametrize("alias", ["", "x" * 256, "schlüssel", "a\nb"])
def test_bad_alias(alias: str) -> None:
    """An alias that JKS could not hold is refused here too."""
    with pytest.raises(UsageError, match="not an alias"):
        write(TrustedEntry(alias, ONE.leaf))


@pytest.mark.parametrize("text", ["", "pässword", "tab\t", "\N{KEY}"])
def test_password_that_java_cannot_use(text: str) -> None:
    """A password with which Java opens no PKCS #12 store is not written, neither the store's nor the key's."""
    bad = Secret(text.encode())
    with pytest.raises(UsageError, match="printable ASCII") as caught:
        write(password=bad)
    assert text == "" or text not in caught.value.message
    with pytest.raises(UsageError, match="printable ASCII"):
        write(key_entry(password=bad))


def test_other_passwords_are_read() -> None:
    """A non-ASCII password of a store that another program made is encoded as the standard says."""
    password = "pässword-\N{GREEK SMALL LETTER ALPHA}".encode()
    data = pkcs12.serialize_key_and_certificates(b"Web", ONE.private_key, ONE.certificate, None, encryption(password))
    (entry,) = read_pfx(data, password=Secret(password))
    assert plain((entry,)) == [("web", pkcs8(ONE.private_key).reveal(), (ONE.leaf,), password)]
    with pytest.raises(UsageError, match="not UTF-8"):
        read_pfx(data, password=Secret(b"\xff"))


def test_what_cryptography_makes_is_read() -> None:
    """The library's stores, which the layouts write, are read: a key with its chain, and trusted certificates."""
    chain, roots = ([x509.load_der_x509_certificate(one) for one in ders] for ders in (ONE.chain, ONE.trust))
    own = pkcs12.serialize_key_and_certificates(
        b"handfast", ONE.private_key, ONE.certificate, chain, encryption(STORE.reveal())
    )
    assert plain(read_pfx(own, password=STORE)) == plain((key_entry(),))
    trusted = pkcs12.serialize_java_truststore(
        [pkcs12.PKCS12Certificate(roots[0], b"root")], encryption(STORE.reveal())
    )
    assert read_pfx(trusted, password=STORE) == (TrustedEntry("root", ONE.trust[0]),)


@pytest.mark.parametrize(
    ("algorithm", "mac"),
    [
        (pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC, hashes.SHA1()),
        (pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC, hashes.SHA256()),
        (pkcs12.PBES.PBESv2SHA256AndAES256CBC, hashes.SHA1()),
    ],
)
def test_old_algorithms(algorithm: pkcs12.PBES, mac: hashes.HashAlgorithm) -> None:
    """What is not of today's kind is left to the library: no mixture of old and new goes unread."""
    kind = PrivateFormat.PKCS12.encryption_builder().key_cert_algorithm(algorithm).hmac_hash(mac).build(STORE.reveal())
    chain = [x509.load_der_x509_certificate(one) for one in ONE.chain]
    data = pkcs12.serialize_key_and_certificates(b"handfast", ONE.private_key, ONE.certificate, chain, kind)
    assert plain(read_pfx(data, password=STORE)) == plain((key_entry(),))
    with pytest.raises(Refused, match="password is wrong"):
        read_pfx(data, password=Secret(b"another"))


@pytest.mark.usefixtures("quick")
def test_every_truncation() -> None:
    """No beginning of a store is a store, and none raises anything but our error."""
    data = write(*sample())
    for size in range(len(data)):
        with pytest.raises(Refused):
            read_pfx(data[:size], password=STORE)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_every_changed_byte(flip: int) -> None:
    """A changed byte is refused by our error: there is none outside the structure and under no MAC."""
    data = write(*sample())
    for place in range(len(data)):
        with pytest.raises(Refused):
            read_pfx(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :], password=STORE)


def test_bytes_after_the_store() -> None:
    """Bytes after the store are refused."""
    with pytest.raises(Malformed, match="structure"):
        read_pfx(write(key_entry()) + b"\0", password=STORE)


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    """Arbitrary bytes meet our error and never another."""
    with pytest.raises(HandfastError):
        read_pfx(b"\x30" + data, password=STORE)


def test_wrong_password() -> None:
    """A wrong password of the store is refused; it looks like a changed byte, and the message says both."""
    with pytest.raises(Refused, match=WRONG) as caught:
        read_pfx(write(key_entry()), password=Secret(b"another"))
    assert caught.value.hint


CERTIFICATE = der.CertBag(type=der.X509, value=ONE.leaf)
NAME = attribute(der.FRIENDLY_NAME, der.bmp("a"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (seal(version=2), "version 3"),
        (seal(mac=False), "no integrity check"),
        (seal(iterations=0), "0 iterations"),
        (seal(iterations=5_000_001), "5000001 iterations"),
        (seal(der.ContentInfo(type=der.X509, content=der.tlv(b""))), "content of type 1.2.840.113549.1.9.22.1"),
        (seal(pfx._data(der.tlv(b"no sequence"))), "structure"),
        (seal(bags(b"no bag")), "structure"),
        (seal(bags(bag(der.DATA, b""))), "entry of type 1.2.840.113549.1.7.1"),
        (seal(bags(bag(der.CERTIFICATE, der.CertBag(type=der.DATA, value=b"")))), "certificate of type"),
        (seal(bags(bag(der.SHROUDED_KEY, b"", NAME))), "the key 'a' has no certificate"),
        (
            seal(bags(bag(der.CERTIFICATE, CERTIFICATE, NAME, TRUST), bag(der.CERTIFICATE, CERTIFICATE, NAME, TRUST))),
            "two",
        ),
        (seal(bags(bag(der.CERTIFICATE, CERTIFICATE, attribute(der.FRIENDLY_NAME, der.tlv(b"odd"))))), "structure"),
    ],
)
def test_malformed_under_a_good_mac(data: bytes, reason: str) -> None:
    """Whoever knows the password cannot make the parser do anything but refuse."""
    with pytest.raises(Malformed, match=reason) as caught:
        read_pfx(data, password=STORE)
    assert caught.value.hint


def test_key_of_an_unknown_kind() -> None:
    """A key that opens and is of no known kind is told from a wrong password."""
    unknown = Secret(bytes.fromhex("300f 020100 3004 0602 2a03 0404 00000000"))
    with pytest.raises(Malformed, match="the key 'a' is of a kind that is not supported"):
        read_pfx(write(KeyEntry("a", unknown, (ONE.leaf,), STORE)), password=STORE)


def test_old_key_without_certificate() -> None:
    """An old store with nothing but a key is refused."""
    kind = PrivateFormat.PKCS12.encryption_builder().hmac_hash(hashes.SHA1()).build(STORE.reveal())
    data = pkcs12.serialize_key_and_certificates(b"a", ONE.private_key, None, None, kind)
    with pytest.raises(Malformed, match="has no certificate"):
        read_pfx(data, password=STORE)


def test_certificate_that_is_none() -> None:
    """A chain of what are no certificates is refused: their names cannot be compared."""
    with pytest.raises(Malformed, match="structure"):
        read_pfx(write(KeyEntry("a", pkcs8(ONE.private_key), (b"DER",), STORE)), password=STORE)


def test_certificate_not_said_to_be_trusted() -> None:
    """A certificate that nothing says to be trusted is no entry, as in Java."""
    assert read_pfx(seal(bags(bag(der.CERTIFICATE, CERTIFICATE, NAME))), password=STORE) == ()


def test_nameless_entries_are_numbered() -> None:
    """Entries without a name are numbered, as in Java."""
    data = seal(bags(*(bag(der.CERTIFICATE, CERTIFICATE, TRUST) for _ in range(2))))
    assert [entry.alias for entry in read_pfx(data, password=STORE)] == ["1", "2"]


@pytest.mark.parametrize("chain", [(ONE.leaf, *ONE.chain, *ONE.trust), (ONE.leaf,)])
def test_chain_ends(chain: tuple[bytes, ...]) -> None:
    """A chain ends with a certificate that is its own issuer, or whose issuer is not there."""
    entries = KeyEntry("a", pkcs8(ONE.private_key), chain, STORE), lone_entry()
    assert plain(read_pfx(write(*entries), password=STORE)) == plain(entries)


def test_chain_is_joined_by_names() -> None:
    """A trusted certificate above a chain is read as its end too, as in Java: the format does not keep them apart."""
    entry, _ = read_pfx(write(key_entry(), TrustedEntry("root", ONE.trust[0])), password=STORE)
    assert isinstance(entry, KeyEntry)
    assert entry.chain == (ONE.leaf, *ONE.chain, *ONE.trust)


@pytest.mark.parametrize("name", [name for name in PASSWORDS if name.endswith(".pkcs12")])
def test_real_stores(name: str) -> None:
    """The real toolkit's stores are read, BouncyCastle's old kind too, and no truncation of them is."""
    data = (DATA / name).read_bytes()
    store, key = (Secret((text or "").encode()) for text in PASSWORDS[name])
    (entry,) = read_pfx(data, password=store, key_password=key)
    if isinstance(entry, KeyEntry):
        assert (entry.alias, len(entry.chain)) == ("nifi-key", 2)
    else:
        assert entry.alias == "nifi-cert"
    for size in range(0, len(data), 7):
        with pytest.raises(Refused):
            read_pfx(data[:size], password=store, key_password=key)


def test_mac_taken_away() -> None:
    """A BER store without a MAC, which the library opens with any password, is refused: anybody could have made it."""
    trusted = asn1.encode_der(
        der.Pfx(version=3, safe=pfx._data(der.sequence_of([bags(bag(der.CERTIFICATE, CERTIFICATE))])), mac=None)
    )
    real = (DATA / "keystore-bouncycastle.pkcs12").read_bytes()
    mac = real.index(bytes.fromhex("3021 3009 0605 2b0e03021a")) - 2
    for forged in (b"\x30\x80" + trusted[4:] + bytes(2), real[:mac] + bytes(2)):
        with pytest.raises(Malformed, match="no integrity check"):
            read_pfx(forged, password=Secret((PASSWORDS["keystore-bouncycastle.pkcs12"][0] or "").encode()))


@pytest.mark.parametrize("text", ["", "02", "0201 03", "0000 00", "1f01 03 0000", "0482", "0484ffffffff"])
def test_broken_ber(text: str) -> None:
    """BER that is cut short, goes on after its end or has tags of another format is refused."""
    with pytest.raises(Malformed, match="structure"):
        read_pfx(b"\x30\x80" + bytes.fromhex(text), password=STORE)


def test_old_kind_wrong_password() -> None:
    """An old store that does not open says what may be the reason, and how to make a new one of it."""
    with pytest.raises(Refused, match="old PKCS #12 store") as caught:
        read_pfx((DATA / "keystore-bouncycastle.pkcs12").read_bytes(), password=STORE)
    assert "make the store again with Java 17" in caught.value.hint


@pytest.mark.peer("keytool")
class TestKeytool:
    """Java's own keytool lists what we write, and we read what it writes."""

    @pytest.mark.parametrize("key", [STORE, KEY])
    def test_entries(self, tmp_path: Path, key: Secret) -> None:
        """Java sees keys with their chains and a trusted certificate, our aliases and the time we gave."""
        store = tmp_path / "store.p12"
        store.write_bytes(write(*sample(password=key)))
        seen = keytool("-list", "-v", "-keystore", store, "-storetype", "PKCS12", "-storepass", STORE.reveal().decode())
        assert seen.returncode == 0, seen.stdout
        found = dict(re.findall(r"Alias name: (\S+)\n(?:.*\n)?Entry type: (\S+)", seen.stdout))
        assert found == {"handfast": "PrivateKeyEntry", "lone": "PrivateKeyEntry", "root": "trustedCertEntry"}
        assert sorted(re.findall(r"Certificate chain length: (\d)", seen.stdout)) == ["1", "2"]
        assert seen.stdout.count("Creation date: Jan 2, 2026") == 2  # it keeps none for trusted ones

    @pytest.mark.parametrize("kind", ["new", "old"])
    def test_reading_what_keytool_made(self, tmp_path: Path, kind: str) -> None:
        """Stores of today's Java and of Java 8's algorithms are read; Java does not sort attributes as DER does."""
        alias = "a-name-so-long-that-attributes-change-places"
        old = ["-J-Dkeystore.pkcs12.legacy"] if kind == "old" else []
        common = [*old, "-storetype", "PKCS12", "-keystore", tmp_path / "s", "-storepass", STORE.reveal().decode()]
        (tmp_path / "root").write_bytes(ONE.trust[0])
        made = keytool("-genkeypair", "-alias", alias, "-keyalg", "EC", "-dname", "CN=web1.lan", *common)
        assert made.returncode == 0, made.stdout
        done = keytool("-importcert", "-noprompt", "-alias", "root", "-file", tmp_path / "root", *common)
        assert done.returncode == 0, done.stdout
        entries = read_pfx((tmp_path / "s").read_bytes(), password=STORE)
        assert isinstance(entries[0], KeyEntry)
        assert (entries[0].alias, len(entries[0].chain)) == (alias, 1)
        # which certificates are trusted is not seen in old stores beside a key: none is
        assert entries[1:] == ((TrustedEntry("root", ONE.trust[0]),) if kind == "new" else ())

    def test_secret_keys_are_refused(self, tmp_path: Path) -> None:
        """A store with an entry that we would lose is refused, not read in part."""
        common = ["-storetype", "PKCS12", "-keystore", tmp_path / "s", "-storepass", STORE.reveal().decode()]
        assert keytool("-genseckey", "-alias", "s", "-keyalg", "AES", "-keysize", "128", *common).returncode == 0
        with pytest.raises(Malformed, match=re.escape("an entry of type 1.2.840.113549.1.12.10.1.5")):
            read_pfx((tmp_path / "s").read_bytes(), password=STORE)


@pytest.mark.peer("openssl")
def test_openssl(tmp_path: Path) -> None:
    """OpenSSL takes the key and both certificates out of our store, and we out of its own."""
    (tmp_path / "in").write_bytes(write(key_entry()))
    password = "pass:" + STORE.reveal().decode()
    one = subprocess.run(
        ["openssl", "pkcs12", "-in", tmp_path / "in", "-passin", password, "-nodes"], check=True, capture_output=True
    ).stdout
    assert one.count(b"BEGIN CERTIFICATE") == 2
    (tmp_path / "pem").write_bytes(one)
    two = subprocess.run(
        ["openssl", "pkcs12", "-export", "-in", tmp_path / "pem", "-passout", password, "-name", "handfast"],
        check=True,
        capture_output=True,
    ).stdout
    assert plain(read_pfx(two, password=STORE)) == plain((key_entry(),))
