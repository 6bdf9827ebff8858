"""A controller for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.agents import controller
from tests.agent.test_agent import Controlling


@pytest.fixture
def controlling(tmp_path: Path) -> Iterator[Controlling]:
    """The controller, by the real time."""
    (tmp_path / "controller").mkdir()
    with controller(tmp_path / "controller") as made:
        yield made
