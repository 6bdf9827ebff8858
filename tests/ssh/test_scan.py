"""Scans of servers that are honest, dead, slow, greedy or lie: what they yield, and what they may cost."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import sshcert
from handfast.core.sshwire import Shown
from handfast.errors import HandfastError, Malformed, TooMuch, Unreachable, UntrustedPeer
from handfast.ssh import scan
from handfast.ssh.guard import Guard, Target
from handfast.ssh.scan import Limits, Place, Scanned, Scanner
from tests.ssh.fake import CERTIFIED, KEYS, FakeServer, certificate, public

LOOPBACK = ipaddress.ip_address("127.0.0.1")
GUARD = Guard(
    allow=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")), ports=tuple(range(1, 65536))
)
EVERY = (*KEYS, *(name + CERTIFIED for name in KEYS))
SOON = Limits(patience=0.3)  # for those who answer late or never
Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Served:
    """A server on loopback, and what became of its connections."""

    port: int = 0
    address: str = "127.0.0.1"
    connections: int = 0
    now: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)  # one has ended

    @property
    def target(self) -> Target:
        """Where it is."""
        return GUARD.target(ipaddress.ip_address(self.address), self.port)


@contextlib.asynccontextmanager
async def serving(act: Act, *, address: str = "127.0.0.1") -> AsyncIterator[Served]:
    """A server that does ``act`` with each connection."""
    served = Served(address=address)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.connections += 1
        served.now += 1
        try:
            with contextlib.suppress(OSError):
                await act(reader, writer)
        finally:
            served.now -= 1
            served.over.set()
            writer.transport.abort()

    async with await asyncio.start_server(handle, address, 0) as listening:
        served.port = listening.sockets[0].getsockname()[1]
        yield served


def fake(make: Callable[[], FakeServer]) -> Act:
    """Each connection meets such a server."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = make().conversation()
        to_send: bytes | None = next(conversation)
        while to_send is not None:
            writer.write(to_send)
            await writer.drain()
            came = await reader.read(65536)
            to_send = conversation.send(came) if came else None

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(StopIteration, RuntimeError):  # what a coroutine makes of the first
            await act(reader, writer)
        await reader.read()  # until the client leaves

    return quiet


@dataclass
class AtOnce:
    """How many connections the client has at the same time, which is sooner known there than at the server."""

    now: int = 0
    most: int = 0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> AtOnce:
    """Counts them."""
    counted, connect = AtOnce(), scan._connect

    async def counting(target: Target, algorithms: Sequence[str]) -> Shown:
        counted.now += 1
        counted.most = max(counted.most, counted.now)
        try:
            return await connect(target, algorithms)
        finally:
            counted.now -= 1

    monkeypatch.setattr(scan, "_connect", counting)
    return counted


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never say anything, until the other side has gone."""
    await reader.read()


async def test_each_family_by_one_connection(at_once: AtOnce) -> None:
    """Every key and every certificate is shown, one connection after the other, and RSA but once."""
    offered = ("x-new@example.com", "ssh-rsa", *EVERY)
    async with serving(fake(lambda: FakeServer(algorithms=offered))) as served:
        scanned = await Scanner().scan(served.target)
    names = [name for name in KEYS if name != "rsa-sha2-256"]
    assert scanned == Scanned(
        LOOPBACK,
        served.port,
        tuple(public(KEYS[name]) for name in names),
        tuple(certificate(KEYS[name]) for name in names),
        offered,
        "SSH-2.0-fake",
    )
    assert [sshcert.read(each).key for each in scanned.certificates] == list(scanned.keys)
    assert (served.connections, at_once.most) == (10, 1)


async def test_only_what_is_wanted_is_asked_for() -> None:
    """Who knows which key he wants costs the server one connection."""
    async with serving(fake(lambda: FakeServer(algorithms=EVERY))) as served:
        scanned = await Scanner().scan(served.target, ["rsa-sha2-256"])
    assert (scanned.keys, served.connections) == ((public(KEYS["rsa-sha2-256"]),), 1)
    assert (scanned.offered, scanned.certificates) == (EVERY, ())


async def test_types_that_we_do_not_know_are_reported() -> None:
    """A server with nothing but new types of keys is no failure, and shows none."""
    async with serving(fake(lambda: FakeServer(algorithms=("ssh-mldsa", "ssh-rsa")))) as served:
        scanned = await Scanner().scan(served.target)
    assert (scanned.keys, scanned.offered, served.connections) == ((), ("ssh-mldsa", "ssh-rsa"), 1)


async def test_ipv6() -> None:
    """Targets are of both kinds."""
    async with serving(fake(FakeServer), address="::1") as served:
        scanned = await Scanner().scan(served.target)
    assert (str(scanned.address), scanned.keys) == ("::1", (public(KEYS["ssh-ed25519"]),))


async def test_a_key_of_somebody_else_is_refused() -> None:
    """Who shows the key of another machine, and signs with his own, is told from it."""
    owner = public(KEYS["ssh-ed25519"]).blob

    def thief() -> FakeServer:
        signer = ed25519.Ed25519PrivateKey.generate()
        return FakeServer(algorithms=("ssh-ed25519",), signer=signer, host_key=lambda _: owner)

    async with serving(fake(thief)) as served:
        with pytest.raises(UntrustedPeer, match=rf"^127\.0\.0\.1:{served.port}: does not have the private key"):
            await Scanner().scan(served.target)


async def test_another_server_each_time_is_refused() -> None:
    """The keys of several servers behind one address are not taken for one server's."""
    versions: Iterator[bytes] = iter([b"SSH-2.0-one", b"SSH-2.0-two"])
    algorithms = ("ssh-ed25519", "rsa-sha2-512")
    async with serving(fake(lambda: FakeServer(algorithms=algorithms, version=next(versions)))) as served:
        with pytest.raises(UntrustedPeer, match=r"another server .*: 'SSH-2.0-one', then 'SSH-2.0-two'"):
            await Scanner().scan(served.target)


