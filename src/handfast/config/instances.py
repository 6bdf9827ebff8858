"""The table ``[instances]`` of ``config.toml``: what this registrar does for managed machines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from handfast.config.reader import Reader, one_of, parse_listen, yes_or_no
from handfast.core.invitation import Address
from handfast.errors import UsageError


class SecondKey(StrEnum):
    """What follows where the secret of an instance that has a key is used with another one: a thief, or the victim."""

    QUARANTINE = "quarantine"
    """An alarm, and nothing is asked of the instance any more. What the first one was given holds until it ends."""
    BOTH = "quarantine-both"
    """The same, and what the first one was given is revoked."""


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """
    ``watch``: `up` is their controller too; else somebody runs `instance watch`, or they wait.

    ``listen`` is where whoever watches takes the calls of agents that dial; None: nobody can dial.
    """

    watch: bool = False
    listen: Address | None = None
    on_second_key: SecondKey = SecondKey.QUARANTINE


def called_at(settings: InstanceSettings, registrar: tuple[Address, ...]) -> Address:
    """
    Return where agents call that dial: ``listen``, on the registrar's announced host where that says all addresses.

    :raises UsageError: the configuration has no such address.
    """
    listen = settings.listen
    if listen is None or not listen.port:
        raise UsageError(
            "nobody takes agents' calls here", hint='[instances] listen = "0.0.0.0:7576"; or say HOST:PORT'
        )
    if listen.host not in {"0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        return listen
    if not registrar:
        raise UsageError(f"{str(listen)!r} is no address to call", hint="start `up` once, or say --dial HOST:PORT")
    return Address(registrar[0].host, listen.port)


def instance_settings(reader: Reader) -> InstanceSettings:
    """Read the table."""
    default = InstanceSettings()
    return InstanceSettings(
        watch=reader.take("instances.watch", yes_or_no, default.watch),
        listen=reader.take("instances.listen", parse_listen, default.listen),
        on_second_key=reader.take("instances.on_second_key", one_of(SecondKey), default.on_second_key),
    )
