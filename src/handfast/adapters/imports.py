"""What a library takes along if it finds it, and we do not want."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(module: str) -> Iterator[None]:
    """Have imports inside of the block not find ``module``, unless it was imported before; afterwards they do."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # "not found": the import system, section 5.3.1
    try:
        yield
    finally:
        del sys.modules[module]
