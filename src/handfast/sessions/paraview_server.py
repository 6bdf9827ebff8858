"""A running pvserver, as an endpoint for a session's server side and a handle on its life."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from handfast.adapters.process import child_environment
from handfast.adapters.threads import to_its_end
from handfast.errors import Fault
from handfast.sessions.local import Endpoint
from handfast.sessions.paraview import Plan
from handfast.sessions.paraview_keeper import Event, Spec

_KEEPER = (sys.executable, "-P", "-m", "handfast.sessions.paraview_keeper")
_START = 120.0  # seconds; a cold cluster's file system takes its time
_LOST = "pvserver has ended and is started again: the pipeline is lost"


def private_network() -> bool:
    """Whether this user may have a private network namespace here: tried, because nothing else tells."""
    tried = subprocess.run(
        [*_KEEPER, "probe"], env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return tried.returncode == 0


class PvServer:
    """
    pvserver and its keeper, for ``async with``: inside the block it is ready; at its end all of it has ended.

    A ``run.Program``. ``say`` gets what a person should read, and ``overhear`` each line that pvserver prints.
    """

    def __init__(
        self, plan: Plan, *, say: Callable[[str], None], overhear: Callable[[str], None] = lambda line: None
    ) -> None:
        self.plan = plan
        self._say, self._overhear = say, overhear
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._life: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the session's server side finds it, across restarts."""
        if self._directory is None:
            raise Fault("pvserver was not started")
        return Endpoint(path=Path(self._directory.name, "pvserver"))

    @property
    def about(self) -> dict[str, str]:
        """What clients are told of it."""
        return self.plan.about

    async def ended(self) -> None:
        """Wait for the end, which is always a failure: a pvserver that ends is started again. :raises Fault:"""
        if self._life is None:
            raise Fault("pvserver was not started")
        await asyncio.shield(self._life)

    async def __aenter__(self) -> Self:
        """:raises Fault: pvserver does not start."""
        plan = self.plan
        # 0700, and short: the path of a socket has 107 bytes
        self._directory = tempfile.TemporaryDirectory(prefix="handfast-paraview-", ignore_cleanup_errors=True)
        spec = Spec(
            socket=str(self.endpoint.path), command=list(plan.command), anchor=list(plan.anchor), private=plan.private,
            reverse=plan.reverse,
        )  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            *_KEEPER, msgspec.json.encode(spec).decode(), env=child_environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,  # Ctrl-C is for us; the keeper ends with us
        )  # fmt: skip
        self._life = asyncio.create_task(self._follow(self._process))
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._life}, timeout=_START, return_when=asyncio.FIRST_COMPLETED)
            if self._life.done():
                await self._life
            if not self._ready.is_set():
                raise Fault(f"pvserver was not ready within {_START:.0f} seconds", hint="start it by hand to see why")
        except BaseException:
            await to_its_end(self._end())
            raise
        finally:
            ready.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await to_its_end(self._end())  # else the keeper is nobody's child, and the directory stays

    async def _end(self) -> None:
        if self._life is not None:
            self._life.cancel()  # first: what is said of an end that we asked for would mislead
            await asyncio.gather(self._life, return_exceptions=True)
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()  # its lifeline
            await self._process.wait()
        if self._directory is not None:
            self._directory.cleanup()

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Read the keeper's events to their end. :raises Fault: always, for they do not end otherwise."""
        if process.stdout is None:
            raise Fault("the keeper has no stdout")
        failure = "its keeper was killed"
        async for line in process.stdout:
            happened = msgspec.json.decode(line, type=Event)
            match happened.event:
                case "said":
                    self._overhear(happened.text)
                case "ready":
                    self._ready.set()
                case "lost":
                    self._say(_LOST)
                case "failed":
                    failure = happened.text
        raise Fault(f"pvserver does not run: {failure}", hint="start it by hand to see why")
