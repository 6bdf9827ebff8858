"""One real registrar for the attacks that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.world import Registrar


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registrar]:
    """`handfast up`, ready."""
    with Registrar.new(tmp_path_factory.mktemp("registrar")) as started:
        yield started.start()
