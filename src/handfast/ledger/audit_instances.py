"""The table of managed machines, against the log; see ``audit``."""

from __future__ import annotations

from handfast.ledger.audit_facts import Facts, tampered
from handfast.ledger.database import Session
from handfast.ledger.instance_entries import to_json
from handfast.ledger.instance_statements import ALL_INSTANCES


def verify(session: Session, facts: Facts) -> None:
    """:raises LogTampered: a row is not what its events make it, or one of the two is not there."""
    made = {name: to_json(held) for name, held in facts.instances.items()}
    kept: dict[str, str] = dict(session.all(ALL_INSTANCES))
    for name in sorted(made.keys() | kept.keys(), key=str):
        if made.get(name) != kept.get(name):
            raise tampered(f"the instance {name!r} is not what the log makes it")
