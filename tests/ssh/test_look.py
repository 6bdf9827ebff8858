"""Looking: what is asked, what is connected to, and what is never connected to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Sequence

import pytest

from handfast.core.look import MAX_ADDRESSES, MAX_NAMES, MAX_PORTS, Answered, Led, Look
from handfast.core.names import IPAddress
from handfast.core.sshkeys import SshKey
from handfast.errors import PolicyRefused, TooMuch, Unreachable
from handfast.ssh.guard import Guard, Resolve, Target
from handfast.ssh.look import LocalLooker, Resolver, looker
from handfast.ssh.scan import Limits, Scanned, Scanner
from tests.ssh.fake import CERTIFIED, KEYS, FakeServer, certificate, public
from tests.ssh.test_scan import GUARD, LOOPBACK, Served, drip, fake, serving, silent
from tests.standin import talking

ED = public(KEYS["ssh-ed25519"])
RSA = public(KEYS["rsa-sha2-512"])
NAME = "db1.example"
V6 = ipaddress.ip_address("::1")


class Names:
    """A resolver that knows what it is told, and counts what it is asked; answers change from one to the next."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", "."): list(each) for name, each in answers.items()}

    async def __call__(self, name: str) -> Sequence[IPAddress]:
        self.asked.append(name)
        left = self._answers.get(name)
        if not left:
            raise Unreachable(f"no address of {name!r} was found")
        return [ipaddress.ip_address(text) for text in (left.pop(0) if len(left) > 1 else left[0])]


async def nobody(name: str) -> Sequence[IPAddress]:
    """A resolver whose servers never answer."""
    await asyncio.Event().wait()
    return ()


def look_at(
    *served: Served, names: tuple[str, ...] = (), keys: tuple[SshKey, ...] = (ED,), ports: tuple[int, ...] = ()
) -> Look:
    """A look at what is served."""
    addresses = tuple(dict.fromkeys(ipaddress.ip_address(each.address) for each in served))
    return Look(names, addresses, keys, ports or tuple(each.port for each in served))


def from_here(resolve: Resolve, *, patience: float = 20.0, resolving: float = 20.0) -> LocalLooker:
    """What looks at loopback."""
    return LocalLooker(
        guard=GUARD, scanner=Scanner(Limits(patience=patience)), resolve=resolve, resolving=resolving, patience=patience
    )


async def test_a_host_and_its_name_are_seen() -> None:
    """A name's addresses and the host's key come back, seen by the registrar itself."""
    async with serving(fake(FakeServer)) as served:
        (seen,) = await from_here(Names(db1_example=[["127.0.0.1"]])).look(look_at(served, names=(NAME,)))
    assert seen.led == (Led(NAME, (LOOPBACK,)),)
    assert seen.answered == (Answered(LOOPBACK, served.port, (ED,)),)
    assert seen.by == "registrar"


async def test_only_keys_of_the_types_are_asked_for_and_their_certificates() -> None:
    """Of a server with many keys those come that count, RSA by its newer names, and the certificates for them."""
    offered = (*KEYS, *(name + CERTIFIED for name in KEYS))
    async with serving(fake(lambda: FakeServer(algorithms=offered))) as served:
        (seen,) = await from_here(Names()).look(look_at(served, keys=(ED, RSA)))
    (answer,) = seen.answered
    assert set(answer.keys) == {ED, RSA}
    assert set(answer.certificates) == {certificate(KEYS["ssh-ed25519"]), certificate(KEYS["rsa-sha2-512"])}
    assert served.connections == 4


async def test_P27_a_name_is_never_connected_to() -> None:
    """A name that leads to another host has that host get no byte from us, however its address changes (rebinding)."""
    async with serving(fake(FakeServer)) as given, serving(silent, address="127.0.0.2") as other:
        names = Names(db1_example=[["127.0.0.2"], ["127.0.0.1"]])
        (seen,) = await from_here(names).look(look_at(given, names=(NAME,)))
        assert other.connections == 0
    assert seen.led == (Led(NAME, (ipaddress.ip_address("127.0.0.2"),)),)
    assert names.asked == [NAME], "asked twice, it may answer twice"


async def test_both_kinds_of_addresses() -> None:
    """A and AAAA records are one set, and a host is looked at by both."""
    async with serving(fake(FakeServer)) as four, serving(fake(FakeServer), address="::1") as six:
        names = Names(db1_example=[["::1", "127.0.0.1", "::ffff:127.0.0.1"]])
        look = look_at(four, six, names=(NAME,))
        (seen,) = await from_here(names).look(look)
    assert seen.led == (Led(NAME, (V6, LOOPBACK)),)
    shown = {(each.address, each.port) for each in seen.answered if each.keys == (ED,)}
    assert shown == {(LOOPBACK, four.port), (V6, six.port)}
    assert len(seen.answered) == 4, "every address at every port"


