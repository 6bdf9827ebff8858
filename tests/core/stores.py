"""Java key stores for tests: entries, the real toolkit's files, and Java's own programs."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core.javaentry import Entry, KeyEntry, TrustedEntry
from handfast.core.secret import Secret
from tests.newcomer.material import certificate, material

DATA = Path(__file__).parent / "data" / "nifi"
PASSWORDS: dict[str, tuple[str, str | None]] = json.loads((DATA / "passwords.json").read_bytes())
MADE = datetime(2026, 1, 2, 12, tzinfo=UTC)
STORE, KEY = Secret(b"the-store-password"), Secret(b"the-key-password")
ONE = material(0xA)
_LONE_KEY, _ROOT_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
LONE = certificate("lone.lan", _LONE_KEY.public_key(), "lone.lan", _LONE_KEY, serial=3).public_bytes(Encoding.DER)
ROOT = certificate("Another CA", _ROOT_KEY.public_key(), "Another CA", _ROOT_KEY, serial=4).public_bytes(Encoding.DER)


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Secret:
    """The key as PKCS #8."""
    return Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def key_entry(alias: str = "handfast", password: Secret = STORE) -> KeyEntry:
    """A key entry with a chain of two."""
    return KeyEntry(alias, pkcs8(ONE.private_key), (ONE.leaf, *ONE.chain), password)


def lone_entry(alias: str = "lone", password: Secret = STORE) -> KeyEntry:
    """A key entry with a certificate that is its own issuer, as an authority's."""
    return KeyEntry(alias, pkcs8(_LONE_KEY), (LONE,), password)


def sample(password: Secret = STORE) -> tuple[Entry, ...]:
    """Two keys and a root that has to do with neither."""
    return key_entry(password=password), lone_entry(password=password), TrustedEntry("root", ROOT)


def plain(entries: tuple[Entry, ...]) -> list[tuple[object, ...]]:
    """Entries in a form that can be compared: secrets cannot."""
    return [
        (entry.alias, entry.private_key.reveal(), entry.chain, entry.password.reveal())
        if isinstance(entry, KeyEntry)
        else (entry.alias, entry.certificate)
        for entry in entries
    ]


def keytool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run keytool in English."""
    locale = ["-J-Duser.language=en", "-J-Dfile.encoding=UTF-8", "-J-Dsun.jnu.encoding=UTF-8"]
    return subprocess.run(["keytool", *locale, *map(str, arguments)], check=False, capture_output=True, text=True)


def java_copy(source: Path, target: Path, kind: str, *, store: Secret, key: Secret) -> list[str]:
    """Let a Java program read a store and write its entries to another; return what it saw, sorted."""
    passwords = {"STORE": store.reveal().decode(), "KEY": key.reveal().decode()}
    command = ["java", str(Path(__file__).parent / "Copy.java"), str(source), str(target), kind]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **passwords})
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())
