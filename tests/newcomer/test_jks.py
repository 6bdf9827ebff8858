"""JKS as Java reads it."""

from __future__ import annotations

import hashlib
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.newcomer.jks import KeyEntry, TrustedEntry, write_jks
from tests.newcomer.material import certificate, material

MADE = datetime(2026, 1, 2, 12, tzinfo=UTC)
PASSWORD = Secret("pässword-1".encode())
ONE = material(0xA)


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Secret:
    """The key as PKCS #8."""
    return Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def entry(alias: str = "handfast") -> KeyEntry:
    """A key entry with its chain."""
    return KeyEntry(alias, pkcs8(ONE.private_key), (ONE.leaf, *ONE.chain), PASSWORD)


def keytool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run keytool in English."""
    locale = ["-J-Duser.language=en", "-J-Dfile.encoding=UTF-8", "-J-Dsun.jnu.encoding=UTF-8"]
    return subprocess.run(["keytool", *locale, *map(str, arguments)], check=False, capture_output=True, text=True)


def test_starts_and_ends_as_the_format_says() -> None:
    """The head is the magic number, version 2 and the count; the tail is the digest Java recomputes."""
    store = write_jks([TrustedEntry("root", ONE.trust[0])], password=PASSWORD, created_at=MADE)
    assert store.startswith(bytes.fromhex("feedfeed 00000002 00000001 00000002 0004") + b"root")
    password = PASSWORD.reveal().decode().encode("utf-16-be")
    assert store[-20:] == hashlib.sha1(password + b"Mighty Aphrodite" + store[:-20]).digest()


def test_key_is_not_in_the_clear_and_salted() -> None:
    """The same key is never stored twice in the same bytes."""
    first, second = (write_jks([entry()], password=PASSWORD, created_at=MADE) for _ in range(2))
    assert first != second
    assert ONE.private_key.private_numbers().private_value.to_bytes(32)[:8] not in first


@pytest.mark.parametrize("alias", ["", "x" * 256, "schlüssel", "a\nb", "a\0"])
def test_bad_alias(alias: str) -> None:
    """An alias that Java would encode differently from us is refused."""
    with pytest.raises(UsageError, match="not an alias") as caught:
        write_jks([TrustedEntry(alias, ONE.leaf)], password=PASSWORD, created_at=MADE)
    assert caught.value.hint


def test_alias_twice() -> None:
    """Aliases that Java folds into one are refused: one entry would hide the other."""
    with pytest.raises(UsageError, match="there twice"):
        write_jks([TrustedEntry("A", ONE.leaf), TrustedEntry("a", ONE.leaf)], password=PASSWORD, created_at=MADE)


@pytest.mark.peer("keytool")
class TestJava:
    """Java's own keytool reads what we write."""

    @pytest.fixture
    def password_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "password"
        path.write_bytes(PASSWORD.reveal())
        return path

    def test_entries(self, tmp_path: Path, password_file: Path) -> None:
        """Java sees a key with its chain of two, a trusted certificate, our aliases and the time we gave."""
        store = tmp_path / "store.jks"
        trusted = TrustedEntry("root", ONE.trust[0])
        store.write_bytes(write_jks([entry("Handfast"), trusted], password=PASSWORD, created_at=MADE))
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
        store.write_bytes(write_jks([own], password=PASSWORD, created_at=MADE))
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
        good = write_jks([TrustedEntry("root", ONE.trust[0])], password=PASSWORD, created_at=MADE)
        other = write_jks([TrustedEntry("root", ONE.trust[0])], password=Secret(b"another"), created_at=MADE)
        for bad in (good.replace(b"root", b"toor"), other):
            store.write_bytes(bad)
            seen = keytool("-list", "-keystore", store, "-storetype", "JKS", "-storepass:file", password_file)
            assert seen.returncode != 0
            assert "password was incorrect" in seen.stdout
