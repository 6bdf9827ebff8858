"""What tests of sessions share: a view in short, and a command that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from handfast.server.session import SessionView


def parties(view: SessionView) -> dict[str, str]:
    """Names and statuses."""
    return {each.name: each.status for each in view.parties}


def killed(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a child that dies, unprepared, at its ``step``-th sync or rename; return whether it died."""
    child = os.fork()
    if child == 0:
        left = step

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        os.fsync, os.rename, os.replace = dying(os.fsync), dying(os.rename), dying(os.replace)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
