"""
Files and the environment become frozen values here, and nowhere else: flag, environment, file, default, in this order.

    settings      a registrar's config.toml, with a file for each of its larger tables
    environment   where state is kept, secrets, how output should look
    reader        one table of a file, all of whose mistakes are told

``settings`` is not imported here: it knows all that a registrar does, and most commands need none of it.
"""

from __future__ import annotations

from handfast.config.environment import (
    MAX_SECRET,
    agent_directory,
    data_directory,
    identity_directory,
    secret_from,
    wants_color,
    wants_traceback,
)
from handfast.config.reader import duration, parse_listen, parse_role

__all__ = [
    "MAX_SECRET",
    "agent_directory",
    "data_directory",
    "duration",
    "identity_directory",
    "parse_listen",
    "parse_role",
    "secret_from",
    "wants_color",
    "wants_traceback",
]
