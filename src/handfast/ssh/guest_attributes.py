"""
Host keys in a cloud's guest attributes, where the guest agent of Google's cloud writes them at the first boot.

What it is worth, REPORTED: as much as the cloud's API that hands them out, and every process on the machine, of any
user, that may ask its metadata server: whoever can, can write them as well. So they are read before there are users.
"""

from __future__ import annotations

import msgspec

from handfast.core import sshkeys
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed

MAX_ATTRIBUTES = 1024 * 1024  # bytes; the cloud keeps 256 KiB for a machine
NAMESPACE = "hostkeys"
_HINT = "give what `gcloud compute instances get-guest-attributes NAME --query-path=hostkeys/ --format=json` prints"


class _Attribute(msgspec.Struct):
    namespace: str
    key: str
    value: str


class _Items(msgspec.Struct):
    items: list[_Attribute]


class _Answer(msgspec.Struct, rename="camel"):
    query_value: _Items


def host_keys(answer: bytes) -> tuple[SshKey, ...]:
    """
    Return the host keys in guest attributes: as ``gcloud`` prints them, or as the API answers.

    A key of a type that we do not know is kept. *Not* checked: whose attributes they are.

    :raises Malformed: not such JSON, no host key in it, or one that is none.
    """
    try:
        attributes = msgspec.json.decode(answer, type=list[_Attribute] | _Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not guest attributes: {str(error)[:120]}", hint=_HINT) from None
    found = attributes if isinstance(attributes, list) else attributes.query_value.items
    keys = [_key(each) for each in found if each.namespace == NAMESPACE]
    if not keys:
        raise Malformed("no host key in the guest attributes", hint="are they enabled, and has the machine booted?")
    return tuple(dict.fromkeys(keys))


def _key(attribute: _Attribute) -> SshKey:
    try:
        return sshkeys.parse(f"{attribute.key} {attribute.value}")
    except HandfastError as error:
        raise Malformed(f"the guest attribute {attribute.key[:60]!r}: {error.message}", hint=_HINT) from None
