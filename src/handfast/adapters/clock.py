"""The system's clock, as the port that inner code asks."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """Wall time. It may jump: whoever measures a duration uses the event loop's monotonic time."""

    def now(self) -> datetime:
        """Return the time, aware, UTC."""
        return datetime.now(UTC)
