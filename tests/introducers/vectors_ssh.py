"""The shape of vectors/ssh-pop and vectors/ssh-revoke; see ``vectors``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from tests.introducers import vectors

FOLDERS = ("ssh-pop", "ssh-revoke")


class KnownHostKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A host key as a line of its .pub file, and how it became known."""

    key: str
    how: str


class HostOnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine with its host keys."""

    machine: str
    keys: list[KnownHostKey]


class CertificateOnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An SSH certificate as the registrar keeps it: its serial in decimal digits, and the key in it."""

    serial: str
    kind: str
    holder: str
    key: str
    issued: bool


class PopWorld(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that the registrar knows. Bytes are base64, here and below."""

    now: datetime
    pin: bytes
    nonce_key: bytes
    hosts: list[HostOnRecord]
    certificates: list[CertificateOnRecord]


class PopFound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """
    What has to be found: whose keys, in order, which of them are new and on which they rest.

    Or which certificate is taken back, and why.
    """

    machine: str | None = None
    keys: list[str] = []
    principals: list[str] = []
    transcript: bytes | None = None
    new: list[str] = []
    basis: list[str] = []
    serial: str | None = None
    reason: str | None = None


class PopVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message to a registrar over a connection with this TLS key, and what has to come of it."""

    describes: str
    outcome: vectors.Outcome
    method: str
    world: PopWorld
    server_spki: bytes
    payload: str
    finding: PopFound | None


def load(path: Path) -> PopVector:
    """Read one file strictly."""
    return msgspec.json.decode(path.read_bytes(), type=PopVector)
