"""Every way that two parties meet, each under its name in the description that sessions began with."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handfast.core.invitation import Address
from handfast.errors import Refused, Unreachable, Unsafe, UsageError
from handfast.server import session
from handfast.sessions import connect
from handfast.sessions.connect import order
from handfast.sessions.local import Endpoint
from handfast.sessions.serve import phone_path
from tests.ports import free_port
from tests.sessions.conftest import Made
from tests.sessions.test_local import NOBODY
from tests.sessions.tunnels import (
    HERE,
    Stage,
    ask,
    broken,
    counted,
    listen,
    moved,
    nobody,
    open_,
    service,
    stage,
)

LIAR = (
    "import os,socket,sys; os.umask(0); s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
    "print('listening', flush=True); a=s.accept()[0]; print('heard', a.recv(4096)); a.send(b'ok')"
)


@pytest.fixture
async def at() -> AsyncIterator[Stage]:
    """A stage."""
    async with stage() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a server that is gone every 50 ms."""
    monkeypatch.setattr(connect, "AGAIN", 0.05)


async def hand_over(file: Path, to: Address, every: float = 0.1) -> None:
    """`session phone`."""
    await asyncio.to_thread(order, file, to, every)


# --- the use cases, by their names ---


async def test_forward_connection(ours: Made, at: Stage) -> None:
    """The server waits, the client dials, each proves itself, and the local port leads to the service."""
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        client = at.connect(ours.file("client"), server)
        place = await client.ready()
        assert place["server"] == "server"
        assert place["session"] == "paper"
        assert await ask(client.door) == b"HELLO"
        await server.heard("client is here")


async def test_client_reconnects_to_server(ours: Made, at: Stage) -> None:
    """The client leaves, the server goes on, and another client with the same file gets to the same service."""
    async with counted() as (where, counts):
        server = await at.serve(ours.file("server"), where)
        first = at.connect(ours.file("client"), server)
        await first.ready()
        assert await ask(first.door) == b"HELLO"
        await first.stop()
        await server.heard("client is gone")
        assert await nobody(first.door)
        second = at.connect(ours.file("client"), server)
        await second.ready()
        assert await ask(second.door, b"again") == b"AGAIN"
        assert counts.accepted == 2


async def test_friend_connects_to_running_server(ours: Made, at: Stage, tmp_path: Path) -> None:
    """A friend on another machine, with a copy of the client's file, gets in after the client has left."""
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        first = at.connect(ours.file("client"), server)
        await first.ready()
        await first.stop()
        friend = at.connect(moved(ours, "client", tmp_path), server)
        await friend.ready()
        assert await ask(friend.door) == b"HELLO"


async def test_friend_connects_to_running_server_alternate(ours: Made, at: Stage) -> None:
    """A friend with an own certificate gets in, is known by an own name, and may do so beside the client."""
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        client, friend = at.connect(ours.file("client"), server), at.connect(ours.file("bob"), server)
        await client.ready()
        await friend.ready()
        assert list(await asyncio.gather(ask(client.door), ask(friend.door))) == [b"HELLO", b"HELLO"]
        await server.heard("bob is here")


async def test_reverse_connection(ours: Made, at: Stage) -> None:
    """The client waits, the server dials, the same checks hold, and streams go the same way."""
    async with service() as where:
        client, address = await at.wait(ours.file("client"))
        server = at.call(ours.file("server"), address, where)
        assert (await client.ready())["server"] == "server"
        assert await asyncio.gather(*(ask(client.door, b"%d a" % each) for each in range(10))) == [
            b"%d A" % each for each in range(10)
        ]
        await server.heard(f"client is at {address}")


async def test_server_phones_home(own: Made, at: Stage) -> None:
    """The client says where to phone and leaves; the server tries there until the user's next client is."""
    async with service() as where:
        first, address = await at.wait(own.file("client"))
        server = at.call(own.file("server"), address, where)
        await first.ready()
        home = Address("127.0.0.1", free_port())
        await hand_over(own.file("client"), home)
        assert await first.over() == f"the server phones {home} now"
        await server.heard(f"{home}: cannot reach")  # it tries, and nobody is there yet
        second, _ = await at.wait(own.file("client"), home)
        await second.ready()
        assert await ask(second.door) == b"HELLO"


