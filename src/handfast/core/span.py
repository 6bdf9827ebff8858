"""How long, as people write it: ``90s``, ``16h``, ``7d``."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def written(span: timedelta) -> str:
    """Return a length of time in whole seconds, such as ``31d`` or ``1d 2h``; what is below a second is left out."""
    left = abs(int(span.total_seconds()))
    parts = []
    for unit, seconds in _UNITS:
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count}{unit}")
    return ("-" if span < timedelta() and parts else "") + (" ".join(parts) or "0s")
