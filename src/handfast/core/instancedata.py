"""
What an instance is given when it is launched, in its user-data: whom it may obey, and its one-time secret.

One JSON object, which an original agent reads too: it looks at ``steamcannon_ca_cert`` and nothing else. There the
certificate is the root of the controller's authority, as it was then. Where the cloud was given our document for
cloud-init, whoever asks the cloud finds that, and the object in it.

User-data is no secret for long: every process on the machine can often read it, and everybody with the right to
describe the instance. What is in it lets its holder pose as the instance until the instance is introduced, never
afterwards, and raise an alarm about it until the secret's time is over; nothing in it lets anybody pose as the
controller.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from handfast.core.invitation import Address, InvitationLine
from handfast.core.keys import UNREADABLE, format_pin, spki_sha256
from handfast.core.names import machine_name
from handfast.errors import HandfastError, Malformed

MAX_USER_DATA = 16 * 1024  # bytes: what AWS allows; others allow more
CA_KEY = "steamcannon_ca_cert"  # the original's
FILE = "/etc/handfast/agent/user-data"  # where our document for cloud-init has it written
OURS = "handfast-"  # begins an instance's id that no cloud has given, and is followed by a UUID
_INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", re.ASCII)
_HINT = "`handfast instance add` prints it; give all of it"
_CLOUD_CONFIG = b"#cloud-config\n"
# As our document has it, to the letter: what somebody else's YAML says is YAML's to read, and cloud-init's.
_IN_CLOUD_CONFIG = re.compile(
    rf'^  - path: "{FILE}"\n    owner: "root:root"\n    permissions: "0600"\n'.encode()
    + rb"    content: \|\n((?: {6}.*\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class InstanceData:
    """
    What an instance is given.

    ``instance_id`` is the cloud's, where it is known before the launch, or one of ours. The agent ``listens``, or
    ``dials`` the controller; one of the two is None. ``line`` has the one-time secret, the pin and their times.
    """

    instance: str
    instance_id: str
    root: x509.Certificate
    line: InvitationLine
    listens: Address | None = None
    dials: Address | None = None


class _Ours(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    instance: str
    id: Annotated[str, Meta(max_length=128)]
    invitation: str
    listen: str | None = None
    dial: str | None = None
    version: Annotated[int, Meta(ge=1)] = 1


class _Document(msgspec.Struct):
    """Other keys are other programs'."""

    steamcannon_ca_cert: str
    handfast: _Ours


def check_instance_id(text: str) -> str:
    """Return an instance's id. :raises Malformed: empty, too long, or with characters that no cloud gives."""
    if not _INSTANCE_ID.fullmatch(text):
        raise Malformed(f"not an instance's id: {text[:80]!r}", hint="such as i-0123456789abcdef0, or a UUID")
    return text


def written(data: InstanceData) -> str:
    """Return the JSON: a secret until ``data.line`` is over."""
    ours: dict[str, object] = {
        "version": 1,
        "instance": data.instance,
        "id": data.instance_id,
        "invitation": data.line.reveal(),
    }
    ours |= {} if data.listens is None else {"listen": str(data.listens)}
    ours |= {} if data.dials is None else {"dial": str(data.dials)}
    root = data.root.public_bytes(Encoding.PEM).decode("ascii")
    return json.dumps({CA_KEY: root, "handfast": ours}, indent=1) + "\n"


def read(text: bytes) -> InstanceData:
    """
    Read what ``written`` wrote; other keys beside ours are ignored, as in the original.

    A document for cloud-init is read where it has the file as ours has. *Not* checked: whether the secret is still
    good, which only the controller knows.

    :raises Malformed: not that, or a certificate that is not the pinned root. Nothing secret is in the message.
    """
    if len(text) > MAX_USER_DATA:
        raise Malformed(f"user-data of {len(text)} bytes, at most {MAX_USER_DATA} are read", hint=_HINT)
    if text.startswith(_CLOUD_CONFIG):
        text = _in_cloud_config(text)
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The library's message names a path and a kind, and no value: the invitation is one.
        raise Malformed(f"not the user-data of an instance: {str(error)[:200]}", hint=_HINT) from None
    ours = document.handfast
    if ours.version != 1:
        raise Malformed(
            f"user-data of version {ours.version}; this handfast reads version 1", hint="install a newer one"
        )
    if (ours.listen is None) == (ours.dial is None):
        raise Malformed("the user-data has to say one of 'listen' and 'dial'", hint=_HINT)
    try:
        line = InvitationLine.parse(ours.invitation)
        found = InstanceData(
            instance=machine_name(ours.instance),
            instance_id=check_instance_id(ours.id),
            root=_root(document.steamcannon_ca_cert, line.pin),
            line=line,
            listens=None if ours.listen is None else Address.parse(ours.listen),
            dials=None if ours.dial is None else Address.parse(ours.dial),
        )
    except Malformed:
        raise
    except HandfastError as error:  # of the invitation, which is a class of its own for those who paste one
        raise Malformed(f"the user-data has no good secret: {error.message}", hint=_HINT) from None
    return found


def _in_cloud_config(text: bytes) -> bytes:
    found: list[bytes] = _IN_CLOUD_CONFIG.findall(text)
    if len(found) != 1:  # of two, who says which cloud-init writes last?
        raise Malformed(
            f"a document for cloud-init that has our {FILE!r} {len(found)} times, as `handfast instance add` writes it",
            hint=f"where cloud-init has written it: --user-data {FILE}",
        )
    return re.sub(rb"^ {6}", b"", found[0], flags=re.MULTILINE)


def _root(pem: str, pin: bytes) -> x509.Certificate:
    try:
        root = x509.load_pem_x509_certificate(pem.encode())
        actual = spki_sha256(root.public_key())
    except UNREADABLE as error:
        raise Malformed(f"{CA_KEY!r} is no certificate: {str(error)[:120]!r}", hint=_HINT) from None
    if actual != pin:  # two halves of two documents: trusting either would be a guess
        raise Malformed(
            f"{CA_KEY!r} has the pin {format_pin(actual)}, the invitation {format_pin(pin)}",
            hint="they are of two authorities: " + _HINT,
        )
    return root
