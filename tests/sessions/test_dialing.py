"""Whom a server phones: what its user said, what a client said last, and for how long that counts."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from handfast.adapters import files, pace
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError
from handfast.server import session
from handfast.sessions import hello
from handfast.sessions.control import Side
from handfast.sessions.hello import Answer, Dial, Failed, Phone
from handfast.sessions.local import Endpoint
from handfast.sessions.serve import DialingServer, Remembered, Server, phone_path
from tests.sessions.conftest import Made, now
from tests.sessions.streams import engine
from tests.sessions.tunnels import SOON, service, stage

HOME, ELSEWHERE = Address("127.0.0.1", 7001), Address("127.0.0.1", 7002)


def caller(made: Made, by: str, lines: list[str]) -> DialingServer:
    """A caller that was told, by a party, to phone elsewhere."""
    memory = phone_path(made.file("server"))
    memory.touch(0o600)
    memory.write_bytes(msgspec.json.encode(Remembered(str(ELSEWHERE), 60.0, f"{made.party(by).serial:x}")))
    side = Side.open(made.file("server"), Role.SERVER)
    return DialingServer(Server(side, Endpoint(HOME), lines.append), HOME, 5.0, memory=memory)


async def test_attack_a_friends_word_ends_with_him(own: Made) -> None:
    """A friend who had the server phone his own address, and was revoked, keeps nobody from it."""
    lines: list[str] = []
    calling = caller(own, "bob", lines)
    assert calling._next(0, lines.append) == ELSEWHERE
    session.revoke(own.directory, "bob")
    calling._server.side.trust.refresh(lambda error: lines.append(error.message))
    assert calling._next(0, lines.append) == HOME
    assert (calling.to, calling.every) == (HOME, 5.0)
    assert lines == [f"phoning {HOME} again: whoever said otherwise was revoked"]
    assert not phone_path(own.file("server")).exists()


async def test_attack_a_friends_word_locks_nobody_out(own: Made) -> None:
    """While nobody is where he said, the address that the server's own user gave is tried as well."""
    lines: list[str] = []
    calling = caller(own, "bob", lines)
    assert [calling._next(failures, lines.append) for failures in range(8)] == [
        *[ELSEWHERE] * 4, ELSEWHERE, HOME, ELSEWHERE, HOME,
    ]  # fmt: skip
    assert lines == []


async def test_what_is_kept_already_is_said_anew_when_something_else_could_not_be(
    own: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the older word in the file; the server goes by the newest all the same."""
    lines: list[str] = []
    calling = caller(own, "bob", lines)
    serial, write = own.party("bob").serial, files.write_atomic

    def full(_path: object, _content: bytes) -> None:
        raise Fault("no space left on device")

    monkeypatch.setattr(files, "write_atomic", full)
    await calling._hand_over(Phone(to=str(HOME), every=60.0), serial, lines.append)
    assert calling.to == HOME
    assert lines[-1] == "a restart would not know that: no space left on device"
    await calling._hand_over(Phone(to=str(ELSEWHERE), every=60.0), serial, lines.append)
    assert calling.to == ELSEWHERE
    monkeypatch.setattr(files, "write_atomic", write)
    await calling._hand_over(Phone(to=str(HOME), every=60.0), serial, lines.append)
    assert msgspec.json.decode(phone_path(own.file("server")).read_bytes(), type=Remembered).to == str(HOME)


# --- who answers ---


async def test_attack_another_peer_who_answers_the_call_for_a_stream_gets_none(ours: Made) -> None:
    """A friend at the address of a client (a port that is shared, or taken over) is told nothing, and no byte."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        loop, place = asyncio.get_running_loop(), Address(*listening.getsockname())
        async with service("pour") as where, stage() as at:
            server = at.call(ours.file("server"), place, where)
            control, _ = await loop.sock_accept(listening)
            async with engine(ours, "client").link(control) as asking:
                await asking.receive(within=SOON)
                await asking.send(hello.encode(Answer(ok=True, crl=0, time=int(now().timestamp()))))
                await asking.send(hello.encode(Dial(token="A" * 22)))
                second, _ = await loop.sock_accept(listening)
                async with engine(ours, "bob").link(second) as friend:
                    with pytest.raises(HandfastError):
                        await friend.receive(within=SOON)
                failed = hello.decode_control(await asking.receive(within=SOON))
                assert isinstance(failed, Failed)
                assert (failed.error, failed.message) == (
                    "untrusted-peer",
                    "another peer of this session answered the call",
                )
            await server.heard("another peer of this session answered the call")


# --- how often ---


@pytest.mark.parametrize(("failures", "times"), [(0, 1), (3, 1), (4, 2), (8, 4), (12, 8), (16, 8), (10**12, 8)])
def test_the_pause_is_jittered_and_bounded(failures: int, times: int) -> None:
    """A quarter either way, so that a thousand servers do not call at once; rarer with time, down to an eighth."""
    pauses = [pace.pause(10.0, failures) for _ in range(200)]
    assert all(7.5 * times <= each <= 12.5 * times for each in pauses)
    assert min(pauses) < 9 * times < 11 * times < max(pauses)


def test_what_is_said_twice_is_said_once() -> None:
    """Until something else was said in between."""
    lines: list[str] = []
    say = pace.sparing(lines.append)
    for text in ("away", "away", "here", "away", "away"):
        say(text)
    assert lines == ["away", "here", "away"]


@pytest.mark.parametrize("every", [0.1, 86400.0])
def test_an_interval_within_its_bounds_is_taken(every: float) -> None:
    """What is outside of them is refused: see ``test_how_often_to_phone_has_bounds``."""
    assert hello.interval(every) == every
