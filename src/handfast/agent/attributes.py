"""
A new agent's key in the guest attributes of Google's cloud, where whoever launched the machine reads it.

Any process on the machine, of any user, may write there instead of us: `instance confirm` says what that is worth.
"""

from __future__ import annotations

import structlog

from handfast.agent import sources
from handfast.core import keyline
from handfast.errors import HandfastError

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def publish(name: str, key: bytes) -> None:
    """Write the key (SHA-256) of an instance there, in a thread: it waits. A failure is said, and no more."""
    try:
        sources.write_attribute(keyline.NAMESPACE, keyline.ATTRIBUTE, keyline.written(name, key))
    except HandfastError as error:
        hint = "the console has it as well; guest attributes are enabled by enable-guest-attributes=TRUE"
        _log.warning("the guest attributes do not have our key", reason=error.message, hint=hint)
