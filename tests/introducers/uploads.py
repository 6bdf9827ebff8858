"""What a new machine uploads, made here as `ssh/upload.sh` makes it there."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.core import sshkeys, sshsig
from handfast.core.flow import Channel, Evidence
from handfast.core.hostproof import NAMESPACE
from handfast.core.invitation import key_id
from handfast.core.records import Invitation
from handfast.core.secret import Secret
from handfast.core.sshsig import Signer
from handfast.introducers import bucket, phone_home
from tests.introducers.stage import NOW, PIN, SERVER_SPKI, an_invitation, ed25519, p256

ONE_TIME = ed25519(11).public_key().public_bytes_raw()
TOKEN = phone_home.token(Secret(bytes([12]) * 32))


def signer(private: sshsig.SshPrivateKey) -> Signer:
    """A key of any length, as something that signs."""
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Signer(sshkeys.parse(line.decode()), private)


ONE_TIME_KEY = signer(ed25519(11))


@cache
def host_keys() -> tuple[Signer, ...]:
    """The keys of a machine, as its sshd would have them."""
    return signer(ed25519(13)), signer(p256(1301)), signer(rsa.generate_private_key(65537, 2048))


def lines(*keys: Signer) -> list[str]:
    """Public keys as they stand in files, without a comment."""
    return [str(key.public) for key in keys]


def expected(**changes: object) -> Invitation:
    """The record of the one-time key: open for an hour."""
    return an_invitation(**{"method": "bucket", "public_half": ONE_TIME, "key_id": key_id(ONE_TIME), **changes})


def expected_call(**changes: object) -> Invitation:
    """The record of the token: open for an hour."""
    half = phone_home.public_half(TOKEN)
    return an_invitation(**{"method": "phone-home", "public_half": half, "key_id": key_id(half), **changes})


def document(
    keys: Sequence[str],
    *,
    machine: str = "web1.lan",
    nonce: str = "",
    instance: str = "i-0123456789abcdef0",
) -> bytes:
    """What is signed."""
    head = bucket.head(machine, nonce or bucket.nonce(ONE_TIME, PIN)).decode()
    return "".join([head, f"instance {instance}\n", *(f"key {key}\n" for key in keys)]).encode()


def signed(text: bytes, *signers: Signer, namespace: str = NAMESPACE) -> bytes:
    """A document with signatures behind it."""
    return text + b"".join(sshsig.armor(key.sign(text, namespace)).encode() for key in signers)


def upload(*, machine: str = "web1.lan", nonce: str = "") -> bytes:
    """What an honest machine uploads."""
    keys = host_keys()
    return signed(document(lines(*keys), machine=machine, nonce=nonce), ONE_TIME_KEY, *keys)


def collected(
    body: bytes, *, key_id_: str = key_id(ONE_TIME), at: datetime = NOW + timedelta(minutes=1), method: str = "bucket"
) -> Evidence:
    """What the collector hands on."""
    message = bucket.HostKeyUpload(key_id=key_id_, uploaded_at=at, upload=body)
    return Evidence(method, msgspec.json.encode(message), Channel(b""))


def called(form: bytes, *, token: str = TOKEN.reveal().decode(), method: str = "phone-home") -> Evidence:
    """What the server hands on."""
    message = phone_home.PhoneHomeReport(token=token, form=form)
    return Evidence(method, msgspec.json.encode(message), Channel(SERVER_SPKI))


def opaque(algorithm: str) -> str:
    """A key of a type that nobody here knows."""
    blob = len(algorithm).to_bytes(4) + algorithm.encode() + (32).to_bytes(4) + bytes(32)
    return f"{algorithm} {base64.b64encode(blob).decode()}"
