"""The shape of the files in vectors/. Whatever a file has beyond it, or an outcome that is not listed, is an error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from tests.architecture.sources import ROOT

FOLDER = ROOT / "vectors"
LINES = "invitation-line"
Outcome = Literal[
    "success",
    "not-mine",
    "malformed",
    "evidence-rejected",
    "invitation-invalid",
    "invitation-expired",
    "invitation-cancelled",
    "policy-refused",
    "revoked",
]


class InvitationOnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An invitation as the registrar of the vector keeps it. Bytes are base64, here and below."""

    key_id: str
    public_key: bytes
    machine: str
    role: str
    names: list[str]
    uses: int
    created_at: datetime
    expires_at: datetime
    sources: list[str] | None
    spent: int
    cancelled: str | None


class CredentialOnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential as the registrar of the vector keeps it; without a certificate it was intended only."""

    serial: str
    machine: str
    role: str
    names: list[str]
    not_before: datetime
    not_after: datetime
    certificate: bytes | None
    reintroduction_key: bytes | None
    revoked_at: datetime | None
    revoked_reason: str | None


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that the registrar knows."""

    now: datetime
    pin: bytes
    nonce_key: bytes
    invitations: list[InvitationOnRecord]
    credentials: list[CredentialOnRecord]


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What TLS proved: the hash of our own key, and the client's certificate."""

    server_spki: bytes
    client: bytes | None


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What has to be found, all of it."""

    public_key: bytes
    machine: str
    roles: list[str]
    names: list[str]
    sources: list[str] | None
    wished_role: str | None
    wished_names: list[str]
    marker: str
    uses: int
    transcript: bytes
    reintroduction_key: bytes | None
    expired_at: datetime | None


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message to a registrar, and what has to come of it."""

    describes: str
    outcome: Outcome
    method: str
    world: World
    connection: Connection
    payload: str
    finding: Found | None


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an invitation says."""

    key_id: str
    public_key: bytes
    seed: bytes
    pin: bytes
    not_before: datetime
    not_after: datetime
    addresses: list[str]


class LineVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line that somebody pastes, and what has to come of it."""

    describes: str
    outcome: Outcome
    line: str
    reads: Read | None


T = TypeVar("T", Vector, LineVector)


def load(path: Path, kind: type[T]) -> T:
    """Read one file strictly."""
    return msgspec.json.decode(path.read_bytes(), type=kind)


def files(folder: str) -> Iterator[Path]:
    """The files of one method."""
    yield from sorted((FOLDER / folder).glob("*.json"))


def encode(vector: Vector | LineVector) -> bytes:
    """As it is on disk: indented, fields in order."""
    return msgspec.json.format(msgspec.json.encode(vector), indent=2) + b"\n"
