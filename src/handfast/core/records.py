"""What the ledger keeps, as values. Statuses are derived from facts and a time, never stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from handfast.core.flow import HostGrant
from handfast.core.names import IPNetwork, Names
from handfast.core.roles import Role
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf

# Why a credential is taken back: RFC 5280 §5.3.1, without what means "not for good" (certificateHold, removeFromCRL)
# and what cannot happen to a leaf of ours (cACompromise, aACompromise).
REASONS = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)

DISTRUST = frozenset(REASONS) - {"superseded", "affiliationChanged"}
"""Of these, the ones for which a key is not certified again: with the other two it is sound."""

INSTANCE = "instance"
"""The method of a managed machine's one-time secret."""

_SUCCESSOR = "successor:"


def marker_of(key_id: str) -> str:
    """Return the one-time marker that an invitation is spent under."""
    return f"invitation:{key_id}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """
    An invitation as the registrar keeps it: the public half only (rule 4 of the design).

    ``method`` is the introducer it is for. ``public_half`` is the raw Ed25519 key of the invitation's seed, or what
    that method has instead (32 bytes); ``key_id`` its first eight hash bytes in hex. ``spent`` counts the keys that
    have used it. ``subject`` (DER) is one that goes with it, for foreign protocols.
    """

    key_id: str
    public_half: bytes
    machine: str
    role: Role
    names: Names
    uses: int
    created_at: datetime
    expires_at: datetime
    sources: tuple[IPNetwork, ...] | None = None
    method: str = "invitation"
    subject: bytes | None = None
    spent: int = 0
    cancelled: str | None = None

    @property
    def marker(self) -> str:
        """The one-time marker this invitation is spent under."""
        return marker_of(self.key_id)

    def status(self, now: datetime) -> str:
        """Return ``cancelled``, ``used``, ``expired`` or ``open``."""
        if self.cancelled is not None:
            return "cancelled"
        if self.spent >= self.uses:
            return "used"
        return "expired" if now >= self.expires_at else "open"


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """
    A credential, from the moment it was intended. ``certificate`` is None until it was issued.

    ``reintroduction_key`` (raw Ed25519) is with what its holder may come back after it expired. ``trust_domain`` says
    which authority issued it.
    """

    serial: int
    machine: str
    role: Role
    method: str
    trust_domain: str
    marker: str
    not_before: datetime
    not_after: datetime
    names: Names
    intended_at: datetime
    why: tuple[str, ...]
    certificate: bytes | None = None
    issued_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None
    reintroduction_key: bytes | None = None

    @property
    def successor_marker(self) -> str:
        """The one-time marker under which this credential introduces its own successor, once."""
        return f"{_SUCCESSOR}{self.serial:032x}"

    @property
    def predecessor(self) -> int | None:
        """The serial of the credential that introduced this one; None for one that began anew."""
        return int(self.marker.removeprefix(_SUCCESSOR), 16) if self.marker.startswith(_SUCCESSOR) else None

    def status(self, now: datetime) -> str:
        """Return ``revoked``, ``intended``, ``expired`` or ``valid``."""
        if self.revoked_at is not None:
            return "revoked"
        if self.certificate is None:
            return "intended"
        return "expired" if now >= self.not_after else "valid"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that was introduced; ``role`` is that of its newest credential."""

    name: str
    role: Role
    introduced_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """
    One line of the log. ``kind`` is ``subject.action``; ``alarm.*`` kinds are shown to the operator.

    ``fields`` holds text only, and never a secret: what is logged cannot be taken back.
    """

    kind: str
    at: datetime
    subject: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revocation:
    """
    A credential taken back. ``reason`` is an RFC 5280 §5.3.1 name such as ``keyCompromise``.

    ``not_after`` is its own end, after which nobody needs to be told any more. ``trust_domain`` says whose list it
    belongs on.
    """

    serial: int
    at: datetime
    reason: str
    not_after: datetime
    trust_domain: str


@dataclass(frozen=True, slots=True)
class RevocationState:
    """All that was taken back, and the number that a CRL of exactly this state has (RFC 5280 §5.2.3)."""

    number: int
    revocations: tuple[Revocation, ...]


@dataclass(frozen=True, slots=True)
class SshRecord:
    """
    An SSH certificate, from the moment it was intended. ``certificate`` (wire form) is None until it was issued.

    ``holder`` is a machine, or a person in words.
    """

    serial: int
    holder: str
    leaf: SshLeaf
    method: str
    intended_at: datetime
    why: tuple[str, ...]
    certificate: bytes | None = None
    issued_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None

    @property
    def kind(self) -> Kind:
        """Whether it is a host's or a user's."""
        return self.leaf.kind

    def status(self, now: datetime) -> str:
        """Return ``revoked``, ``intended``, ``expired`` or ``valid``."""
        if self.revoked_at is not None:
            return "revoked"
        if self.certificate is None:
            return "intended"
        return "expired" if now >= self.leaf.valid_before else "valid"


@dataclass(frozen=True, slots=True)
class SshPast:
    """
    What became of a host key before now.

    ``last`` is its newest certificate that was issued. ``barred`` is one that somebody has revoked in distrust, with no
    operator's word for the key since. ``introduced_at`` is when the machine last got a credential, which still counts,
    together with this very key.
    """

    last: SshRecord | None = None
    barred: SshRecord | None = None
    introduced_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KrlState:
    """
    What a list of revoked SSH keys holds, and its version, which grows.

    Serials of certificates that are not over, by kind, and SHA-256 digests of host keys that were retired and are no
    machine's now. ``sound`` are those of the digests of which nobody has said anything bad, the oldest first.
    """

    version: int
    hosts: tuple[int, ...]
    users: tuple[int, ...]
    digests: frozenset[bytes]
    sound: tuple[bytes, ...] = ()


Owners = frozenset[tuple[str, str]]
"""Which other machines are reached where a machine would be, at whatever port: spelling, and machine."""


@dataclass(frozen=True, slots=True)
class Approval:
    """
    Host keys that wait for a person: ``grant`` is what would be recorded, ``reasons`` is why nobody but a person can.

    ``approval_id`` is 16 hexadecimal digits, made from the machine, its place, the keys and ``owners``: other keys are
    another question. ``decision`` is ``accepted`` or ``rejected``, None while it is open.
    """

    approval_id: str
    grant: HostGrant
    reasons: tuple[str, ...]
    asked_at: datetime
    expires_at: datetime
    owners: Owners = frozenset()
    decision: str | None = None
    decided_at: datetime | None = None
    decided_by: str = ""
    decided_reason: str = ""

    def status(self, now: datetime) -> str:
        """Return ``accepted``, ``rejected``, ``expired`` or ``open``."""
        return self.decision or ("expired" if now >= self.expires_at else "open")
