"""Every error is known wherever errors leave the program: exit codes, HTTP statuses, and the page for people."""

from __future__ import annotations

import ast
import inspect

import pytest

from handfast import errors
from handfast.adapters.problems import STATUS
from handfast.cli.exit_codes import EXIT_CODES
from tests.architecture.sources import ROOT, sources

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.HandfastError)]


def test_codes_are_unique() -> None:
    """A code names one class: it is what programs compare."""
    codes = [error.code for error in CLASSES]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_has_its_own_code(error: type[errors.HandfastError]) -> None:
    """No class passes for its parent by forgetting to say its code."""
    assert "code" in vars(error)


@pytest.mark.parametrize("branch", errors.HandfastError.__subclasses__())
def test_every_branch_has_an_exit_code(branch: type[errors.HandfastError]) -> None:
    """The codes are documented as 1 to 6, and no branch of the tree gets one by falling through to the root."""
    assert 1 <= EXIT_CODES[branch] <= 6


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_has_an_http_status(error: type[errors.HandfastError]) -> None:
    """It is chosen for each class, not inherited; only waiting for a person is no failure."""
    assert STATUS[error] == 202 if error is errors.Waiting else 400 <= STATUS[error] <= 599


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_drawn_and_documented(error: type[errors.HandfastError]) -> None:
    """The tree in errors.py's docstring names it, and docs/errors.md explains its code."""
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__
    assert f"`{error.code}`" in (ROOT / "docs" / "errors.md").read_text()


def test_errors_are_defined_in_one_file() -> None:
    """No other module adds a class to the tree: the edges could not know it."""
    names = {error.__name__ for error in CLASSES}
    added = [
        f"{module}: {node.name}"
        for module, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and module != "errors.py"
        for base in node.bases
        if getattr(base, "attr", getattr(base, "id", "")) in names
    ]
    assert added == []
