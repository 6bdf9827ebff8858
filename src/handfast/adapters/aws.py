"""Whose object store it is, as every tool of its kind is told: by ``AWS_`` variables of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from handfast.core.secret import Secret
from handfast.errors import UsageError

DEFAULT_REGION = "us-east-1"  # also what stores without regions take
_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and where it is not Amazon's AWS_ENDPOINT_URL"


@dataclass(frozen=True, slots=True)
class Account:
    """
    What signs requests to an object store. ``endpoint`` None is Amazon's own, in ``region``.

    ``session`` is the token that goes with temporary keys; it stands in every signed URL, and is worth nothing alone.
    """

    key_id: str
    secret: Secret
    region: str = DEFAULT_REGION
    endpoint: str | None = None
    session: str | None = None


def account(environ: Mapping[str, str] = os.environ) -> Account:
    """
    Return the account that the environment has. Files such as ``~/.aws/credentials`` are not read.

    :raises UsageError: there is none.
    """
    key_id, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key_id or not secret:
        raise UsageError("no account of an object store in the environment", hint=_HINT)
    return Account(
        key_id,
        Secret(secret.encode()),
        environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION,
        environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None,
        environ.get("AWS_SESSION_TOKEN") or None,
    )
