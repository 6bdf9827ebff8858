"""
Checkpoints of the log: C2SP tlog-checkpoint in the C2SP signed-note envelope, signed with Ed25519.

    handfast/example.lan                        origin: which log, and the name of its key
    1234                                        number of entries
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=    root of the Merkle tree (RFC 6962 §2.1)

    — handfast/example.lan Az3grl…              base64(key hash || signature over the lines above)

A checkpoint kept elsewhere is what makes the log tamper-evident: whoever rewrites the store cannot
rewrite the copy, and cannot sign another one without the log's key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from handfast.core.merkle import HASH_SIZE
from handfast.errors import LogTampered, Malformed

_ED25519 = b"\x01"  # signature type of signed-note
_DASH = "\N{EM DASH} "
_MAX_LENGTH = 64 * 1024  # characters; a checkpoint with witnesses has a few hundred
_MAX_SIGNATURES = 64
_NAME = re.compile(r"[^\s+]{1,255}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")  # lone surrogates are not UTF-8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the log ``origin`` when it had ``size`` entries."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the note text which is signed: three lines, each ended by a newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """
    Return the signed note; the key's name is the checkpoint's origin, as C2SP recommends.

    :raises Malformed: an origin that cannot be a key name, or a root that is not a SHA-256.
    """
    name = _key_name(checkpoint.origin)
    if len(checkpoint.root) != HASH_SIZE or checkpoint.size < 0:
        raise Malformed(f"not a log head: size {checkpoint.size!r}, {len(checkpoint.root)} bytes of root")
    text = checkpoint.text()
    blob = _key_hash(name, key.public_key()) + key.sign(text.encode())
    return f"{text}\n{_DASH}{name} {base64.b64encode(blob).decode()}\n"


def parse(note: str) -> Checkpoint:
    """
    Return what a signed note says. The signatures are *not* checked: use ``verify`` to believe it.

    Extension lines are ignored, as tlog-checkpoint demands of readers.

    :raises Malformed: not a signed note, or not a checkpoint.
    """
    return _split(note)[0]


def verify(note: str, name: str, key: Ed25519PublicKey) -> Checkpoint:
    """
    Return what this key signed for the log ``name``. Signatures by other keys (witnesses) are ignored.

    *Not* checked: that the checkpoint is recent, or fits any log that the caller has seen.

    :raises Malformed: not a signed note, or not a checkpoint.
    :raises LogTampered: another log, no signature by this key, or a wrong one.
    """
    checkpoint, text, signatures = _split(note)
    if checkpoint.origin != name:
        raise LogTampered(f"the checkpoint is of the log {checkpoint.origin!r}, not {name!r}")
    _verify_note(text, signatures, name, key)
    return checkpoint


def _verify_note(text: str, signatures: list[tuple[str, bytes]], name: str, key: Ed25519PublicKey) -> None:
    expected = _key_hash(name, key)
    ours = [blob[4:] for signer, blob in signatures if signer == name and blob[:4] == expected]
    if not ours:
        raise LogTampered(
            f"the checkpoint is not signed by the key {vkey(name, key)}",
            hint="compare the key with the one that the registrar shows",
        )
    for signature in ours:
        try:
            key.verify(signature, text.encode())
        except InvalidSignature:
            raise LogTampered(f"the signature of {name!r} under the checkpoint is wrong") from None


def vkey(name: str, key: Ed25519PublicKey) -> str:
    """
    Return the key as a signed-note verifier key, ``name+hash+base64``.

    :raises Malformed: a name that is empty or has spaces or a plus.
    """
    encoded = base64.b64encode(_ED25519 + key.public_bytes_raw()).decode()
    return f"{_key_name(name)}+{_key_hash(name, key).hex()}+{encoded}"


def parse_vkey(text: str) -> tuple[str, Ed25519PublicKey]:
    """
    Read a verifier key; its hash is checked, so that a typo is found.

    :raises Malformed: another form or signature type, or a hash that does not fit.
    """
    hint = "copy the whole line, as in: example.com/log+0123abcd+AbCd…"
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise Malformed(f"not a verifier key: {text[:80]!r}", hint=hint)
    name, blob = _key_name(parts[0]), _base64(parts[2])
    if len(blob) != 33 or blob[:1] != _ED25519:
        raise Malformed(f"not an Ed25519 verifier key: {text[:80]!r}", hint=hint)
    key = Ed25519PublicKey.from_public_bytes(blob[1:])
    if _key_hash(name, key).hex() != parts[1]:
        raise Malformed(f"the hash in the verifier key {text[:80]!r} does not fit its key", hint=hint)
    return name, key


def _split(note: str) -> tuple[Checkpoint, str, list[tuple[str, bytes]]]:
    """Return the checkpoint, the text that was signed, and every signature as (name, blob)."""
    if len(note) > _MAX_LENGTH or _CONTROL.search(note) or not note.endswith("\n"):
        raise Malformed("not a checkpoint: too long, control characters, or no newline at its end")
    # The last blank line separates: signed-note allows blank lines in the text.
    text, blank, block = note.rpartition("\n\n")
    if not blank:
        raise Malformed("not a checkpoint: no blank line before the signatures")
    lines = text.split("\n")
    if len(lines) < 3 or not all(lines):
        raise Malformed("not a checkpoint: it needs an origin, a size and a root, and no empty line")
    root = _base64(lines[2])
    if not _SIZE.fullmatch(lines[1]) or len(root) != HASH_SIZE:
        raise Malformed(f"not a checkpoint: size {lines[1][:40]!r}, root {lines[2][:80]!r}")
    return Checkpoint(lines[0], int(lines[1]), root), text + "\n", _signatures(block)


def _signatures(block: str) -> list[tuple[str, bytes]]:
    lines = block.removesuffix("\n").split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise Malformed(f"{len(lines)} signatures under the checkpoint, at most {_MAX_SIGNATURES} are read")
    found = []
    for line in lines:
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        blob = _base64(encoded) if space and line.startswith(_DASH) else b""
        if len(blob) <= 4:
            raise Malformed(f"not a signature line: {line[:80]!r}")
        found.append((_key_name(name), blob))
    return found


def _key_name(name: str) -> str:
    if not _NAME.fullmatch(name) or _CONTROL.search(name):
        raise Malformed(f"not a key name: {name[:80]!r}", hint="use 1 to 255 characters without spaces and plus")
    return name


def _key_hash(name: str, key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()[:4]


def _base64(text: str) -> bytes:
    """Decode strictly: one byte string has one form, or a changed note could still verify."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if not blob or base64.b64encode(blob).decode() != text:
        raise Malformed(f"not base64: {text[:80]!r}")
    return blob