async def test_server_phones_a_friend(own: Made, at: Stage, tmp_path: Path) -> None:
    """The client says where the friend is and leaves; the friend, with a copy of its file, takes the call."""
    await phoned(own, at, moved(own, "client", tmp_path / "friend"), "client")


async def test_server_phones_a_friend_alternate(own: Made, at: Stage, tmp_path: Path) -> None:
    """The friend has a key and a certificate of an own."""
    await phoned(own, at, moved(own, "bob", tmp_path / "friend"), "bob")


async def phoned(own: Made, at: Stage, file: Path, who: str) -> None:
    """Hand over to a friend who waits with ``file``."""
    async with service() as where:
        client, address = await at.wait(own.file("client"))
        server = at.call(own.file("server"), address, where)
        await client.ready()
        friend, place = await at.wait(file)
        await hand_over(own.file("client"), place)
        await client.over()
        await friend.ready()
        assert await ask(friend.door) == b"HELLO"
        await server.heard(f"{who} is at {place}")


# --- going away and coming back ---


async def test_a_restarted_server_still_phones_where_it_was_told(own: Made, at: Stage) -> None:
    """FILE.phone outlives the process, and counts for more than the address that the restart is given."""
    async with service() as where:
        client, address = await at.wait(own.file("client"))
        server = at.call(own.file("server"), address, where)
        await client.ready()
        home = Address("127.0.0.1", free_port())
        await hand_over(own.file("client"), home, every=0.25)
        await client.over()
        await server.stop()
        kept = phone_path(own.file("server"))
        by = f"{own.party('client').serial:x}"
        assert json.loads(kept.read_bytes()) == {"to": str(home), "every": 0.25, "by": by}
        assert kept.stat().st_mode & 0o777 == 0o600
        second, _ = await at.wait(own.file("client"), home)
        again = at.call(own.file("server"), address, where)
        assert (await again.ready())["dial"] == str(home)
        await second.ready()


async def test_a_damaged_file_of_where_to_phone_is_said(own: Made, at: Stage) -> None:
    """A server does not guess where to phone."""
    kept = phone_path(own.file("server"))
    kept.touch(0o600)
    for content in (
        b'{"to": "nowhere"}',
        b'{"to": "nowhere", "every": 5}',
        b'{"to": "127.0.0.1:1", "every": 0, "by": "1"}',
    ):
        kept.write_bytes(content)
        with pytest.raises(Refused, match="damaged"):
            await at.call(own.file("server"), Address("127.0.0.1", 1), Endpoint(HERE)).over()


async def test_a_file_of_where_to_phone_that_others_could_write_is_refused(own: Made, at: Stage) -> None:
    """Beside a session file in a directory like /tmp anybody could say whom the server phones."""
    kept = phone_path(own.file("server"))
    kept.write_bytes(b'{"to": "127.0.0.1:1", "every": 5}')
    kept.chmod(0o666)
    with pytest.raises(Unsafe):
        await at.call(own.file("server"), Address("127.0.0.1", 1), Endpoint(HERE)).over()


async def test_a_client_finds_a_restarted_server_again(ours: Made, at: Stage) -> None:
    """The local port stays, what is asked meanwhile breaks off, and after the restart it leads to the service."""
    async with service() as where:
        server = await at.serve(ours.file("server"), where)
        place = listen(server)
        client = at.connect(ours.file("client"), server)
        await client.ready()
        await server.stop()
        reader, writer = await open_(client.door)
        assert await broken(reader)
        writer.close()
        await client.heard("no stream: cannot reach")
        await at.serve(ours.file("server"), where, place)
        await client.heard("server is here again")
        assert await ask(client.door) == b"HELLO"


async def test_a_waiting_client_takes_a_restarted_server(ours: Made, at: Stage) -> None:
    """In the reverse mode, too, the local port stays while the server is restarted."""
    async with service() as where:
        client, address = await at.wait(ours.file("client"))
        server = at.call(ours.file("server"), address, where)
        await client.ready()
        await server.stop()
        at.call(ours.file("server"), address, where)
        assert await ask(client.door) == b"HELLO"


async def test_the_newest_control_connection_counts(ours: Made, at: Stage) -> None:
    """A second server is asked from when it is there, and when it goes the first one, still there, is again."""
    async with counted() as (old, counts), counted("count") as (new, _):
        client, address = await at.wait(ours.file("client"))
        first = at.call(ours.file("server"), address, old)
        await client.ready()
        assert await ask(client.door) == b"HELLO"
        second = at.call(ours.file("server"), address, new)
        await second.heard("client is at")
        assert await ask(client.door) == b"5"
        await second.stop()
        while await ask(client.door) != b"HELLO":  # until the client has seen that it is gone
            pass
        assert counts.accepted >= 2
        assert first.said == [f"client is at {address}"]


