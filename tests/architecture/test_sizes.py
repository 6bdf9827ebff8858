"""A file has at most 400 lines and a function 50, so that each is read in one go; exceptions give their reason."""

from __future__ import annotations

import ast

from tests.architecture.sources import PACKAGE, ROOT, sources

MAX_FILE = 400
MAX_FUNCTION = 50

# "path" or "path:function" -> why it is better long
ALLOWED: dict[str, str] = {}


def too_long() -> dict[str, int]:
    """Return every file and function over its limit, with its number of lines."""
    found = {}
    for base in (PACKAGE, ROOT / "tests"):
        for name, tree in sources(base):
            path = f"{base.name}/{name}"
            lines = len((base / name).read_text().splitlines())
            if lines > MAX_FILE:
                found[path] = lines
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno is not None
                    length = node.end_lineno - node.lineno + 1  # without its decorators
                    if length > MAX_FUNCTION:
                        found[f"{path}:{node.name}"] = length
    return found


def test_nothing_is_too_long_without_a_reason() -> None:
    """What is over the limit is split, or listed here with its reason."""
    assert {place: lines for place, lines in too_long().items() if place not in ALLOWED} == {}


def test_every_exception_is_still_needed() -> None:
    """An entry of the list goes when its file or function has become short."""
    assert sorted(set(ALLOWED) - set(too_long())) == []
