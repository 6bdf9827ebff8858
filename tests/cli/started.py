"""What a service was started with, where it was not to be run."""

from __future__ import annotations

from handfast.nifi.options import ClientOptions
from tests.nifi.node import Node


class Started(Exception):
    """A service was started."""


def options(node: Node, asked: list[ClientOptions], *arguments: str) -> ClientOptions:
    """Return what ``client`` was started with."""
    done = node.run("client", *arguments)
    assert "Started" in done.stderr, done.stderr
    return asked.pop()
