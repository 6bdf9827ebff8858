"""The shape of vectors/operator and vectors/oidc; see ``vectors``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from tests.introducers import vectors

FOLDERS = ("oidc", "operator")


class ProviderConfigured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``[[oidc]]`` says, and the provider's key set as text."""

    name: str
    issuer: str
    client_id: str
    keys: str


class LoginWorld(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that the registrar knows. Bytes are base64, here and below."""

    now: datetime
    pin: bytes
    nonce_key: bytes
    credentials: list[vectors.CredentialOnRecord]
    providers: list[ProviderConfigured]


class LoginFound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who it has to be, for which key (a line of a .pub file) and wish; ``marker`` is null where nothing is spent."""

    origin: str
    name: str
    email: str | None
    groups: list[str]
    key: str
    principals: list[str]
    lifetime: int
    marker: str | None
    transcript: bytes


class LoginVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message to a registrar over a connection, and what has to come of it."""

    describes: str
    outcome: vectors.Outcome
    method: str
    world: LoginWorld
    connection: vectors.Connection
    payload: str
    finding: LoginFound | None


def load(path: Path) -> LoginVector:
    """Read one file strictly."""
    return msgspec.json.decode(path.read_bytes(), type=LoginVector)
