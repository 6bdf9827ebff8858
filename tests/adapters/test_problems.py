"""Errors as problems: every class has a status, and nobody is told what is not theirs."""

from __future__ import annotations

import inspect

import pytest

from handfast import errors
from handfast.adapters import problems
from handfast.errors import HandfastError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HandfastError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[HandfastError]) -> None:
    """Each class of errors.py is in the table itself: a new one is decided about, not inherited by accident."""
    assert kind in problems.STATUS
    assert problems.status_of(kind) == problems.STATUS[kind]


def test_nearest_ancestor_decides() -> None:
    """An error that the table does not know gets the status of its nearest ancestor."""

    class Stricter(errors.PolicyRefused):
        pass

    assert problems.status_of(Stricter) == problems.STATUS[errors.PolicyRefused]


@pytest.mark.parametrize("kind", [k for k in CLASSES if k is not errors.PolicyRefused], ids=lambda k: k.__name__)
def test_what_is_ours_stays_ours(kind: type[HandfastError]) -> None:
    """A server fault says neither its message nor its hint; evidence that was rejected says its code only."""
    problem = problems.problem(kind("the disk /dev/x is full", hint="look at /var"))
    silent = problem.status == 500 or issubclass(kind, errors.EvidenceRejected)
    assert (problem.detail, problem.hint) == (("", "") if silent else ("the disk /dev/x is full", "look at /var"))
    assert problem.code == (errors.Fault.code if problem.status == 500 else kind.code)


def test_policy_gives_every_reason() -> None:
    """All reasons arrive, each by itself."""
    problem = problems.problem(errors.PolicyRefused(("too old", "too far")))
    assert (problem.status, problem.reasons) == (403, ["too old", "too far"])
