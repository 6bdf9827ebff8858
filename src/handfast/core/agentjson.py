"""
The JSON between a controller and an agent, as msgspec structs: ``/v1`` of `docs/protocols/agent.md`.

Beside it is what both sides have to have the same, such as limits. As everywhere, requests refuse unknown fields, and
answers ignore them. The two messages of an introduction are ``wire.Hello`` and ``wire.IntroductionAnswer``, and the
request of its method.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from handfast.core.secret import Secret
from handfast.errors import UsageError

GREETING = "HANDFAST-AGENT/1"  # begins the line of an agent that dials; its name follows
USER = "handfast"  # of Basic, over HTTP without TLS
MIN_PASSWORD = 12  # bytes of its password
MAX_CONFIGURATION = 4 * 1024 * 1024  # bytes of a request that configures a service
MAX_CONTENT = 1024 * 1024  # bytes of one file of it
MAX_FILES = 64  # of one service
MAX_LINES = 10_000  # of a log, of one answer
MAX_SERVICES = 1000  # of one machine: each is asked for how it is
MAX_URL = 4096  # characters

Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]  # hexadecimal


def check_password(password: Secret) -> None:
    """Check the password of an agent without TLS. :raises UsageError: too short for what can be tried all day."""
    if len(password.reveal()) < MIN_PASSWORD:
        raise UsageError(f"a password of under {MIN_PASSWORD} characters", hint="openssl rand -hex 16")


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    GET /v1/agent: what an agent says of itself, by which nothing is decided.

    ``stage`` is new, trial or held, or plain without TLS. ``spki`` is the SHA-256 (hex) of the key that is shown to
    whoever connects next; ``serial`` (hex) and ``not_after`` (RFC 3339) are of the certificate that is held, also while
    another one is on trial.
    """

    version: str
    stage: str
    instance: str
    instance_id: str
    spki: str
    serial: str = ""
    not_after: str = ""
    services: list[str] = []


class ServiceAbout(msgspec.Struct, frozen=True):
    """One service: ``operations`` are those that the agent's policy allows."""

    name: str
    full_name: str
    operations: list[str]


class Services(msgspec.Struct, frozen=True):
    """GET /v1/services."""

    services: Annotated[list[ServiceAbout], Meta(max_length=MAX_SERVICES)]


class ServiceState(msgspec.Struct, frozen=True):
    """How a service is: when it is asked for, and after each change."""

    state: str


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PUT /v1/services/S/configuration: contents by the names that the agent's policy gives to files."""

    files: Annotated[dict[str, str], Meta(min_length=1, max_length=MAX_FILES)]


class ArtifactAbout(msgspec.Struct, frozen=True, omit_defaults=True):
    """One artifact; ``sha256`` (hex) when it has just come."""

    name: str
    size: int
    sha256: str = ""


class ArtifactList(msgspec.Struct, frozen=True):
    """GET /v1/services/S/artifacts."""

    artifacts: list[ArtifactAbout]


class Pull(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/services/S/artifacts/NAME/pull: where the agent fetches it, and what it has to be."""

    url: Annotated[str, Meta(max_length=MAX_URL)]
    sha256: Sha256


class LogNames(msgspec.Struct, frozen=True):
    """GET /v1/services/S/logs."""

    logs: list[str]


class LogLines(msgspec.Struct, frozen=True):
    """GET /v1/services/S/logs/LOG?lines=N&offset=BYTES: as the original's; ``offset`` is behind the lines."""

    lines: list[str]
    offset: int


class LogAdded(msgspec.Struct, frozen=True):
    """
    GET /v1/services/S/logs/LOG?since=MARK, ?last=N: what was added, or the last whole lines, and the next mark.

    ``lost``: some of it is gone.
    """

    lines: list[str]
    mark: str
    lost: bool = False
