"""The package's source files, parsed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "handfast"


def sources(base: Path = PACKAGE) -> Iterator[tuple[str, ast.Module]]:
    """Each Python file below ``base``: its path relative to ``base``, and its tree."""
    for path in sorted(base.rglob("*.py")):
        yield path.relative_to(base).as_posix(), ast.parse(path.read_text(), str(path))
