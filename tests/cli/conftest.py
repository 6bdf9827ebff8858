"""A directory to run the toolkit's commands in, and services that only remember what they were started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.nifi.options import ClientOptions, ServerOptions
from tests.cli.started import Started
from tests.nifi.node import Node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Node:
    """An empty directory."""
    directory = tmp_path / "here"
    directory.mkdir(mode=0o700)
    return Node(directory, monkeypatch, capsys)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ClientOptions]:
    """What ``client`` would have done, instead of doing it."""
    found: list[ClientOptions] = []

    def run(options: ClientOptions, **_rest: object) -> None:
        found.append(options)
        raise Started

    monkeypatch.setattr("handfast.nifi.client.run", run)
    return found


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerOptions]:
    """What ``server`` would have done, instead of doing it."""
    found: list[ServerOptions] = []

    def serve(options: ServerOptions, *, ready: object, **_rest: object) -> int:
        found.append(options)
        ready()  # type: ignore[operator]
        return 0

    monkeypatch.setattr("handfast.server.toolkit.serve", serve)
    return found
