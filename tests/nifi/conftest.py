"""A CA and a node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nifi.fake_ca import FakeCa, Identity
from tests.nifi.node import Node


@pytest.fixture
def ca() -> Iterator[FakeCa]:
    """An honest CA, until the test changes it."""
    with FakeCa(Identity()).serving() as serving:
        yield serving


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Node:
    """An empty directory."""
    directory = tmp_path / "node"
    directory.mkdir(mode=0o700)
    return Node(directory, monkeypatch, capsys)
