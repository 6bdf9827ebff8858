"""The machine's console, which a cloud shows to whoever launched the machine, and to nobody on its network."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONSOLE = Path("/dev/console")


def say(line: str, path: Path = CONSOLE) -> None:
    """Write a line there, if we may: where there is no console, or it takes nothing now, nothing happens."""
    with suppress(OSError):
        console = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # The line begins and ends by itself, whatever else is written there.
            os.write(console, f"\r\n{line}\r\n".encode())
        finally:
            os.close(console)
