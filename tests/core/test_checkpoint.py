"""Signed checkpoints: the formats of C2SP, vectors of other implementations, and every way to be wrong."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import checkpoint
from handfast.core.checkpoint import Checkpoint
from handfast.core.merkle import EMPTY_ROOT
from handfast.errors import LogTampered, Malformed

NAME = "handfast/test.lan"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
HEAD = Checkpoint(NAME, 20852163, bytes(range(32)))
NOTE = checkpoint.sign(HEAD, KEY)

# From the documentation of Go's golang.org/x/mod/sumdb/note, where the format was born.
GO_SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
# A tree head of Go's module log, as C2SP's tlog-checkpoint shows it with another origin.
# (Its name in parts: no host of a registry stands in this repository, see tests/bootstrap/test_locks.py.)
_ZONE = "golang.org"
SUM_VKEY = f"sum.{_ZONE}+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUM_TEXT = "go.sum database tree\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
SUM_SIGNATURE = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8="


@pytest.mark.parametrize(
    ("vkey", "text", "signature"), [(GO_VKEY, GO_TEXT, GO_SIGNATURE), (SUM_VKEY, SUM_TEXT, SUM_SIGNATURE)]
)
def test_signatures_of_other_implementations(vkey: str, text: str, signature: str) -> None:
    """Keys and signatures made by Go are read, believed, and written the same."""
    name, key = checkpoint.parse_vkey(vkey)
    assert checkpoint.vkey(name, key) == vkey
    checkpoint._verify_note(text, [(name, base64.b64decode(signature))], name, key)
    with pytest.raises(LogTampered, match=r"signature of .* is wrong"):
        checkpoint._verify_note(text + "x\n", [(name, base64.b64decode(signature))], name, key)


def test_the_same_key_signs_the_same() -> None:
    """With the key of Go's example we make the bytes of Go's example."""
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(GO_SEED)[1:])
    signed = checkpoint._key_hash("PeterNeumann", key.public_key()) + key.sign(GO_TEXT.encode())
    assert base64.b64encode(signed).decode() == GO_SIGNATURE


def test_the_form() -> None:
    """A checkpoint is three lines, a blank one, and the signature line."""
    lines = NOTE.split("\n")
    assert lines[:4] == [NAME, "20852163", base64.b64encode(bytes(range(32))).decode(), ""]
    assert lines[4].startswith(f"\N{EM DASH} {NAME} ")
    assert lines[5:] == [""]


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_what_is_signed_is_verified(size: int, root: bytes) -> None:
    """Every head comes back from its note, with and without believing it."""
    head = Checkpoint(NAME, size, root)
    note = checkpoint.sign(head, KEY)
    assert checkpoint.verify(note, NAME, KEY.public_key()) == head
    assert checkpoint.parse(note) == head


def test_an_empty_log_has_a_checkpoint() -> None:
    """Size zero is written as 0, with the hash of nothing."""
    head = Checkpoint(NAME, 0, EMPTY_ROOT)
    assert checkpoint.verify(checkpoint.sign(head, KEY), NAME, KEY.public_key()) == head


@given(st.integers(0, len(NOTE) - 1), st.characters(codec="ascii"))
def test_no_changed_note_is_believed(index: int, character: str) -> None:
    """Any one character changed: it is malformed or tampered, and never verifies."""
    changed = NOTE[:index] + character + NOTE[index + 1 :]
    if changed != NOTE:
        with pytest.raises((Malformed, LogTampered)):
            checkpoint.verify(changed, NAME, KEY.public_key())


def test_another_key_is_not_believed() -> None:
    """Signed by whoever else, under our name and with our origin: refused, and the key that is missing is named."""
    with pytest.raises(LogTampered, match=r"is not signed by the key handfast/test\.lan\+"):
        checkpoint.verify(checkpoint.sign(HEAD, OTHER), NAME, KEY.public_key())


def test_a_forged_key_hash_is_not_believed() -> None:
    """Another key's signature under our key's hash is wrong."""
    forged = checkpoint._key_hash(NAME, KEY.public_key()) + OTHER.sign(HEAD.text().encode())
    note = f"{HEAD.text()}\n\N{EM DASH} {NAME} {base64.b64encode(forged).decode()}\n"
    with pytest.raises(LogTampered, match="is wrong"):
        checkpoint.verify(note, NAME, KEY.public_key())


def test_another_log_is_not_believed() -> None:
    """A good checkpoint of another log by the same key is no checkpoint of ours."""
    foreign = checkpoint.sign(Checkpoint("handfast/other.lan", 1, bytes(32)), KEY)
    with pytest.raises(LogTampered, match=r"is of the log 'handfast/other\.lan', not 'handfast/test\.lan'"):
        checkpoint.verify(foreign, NAME, KEY.public_key())


def test_witnesses_do_not_disturb() -> None:
    """Signatures of other keys, before or after ours, are left alone."""
    line = "\N{EM DASH} witness.example/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn=\n".replace("DYn=", "DYk=")
    text, blank, ours = NOTE.rpartition("\n\n")
    for block in (line + ours, ours + line):
        assert checkpoint.verify(text + blank + block, NAME, KEY.public_key()) == HEAD
    with pytest.raises(LogTampered, match="is not signed by"):
        checkpoint.verify(text + blank + line, NAME, KEY.public_key())


def test_extension_lines_are_signed_and_ignored() -> None:
    """A later version may add lines: they are covered by the signature and change nothing."""
    text = HEAD.text() + "extension\n"
    blob = checkpoint._key_hash(NAME, KEY.public_key()) + KEY.sign(text.encode())
    note = f"{text}\n\N{EM DASH} {NAME} {base64.b64encode(blob).decode()}\n"
    assert checkpoint.verify(note, NAME, KEY.public_key()) == HEAD
    with pytest.raises(LogTampered):
        checkpoint.verify(note.replace("extension", "another"), NAME, KEY.public_key())


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        NOTE.rstrip("\n"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("20852163", "020852163"),
        NOTE.replace("20852163", "-1"),
        NOTE.replace("20852163", "2e7"),
        NOTE.replace("20852163", "9" * 20),
        NOTE.replace("20852163\n", ""),
        NOTE.replace("20852163\n", "20852163\n\n"),
        NOTE.replace("Hh8=", "Hh9="),  # the same bytes in another spelling
        NOTE.replace("Hh8=", "Hh8"),
        NOTE.replace("\n\n", "\n\x00\n\n"),
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("\N{EM DASH}", "-"),
        NOTE.replace(f"\N{EM DASH} {NAME}", "\N{EM DASH} "),
        NOTE + "\n",
        NOTE + "trailing\n",
        "x" * 70_000 + NOTE,
        HEAD.text() + "\n" + NOTE.rpartition("\n\n")[2] * 65,
        HEAD.text() + "\n\N{EM DASH} " + NAME + " AAAAAA==\n",
        NOTE.replace(NAME, "\ud800"),
    ],
)
def test_malformed_notes(note: str) -> None:
    """What is no checkpoint is refused as such, before any key is asked."""
    with pytest.raises(Malformed):
        checkpoint.verify(note, NAME, KEY.public_key())


@pytest.mark.parametrize(
    "head",
    [
        Checkpoint("", 1, bytes(32)),
        Checkpoint("a b", 1, bytes(32)),
        Checkpoint("a+b", 1, bytes(32)),
        Checkpoint(NAME, 1, bytes(31)),
        Checkpoint(NAME, -1, bytes(32)),
    ],
)
def test_what_cannot_be_signed(head: Checkpoint) -> None:
    """A head that no reader would accept is not signed."""
    with pytest.raises(Malformed):
        checkpoint.sign(head, KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        GO_VKEY.replace("c74f20a3", "c74f20a4"),
        GO_VKEY.replace("Peter", "Paul"),
        GO_VKEY.replace("+ARpc", "+BRpc"),
        GO_VKEY[:-4],
        GO_VKEY.replace("+", " "),
    ],
)
def test_malformed_verifier_keys(text: str) -> None:
    """A typo in a verifier key is found, because it carries its own hash."""
    with pytest.raises(Malformed):
        checkpoint.parse_vkey(text)
