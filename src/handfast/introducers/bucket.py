"""
Bucket: a new machine uploads its SSH host keys to a one-time address of an object store, and we collect them.

Proof     machine -> registrar  SSHSIG by the one-time key of its user-data, and by each host key, over the upload
Answer    none: the machine never speaks to the registrar, only to the store
Trusts    whoever reads the user-data before the machine has uploaded; the store, to keep the first upload and its time
Replay    the same upload gets the same answer, other keys an alarm
Spec      docs/protocols/host-keys.md

The half of the machine is a shell script, ``ssh/upload.sh``: it has to run where nothing of ours is installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from handfast.core import sshkeys, sshsig, wire
from handfast.core.flow import Evidence, HostFinding, Once
from handfast.core.hostproof import NAMESPACE
from handfast.core.hosts import How, Place
from handfast.core.ports import Context
from handfast.core.records import Invitation
from handfast.core.sshdata import string
from handfast.core.sshkeys import PROVABLE, SshKey
from handfast.core.transcript import digest
from handfast.errors import (
    EvidenceRejected,
    HandfastError,
    InvitationCancelled,
    InvitationExpired,
    Malformed,
    NotMine,
)

NAME = How.BUCKET.value
MAX_UPLOAD = 64 * 1024  # bytes; three keys and their signatures have 5,000
LATEST = timedelta(days=30)  # after its end, an invitation's upload can still be collected
_VERSION = "handfast host keys 1"
_NONCE = b"handfast/1 bucket nonce"
_SIGNATURE = re.compile(r"-----BEGIN SSH SIGNATURE-----\n[A-Za-z0-9+/=\n]+\n-----END SSH SIGNATURE-----\n", re.ASCII)
_UPLOAD = re.compile(
    r"(?P<document>(?P<version>handfast host keys [0-9]{1,9})\n"
    r"machine (?P<machine>[!-~]{1,253})\n"
    r"nonce (?P<nonce>[0-9a-f]{64})\n"
    r"instance (?P<instance>[A-Za-z0-9._:@/+-]{1,128})\n"
    rf"(?P<keys>(?:key [!-~]+ [!-~]+\n){{1,{sshkeys.MAX_KEYS}}}))"
    rf"(?P<signatures>(?:{_SIGNATURE.pattern})+)",
    re.ASCII,
)
_HINT = "was it made by `handfast userdata`, and has nobody touched it?"


class HostKeyUpload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What was collected: for which invitation, what lay there, and since when, as the store says.

    The time is the store's word. So are the bytes being the first: who could write one could write the other.
    """

    key_id: wire.KeyId
    uploaded_at: Annotated[datetime, Meta(tz=True)]
    upload: Annotated[bytes, Meta(max_length=2 * MAX_UPLOAD)]  # in base64


def nonce(one_time_key: bytes, pin: bytes) -> str:
    """
    Return what an upload says it is for: a hash of the raw Ed25519 key and of the registrar's pin.

    A host key's signature over the upload is good for this invitation of this registrar, and for no other.
    """
    return digest(_NONCE, pin, one_time_key).hex()


