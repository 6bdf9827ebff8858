"""An agent as a process: `python program.py '{"user_data": …}'`, until a signal ends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvloop

from handfast.adapters import logs
from handfast.agent.run import Ready, run
from handfast.core import instancedata
from handfast.core.invitation import Address


def ready(told: Ready) -> None:
    """Say where we are, on one line."""
    print(json.dumps({"listens": str(told.listens), "stage": told.stage, "spki": told.spki.hex()}), flush=True)


def main() -> None:
    """Be the agent."""
    asked = json.loads(sys.argv[1])
    logs.configure()
    uvloop.run(
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
