"""A peer that changes its keys, once or all the time (RFC 8446 §4.6.3): the real openssl, told to on its input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from handfast.errors import Unreachable
from handfast.sessions import hello
from handfast.sessions.engine import Link
from handfast.sessions.relay import Ended, _Direction
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made
from tests.sessions.streams import ANSWER, HELLO, engine, serving

MANY = 300
pytestmark = pytest.mark.peer("openssl")


@dataclass
class Talk:
    """openssl at one end, a service at the other, and the relay between them, which has not begun."""

    process: asyncio.subprocess.Process
    stdin: int
    stdout: asyncio.StreamReader
    link: Link[Peer]
    far: socket.socket
    begin: asyncio.Event
    ended: asyncio.Future[Ended]

    async def type_(self, *lines: str) -> None:
        """Type lines, each of which openssl reads on its own: only then is a K a command."""
        for line in lines:
            await asyncio.to_thread(os.write, self.stdin, f"{line}\n".encode())

    async def arrives(self, text: bytes) -> None:
        """Wait until the service has it."""
        got = b""
        while not got.endswith(text):
            got += await asyncio.get_running_loop().sock_recv(self.far, 100) or pytest.fail("it ended")


@contextlib.asynccontextmanager
async def talk(made: Made, tmp: Path) -> AsyncIterator[Talk]:
    """A client that is openssl, authenticated, and has said its hello."""
    far, service = socket.socketpair()
    far.setblocking(False)
    begin, loop = asyncio.Event(), asyncio.get_running_loop()
    heard: asyncio.Future[Link[Peer]] = loop.create_future()
    ended: asyncio.Future[Ended] = loop.create_future()

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        heard.set_result(link)
        await begin.wait()
        ended.set_result(await link.relay(service))

    party = tmp / "client.pem"
    party.write_bytes(made.party("client").encode())
    reading, writing = os.pipe2(os.O_DIRECT)  # a read for each write
    with far, service:
        async with serving(engine(made, "server"), handle) as listening:
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            arguments = ["-cert", str(party), "-key", str(party), "-cert_chain", str(party), "-alpn", hello.ALPN]
            client = await asyncio.create_subprocess_exec(
                *("openssl", "s_client", "-connect", address, *arguments),
                stdin=reading,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            os.close(reading)
            assert client.stdout is not None
            try:
                os.write(writing, HELLO)
                yield Talk(client, writing, client.stdout, await heard, far, begin, ended)
            finally:
                os.close(writing)
                with contextlib.suppress(ProcessLookupError):
                    client.kill()
                await client.wait()


@pytest.mark.parametrize("update", ["k", "K"], ids=["their keys", "both sides' keys"])
async def test_a_key_update_in_the_middle_changes_nothing(ours: Made, tmp_path: Path, update: str) -> None:
    """A peer that changes its keys, and asks for new ones of ours, loses no byte."""
    async with talk(ours, tmp_path) as made:
        made.begin.set()
        await made.type_("before")
        await made.arrives(b"before\n")
        await made.type_(update)
        await made.stdout.readuntil(b"KEYUPDATE\n")
        await made.type_("after")
        await made.arrives(b"after\n")
        await asyncio.get_running_loop().sock_sendall(made.far, b"answer\n")
        await made.stdout.readuntil(b"answer\n")


async def many(flooded: Talk, update: str) -> None:
    """Have many key updates sent."""
    typing = asyncio.create_task(flooded.type_(*[update] * MANY))
    for _ in range(MANY):
        await flooded.stdout.readuntil(b"KEYUPDATE\n")
    await typing


async def flood(made: Made, tmp: Path, update: str) -> None:
    """Let many key updates come before the first look, and count how often others have their turn until the end."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with talk(made, tmp) as flooded:
        await many(flooded, update)
        await flooded.type_("after")
        going = asyncio.create_task(others())
        flooded.begin.set()
        async with asyncio.timeout(30):
            await flooded.arrives(b"after\n")
        going.cancel()
        assert turns >= MANY / 2, f"{turns} turns for {MANY} key updates"  # two looks in a turn, at most
        # And the other direction has not suffered: all the answers that were asked for are one.
        await asyncio.get_running_loop().sock_sendall(flooded.far, b"answer\n")
        async with asyncio.timeout(30):
            await flooded.stdout.readuntil(b"answer\n")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("update", ["k", "K"], ids=["their keys", "both sides' keys"])
def test_attack_a_flood_of_key_updates_stops_nobody(
    ours: Made, tmp_path: Path, update: str, run: Callable[..., object]
) -> None:
    """However many key updates are there at once, the loop deals with one at a time, and then with what follows."""
    run(flood(ours, tmp_path, update))


async def flood_and_reset(made: Made, tmp: Path) -> None:
    """A reset lies behind many key updates before the first look: libuv tells of it once, at their beginning."""
    async with talk(made, tmp) as flooded:
        await many(flooded, "k")
        flooded.process.send_signal(signal.SIGSTOP)
        await flooded.link.send(ANSWER)  # unread, so that its end is a reset
        flooded.process.kill()
        await flooded.process.wait()
        flooded.begin.set()
        async with asyncio.timeout(30):
            assert isinstance((await flooded.ended).error, Unreachable)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_reset_behind_a_flood_of_key_updates_is_noticed(
    ours: Made, tmp_path: Path, run: Callable[..., object]
) -> None:
    """A stream does not wait for ever for a peer that was killed while it changed its keys."""
    run(flood_and_reset(ours, tmp_path))


async def test_events_that_come_as_well_give_no_further_turns() -> None:
    """A side that always has something is read twice in a turn of the loop at most, and not once more each turn."""
    loop = asyncio.get_running_loop()
    ready, other = socket.socketpair()
    other.send(b"always readable")
    reads = 0

    class Always:
        """A side that never has nothing, and takes everything."""

        fd = ready.fileno()

        def read_into(self, buffer: memoryview) -> int:
            """One more byte."""
            nonlocal reads
            reads += 1
            return 1

        def write(self, content: memoryview) -> int:
            """Take it."""
            return len(content)

    class Going:
        """A relay that is not over."""

        over = False

    side = Always()
    way = _Direction(side, side, memoryview(bytearray(10)), Going())  # type: ignore[arg-type]
    with ready, other:
        way.start()
        for _ in range(100):
            await asyncio.sleep(0)
        loop.remove_reader(ready.fileno())
        way._paused = True
    assert 100 <= reads <= 210
