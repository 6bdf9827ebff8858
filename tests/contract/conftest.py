"""Every ledger that keeps the contract, each empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.ledger.store import SqlLedger
from tests.ledger import postgres
from tests.ledger.material import Place


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """One PostgreSQL for all tests."""
    with postgres.running() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where an empty ledger can be opened."""
    if request.param == "sqlite":
        yield Place("sqlite", str(tmp_path / "ledger.sqlite3"))
        return
    with request.getfixturevalue("server").database() as url:
        yield Place("postgresql", url)


@pytest.fixture
def store(place: Place) -> Iterator[SqlLedger]:
    """An empty ledger."""
    with place.open() as opened:
        yield opened
