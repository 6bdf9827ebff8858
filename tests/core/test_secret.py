"""A secret does not show itself by any of the ways by which values usually leak."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest

from handfast.core.secret import Secret

CANARY = b"canary-7f3a9c"


def test_reveal_is_the_only_way_out() -> None:
    """repr, str, format, vars and a container's repr show nothing."""
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", "%s %r" % (secret, secret), repr([secret]), repr({"a": secret})]  # noqa: UP031  an old logger would
    assert all("canary" not in text for text in shown)
    assert not hasattr(secret, "__dict__")
    assert secret.reveal() == CANARY


def test_secrets_have_no_equality_and_no_hash() -> None:
    """A comparison that leaks time, or a look-up by secret, is a programming error."""
    secret = Secret(CANARY)
    with pytest.raises(TypeError, match="compare_digest"):
        assert secret == Secret(CANARY)
    with pytest.raises(TypeError, match="compare_digest"):
        assert secret != CANARY
    with pytest.raises(TypeError):
        {secret}  # noqa: B018


def test_secrets_are_not_serialized() -> None:
    """Neither pickle, copy nor json carries one away."""
    for carry in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            carry(Secret(CANARY))


def test_a_traceback_with_locals_shows_nothing() -> None:
    """Even a debugger's traceback, which prints the variables, has only the type."""

    def fail(key: Secret) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError) as caught:
        fail(Secret(CANARY))
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "key = Secret(…)" in text
    assert "canary-7f" not in text
