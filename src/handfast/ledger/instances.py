"""The changes of managed machines, each as a function over the writer's transaction."""

from __future__ import annotations

from datetime import datetime

from handfast.core.instances import Instance, State, existing
from handfast.core.records import INSTANCE, Invitation
from handfast.core.roles import Role
from handfast.errors import Malformed, Refused
from handfast.ledger import entries, instance_entries, operations, rows, ssh_revocations
from handfast.ledger import instance_statements as statements
from handfast.ledger.statements import CREDENTIALS_OF
from handfast.ledger.writer import Transaction

_GONE = "cessationOfOperation"
_OURS = frozenset({Role.REGISTRAR, Role.CONTROLLER})  # never a managed machine's, whatever it is called


def add(tx: Transaction, instance: Instance, invitation: Invitation) -> None:
    """
    Keep a new instance, and its invitation.

    :raises Refused: there is one with this name, or that key id. :raises Malformed: they are not of each other.
    """
    said = (invitation.key_id, invitation.machine, invitation.expires_at)
    wanted = (instance.invitation, instance.name, instance.deadline)
    if said != wanted or invitation.role is not Role.AGENT or invitation.method != INSTANCE:
        raise Malformed(f"the invitation {invitation.key_id!r} is not that of the instance {instance.name!r}")
    if tx.one(statements.INSTANCE, {"p_name": instance.name}) is not None:
        raise Refused(
            f"there is an instance {instance.name!r}", hint=f"if it is gone: handfast instance remove {instance.name}"
        )
    operations.invite(tx, invitation)
    event = instance_entries.added(instance, at=invitation.created_at)
    tx.run(
        statements.ADD_INSTANCE,
        {"name": instance.name, "state": instance_entries.to_json(instance_entries.texts(instance))},
    )
    tx.log(event)


def change(tx: Transaction, before: Instance, after: Instance, *, at: datetime, why: str) -> Instance:
    """
    Write a change down if what is on record is what lasts of ``before``; return what is on record then.

    :raises NotFound: there is none any more. :raises Malformed: another machine, or text that is not printable.
    """
    if before.name != after.name:
        raise Malformed(f"the instance {before.name!r} cannot become {after.name!r}")
    if why:
        entries.check_line(why, what="a reason")
    old, new = (instance_entries.to_json(instance_entries.texts(each)) for each in (before, after))
    kept = _kept(tx, before.name)
    if kept != old:
        return instance_entries.from_json(kept)
    if new == old:
        return after
    tx.run(statements.SET_INSTANCE, {"p_name": before.name, "state": new})
    tx.log(instance_entries.changed(before, after, at=at, why=why))
    if after.state is State.QUARANTINED and before.state is not State.QUARANTINED:
        tx.log(instance_entries.alarm(after, at=at))
    return after


def remove(tx: Transaction, name: str, *, reason: str, at: datetime) -> Instance:
    """
    Forget an instance, and take back all that its machine could still use: nothing of it is renewed afterwards.

    :raises NotFound: there is none.
    """
    entries.check_line(reason, what="a reason")
    was = instance_entries.from_json(_kept(tx, name))
    tx.run(statements.REMOVE_INSTANCE, {"p_name": name})
    tx.log(instance_entries.removed(name, why=reason, at=at))
    operations.cancel_open(tx, was.invitation, reason=_GONE, at=at)
    for row in tx.all(CREDENTIALS_OF, {"p_machine": name}):
        held = rows.credential_from_row(row)
        if held.revoked_at is None and held.role not in _OURS:
            operations.revoke(tx, held.serial, reason=_GONE, at=at)
    ssh_revocations.revoke_host(tx, name, reason=_GONE, at=at)
    return was


def _kept(tx: Transaction, name: str) -> str:
    return str(existing(tx.one(statements.INSTANCE, {"p_name": name}), name)[0])