async def test_whoever_does_not_answer_has_failed_and_holds_up_no_other() -> None:
    """Silence, a byte at a time and a closed port are failures of their own address; the others are seen."""
    async with serving(silent) as mute, serving(drip) as slow, serving(fake(FakeServer)) as good:
        async with serving(silent) as gone:
            pass
        look = look_at(mute, slow, good, gone)
        (seen,) = await from_here(Names(), patience=3).look(look)
        await mute.over.wait()
        await slow.over.wait()
        assert mute.now == slow.now == 0
    found = {each.port: each for each in seen.answered}
    assert found[good.port].keys == (ED,)
    assert "Connection refused" in found[gone.port].failed
    assert all(found[each.port].failed and not found[each.port].keys for each in (mute, slow))


async def test_names_nobody_answers_for() -> None:
    """A name without addresses has failed, and one whose servers are silent costs the time for names, once for all."""
    async with serving(fake(FakeServer)) as served:
        (seen,) = await from_here(Names()).look(look_at(served, names=(NAME,)))
        assert seen.led == (Led(NAME, (), f"no address of {NAME!r} was found"),)
        many = tuple(f"h{number}.example" for number in range(MAX_NAMES))
        (seen,) = await from_here(nobody, resolving=0.2).look(look_at(served, names=many))
    assert seen.led == tuple(Led(name, (), "no answer in time") for name in many)
    assert [each.keys for each in seen.answered] == [(ED,)]


async def test_a_name_with_countless_addresses() -> None:
    """A name that leads to more addresses than anybody gives has failed."""
    wide = [f"192.0.2.{number}" for number in range(1, 40)]
    async with serving(fake(FakeServer)) as served:
        (seen,) = await from_here(Names(db1_example=[wide])).look(look_at(served, names=(NAME,)))
    assert seen.led == (Led(NAME, (), f"{NAME!r} has over 16 addresses"),)


async def test_all_that_a_look_may_have_at_once() -> None:
    """16 addresses with 4 ports each are looked at side by side, one connection for each, and no more at a time."""
    addresses = [f"127.0.0.{number}" for number in range(1, MAX_ADDRESSES + 1)]
    async with contextlib.AsyncExitStack() as stack:
        places = [await stack.enter_async_context(serving(fake(FakeServer))) for _ in range(MAX_PORTS)]
        ports = tuple(each.port for each in places)
        for address in addresses[1:]:
            for port in ports:
                await stack.enter_async_context(talking(_shown, address, port))
        look = Look((), tuple(map(ipaddress.ip_address, addresses)), (ED,), ports)
        (seen,) = await from_here(Names()).look(look)
    assert len(seen.answered) == MAX_ADDRESSES * MAX_PORTS
    assert {each.keys for each in seen.answered} == {(ED,)}


async def _shown(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await fake(FakeServer)(reader, writer)
    writer.close()


# --- what is refused before anybody is asked ---


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (Look((), (ipaddress.ip_address("10.1.2.3"),), (ED,)), "'10.1.2.3' is not one to scan: private"),
        (Look((), (ipaddress.ip_address("fd00::1"),), (ED,)), "'fd00::1' is not one to scan: private"),
        (Look((), (ipaddress.ip_address("169.254.169.254"),), (ED,)), "a cloud's metadata service"),
        (Look((), (ipaddress.ip_address("::ffff:127.0.0.1"),), (ED,)), "'127.0.0.1' is not one to scan: loopback"),
        (Look((), (ipaddress.ip_address("9.9.9.9"),), (ED,), (2222,)), "port 2222 is not one to scan"),
        (Look(("localhost",), (ipaddress.ip_address("9.9.9.9"),), (ED,)), "'localhost' is not a full DNS name"),
        (Look(("*.example",), (ipaddress.ip_address("9.9.9.9"),), (ED,)), r"'\*.example' is not a full DNS name"),
        (Look(("DB1.example.",), (ipaddress.ip_address("9.9.9.9"),), (ED,)), "'DB1.example.' is not a full DNS name"),
        (Look((), (ipaddress.ip_address("9.9.9.9"),), (SshKey("sk-ssh-ed25519@openssh.com", ED.blob),)), "no scan can"),
        (Look((), (), (ED,)), "nothing to look at"),
        (Look((), (ipaddress.ip_address("9.9.9.9"),), ()), "nothing to look at"),
        (Look((), (ipaddress.ip_address("9.9.9.9"),), (ED,), ()), "nothing to look at"),
    ],
)
async def test_P27_what_may_not_be_looked_at(look: Look, reason: str) -> None:
    """The refusal gives the reason and names the setting, and neither a resolver nor a host was asked."""
    names = Names()
    with pytest.raises(PolicyRefused, match=reason) as caught:
        await LocalLooker(guard=Guard(), scanner=Scanner(), resolve=names).look(look)
    assert "[ssh.scan] allow and ports" in caught.value.hint
    assert names.asked == []


