"""One registrar for the tests of a module that do not change it for others, and a session for each test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.server import session
from tests.server.running import Running, running


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registrar with the default limits."""
    with running(tmp_path_factory.mktemp("registrar") / "data") as started:
        yield started


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A session without any file."""
    session.new("paper", tmp_path / "D", lifetime=timedelta(days=30))
    return tmp_path / "D"