async def test_an_absent_peer_is_reported_once(ours: Made, at: Stage) -> None:
    """Somebody who is away for long does not fill the disk with the same line."""
    server = at.call(ours.file("server"), Address("127.0.0.1", free_port()), Endpoint(HERE))
    await server.heard("cannot reach")
    await asyncio.sleep(0.4)  # three more tries
    assert len(server.said) == 1


# --- `session phone` ---


async def test_nobody_to_tell_where_to_phone(ours: Made) -> None:
    """Without a running client `session phone` says so."""
    with pytest.raises(Unreachable, match="no client runs with"):
        await hand_over(ours.file("client"), Address("127.0.0.1", 1))


async def test_a_server_that_waits_phones_nobody(own: Made, at: Stage) -> None:
    """In the forward mode `session phone` is refused with the reason, and the client stays."""
    async with service() as where:
        client = at.connect(own.file("client"), await at.serve(own.file("server"), where))
        await client.ready()
        with pytest.raises(Refused, match="waits for clients, and phones nobody"):
            await hand_over(own.file("client"), Address("127.0.0.1", 1))
        assert await ask(client.door) == b"HELLO"


@pytest.mark.root
async def test_attack_another_user_takes_no_orders(tmp_path: Path) -> None:
    """Whoever made a socket beside our file, where he may, does not get to say that it was done, nor hears what."""
    directory = Path("/tmp") / f"handfast-test-orders-{os.getpid()}"
    directory.mkdir()
    directory.chmod(0o777)
    file = directory / "client.pem"
    liar = await asyncio.create_subprocess_exec(
        *(*NOBODY, "/usr/bin/python3", "-c", LIAR, str(connect.orders_path(file))),
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert liar.stdout is not None
        assert await liar.stdout.readline() == b"listening\n"
        with pytest.raises(Unsafe, match="is another user's"):
            await hand_over(file, Address("127.0.0.1", 1))
        assert await liar.stdout.read() == b"heard b''\n"
        await liar.wait()
    finally:
        connect.orders_path(file).unlink(missing_ok=True)
        directory.rmdir()


@pytest.mark.parametrize("every", [0.01, 100_000.0])
async def test_how_often_to_phone_has_bounds(ours: Made, every: float) -> None:
    """An interval that the server would not take is refused before anybody is asked."""
    with pytest.raises(UsageError, match="every"):
        await hand_over(ours.file("client"), Address("127.0.0.1", 1), every=every)


async def test_nonsense_on_the_socket_for_orders_is_survived(own: Made, at: Stage) -> None:
    """What is no order gets an answer and changes nothing."""
    async with service() as where:
        client = at.connect(own.file("client"), await at.serve(own.file("server"), where))
        await client.ready()
        for nonsense in (b"{}", b"\xff\xfe", b"[" * 4000, b'{"do":"dial","token":"x"}'):
            reader, writer = await asyncio.open_unix_connection(connect.orders_path(own.file("client")))
            writer.write(nonsense)
            assert (await reader.read()).startswith(b"not an order")
            writer.close()
        assert await ask(client.door) == b"HELLO"


async def test_two_clients_may_run_with_one_file(own: Made, at: Stage) -> None:
    """The second works as well, and says that `session phone` reaches the first."""
    async with service() as where:
        server = await at.serve(own.file("server"), where)
        first, second = at.connect(own.file("client"), server), at.connect(own.file("client"), server)
        await first.ready()
        await second.ready()
        assert [await ask(each.door) for each in (first, second)] == [b"HELLO"] * 2
        told = first.said + second.said
        assert any("`handfast session phone` cannot reach this client" in line for line in told)


async def test_a_file_in_a_long_directory_still_makes_a_client(own: Made, at: Stage, tmp_path: Path) -> None:
    """A path that is too long for a socket beside it costs `session phone` and nothing else."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    file = deep / "client.pem"
    session.export(own.directory, "client", file)
    async with service() as where:
        client = at.connect(file, await at.serve(own.file("server"), where))
        await client.ready()
        await client.heard("cannot reach this client")
        assert await ask(client.door) == b"HELLO"
