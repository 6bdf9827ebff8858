"""
`handfast` that ends itself with SIGKILL at one step of a newcomer's introduction.

    python -m tests.interop.killed 'after issue' up --data D …        on the registrar's side
    python -m tests.interop.killed 'before adopt' join --out DIR …    on the newcomer's

Nothing is timed: the step is a call in the real command, and the kernel ends the process there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from handfast.adapters import files
from handfast.authority.authority import FileAuthority
from handfast.cli.main import main
from handfast.core.flow import Credential, Grant, Intent
from handfast.core.roles import Role
from handfast.ledger.store import SqlLedger
from handfast.newcomer.keystore import Keystore
from handfast.server.identity import Identity

STEPS: dict[str, tuple[type, str]] = {
    "intend": (SqlLedger, "intend"),
    "issue": (FileAuthority, "issue"),
    "issued": (SqlLedger, "issued"),
    "answer": (Identity, "prove"),
    "pending": (Keystore, "pending"),
    "adopt": (Keystore, "adopt"),
}


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _is_our_own(arguments: tuple[Any, ...]) -> bool:
    """Whether the call is for the registrar's own serving certificate, which has to be there first."""
    grants = [one if isinstance(one, Grant) else one.grant for one in arguments if isinstance(one, _GRANTED)]
    return any(grant.role is Role.REGISTRAR for grant in grants)


_GRANTED = (Grant, Intent, Credential)


def _killing(original: Callable[..., Any], when: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if _is_our_own(arguments):
            return original(*arguments, **named)
        if when == "before":
            _kill()
        result = original(*arguments, **named)
        if isinstance(result, Future):
            result.add_done_callback(lambda _done: _kill())  # durable, and then the end
            return result
        _kill()
        return result

    return call


if __name__ == "__main__":
    when, step = sys.argv[1].split()
    if step == "swap":
        setattr(files, "replace_symlink", _killing(files.replace_symlink, when))  # noqa: B010  mypy: not assignable
    else:
        owner, name = STEPS[step]
        setattr(owner, name, _killing(getattr(owner, name), when))
    main(sys.argv[2:])
