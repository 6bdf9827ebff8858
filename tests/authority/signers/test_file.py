"""Keys in files: readable by their owner alone, by OpenSSL too, and never handed out again."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.authority.signers import Signer, file, pkcs8
from handfast.core.secret import Secret
from handfast.errors import Fault, Malformed, Refused, TooMuch, Unsafe
from tests.peers import find

P256: Signer = ec.generate_private_key(ec.SECP256R1())
ED25519: Signer = ed25519.Ed25519PrivateKey.generate()
KEYS = {"P-256": P256, "Ed25519": ED25519}
PASSPHRASE = Secret("größe 123".encode())


def _write(path: Path, key: Signer = P256, passphrase: Secret | None = None, *, mode: int = 0o600) -> Path:
    path.write_bytes(pkcs8.dump(key, passphrase))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
@pytest.mark.parametrize("name", KEYS)
def test_a_written_key_is_read_back(tmp_path: Path, name: str, passphrase: Secret | None) -> None:
    """What is dumped loads again, plain or encrypted, as the same key."""
    path = _write(tmp_path / "k", KEYS[name], passphrase)
    assert file.load(path, passphrase).public_key() == KEYS[name].public_key()


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("name", KEYS)
def test_openssl_reads_an_encrypted_key_and_sees_scrypt(tmp_path: Path, name: str) -> None:
    """Keys are not hostage to this program: openssl decrypts them, and shows that the derivation is scrypt."""
    path = _write(tmp_path / "k", KEYS[name], PASSPHRASE)
    openssl = find("openssl") or ""
    (tmp_path / "pass").write_bytes(PASSPHRASE.reveal())
    command = [openssl, "pkcs8", "-in", str(path), "-passin", f"file:{tmp_path / 'pass'}", "-topk8", "-nocrypt"]
    plain = subprocess.run(command, check=True, capture_output=True).stdout
    assert plain == KEYS[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = subprocess.run([openssl, "asn1parse", "-in", str(path)], check=True, capture_output=True, text=True)
    assert ":scrypt" in shown.stdout
    assert ":aes-256-cbc" in shown.stdout


def test_two_dumps_of_one_key_share_no_salt() -> None:
    """The same key under the same passphrase gives other bytes each time."""
    assert pkcs8.dump(P256, PASSPHRASE) != pkcs8.dump(P256, PASSPHRASE)


@pytest.mark.parametrize("mode", [0o601, 0o604, 0o620, 0o640, 0o660, 0o644, 0o666, 0o777])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Any permission for the group or others is refused, with the mode and the command that mends it."""
    path = _write(tmp_path / "k", mode=mode)
    with pytest.raises(Unsafe, match=f"mode {mode:04o}") as caught:
        file.load(path)
    assert caught.value.hint.startswith(f"chmod 600 {path}")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_the_owners_own_bits_do_not_matter(tmp_path: Path, mode: int) -> None:
    """A read-only key is as good as a writable one."""
    file.load(_write(tmp_path / "k", mode=mode))


@pytest.mark.root
def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A key that another user owns is that user's to read and exchange."""
    path = _write(tmp_path / "k")
    os.chown(path, 12345, 12345)
    with pytest.raises(Unsafe, match="belongs to user id 12345") as caught:
        file.load(path)
    assert "run the command as that user" in caught.value.hint


def test_a_link_is_judged_by_what_it_points_to(tmp_path: Path) -> None:
    """The open file counts, not the name: a link to a loose key is refused, one to a good key is not."""
    (tmp_path / "link").symlink_to(_write(tmp_path / "k"))
    file.load(tmp_path / "link")
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(Unsafe):
        file.load(tmp_path / "link")


def test_a_pipe_in_the_place_of_a_key_does_not_hang(tmp_path: Path) -> None:
    """What is not a regular file is refused without waiting for somebody to write into it."""
    os.mkfifo(tmp_path / "k", 0o600)
    with pytest.raises(Unsafe, match="not a regular file"):
        file.load(tmp_path / "k")


def test_a_directory_in_the_place_of_a_key_is_refused(tmp_path: Path) -> None:
    """A directory is no key."""
    with pytest.raises(Fault, match="is a directory"):
        file.load(tmp_path)


@pytest.mark.parametrize(
    "given", [None, Secret(b"12345678"), Secret("GRÖSSE 123".encode())], ids=["none", "other", "case"]
)
def test_a_missing_or_wrong_passphrase_is_refused(tmp_path: Path, given: Secret | None) -> None:
    """The refusal names the file and never the passphrase."""
    with pytest.raises(Refused, match=r"/k'") as caught:
        file.load(_write(tmp_path / "k", passphrase=PASSPHRASE), given)
    assert "it was made with" in caught.value.hint
    assert "123" not in str(caught.value).replace(str(tmp_path), "")


def test_a_passphrase_for_a_plain_key_is_refused(tmp_path: Path) -> None:
    """Whoever gives a passphrase believes the key encrypted."""
    with pytest.raises(Refused, match="is not encrypted"):
        file.load(_write(tmp_path / "k"), PASSPHRASE)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """Garbage is called that, with the name of the file and not its content."""
    (tmp_path / "k").write_bytes(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(Malformed, match=r"/k' is not a private key"):
        file.load(tmp_path / "k")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """A megabyte instead of a key is refused by its length."""
    (tmp_path / "k").write_bytes(b"x" * (1 << 20))
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(TooMuch, match="longer than 65536"):
        file.load(tmp_path / "k")


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    """A key that should be there and is not cannot be the caller's mistake."""
    with pytest.raises(Fault, match=r"cannot read .*/k'"):
        file.load(tmp_path / "k")


def test_an_rsa_key_does_not_sign_here(tmp_path: Path) -> None:
    """An authority signs with ECDSA or Ed25519."""
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "k").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(Malformed, match="holds a RSAPrivateKey"):
        file.load(tmp_path / "k")


@pytest.mark.parametrize("name", KEYS)
def test_p12_a_signer_does_not_hand_out_its_key(tmp_path: Path, name: str) -> None:
    """P12: no method exports the key, and it can be neither copied nor pickled nor printed."""
    signer = file.load(_write(tmp_path / "k", KEYS[name]))
    attempts: list[Callable[[], object]] = [
        lambda: signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        lambda: copy.copy(signer),
        lambda: copy.deepcopy(signer),
        lambda: pickle.dumps(signer),
        lambda: signer.private_numbers() if isinstance(signer, file.FileSigner) else signer.private_bytes_raw(),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError, match="not exported"):
            attempt()
    assert repr(signer) in {"<FileSigner>", "<Ed25519FileSigner>"}
