"""
The one place where concrete classes meet: a data directory and a configuration become a working registrar.

    directory   the files of a data directory
    operator    what an operator on this machine works with; no key is read
    service     a registrar that is ready to serve
    nifi, vantage, x5c   parts of it that are configured apart
"""

from __future__ import annotations

from handfast.wiring.directory import (
    AUTHORITY,
    CHECKPOINT,
    CONFIG,
    LEDGER,
    LOCK,
    Place,
    announced,
    log_origin,
    open_ledger,
    read_place,
    remember_place,
    require_data,
)
from handfast.wiring.operator import open_administration, open_approvals, open_host_keys, open_instances
from handfast.wiring.service import Overrides, Service, make_authority, open_service, open_standalone

__all__ = [
    "AUTHORITY",
    "CHECKPOINT",
    "CONFIG",
    "LEDGER",
    "LOCK",
    "Overrides",
    "Place",
    "Service",
    "announced",
    "log_origin",
    "make_authority",
    "open_administration",
    "open_approvals",
    "open_host_keys",
    "open_instances",
    "open_ledger",
    "open_service",
    "open_standalone",
    "read_place",
    "remember_place",
    "require_data",
]
