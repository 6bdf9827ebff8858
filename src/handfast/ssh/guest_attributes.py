"""
Host keys in a cloud's guest attributes, where the guest agent of Google's cloud writes them at the first boot.

What it is worth, REPORTED: as much as the cloud's API that hands them out, and every process on the machine, of any
user, that may ask its metadata server: whoever can, can write them as well. So they are read before there are users.
"""

from __future__ import annotations

from handfast.core import guest_attributes, sshkeys
from handfast.core.guest_attributes import Attribute
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed

NAMESPACE = "hostkeys"


def host_keys(answer: bytes) -> tuple[SshKey, ...]:
    """
    Return the host keys in guest attributes: as ``gcloud`` prints them, or as the API answers.

    A key of a type that we do not know is kept. *Not* checked: whose attributes they are.

    :raises Malformed: not such JSON, no host key in it, or one that is none. :raises TooMuch: more than there can be.
    """
    found = guest_attributes.read(answer, path=f"{NAMESPACE}/")
    keys = [_key(each) for each in found if each.namespace == NAMESPACE]
    if not keys:
        raise Malformed("no host key in the guest attributes", hint="are they enabled, and has the machine booted?")
    return tuple(dict.fromkeys(keys))


def _key(attribute: Attribute) -> SshKey:
    try:
        return sshkeys.parse(f"{attribute.key} {attribute.value}")
    except HandfastError as error:
        raise Malformed(f"the guest attribute {attribute.key[:60]!r}: {error.message}", hint=error.hint) from None
