"""The table ``[instances]`` of ``config.toml``: what this registrar does for managed machines."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.config_reader import Reader, yes_or_no


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """``watch``: `up` is their controller too; else somebody runs `instance watch`, or they wait."""

    watch: bool = False


def instance_settings(reader: Reader) -> InstanceSettings:
    """Read the table."""
    return InstanceSettings(watch=reader.take("instances.watch", yes_or_no, InstanceSettings().watch))
