"""A controller for each test, and no long pauses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from handfast.controller import watch
from handfast.wiring import Service
from tests.controller.control import Control, controlling
from tests.controller.control import house as opened


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Service]:
    """A registrar's parts, over a new authority and ledger."""
    with opened(tmp_path) as service:
        yield service


@pytest.fixture
async def control(house: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Control]:
    """A controller that runs."""
    monkeypatch.setattr(watch, "_FIRST", 0.05)
    monkeypatch.setattr(watch, "_LONGEST", 0.1)
    async with controlling(house) as running:
        yield running
