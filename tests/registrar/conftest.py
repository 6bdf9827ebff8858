"""One authority for all tests of the registrar, which do not change it; a ledger for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority
from tests.registrar.house import NOW, House
from tests.registrar.house import house as open_house


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> FileAuthority:
    """An authority made at NOW."""
    directory = tmp_path_factory.mktemp("made") / "authority"
    ceremony.create(directory, name="home", now=NOW)
    return FileAuthority.open(directory)


@pytest.fixture
def house(tmp_path: Path, made: FileAuthority) -> Iterator[House]:
    """A registrar with an empty ledger."""
    with open_house(tmp_path, made) as opened:
        yield opened
