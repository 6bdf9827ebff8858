"""Whom a server phones: what its user said, what a client said last, and for how long that counts."""

from __future__ import annotations

import msgspec

from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.server import session
from handfast.sessions.control import Side
from handfast.sessions.local import Endpoint
from handfast.sessions.serve import Caller, Remembered, Server, phone_path
from tests.sessions.conftest import Made

HOME, ELSEWHERE = Address("127.0.0.1", 7001), Address("127.0.0.1", 7002)


def caller(made: Made, by: str, lines: list[str]) -> Caller:
    """A caller that was told, by a party, to phone elsewhere."""
    memory = phone_path(made.file("server"))
    memory.touch(0o600)
    memory.write_bytes(msgspec.json.encode(Remembered(str(ELSEWHERE), 60.0, f"{made.party(by).serial:x}")))
    side = Side.open(made.file("server"), Role.SERVER)
    return Caller(Server(side, Endpoint(HOME), lines.append), HOME, 5.0, memory=memory)


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
