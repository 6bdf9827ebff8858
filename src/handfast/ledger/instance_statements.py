"""The statements about managed machines; see ``statements`` for how they are written."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select, update

from handfast.ledger.tables import instances

_OF = instances.c.name == bindparam("p_name")
INSTANCE = select(instances.c.state).where(_OF)
ALL_INSTANCES = select(instances.c.name, instances.c.state).order_by(instances.c.name)
ADD_INSTANCE = insert(instances)
SET_INSTANCE = update(instances).where(_OF).values(state=bindparam("state"))
REMOVE_INSTANCE = delete(instances).where(_OF)
