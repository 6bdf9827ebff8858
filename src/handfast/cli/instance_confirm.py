"""instance confirm: an operator says which key a managed machine has."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.cli.arguments import DATA, FILE, JSON, MACHINE, Parsed
from handfast.cli.instance_show import done
from handfast.core.fingerprint_words import parse_words
from handfast.core.instance_views import parse_fingerprint
from handfast.errors import EvidenceRejected, Refused, UsageError

if TYPE_CHECKING:
    from handfast.core.instances import Instance

FINGERPRINT = Parsed("fingerprint", parse_fingerprint)
WORDS = Parsed("words", parse_words)


@click.command("confirm")
@click.argument("name", type=MACHINE)
@click.option("--fingerprint", type=FINGERPRINT, help="SHA256:..., as its console shows it.")
@click.option("--words", type=WORDS, help="Its eight words, in quotes, as its console shows them.")
@click.option("--console", type=FILE, help="Its console's log since it booted, as the cloud hands it out; - is stdin.")
@click.option(
    "--guest-attributes", "attributes", type=FILE, help="Its guest attributes in JSON, as `gcloud` prints; - is stdin."
)
@DATA
@JSON
def confirm_command(
    name: str,
    fingerprint: bytes | None,
    words: str | None,
    console: Path | None,
    attributes: Path | None,
    data: Path,
    as_json: bool,
) -> None:
    """
    Say which key NAME has: by its fingerprint, by its words, or by its console's log or guest attributes.

    Its agent writes them there; not `instance show`, which has what answered on the network. Of several all have to say
    the same key. Words are a part of one: they are compared with the key that has answered, and count for that. Root
    of that machine may write to its console, and any process there its guest attributes.
    """
    from handfast.adapters import given
    from handfast.core import keyline
    from handfast.core.guest_attributes import MAX_ATTRIBUTES
    from handfast.wiring import open_instances

    instances = open_instances(data)
    said: dict[str, bytes] = {} if fingerprint is None else {"its fingerprint": fingerprint}
    if words is not None:
        said["its words"] = _by_words(data, instances.one(name), words, at=instances.administration.clock.now())
    if console is not None:
        said["its console"] = keyline.key_of(name, given.content(console, most=keyline.MAX_LOG))
    if attributes is not None:
        said["its guest attributes"] = keyline.key_in(name, given.content(attributes, most=MAX_ATTRIBUTES))
    if not said:
        raise UsageError(
            "nothing says which key it is",
            hint="--fingerprint, --words, --console or --guest-attributes: a new agent shows its key there",
        )
    done(instances, instances.confirm(name, _agreed(name, said), by=" and ".join(said)), data, as_json=as_json)


def _by_words(data: Path, kept: Instance, words: str, *, at: datetime) -> bytes:
    """Return the key that was seen, or is expected, if these are its words."""
    from handfast.controller.status import current
    from handfast.core.fingerprint_words import check_words

    (found,) = current(data, [kept], at=at)
    instance = found.instance
    key = instance.seen or instance.expected
    if key is None:
        raise Refused(
            f"no key of {instance.name!r} was seen yet, and its words are only a part of it",
            hint="have it watched, and wait until it has answered (`instance show`: seen); or give --fingerprint",
        )
    return check_words(words, key, of=instance.name)


def _agreed(name: str, said: dict[str, bytes]) -> bytes:
    from handfast.core.instance_views import fingerprint

    first, *others = said.values()
    if any(other != first for other in others):
        each = ", ".join(f"{fingerprint(key)} by {source}" for source, key in said.items())
        raise EvidenceRejected(f"{name!r} has different keys: {each}", hint="nothing is confirmed; ask the machine")
    return first
