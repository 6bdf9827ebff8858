"""
What is cancelled ends: nobody waits with ``asyncio.wait_for``.

In Python 3.11 that forgets a cancellation which comes in the same turn as the result; who watches instances was so not
stopped, once in some thousand times. ``asyncio.timeout`` forgets none.
"""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import ROOT, sources


def forgetful(name: str, tree: ast.Module) -> list[str]:
    """Return where a module waits so."""
    return [
        f"{name}:{node.lineno}"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "asyncio.wait_for")
        or (isinstance(node, ast.ImportFrom) and "wait_for" in [each.name for each in node.names])
    ]


@pytest.mark.parametrize("below", ["src", "tests", "bench", "tools"])
def test_nobody_waits_so(below: str) -> None:
    """Neither in the package nor in what tries it: a test that is not ended hangs."""
    assert [each for name, tree in sources(ROOT / below) for each in forgetful(name, tree)] == []


@pytest.mark.parametrize("code", ["import asyncio\nasyncio.wait_for(x, 1)", "from asyncio import wait_for"])
def test_the_probe_bites(code: str) -> None:
    """Each way to it is seen; a condition's method of that name is another."""
    assert len(forgetful("probe.py", ast.parse(code))) == 1
    assert forgetful("probe.py", ast.parse("condition.wait_for(so)")) == []
