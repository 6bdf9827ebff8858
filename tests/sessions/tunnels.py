"""Whole runs of a session's server and clients in one loop, real sockets on loopback, and services behind them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handfast.core.invitation import Address
from handfast.sessions import run
from handfast.sessions.engine import Limits
from handfast.sessions.local import Endpoint
from handfast.sessions.run import Told
from tests.sessions.conftest import Made
from tests.standin import Conversation, talking

HERE = Address("127.0.0.1", 0)
DOOR = Endpoint(HERE)
PATIENT = Limits(handshake=60.0, frame=60.0, answer=60.0)  # where it is not about them: a loaded machine takes its time
SOON = 30.0  # seconds: the bound of what takes a hundredth of it, where nothing else runs


@dataclass
class Running:
    """A run: where it is ready, and what it said to people."""

    task: asyncio.Task[Any]
    place: asyncio.Future[dict[str, Any]]
    said: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def ready(self) -> dict[str, Any]:
        """Where it is, when it is ready. What ended it before that is raised."""
        async with asyncio.timeout(SOON):
            await asyncio.wait({self.task, self.place}, return_when=asyncio.FIRST_COMPLETED)
        if not self.place.done():
            await self.task
        return self.place.result()

    async def heard(self, text: str, *, times: int = 1) -> str:
        """The line that contains ``text``, when it was said so often."""
        try:
            async with asyncio.timeout(SOON):
                while len(found := [line for line in self.said if text in line]) < times:
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"never said {text!r} {times} times, but {self.said}") from None
        return found[-1]

    async def over(self) -> Any:
        """What it returned, or raises what it raised."""
        async with asyncio.timeout(SOON):
            return await self.task

    async def stop(self) -> None:
        """End it as a signal does."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def door(self) -> tuple[str, int]:
        """Where its local port is."""
        address = Address.parse(self.place.result()["local"])
        return address.host, address.port


class Stage:
    """Starts runs, and ends them all."""

    def __init__(self) -> None:
        self.running: list[Running] = []

    def start(self, work: Callable[[Told], Coroutine[Any, Any, Any]]) -> Running:
        """Begin a run."""
        place: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def say(text: str) -> None:
            made.said.append(text)
            made.news.set()

        made = Running(asyncio.ensure_future(work(Told(place.set_result, say))), place)
        self.running.append(made)
        return made

    async def serve(self, file: Path, service: Endpoint, at: Address = HERE, limits: Limits | None = None) -> Running:
        """A server that waits; it is ready."""
        run_ = self.start(lambda told: run.serve(file, at, service, limits=limits or PATIENT, told=told))
        await run_.ready()
        return run_

    def call(self, file: Path, to: Address, service: Endpoint, every: float = 0.1) -> Running:
        """A server that phones."""
        return self.start(lambda told: run.call(file, to, every, service, limits=PATIENT, told=told))

    def connect(self, file: Path, server: Running | Address, door: Endpoint = DOOR) -> Running:
        """A client that dials."""
        to = server if isinstance(server, Address) else listen(server)
        return self.start(lambda told: run.connect(file, to, door, limits=PATIENT, told=told))

    async def wait(self, file: Path, at: Address = HERE, door: Endpoint = DOOR) -> tuple[Running, Address]:
        """A client that waits, and where."""
        run_ = self.start(lambda told: run.wait(file, at, door, limits=PATIENT, told=told))
        line = await run_.heard("waiting for the server at")
        return run_, Address.parse(line.rsplit(" ", 1)[1])


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A stage that is empty afterwards, and nothing of which is left in the loop."""
    made = Stage()
    try:
        yield made
    finally:
        for each in made.running:
            await each.stop()
        left = [each for each in asyncio.all_tasks() if each.get_coro().__qualname__.startswith(PACKAGE)]  # type: ignore[union-attr]
        assert not left, left


PACKAGE = ("Engine.", "Side.", "DialingServer.", "Forward.", "Reverse.", "Door.")


def listen(server: Running) -> Address:
    """Where a server waits."""
    return Address.parse(server.place.result()["listen"])


class Service:
    """A TCP service that counts who touched it."""

    def __init__(self) -> None:
        self.accepted = 0

    async def shout(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send everything back, louder, and end after the other side has."""
        while piece := await reader.read(1 << 16):
            writer.write(piece.upper())
            await writer.drain()

    async def count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say how much came, when all of it has."""
        total = 0
        while piece := await reader.read(1 << 18):
            total += len(piece)
        writer.write(b"%d" % total)

    async def pour(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send until somebody stops it."""
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    def handler(self, kind: str) -> Conversation:
        """Serve one connection, whatever breaks."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            with contextlib.suppress(OSError):
                await getattr(self, kind)(reader, writer)
                if writer.can_write_eof():
                    writer.write_eof()
            writer.close()

        return handle


@contextlib.asynccontextmanager
async def service(kind: str = "shout", *, host: str = "127.0.0.1", path: Path | None = None) -> AsyncIterator[Endpoint]:
    """A service; ``counted`` also says how often it was touched."""
    async with counted(kind, host=host, path=path) as (where, _):
        yield where


@contextlib.asynccontextmanager
async def counted(
    kind: str = "shout", *, host: str = "127.0.0.1", path: Path | None = None
) -> AsyncIterator[tuple[Endpoint, Service]]:
    """A service and its counter."""
    made = Service()
    async with talking(made.handler(kind), host, path=path) as port:
        yield Endpoint(Address(host, port)) if path is None else Endpoint(path=path), made


async def open_(door: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A program of this machine at a local port."""
    return await asyncio.open_connection(*door)


async def ask(door: tuple[str, int], text: bytes = b"hello") -> bytes:
    """Send, end, and return all that comes back."""
    async with asyncio.timeout(SOON):
        reader, writer = await open_(door)
        try:
            writer.write(text)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def nobody(door: tuple[str, int]) -> bool:
    """Whether nothing listens there."""
    try:
        _, writer = await open_(door)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def broken(reader: asyncio.StreamReader) -> bool:
    """Whether a stream breaks off, soon, and does not end."""
    async with asyncio.timeout(SOON):
        try:
            while await reader.read(1 << 18):
                pass
        except ConnectionResetError:
            return True
    return False


def moved(made: Made, who: str, directory: Path) -> Path:
    """A party's file on another machine: the session's directory is not there."""
    directory.mkdir(exist_ok=True)
    path = directory / made.file(who).name
    shutil.copy(made.file(who), path)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("# home")))
    path.chmod(0o600)
    return path
