"""Managed machines as the commands about them print them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from handfast.cli import ui
from handfast.core.instances import Mode

if TYPE_CHECKING:
    from handfast.core.instance_views import InstanceView
    from handfast.core.instances import Instance
    from handfast.registrar.instances import Instances

_KEYS = {Mode.PLAIN.value: "none"}
_PROVES = {Mode.INTRODUCTION.value: "secret"}  # where a key is delivered, whoever answers has it


def views_of(data: Path, instances: Instances, kept: list[Instance], *, at: datetime) -> list[InstanceView]:
    """Return instances as they are shown: as whoever watches them has them, else as the ledger does."""
    from handfast.controller.status import current
    from handfast.core.instance_views import instance_view

    return [
        instance_view(each.instance, watched=each.watched, until=instances.until(each.instance), contact=each.contact)
        for each in current(data, kept, at=at)
    ]


def ask_where(views: list[InstanceView], data: Path) -> None:
    """Say what to do about instances of which nobody has said where they are."""
    for view in [each for each in views if each.state == "pending"][:1]:
        ui.say(f"when you know where it is: handfast instance place {view.name} HOST:7575 --data {data}")


def where(view: InstanceView) -> str:
    """Say where an instance is, in a word."""
    return "dials" if view.dials else view.address or "nowhere yet"


def _requires(view: InstanceView) -> str:
    """Say what it has to have before it gets a credential, as --require does."""
    return "+".join(filter(None, (_PROVES.get(view.mode), "fingerprint" if view.needs_key else None)))


def show(view: InstanceView) -> None:
    """Print all of one instance."""
    since = "" if view.since is None else f" since {view.since}"
    ui.emit(f"{view.name}: {view.state}{since}{f': {view.reason}' if view.reason else ''}")
    unknown = "to be confirmed" if view.needs_key else "as it proves with its secret"
    secret = view.serial is None and view.mode != Mode.PLAIN.value  # where nothing is proved by it
    lines = [
        ("id", view.instance_id),
        ("where", where(view)),
        ("requires", _requires(view)),
        ("mode", view.mode if view.mode != Mode.INTRODUCTION.value else None),
        ("key", view.key or _KEYS.get(view.mode) or unknown),
        ("", view.words),
        ("seen", view.seen),
        ("", view.seen_words),
        ("credential", ", until ".join(filter(None, (view.serial, view.until)))),
        ("contact", view.contact),
        ("secret", f"{view.invitation}, until {view.secret_until}" if secret else None),
        ("failures", f"{view.rollbacks} credentials that it did not answer with" if view.rollbacks else None),
    ]
    for key, text in lines:
        if text:
            ui.emit(f"  {key:<11} {text}")


def done(instances: Instances, instance: Instance, data: Path, *, as_json: bool) -> None:
    """Print an instance that was changed."""
    (view,) = views_of(data, instances, [instance], at=instances.administration.clock.now())
    if as_json:
        ui.emit_json(view)
    else:
        ui.say(f"{view.name}: {view.state}, {where(view)}{f', key {view.key}' if view.key else ''}")