async def test_nobody_listens() -> None:
    """A closed port is told from a silent one."""
    async with serving(silent) as served:
        pass
    with pytest.raises(Unreachable, match=rf"cannot reach 127\.0\.0\.1:{served.port}: Connection refused") as caught:
        await Scanner().scan(served.target)
    assert caught.value.hint


async def test_what_is_no_ssh_is_told_with_its_name() -> None:
    """What the peer did wrong is said with where it is, and with how to look at it."""

    async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ESMTP\r\n" * 2000)
        assert await reader.read() == b"", "another protocol got something from us"

    async with serving(mail) as served:
        with pytest.raises(Malformed, match=rf"^127\.0\.0\.1:{served.port}: .* without an SSH version") as caught:
            await Scanner().scan(served.target)
        await served.over.wait()
    assert f"ssh -v -p {served.port} 127.0.0.1" in caught.value.hint


async def test_why_sshd_hangs_up_is_told() -> None:
    """What sshd says instead of its version, when it limits us, reaches whoever asked."""

    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Exceeded MaxStartups\r\n")
        writer.write_eof()
        await reader.read()

    async with serving(full) as served:
        with pytest.raises(Unreachable, match="saying 'Exceeded MaxStartups'"):
            await Scanner().scan(served.target)


# --- what it may cost ---


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte of a line before the version every now and then, for ever."""
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


def slow(make: Callable[[], FakeServer]) -> Act:
    """An honest server, a byte at a time."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = make().conversation()
        to_send = next(conversation)
        while not reader.at_eof():
            for byte in to_send:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.01)
            to_send = conversation.send(await reader.read(65536))

    return act


@pytest.mark.parametrize("act", [silent, drip, slow(FakeServer)], ids=["silent", "drip", "slow"])
async def test_a_slow_server_costs_the_limit_and_no_more(act: Act) -> None:
    """However it drags on, the scan ends with its time, and leaves no connection behind."""
    async with serving(act) as served:
        with pytest.raises(Unreachable, match=r"does not answer, or not to the end, within 0\.3 s"):
            await Scanner(SOON).scan(served.target)
        await served.over.wait()
        assert served.now == 0


async def test_the_time_is_for_all_connections_together() -> None:
    """A server that answers the first time and then drags on has no more time than others."""
    first = iter([fake(lambda: FakeServer(algorithms=EVERY))])

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(first, silent)(reader, writer)

    async with serving(act) as served:
        with pytest.raises(Unreachable, match="not to the end"):
            await Scanner(Limits(patience=2)).scan(served.target)
        assert served.connections <= 2


async def test_a_cancelled_scan_leaves_nothing() -> None:
    """Whoever does not wait any more takes the connection with him, and the target is free again."""
    entered = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entered.set()
        await reader.read()

    async with serving(act) as served:
        scanner = Scanner()
        task = asyncio.create_task(scanner.scan(served.target))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await served.over.wait()
    assert [place.users for place in scanner._places.values()] == [0]


