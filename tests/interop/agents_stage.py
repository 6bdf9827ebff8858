"""
Many real agents in one process, in whatever network it is started: `agents_stage.py FILE`, until SIGTERM.

FILE is a list in JSON, of objects with `name` and `listen`, HOST:PORT; with `user_data`, `state` and `listen` or `dial`
it is an agent, without them somebody who takes connections and is silent. Each agent says a line when it can be
reached, or calls.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from handfast.agent.run import Ready, run
from handfast.core import instancedata
from handfast.core.invitation import Address


def _say(name: str, told: Ready) -> None:
    print(json.dumps({"name": name, "key": told.spki.hex(), "at": str(told.listens or told.dials)}), flush=True)


async def _be(wanted: dict[str, Any]) -> None:
    listen, dial = (Address.parse(wanted[way]) if way in wanted else None for way in ("listen", "dial"))
    if "user_data" not in wanted and listen is not None:
        with socket.create_server((listen.host, listen.port), backlog=16):
            await asyncio.Event().wait()
    data = instancedata.read(wanted["user_data"].encode())
    told = partial(_say, wanted["name"])
    await run(data, state=Path(wanted["state"]), policy=None, ready=told, listen=listen, dial=dial)


async def main(entries: list[dict[str, Any]]) -> None:
    """Be all of them, until one of them ends: each takes SIGTERM for itself, and the last one has it."""
    tasks = [asyncio.create_task(_be(each)) for each in entries]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for each in tasks:
        each.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_bytes())))
