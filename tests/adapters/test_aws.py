"""Whose object store it is: the variables that every tool of its kind reads."""

from __future__ import annotations

import pytest

from handfast.adapters.aws import Account, account
from handfast.core.secret import Secret
from handfast.errors import UsageError


def test_the_account_is_the_environments() -> None:
    """The variables that every tool of the kind reads; the more special one first."""
    keys = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s"}
    plain = account(keys)
    assert (plain.key_id, plain.region, plain.endpoint, plain.session) == ("A", "us-east-1", None, None)
    assert plain.secret.reveal() == b"s"
    more = keys | {"AWS_DEFAULT_REGION": "r2", "AWS_ENDPOINT_URL": "https://b", "AWS_SESSION_TOKEN": "t"}
    assert (account(more).region, account(more).endpoint, account(more).session) == ("r2", "https://b", "t")
    special = account(more | {"AWS_REGION": "r1", "AWS_ENDPOINT_URL_S3": "https://a"})
    assert (special.region, special.endpoint) == ("r1", "https://a")


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_no_account(missing: str) -> None:
    """Half an account is none, and the hint says which variables there are."""
    environ = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s"}
    for changed in ({**environ, missing: ""}, {key: value for key, value in environ.items() if key != missing}):
        with pytest.raises(UsageError, match="no account") as refused:
            account(changed)
        assert missing in refused.value.hint


def test_the_secret_is_not_shown() -> None:
    """An account can be logged."""
    assert "wJalr" not in repr(Account("AKIA", Secret(b"wJalr")))
