"""The members of a cluster in a hosts file: one block of ours, and nothing else is touched."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from handfast.agent import original
from handfast.agent.members import MAX_MEMBERS, Members
from handfast.agent.state import Call, State
from handfast.errors import Conflict, Fault, HandfastError, Malformed, NotFound, TooMuch

BEFORE = "127.0.0.1\tlocalhost\n::1 ip6-localhost # and more\n\n# by hand\n"


@pytest.fixture
def members(tmp_path: Path) -> Members:
    """A machine's file."""
    path = tmp_path / "hosts"
    path.write_bytes(BEFORE.encode() + b"# caf\xe9\n")
    path.chmod(0o640)
    return Members(path)


def test_a_name_leads_to_its_last_address(members: Members) -> None:
    """Put again it is replaced; the rest of the file, its bytes and its mode stay."""
    before = members.path.read_bytes()
    members.put("Node1.lan.", "192.0.2.1")
    members.put("node2.lan", "2001:db8::2")
    members.put("node1.lan", "192.0.2.3")
    lines = members.path.read_text("latin1").splitlines()[-4:]
    assert lines[1:3] == ["192.0.2.3 node1.lan", "2001:db8::2 node2.lan"]
    assert members.path.read_bytes().startswith(before)
    assert members.path.stat().st_mode & 0o777 == 0o640
    members.remove("node1.lan")
    members.remove("NODE2.lan")
    assert members.path.read_bytes() == before


@pytest.mark.parametrize(
    ("hostname", "address", "kind"),
    [
        ("localhost", "192.0.2.1", Conflict),
        ("ip6-localhost", "192.0.2.1", Conflict),
        ("a b", "192.0.2.1", Malformed),
        ("a\n192.0.2.9 bank.example", "192.0.2.1", Malformed),
        ("a\0", "192.0.2.1", Malformed),
        ("../etc", "192.0.2.1", Malformed),
        (".*", "192.0.2.1", Malformed),
        ("", "192.0.2.1", Malformed),
        ("a" * 300, "192.0.2.1", Malformed),
        ("node", "192.0.2.1\n192.0.2.9 bank.example", Malformed),
        ("node", "node.example", Malformed),
        ("node", "fe80::1%eth0", Malformed),
        ("node", "127.0.0.1", Malformed),
        ("node", "0.0.0.0", Malformed),
        ("node", "224.0.0.1", Malformed),
        ("node", "$(reboot)", Malformed),
        ("node", "::ffff:127.0.0.1", Malformed),
        ("node", "::ffff:169.254.169.254", Malformed),
        ("node", "::ffff:0.1.2.3", Malformed),
        ("node", "::127.0.0.1", Malformed),
        ("node", "64:ff9b::7f00:1", Malformed),
        ("node", "::1", Malformed),
        ("node", "::", Malformed),
        ("node", "ff02::1", Malformed),
        ("node", "fe80::1", Malformed),
        ("node", "0.1.2.3", Malformed),
        ("node", "240.0.0.1", Malformed),
        ("node", "255.255.255.255", Malformed),
        ("node", "169.254.169.254", Malformed),
    ],
)
def test_nothing_else_is_written(hostname: str, address: str, kind: type[HandfastError], members: Members) -> None:
    """Names that are the machine's own, two lines in one, and what is no name or address."""
    before = members.path.read_bytes()
    with pytest.raises(kind):
        members.put(hostname, address)
    with pytest.raises((Malformed, NotFound)):
        members.remove(hostname)
    assert members.path.read_bytes() == before


def test_they_are_few(members: Members) -> None:
    """A controller cannot fill the file."""
    begin, end = "# begin: cluster members, written by handfast", "# end: cluster members"
    lines = [begin, *(f"192.0.2.1 n{number}" for number in range(MAX_MEMBERS)), end]
    members.path.write_text(BEFORE + "\n".join(lines) + "\n")
    members.put("n7", "192.0.2.2")
    with pytest.raises(TooMuch, match="over 1000 members"):
        members.put("one-more", "192.0.2.2")


def test_a_block_without_an_end_is_left_alone(members: Members) -> None:
    """Somebody has edited it: where it ends is not ours to guess."""
    members.put("node1.lan", "192.0.2.1")
    text = members.path.read_text("latin1").replace("# end: cluster members\n", "")
    members.path.write_text(text, "latin1")
    with pytest.raises(Fault, match="has the begin of our block and no end"):
        members.put("node2.lan", "192.0.2.1")
    assert members.path.read_text("latin1") == text


def test_no_file_is_a_fault(tmp_path: Path) -> None:
    """A policy that names what is not there."""
    with pytest.raises(Fault, match="cannot read"):
        Members(tmp_path / "none").put("node1.lan", "192.0.2.1")


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "203.0.113.9", "fd00::1", "2001:db8::1"])
def test_addresses_of_machines(address: str, members: Members) -> None:
    """Of a private network or a public one."""
    members.put("node", address)
    assert f"{address} node\n" in members.path.read_text("latin1")


def test_an_address_in_another_notation(members: Members) -> None:
    """It is written as where it leads."""
    members.put("node", "::ffff:192.0.2.1")
    assert "\n192.0.2.1 node\n" in members.path.read_text("latin1")


@pytest.mark.parametrize("end", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r", "\r\n"])
def test_a_line_is_what_hosts_has(end: str, members: Members) -> None:
    """Nothing that only Unicode takes for the end of a line is made one: it may stand in a comment."""
    before = f"127.0.0.1 localhost\n# see{end}192.0.2.66 bank.example\n".encode()
    members.path.write_bytes(before)
    members.put("node", "192.0.2.1")
    assert members.path.read_bytes().startswith(before)
    members.remove("node")
    assert members.path.read_bytes() == before


@pytest.mark.parametrize("before", [b"", b"\n", b"127.0.0.1 localhost\n\n"])
def test_the_end_of_the_file_stays(before: bytes, members: Members) -> None:
    """Also where it has nothing, or empty lines there."""
    members.path.write_bytes(before)
    members.put("node", "192.0.2.1")
    members.remove("node")
    assert members.path.read_bytes() == before


async def test_one_after_the_other(tmp_path: Path, members: Members) -> None:
    """Nobody else waits for the disk meanwhile, and of two changes at once none is lost."""
    begun, first, go = [], asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow(Members):
        def put(self, hostname: str, address: str) -> None:
            begun.append(hostname)
            loop.call_soon_threadsafe(first.set)
            assert go.wait(30)
            Members.put(self, hostname, address)

    shared = State(cast(Any, None), cast(Any, None), members=Slow(members.path))

    async def add(name: str, address: str) -> None:
        path = f"/cluster_member_addresses?hostname={name}&address={address}"
        request = make_mocked_request("POST", path, headers={"Content-Type": "text/plain"})
        await original.add_member(Call(request, shared, None))

    adding = [asyncio.ensure_future(add(f"n{number}.lan", f"192.0.2.{number}")) for number in (1, 2)]
    async with asyncio.timeout(30):
        await first.wait()
    assert begun == ["n1.lan"]
    go.set()
    await asyncio.gather(*adding)
    assert b"192.0.2.1 n1.lan\n192.0.2.2 n2.lan\n" in members.path.read_bytes()
