"""
Errors as RFC 9457 problems: the one place with HTTP statuses of errors.

A stranger learns the code and a constant sentence. Only those who proved something (the holder of an
invitation's seed, of a credential, or an operator) are told why.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from aiohttp import web

from handfast import errors
from handfast.core.wire import Problem
from handfast.errors import HandfastError

MEDIA_TYPE = "application/problem+json"
V = TypeVar("V")

# The most specific class that matches decides, see ``status_of``.
STATUS: dict[type[HandfastError], int] = {
    errors.HandfastError: 500,
    errors.UsageError: 400,
    errors.ConfigError: 500,  # the server's own configuration, not the caller's
    errors.Refused: 403,
    errors.NotMine: 400,
    errors.Malformed: 400,
    errors.EvidenceRejected: 403,
    errors.InvitationInvalid: 400,
    errors.InvitationExpired: 403,
    errors.InvitationCancelled: 403,
    errors.AlreadySpent: 409,
    errors.PolicyRefused: 403,
    errors.Revoked: 403,
    errors.NotAuthorized: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooMuch: 413,  # 429 where trying again later helps: see ``problem``
    errors.Unsafe: 500,  # our own files
    errors.Unreachable: 503,
    errors.UntrustedPeer: 500,  # only a client meets an untrusted peer; here it is a fault
    errors.LogTampered: 500,
    errors.Waiting: 202,
    errors.Fault: 500,
}
_TITLES: dict[type[HandfastError], str] = {
    errors.UsageError: "the request cannot mean anything",
    errors.Refused: "refused",
    errors.Malformed: "the request is malformed",
    errors.EvidenceRejected: "the evidence was not accepted",
    errors.InvitationExpired: "the invitation has expired",
    errors.InvitationCancelled: "the invitation was cancelled",
    errors.AlreadySpent: "already used with another key",
    errors.PolicyRefused: "policy does not allow it",
    errors.Revoked: "the credential was revoked",
    errors.NotAuthorized: "not authorized",
    errors.NotFound: "not found",
    errors.Conflict: "not at this moment",
    errors.TooMuch: "too much, or too often",
    errors.Unreachable: "not available at the moment",
    errors.Waiting: "waiting for approval",
}
# These say no more than their code: unknown, mistyped and forged evidence must look the same.
_SILENT = (errors.EvidenceRejected,)
_FAULT = Problem(title="the registrar failed; its log says why", status=500, code=errors.Fault.code)


def status_of(kind: type[HandfastError]) -> int:
    """Return the HTTP status of an error class: its own, or that of its nearest ancestor."""
    return _nearest(STATUS, kind) or 500


def title_of(kind: type[HandfastError]) -> str:
    """Return the constant sentence of an error class, or that of its nearest ancestor."""
    return _nearest(_TITLES, kind) or "refused"


def problem(error: HandfastError) -> Problem:
    """Return what a caller is told about ``error``."""
    status = status_of(type(error))
    if isinstance(error, errors.TooMuch) and error.after:
        status = 429
    if status >= 500 and status != 503:
        return _FAULT  # internals help an attacker and nobody else
    title = title_of(type(error))
    if isinstance(error, _SILENT):
        return Problem(title=title, status=status, code=error.code)
    reasons = list(error.reasons) if isinstance(error, errors.PolicyRefused) else []
    after = error.after if isinstance(error, errors.TooMuch) else 0
    return Problem(
        title=title,
        status=status,
        code=error.code,
        detail=error.message,
        hint=error.hint,
        reasons=reasons,
        after=after,
    )


def refused(error: HandfastError) -> web.Response:
    """Return ``error`` as an answer, with when to try again where that is known."""
    return response(problem(error), headers=again(error))


def again(error: HandfastError) -> dict[str, str]:
    """Return the header that says when to try again, where that is known."""
    return {"Retry-After": str(error.after)} if isinstance(error, errors.TooMuch) and error.after else {}


def unexpected() -> web.Response:
    """Return what a caller is told about a bug: nothing but that it is ours."""
    return response(_FAULT)


def broken(error: web.HTTPException) -> web.Response:
    """Return aiohttp's own refusals (no such route, wrong method, too large) as a problem."""
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return response(Problem(title=error.reason.lower(), status=error.status, code=code_of(error)), headers=allow)


def code_of(error: web.HTTPException) -> str:
    """Return our code for a refusal of aiohttp's own."""
    codes = {404: errors.NotFound.code, 405: errors.UsageError.code, 413: errors.TooMuch.code}
    return codes.get(error.status, errors.Malformed.code if error.status < 500 else errors.Fault.code)


def response(problem: Problem, *, headers: dict[str, str] | None = None) -> web.Response:
    """Return the problem as an HTTP response."""
    return web.Response(
        status=problem.status, body=msgspec.json.encode(problem), content_type=MEDIA_TYPE, headers=headers
    )


def _nearest(table: dict[type[HandfastError], V], kind: type[HandfastError]) -> V | None:
    return next((table[base] for base in kind.__mro__ if base in table), None)