def head(machine: str, nonce: str) -> bytes:
    """Return the beginning of the document, as the machine finds it; it adds its instance id and its keys."""
    return f"{_VERSION}\nmachine {machine}\nnonce {nonce}\n".encode("ascii")


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload in its parts, none of which is verified."""

    document: bytes
    machine: str
    nonce: str
    instance: str
    keys: tuple[SshKey, ...]
    signatures: tuple[str, ...]


def _parsed(upload: bytes) -> _Upload:
    """Take an upload apart. :raises Malformed: it is not one, or of another version."""
    if len(upload) > MAX_UPLOAD:
        raise Malformed(f"an upload of {len(upload)} bytes, at most {MAX_UPLOAD} are read", hint=_HINT)
    found = _UPLOAD.fullmatch(upload.decode("ascii", "replace"))
    if found is None:
        raise Malformed(f"not an upload of host keys: it begins with {upload[:40]!r}", hint=_HINT)
    if found["version"] != _VERSION:
        raise Malformed(f"an upload of {found['version']!r}; this handfast reads {_VERSION!r}", hint="update handfast")
    keys = tuple(sshkeys.parse(line.removeprefix("key ")) for line in found["keys"].splitlines())
    signatures = tuple(_SIGNATURE.findall(found["signatures"]))
    if len(signatures) != 1 + len(keys):
        raise Malformed(f"{len(signatures)} signatures, not one by the one-time key and {len(keys)} by the host keys")
    if len(set(keys)) != len(keys):
        raise Malformed("an upload has the same host key twice", hint=_HINT)
    document = found["document"].encode("ascii")
    return _Upload(document, found["machine"], found["nonce"], found["instance"], keys, signatures)


@dataclass(frozen=True, slots=True)
class BucketIntroducer:
    """The registrar's half."""

    name: ClassVar[str] = NAME
    evidence: ClassVar[type[msgspec.Struct]] = HostKeyUpload

    def verify(self, evidence: Evidence, context: Context) -> HostFinding:
        """
        Return the finding for an upload that was made in time, signed by the one-time key and by each host key.

        A key of a type whose signatures we cannot verify is kept, and said in the detail: the one-time key vouches for
        it alone. *Not* checked here: whether other keys were collected before (the ledger spends the marker).

        :raises NotMine: evidence of another method. :raises Malformed: not an upload.
        :raises EvidenceRejected: a signature that does not fit, or an upload for another machine or registrar.
        :raises InvitationExpired, InvitationCancelled: the upload is authentic, and too late.
        """
        if evidence.method != self.name:
            raise NotMine(f"evidence of method {evidence.method!r}")
        message = wire.decode(evidence.payload, HostKeyUpload)
        invitation = context.invitation(message.key_id)
        if invitation is None or invitation.method != self.name:
            raise EvidenceRejected(f"invitation {message.key_id} is unknown", hint="see `handfast list`")
        upload = _parsed(message.upload)
        expected = sshkeys.from_blob(string(b"ssh-ed25519") + string(invitation.public_half))
        _check_signature(upload.signatures[0], upload.document, expected, what="one-time key")
        if (upload.machine, upload.nonce) != (invitation.machine, nonce(invitation.public_half, context.pin)):
            raise EvidenceRejected(f"an upload for {upload.machine!r} of another invitation or registrar", hint=_HINT)
        _check_time(invitation, message.uploaded_at, context.now())
        unproved = [key.algorithm for key in upload.keys if key.algorithm not in PROVABLE]
        for key, signature in zip(upload.keys, upload.signatures[1:], strict=True):
            if key.algorithm in PROVABLE:
                _check_signature(signature, upload.document, key, what="host key")
        unproven = f"; only the one-time key vouches for {', '.join(unproved)}" if unproved else ""
        return HostFinding(
            machine=invitation.machine,
            keys=upload.keys,
            how=How.BUCKET,
            detail=f"{invitation.key_id}, uploaded {message.uploaded_at:%Y-%m-%d %H:%M}Z by instance"
            f" {upload.instance}{unproven}",
            once=Once(invitation.marker, invitation.uses),
            place=Place.parse(invitation.names.texts()) if invitation.names else None,
        )


def _check_signature(signature: str, document: bytes, key: SshKey, *, what: str) -> None:
    try:
        signer = sshsig.verify(signature, document, namespace=NAMESPACE)
    except HandfastError as error:
        raise EvidenceRejected(f"the upload is not signed by the {what} {key.fingerprint}: {error.message}") from None
    if signer != key:
        raise EvidenceRejected(
            f"the upload is signed by {signer.fingerprint}, not by the {what} {key.fingerprint}", hint=_HINT
        )


def _check_time(invitation: Invitation, uploaded_at: datetime, now: datetime) -> None:
    if invitation.cancelled is not None:
        raise InvitationCancelled(f"invitation {invitation.key_id} was cancelled", hint="make new user-data")
    if uploaded_at >= invitation.expires_at:
        raise InvitationExpired(
            f"uploaded at {uploaded_at:%Y-%m-%d %H:%M:%S}Z; invitation {invitation.key_id} ended at"
            f" {invitation.expires_at:%Y-%m-%d %H:%M:%S}Z",
            hint="the store should have refused it: is its clock right?",
        )
    if now >= invitation.expires_at + LATEST:
        raise InvitationExpired(
            f"invitation {invitation.key_id} ended over {LATEST.days} days ago",
            hint="compare with the machine's console, and use `handfast host add`",
        )


HOST_HALF = BucketIntroducer()
