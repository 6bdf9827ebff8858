"""
Phone home: cloud-init reports a new machine's SSH host keys to an address that is good once.

Proof     machine -> registrar  a random token, in the path of the URL that its user-data has
Answer    none: cloud-init looks at the status alone
Trusts    whoever reads the user-data before the machine has reported; TLS, that nobody sits between
Replay    the same keys get the same answer, others an alarm
Spec      docs/protocols/host-keys.md

The wire is cloud-init's ``phone_home`` and cannot be mended: the token crosses it, and no host key signs. So what
becomes known by it has a lower grade than what a key signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from handfast.core import sshkeys, wire
from handfast.core.flow import Evidence, HostFinding, Once
from handfast.core.hosts import How, Place
from handfast.core.invitation import key_id
from handfast.core.ports import Context
from handfast.core.records import Invitation
from handfast.core.secret import Secret
from handfast.core.sshkeys import SshKey
from handfast.errors import EvidenceRejected, InvitationCancelled, InvitationExpired, Malformed, NotMine

NAME = How.PHONE_HOME.value
TOKEN_PREFIX = "handfastphone1_"
SCANNER_PATTERN = r"handfastphone1_[A-Za-z0-9_-]{43}"
MAX_FIELDS = 64  # of a form; cloud-init sends seven
_KEY_FIELD = "pub_key_"
_MISSING = "N/A"  # what cloud-init sends where it could not read a file
_DSA = "ssh-dss"  # some cloud-init makes such a key; no sshd of these days has it, and 1024 bits convince nobody
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class PhoneHomeReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/ssh/phone-home/{token}: the token of the path, and the form as it came."""

    token: Annotated[str, Meta(max_length=128)]
    form: Annotated[bytes, Meta(max_length=2 * wire.MAX_REQUEST)]  # in base64


def token(seed: Secret) -> Secret:
    """Return 32 random bytes as the token that stands in a URL; its prefix is for secret scanners."""
    return Secret(TOKEN_PREFIX.encode() + base64.urlsafe_b64encode(seed.reveal()).rstrip(b"="))


def public_half(token: Secret) -> bytes:
    """Return all that the ledger keeps of a token: its SHA-256, from which nobody gets back to it."""
    return hashlib.sha256(token.reveal()).digest()


def fields(form: bytes) -> dict[str, str]:
    """
    Read ``application/x-www-form-urlencoded``, in UTF-8.

    :raises Malformed: not such a form, a field twice, or too many.
    """
    read: dict[str, str] = {}
    for pair in filter(None, form.split(b"&")):
        name, _, value = (_decoded(part) for part in pair.partition(b"="))
        if name in read or len(read) >= MAX_FIELDS:
            raise Malformed(f"a form with {name[:40]!r} twice, or with over {MAX_FIELDS} fields")
        read[name] = value
    return read


def _decoded(part: bytes) -> str:
    raw = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), part.replace(b"+", b" "))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed(f"not a form in UTF-8: {part[:40]!r}") from None


@dataclass(frozen=True, slots=True)
class PhoneHomeIntroducer:
    """The registrar's half."""

    name: ClassVar[str] = NAME
    evidence: ClassVar[type[msgspec.Struct]] = PhoneHomeReport

    def verify(self, evidence: Evidence, context: Context) -> HostFinding:
        """
        Return the finding for a report under an open token.

        Keys of types that we do not know are kept, DSA is left out; other fields are cloud-init's affair, and ignored.
        *Not* checked: possession of the keys, which the wire has no room for; whether other keys were reported before
        (the ledger spends the marker).

        :raises NotMine: evidence of another method.
        :raises EvidenceRejected: no such token; the same to every stranger.
        :raises InvitationExpired, InvitationCancelled: told only to the holder of the token.
        :raises Malformed: not a form, or no host key in it.
        """
        if evidence.method != self.name:
            raise NotMine(f"evidence of method {evidence.method!r}")
        report = wire.decode(evidence.payload, PhoneHomeReport)
        invitation = self._invitation(Secret(report.token.encode()), context)
        if invitation.cancelled is not None:
            raise InvitationCancelled(f"the token {invitation.key_id} was cancelled", hint="make new user-data")
        if context.now() >= invitation.expires_at:
            raise InvitationExpired(
                f"the token {invitation.key_id} expired at {invitation.expires_at:%Y-%m-%d %H:%M:%S}Z",
                hint="make new user-data; `handfast userdata --for 1d` makes it last longer",
            )
        form = fields(report.form)
        keys = tuple(dict.fromkeys(_keys(form)))
        if not keys:
            raise Malformed("a report without a host key", hint="was sshd set up before cloud-init's final stage?")
        return HostFinding(
            machine=invitation.machine,
            keys=keys,
            how=How.PHONE_HOME,
            detail=f"{invitation.key_id}, instance {form.get('instance_id', _MISSING)[:100].strip()}",
            once=Once(invitation.marker, invitation.uses),
            place=Place.parse(invitation.names.texts()) if invitation.names else None,
        )

    def _invitation(self, token: Secret, context: Context) -> Invitation:
        """Find a token by what its hash says; how long that takes says nothing of a token that is open."""
        presented = public_half(token)
        invitation = context.invitation(key_id(presented))
        if (
            invitation is None
            or invitation.method != self.name
            or not hmac.compare_digest(presented, invitation.public_half)
        ):
            raise EvidenceRejected("no such token", hint="make new user-data")
        return invitation


def _keys(form: dict[str, str]) -> Iterator[SshKey]:
    for name, value in form.items():
        if name.startswith(_KEY_FIELD) and value.strip() not in {"", _MISSING}:
            line = value.strip()
            if "\n" in line or "\r" in line:
                raise Malformed(f"{name[:40]!r} has several lines", hint="one public key each")
            if (key := sshkeys.parse(line)).algorithm != _DSA:
                yield key


HOST_HALF = PhoneHomeIntroducer()
