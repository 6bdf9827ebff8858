"""Managed machines, for the tests of the ledger."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from handfast.core.instances import Instance, Issued, Shown, State, Verified, met
from handfast.core.records import Invitation
from handfast.core.roles import Role
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, NOW, invitation

KEY, OTHER = b"k" * 32, b"o" * 32


def instance(number: int = 1, *, name: str = "", **more: object) -> tuple[Instance, Invitation]:
    """An instance that was just added, and its invitation."""
    called = name or f"app{number}.lan"
    invited = replace(invitation(number, machine=called), role=Role.AGENT, method="instance")
    made = Instance(
        name=called,
        instance_id=f"i-{number}",
        invitation=invited.key_id,
        deadline=LATER,
        since=NOW,
        address="10.0.0.9:7575",
        state=State.WAITING,
    )
    return replace(made, **more), invited  # type: ignore[arg-type]


def steps(first: Instance, serial: int) -> list[Instance]:
    """What an instance is from its first answer until it runs."""
    found = [first]
    for what in (Shown(KEY), Issued(KEY, serial), Verified(KEY)):
        found.append(met(found[-1], what, at=NOW))
    return found


def running(store: SqlLedger, number: int = 1, *, serial: int = 7) -> Instance:
    """Add an instance, and write down how it came to run."""
    made, invited = instance(number)
    store.add_instance(made, invited).result()
    way = steps(made, serial)
    for before, after in pairwise(way):
        assert store.change_instance(before, after, at=NOW).result() == after
    return way[-1]
