"""Connecting to an instance, wherever it is."""

from __future__ import annotations

from pathlib import Path

from handfast.controller.credential import OwnCredential
from handfast.controller.http import Connection, Stream, plain
from handfast.controller.lend import borrow
from handfast.controller.passwords import password_of
from handfast.core.instances import Instance, Mode
from handfast.core.invitation import Address
from handfast.errors import Unreachable


async def connect(instance: Instance, credential: OwnCredential, data: Path) -> Stream:
    """
    Return a connection to whoever is where an instance should be; who that is, is the caller's first question.

    One that dials is borrowed from the process that watches the instances of ``data``.

    :raises Unreachable: nobody answers there or has called, or nobody has said where it is.
    """
    if instance.dials:
        lent = await borrow(data, instance.name)
        return await Connection.over(lent, credential.context, instance.name)
    if instance.address is None:
        raise Unreachable(
            f"nobody has said where {instance.name!r} is", hint=f"handfast instance place {instance.name} HOST:7575"
        )
    address = Address.parse(instance.address)
    if instance.mode is Mode.PLAIN:
        return await plain(address, password_of(data, instance.name))
    return await Connection.dial(address, credential.context)