async def test_every_reason_at_once() -> None:
    """Whoever gives several places that may not be looked at hears of each."""
    addresses = tuple(map(ipaddress.ip_address, ("10.1.2.3", "9.9.9.9", "127.0.0.1")))
    with pytest.raises(PolicyRefused) as caught:
        await looker(Guard()).look(Look((NAME,), addresses, (ED,), (22, 2222)))
    assert caught.value.reasons == (
        "'10.1.2.3' is not one to scan: private",
        "port 2222 is not one to scan",
        "'127.0.0.1' is not one to scan: loopback",
    )


@pytest.mark.parametrize(
    ("look", "what"),
    [
        (Look(("a.example",) * (MAX_NAMES + 1), (LOOPBACK,), (ED,)), "over 64 names"),
        (Look((), (LOOPBACK,) * (MAX_ADDRESSES + 1), (ED,)), "over 16 addresses"),
        (Look((), (LOOPBACK,), (ED,), tuple(range(1, MAX_PORTS + 2))), "over 4 ports"),
        (Look((), tuple(ipaddress.ip_address(0x0B000000 + n) for n in range(10_000)), (ED,)), "over 16 addresses"),
    ],
)
async def test_too_much_is_refused(look: Look, what: str) -> None:
    """More than a look may have is refused before any of it is judged."""
    with pytest.raises(TooMuch, match=what):
        await looker(GUARD).look(look)


async def test_hosts_that_were_scanned_too_often() -> None:
    """Who asks for hosts that were just scanned is told when to come again, and not that they did not answer."""
    async with serving(fake(FakeServer)) as served, serving(silent) as mute:
        here = from_here(Names(), patience=1)
        here.scanner._place(served.target).forgotten = asyncio.get_running_loop().time() + 60
        with pytest.raises(TooMuch, match="these hosts were looked at too often just now") as caught:
            await here.look(look_at(served, mute))
    assert 50 <= caught.value.after <= 52
    assert "127.0.0.1" not in str(caught.value)


async def test_who_does_not_wait_leaves_nothing_behind() -> None:
    """A look that is cancelled takes its connections and its questions with it."""
    there = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.set()
        await reader.read()

    async with serving(act) as served:
        here = from_here(Names())
        task = asyncio.create_task(here.look(look_at(served)))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await served.over.wait()
        assert [place.users for place in here.scanner._places.values()] == [0]


async def test_one_look_takes_not_all_the_room() -> None:
    """Names whose servers never answer, and hosts that never do, are to hold up nobody but their own look."""
    asked, enough = list[str](), asyncio.Event()

    async def never(name: str) -> Sequence[IPAddress]:
        asked.append(name)
        if len(asked) == 2:
            enough.set()
        return await nobody(name)

    async with serving(silent) as served:
        names = tuple(f"n{number}.example" for number in range(MAX_NAMES))
        task = asyncio.create_task(from_here(never).look(look_at(served, names=names)))
        await enough.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(asked) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_one_look_asks_a_few_hosts_at_a_time() -> None:
    """The room for connections is everybody's."""
    at_once, most, done = 0, 0, 0

    class Counting(Scanner):
        async def scan(self, target: Target, algorithms: Sequence[str] = ()) -> Scanned:
            nonlocal at_once, most, done
            at_once += 1
            most = max(most, at_once)
            for _ in range(3):
                await asyncio.sleep(0)
            at_once, done = at_once - 1, done + 1
            raise Unreachable("nobody there")

    addresses = tuple(ipaddress.ip_address(f"192.0.2.{number}") for number in range(1, 1 + MAX_ADDRESSES))
    ports = tuple(range(22, 22 + MAX_PORTS))
    guard = Guard(allow=(ipaddress.ip_network("192.0.2.0/24"),), ports=ports)
    (seen,) = await LocalLooker(guard=guard, scanner=Counting()).look(Look((), addresses, (ED,), ports))
    assert (done, len(seen.answered), most) == (64, 64, 16)


async def test_a_fault_of_ours_is_no_answer() -> None:
    """What is no error of ours by intention comes out, and is not taken for a name that leads nowhere."""

    async def broken(name: str) -> Sequence[IPAddress]:
        raise ZeroDivisionError

    async with serving(fake(FakeServer)) as served:
        with pytest.raises(ZeroDivisionError):
            await from_here(broken).look(look_at(served, names=(NAME,)))


async def test_the_system_is_asked_for_the_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver gets the name with its final dot, so that no search domain answers, and zones are left out."""
    asked = []

    def getaddrinfo(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(name)
        if name == "none.example.":
            raise OSError("no such name")
        return [(None, None, None, None, ("fe80::1%eth0", 0)), (None, None, None, None, ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolve = Resolver()
    assert await resolve(NAME) == [ipaddress.ip_address("fe80::1"), LOOPBACK]
    with pytest.raises(Unreachable, match=r"no address of 'none.example' was found: no such name"):
        await resolve("none.example")
    assert asked == ["db1.example.", "none.example."]
