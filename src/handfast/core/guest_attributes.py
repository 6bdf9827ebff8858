"""
Guest attributes: what a machine in Google's cloud says of itself by its metadata server, as the cloud hands it out.

What they are worth: as much as the cloud's API that hands them out, and every process on the machine, of any user,
that may ask its metadata server: whoever can, can write them as well.
"""

from __future__ import annotations

import msgspec

from handfast.errors import Malformed, TooMuch

MAX_ATTRIBUTES = 1024 * 1024  # bytes; the cloud keeps 256 KiB for a machine


class Attribute(msgspec.Struct, frozen=True):
    """One value, by a key in a namespace."""

    namespace: str
    key: str
    value: str


class _Items(msgspec.Struct):
    items: list[Attribute]


class _Answer(msgspec.Struct, rename="camel"):
    query_value: _Items


def read(answer: bytes, *, path: str) -> list[Attribute]:
    """
    Return guest attributes: as ``gcloud`` prints them, or as the API answers. ``path`` is for the hint.

    *Not* checked: whose attributes they are.

    :raises Malformed: not such JSON. :raises TooMuch: over ``MAX_ATTRIBUTES`` bytes.
    """
    hint = f"give what `gcloud compute instances get-guest-attributes NAME --query-path={path} --format=json` prints"
    if len(answer) > MAX_ATTRIBUTES:
        raise TooMuch(f"guest attributes of over {MAX_ATTRIBUTES} bytes", hint=hint)
    try:
        attributes = msgspec.json.decode(answer, type=list[Attribute] | _Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not guest attributes: {str(error)[:120]}", hint=hint) from None
    return attributes if isinstance(attributes, list) else attributes.query_value.items
