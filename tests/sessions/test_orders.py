"""Who gives orders to a client that runs: its own user, through the socket beside its file."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from handfast.errors import Refused
from handfast.sessions import local
from handfast.sessions.connect import obey
from handfast.sessions.hello import Phone
from handfast.sessions.local import Endpoint
from tests.sessions.test_local import NOBODY
from tests.sessions.tunnels import SOON

ORDER = (
    "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    'print("connected", flush=True); s.settimeout(30)\n'
    'try: s.sendall(b\'{"do":"phone","to":"127.0.0.1:1","every":1}\'); print(\'heard\', s.recv(100))\n'
    "except OSError: print('heard nothing')"
)


class Way:
    """A client's way to its server, which phones wherever it is told, but not port 2."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def hand_over(self, phone: Phone) -> None:
        """Take note."""
        if phone.to.endswith(":2"):
            raise Refused("not there")
        self.told.append(phone.to)


@pytest.mark.root
async def test_attack_another_user_who_reaches_the_socket_for_orders_gives_none() -> None:
    """Should its mode have been changed: the kernel says who it is, and our own user's orders are taken afterwards."""
    directory = Path("/tmp") / f"handfast-test-orders-of-{os.getpid()}"
    directory.mkdir(mode=0o755)
    path, way, left = directory / "f.ctl", Way(), asyncio.Event()
    try:
        with local.listening(Endpoint(path=path)) as listening:
            obeying = asyncio.create_task(obey(listening, way, lambda _: left.set()))  # type: ignore[arg-type]
            path.chmod(0o777)
            stranger = await asyncio.create_subprocess_exec(
                *NOBODY, "/usr/bin/python3", "-c", ORDER, str(path), cwd="/", stdout=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(SOON):
                said, _ = await stranger.communicate()
            assert said.startswith(b"connected\n")
            assert said.endswith((b"heard b''\n", b"heard nothing\n"))
            assert (way.told, left.is_set()) == ([], False)
            assert await give(path, b'{"do":"phone","to":"127.0.0.1:2","every":1}') == b"not there"
            assert (way.told, left.is_set()) == ([], False)
            assert await give(path, b'{"do":"phone","to":"127.0.0.1:1","every":1}') == b"ok"
            assert (way.told, left.is_set()) == (["127.0.0.1:1"], True)
            obeying.cancel()
            await asyncio.gather(obeying, return_exceptions=True)
    finally:
        directory.rmdir()


async def give(path: Path, order: bytes) -> bytes:
    """Say something there, and return the reply."""
    async with asyncio.timeout(SOON):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(order)
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_a_caller_who_says_nothing_does_not_keep_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders are taken one after the other, and each has its time."""
    monkeypatch.setattr("handfast.sessions.connect._CONFIRM", 0.05)
    with local.listening(Endpoint(path=tmp_path / "f.ctl")) as listening, socket.socket(socket.AF_UNIX) as silent:
        obeying = asyncio.create_task(obey(listening, Way(), lambda _: None))  # type: ignore[arg-type]
        silent.connect(str(tmp_path / "f.ctl"))
        assert await give(tmp_path / "f.ctl", b'{"do":"phone","to":"127.0.0.1:2","every":1}') == b"not there"
        obeying.cancel()
        await asyncio.gather(obeying, return_exceptions=True)