async def test_one_connection_at_a_time_for_a_target(at_once: AtOnce) -> None:
    """Several who ask for the same machine at once take turns; too many of them are sent away."""
    async with serving(fake(lambda: FakeServer(algorithms=("ssh-ed25519", "rsa-sha2-512")))) as served:
        scanner = Scanner(Limits(queue=2))
        results = await asyncio.gather(*(scanner.scan(served.target) for _ in range(5)), return_exceptions=True)
    refused = [each for each in results if isinstance(each, TooMuch)]
    assert (len(refused), served.connections, at_once.most) == (2, 6, 1)
    assert refused[0].after > 0


async def test_so_many_targets_at_once_and_no_more(at_once: AtOnce) -> None:
    """Targets are scanned side by side, up to the limit, and each is told with its own result."""
    gate, told = asyncio.Event(), dict[int, Scanned | HandfastError]()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if at_once.now == 3:
            gate.set()
        await gate.wait()  # the first three are here together, or none gets further
        await fake(FakeServer)(reader, writer)

    async with contextlib.AsyncExitStack() as stack:
        many = [await stack.enter_async_context(serving(act)) for _ in range(8)]
        async with serving(silent) as dead:
            pass
        targets = [*(each.target for each in many), dead.target]
        await Scanner(Limits(at_once=3)).scan_all(targets, lambda target, found: told.update({target.port: found}))
        assert {each.connections for each in many} == {1}
    assert at_once.most == 3
    assert isinstance(told.pop(dead.port), Unreachable)
    keys = [found.keys for found in told.values() if isinstance(found, Scanned)]
    assert keys == [(public(KEYS["ssh-ed25519"]),)] * 8


async def test_the_limit_is_for_all_who_ask(at_once: AtOnce) -> None:
    """Whoever asks for single scans shares the same room."""
    async with contextlib.AsyncExitStack() as stack:
        many = [await stack.enter_async_context(serving(fake(FakeServer))) for _ in range(6)]
        scanner = Scanner(Limits(at_once=2))
        await asyncio.gather(*(scanner.scan(each.target) for each in many))
    assert at_once.most == 2


async def test_a_fault_of_ours_ends_it_all() -> None:
    """An error that is none of ours is not kept as the result of a target."""

    def tell(target: Target, found: Scanned | HandfastError) -> None:
        raise ZeroDivisionError

    async with serving(fake(FakeServer)) as served:
        with pytest.raises(ExceptionGroup) as caught:
            await Scanner().scan_all([served.target], tell)
    assert caught.group_contains(ZeroDivisionError)


async def test_memory_of_targets_is_swept() -> None:
    """Targets that sshd has forgotten are forgotten here too; those still in use are not."""
    scanner = Scanner()
    scanner._sweep = 4
    async with serving(fake(FakeServer)) as served:
        await scanner.scan(served.target)
    for n in range(2, 9):
        scanner._place(GUARD.target(ipaddress.ip_address(f"127.0.0.{n}"), 22))
    assert len(scanner._places) < 8
    assert (LOOPBACK, served.port) in scanner._places


# --- sshd's penalties ---


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0, 15)), max_size=60))
def test_sshd_never_reaches_its_limit(course: list[tuple[float, float]]) -> None:
    """However often we are asked to connect, and however long it takes, sshd counts at most 10 s of 15 against us."""
    place, now, expiry = Place(), 0.0, 0.0
    for wish, duration in course:
        now = max(now + wish, place.earliest) + duration
        place.count(now)
        expiry = max(expiry, now) + 1  # srclimit.c of OpenSSH, for `noauth` of 1 s
        assert expiry - now <= 10 + 1e-6


def test_ten_at_once_and_then_one_a_second() -> None:
    """A whole scan is never slowed down, and scan after scan is."""
    place, starts, now = Place(), list[float](), 1000.0
    for _ in range(13):
        now = max(now, place.earliest)
        place.count(now)
        starts.append(now - 1000)
    assert starts == [0.0] * 10 + [1.0, 2.0, 3.0]


async def test_too_often_is_said_with_when_to_come_again() -> None:
    """Who would have to wait longer than a scan may take is told how long, and nobody connects meanwhile."""
    async with serving(fake(FakeServer)) as served:
        scanner = Scanner()
        place = scanner._place(served.target)
        place.forgotten = asyncio.get_running_loop().time() + 60
        with pytest.raises(TooMuch, match="was scanned often just now") as caught:
            await scanner.scan(served.target)
        assert 50 <= caught.value.after <= 52
        place.forgotten = asyncio.get_running_loop().time() + 9.3
        assert (await scanner.scan(served.target)).keys
    assert served.connections == 1
