"""
Every error Handfast raises on purpose, and nothing else.

    HandfastError                 code, message, hint
    ├── UsageError                the command or the configuration cannot mean anything
    │   └── ConfigError           all mistakes of a file at once
    ├── Refused                   evidence or policy said no
    │   ├── NotMine               an introducer met another method's evidence
    │   ├── Malformed             bytes that are not what they claim to be
    │   ├── EvidenceRejected      recognised, and wrong; a stranger learns only this code
    │   ├── InvitationInvalid     a typo, or not an invitation at all (found locally)
    │   ├── InvitationExpired     known and well signed, but too late (or too early)
    │   ├── InvitationCancelled   taken back by the operator
    │   ├── AlreadySpent          the one-time marker belongs to another key: an alarm
    │   ├── PolicyRefused         every reason at once
    │   ├── Revoked               the credential was taken back
    │   ├── NotAuthorized         no operator credential, or not one for this
    │   ├── NotFound              no such machine, invitation or serial
    │   ├── Conflict              right at another time
    │   ├── TooMuch               larger, longer or more often than allowed
    │   └── Unsafe                a file or directory that others can read or write
    ├── Unreachable               no answer in time, or none at all
    ├── UntrustedPeer             the peer is not who it should be
    │   └── LogTampered           the log does not prove itself
    ├── Waiting                   a person has to approve
    └── Fault                     ours: a disk, a broken store, a bug with a name

Each class has a stable ``code`` that appears in HTTP problems, JSON and the log. Exit codes and
HTTP statuses are not here: they exist only at the edges (``cli.exit_codes``, ``adapters.problems``).

Messages are lower case, name the offending value and carry no secret. ``hint`` says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class HandfastError(Exception):
    """The base of all deliberate errors: a stable code, a message for people, and what to do."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HandfastError):
    """The command cannot mean anything as it was given."""

    code = "usage"


class ConfigError(UsageError):
    """A configuration file is wrong; ``message`` lists every mistake found."""

    code = "config"


class Refused(HandfastError):
    """Evidence or policy said no."""

    code = "refused"


class NotMine(Refused):
    """Evidence of another method reached this introducer."""

    code = "not-mine"


class Malformed(Refused):
    """Bytes that are not what they claim to be."""

    code = "malformed"


class EvidenceRejected(Refused):
    """
    Recognised, and wrong.

    ``message`` is for the registrar's own log: the server sends a stranger the code alone, so that
    unknown, mistyped and forged evidence look the same from outside.
    """

    code = "evidence-rejected"


class InvitationInvalid(Refused):
    """Not an invitation, or one with a typo; found before anything is sent."""

    code = "invitation-invalid"


class InvitationExpired(Refused):
    """Outside the times the invitation was made for."""

    code = "invitation-expired"


class InvitationCancelled(Refused):
    """The operator took the invitation back."""

    code = "invitation-cancelled"


class AlreadySpent(Refused):
    """
    The one-time marker already belongs to another key, or all its uses do.

    An honest newcomer keeps its key across retries, so this is raised to the operator as an alarm:
    somebody else may hold the secret.
    """

    code = "already-spent"


class PolicyRefused(Refused):
    """Policy said no; ``reasons`` has every reason, not only the first."""

    code = "policy-refused"

    def __init__(self, reasons: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__("; ".join(reasons), hint=hint)
        self.reasons = reasons


class Revoked(Refused):
    """The credential presented was revoked."""

    code = "revoked"


class NotAuthorized(Refused):
    """The caller holds no credential for this."""

    code = "not-authorized"


class NotFound(Refused):
    """No such machine, invitation or serial."""

    code = "not-found"


class Conflict(Refused):
    """Right at another time: something is not in a state for it."""

    code = "conflict"


class TooMuch(Refused):
    """
    Larger, longer or more often than allowed.

    ``after`` is in how many seconds to try again; 0 where that would not help.
    """

    code = "too-much"

    def __init__(self, message: str, *, hint: str = "", after: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.after = after


class Unsafe(Refused):
    """A file or directory of secrets that others can read or write."""

    code = "unsafe"


class Unreachable(HandfastError):
    """No answer in time, or none at all."""

    code = "unreachable"


class UntrustedPeer(HandfastError):
    """The peer is not who it should be."""

    code = "untrusted-peer"


class LogTampered(UntrustedPeer):
    """The log does not prove itself against its own hashes or a checkpoint."""

    code = "log-tampered"


class Waiting(HandfastError):
    """A person has to approve before this goes on."""

    code = "waiting"


class Fault(HandfastError):
    """Our own failure: a full disk, a broken store."""

    code = "fault"
