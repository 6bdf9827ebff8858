"""One registrar for the tests of a module that do not change it for others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.running import Running, running


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registrar with the default limits."""
    with running(tmp_path_factory.mktemp("registrar") / "data") as started:
        yield started
