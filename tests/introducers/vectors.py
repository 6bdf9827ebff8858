"""The shape of the files in vectors/. Whatever a file has beyond it, or an outcome that is not listed, is an error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from handfast.core.records import CredentialRecord, Invitation
from tests.architecture.sources import ROOT

FOLDER = ROOT / "vectors"
LINES = "invitation-line"
TAGS, ANSWERS = "nifi-tag", "nifi-answer"
Outcome = Literal[
    "success",
    "not-mine",
    "malformed",
    "evidence-rejected",
    "invitation-invalid",
    "invitation-expired",
    "invitation-cancelled",
    "policy-refused",
    "not-authorized",
    "revoked",
    "refused",
    "untrusted-peer",
]


class InvitationOnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An invitation as the registrar of the vector keeps it. Bytes are base64, here and below."""

    key_id: str
    method: str = "invitation"
    public_half: bytes
    machine: str
    role: str
    names: list[str]
    uses: int
    created_at: datetime
    expires_at: datetime
    sources: list[str] | None
    spent: int
    cancelled: str | None
    subject: bytes | None = None

    @classmethod
    def of(cls, record: Invitation) -> InvitationOnRecord:
        """As the record has it."""
        return cls(
            key_id=record.key_id,
            method=record.method,
            public_half=record.public_half,
            machine=record.machine,
            role=record.role,
            names=list(record.names.texts()),
            uses=record.uses,
            created_at=record.created_at,
            expires_at=record.expires_at,
            sources=None if record.sources is None else [str(network) for network in record.sources],
            spent=record.spent,
            cancelled=record.cancelled,
            subject=record.subject,
        )


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

    @classmethod
    def of(cls, record: CredentialRecord) -> CredentialOnRecord:
        """As the record has it."""
        return cls(
            serial=f"{record.serial:032x}",
            machine=record.machine,
            role=record.role,
            names=list(record.names.texts()),
            not_before=record.not_before,
            not_after=record.not_after,
            certificate=record.certificate,
            reintroduction_key=record.reintroduction_key,
            revoked_at=record.revoked_at,
            revoked_reason=record.revoked_reason,
        )


class SharedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A shared NiFi token, with the patterns of what its holders may ask for."""

    token: str
    subjects: list[str]
    names: list[str]
    any_name: bool


class NifiConfigured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What NiFi's protocol needs besides: the key of its authority (SPKI), and its tokens."""

    ca: bytes
    shared: SharedToken | None
    master: bytes | None


class X5cConfigured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``[x5c]`` and ``[methods]`` say; certificates and lists in DER. ``crls`` null: none is configured."""

    roots: list[bytes]
    eku: list[str]
    roles: list[str]
    names: list[str]
    require_crl: str
    cut: bool
    crls: list[bytes] | None


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """All that the registrar knows."""

    now: datetime
    pin: bytes
    nonce_key: bytes
    invitations: list[InvitationOnRecord]
    credentials: list[CredentialOnRecord]
    nifi: NifiConfigured | None = None
    x5c: X5cConfigured | None = None


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What TLS proved: the hash of our own key, and the client's certificate."""

    server_spki: bytes
    client: bytes | None


class FoundPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the machine is reached for SSH."""

    hosts: list[str]
    ports: list[int]


class FoundHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The SSH host keys that were proved, as lines of .pub files, sorted."""

    machine: str
    keys: list[str]
    how: str
    detail: str
    complete: bool
    place: FoundPlace | None


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What has to be found, all of it. Subjects are of foreign protocols, in DER."""

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
    subject: bytes | None = None
    wished_subject: bytes | None = None
    own_address: bool = False
    until: datetime | None = None
    host: FoundHost | None = None


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


class TagVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """NiFi's HMAC of a token over a key (SPKI) whose identifier is ``key_id``, as the original computes it."""

    describes: str
    token: str
    spki: bytes
    key_id: str
    tag: bytes


class AnswerVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer to NiFi's client from a server that showed the certificate ``ca`` (PEM), and the one it then has."""

    describes: str
    outcome: Outcome
    token: str
    ca: str
    body: str
    certificate: str | None


Kind = Vector | LineVector | TagVector | AnswerVector
T = TypeVar("T", Vector, LineVector, TagVector, AnswerVector)


def load(path: Path, kind: type[T]) -> T:
    """Read one file strictly."""
    return msgspec.json.decode(path.read_bytes(), type=kind)


def files(folder: str) -> Iterator[Path]:
    """The files of one method."""
    yield from sorted((FOLDER / folder).glob("*.json"))


def encode(vector: msgspec.Struct) -> bytes:
    """As it is on disk: indented, fields in order."""
    return msgspec.json.format(msgspec.json.encode(vector), indent=2) + b"\n"
