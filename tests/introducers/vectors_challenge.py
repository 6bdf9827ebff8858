"""The shape of vectors/ssh-hostkey; see ``vectors``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from tests.introducers import vectors

FOLDER = "ssh-hostkey"
Step = Literal["parameters", "challenge", "proof", "request"]


class KeyOnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose a host key is already, as a line of its .pub file."""

    key: str
    machine: str


class ChallengeWorld(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that the reader knows: the registrar, or in ``challenge`` the host. Bytes are base64, here and below."""

    now: datetime
    pin: bytes
    trust_domain: str
    nonce_key: bytes
    host_ca: str
    known: list[KeyOnRecord]


class ChallengeFound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """
    What has to be found.

    In every step but ``challenge`` what is to be looked at, or was; in ``request`` whose it is, what is spent, and what
    the answer proves. In ``challenge`` by which key it is signed, and what the host then signs.
    """

    names: list[str] = []
    addresses: list[str] = []
    ports: list[int] = []
    keys: list[str] = []
    machine: str | None = None
    marker: str | None = None
    transcript: bytes | None = None
    signed_by: str | None = None
    to_sign: bytes | None = None


class ChallengeVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message over a connection with this TLS key, and what has to come of it; ``asked`` is what the host asked."""

    describes: str
    step: Step
    outcome: vectors.Outcome
    method: str
    world: ChallengeWorld
    server_spki: bytes
    asked: str | None
    payload: str
    finding: ChallengeFound | None


def load(path: Path) -> ChallengeVector:
    """Read one file strictly."""
    return msgspec.json.decode(path.read_bytes(), type=ChallengeVector)
