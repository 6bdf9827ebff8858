"""
An agent as a process: `python program.py '{"user_data": …}'`, until a signal ends it.

With `die_at` it ends itself as SIGKILL does, before that change of a file whose name has `die_in` in it. `default` is
where its policy is by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from handfast.adapters import logs
from handfast.agent import policy
from handfast.agent.run import Ready, run
from handfast.core import instancedata
from handfast.core.invitation import Address


def ready(told: Ready) -> None:
    """Say where we are, on one line."""
    print(json.dumps({"listens": str(told.listens), "stage": told.stage, "spki": told.spki.hex()}), flush=True)


_CHANGES = {
    "open",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.chmod",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
}


def die(at: int, within: str) -> None:
    """End before the change with this number, as a power failure would."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _CHANGES or not any(within in os.fsdecode(each) for each in arguments[:2] if _is_path(each)):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
            return
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _is_path(value: object) -> bool:
    return isinstance(value, str | bytes | os.PathLike)


def main() -> None:
    """Be the agent."""
    asked = json.loads(sys.argv[1])
    if "die_at" in asked:
        die(asked["die_at"], asked["die_in"])
    if "default" in asked:
        policy.DEFAULT = Path(asked["default"])
    logs.configure()
    asyncio.run(
        run(
            instancedata.read(Path(asked["user_data"]).read_bytes()),
            state=Path(asked["state"]),
            policy=Path(asked["policy"]) if asked.get("policy") else None,
            ready=ready,
            listen=Address(*asked["listen"]) if asked.get("listen") else None,
            dial=Address.parse(asked["dial"]) if asked.get("dial") else None,
        )
    )


if __name__ == "__main__":
    main()
