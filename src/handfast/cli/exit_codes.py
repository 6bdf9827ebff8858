"""Which error ends with which exit code; the only place that knows."""

from __future__ import annotations

from handfast import errors

DONE = 0
INTERRUPTED = 130

EXIT_CODES: dict[type[errors.HandfastError], int] = {
    errors.HandfastError: 1,
    errors.Fault: 1,
    errors.UsageError: 2,
    errors.Refused: 3,
    errors.Unreachable: 4,
    errors.UntrustedPeer: 5,
    errors.Waiting: 6,
}


def exit_code(error: errors.HandfastError) -> int:
    """Return the code of the nearest class in ``EXIT_CODES``."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
