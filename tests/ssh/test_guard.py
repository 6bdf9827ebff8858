"""What may be scanned: nothing that only the scanner can reach, however it is written."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.names import IPAddress
from handfast.errors import Malformed, PolicyRefused, TooMuch, Unreachable
from handfast.ssh import guard
from handfast.ssh.guard import MAX_ADDRESSES, Guard, Resolve, Target

ip, network = ipaddress.ip_address, ipaddress.ip_network
PUBLIC4, PUBLIC6 = ip("9.9.9.9"), ip("2620:fe::fe")


def leads_to(*addresses: str) -> Resolve:
    """A resolver with one answer."""

    async def answer(name: str) -> Sequence[IPAddress]:
        return [ip(address) for address in addresses]

    return answer


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.0.1", "link-local"),
        ("fe80::1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("198.19.0.1", "private"),
        ("fc00::1", "private"),
        ("fd12:3456::1", "private"),
        ("fec0::1", "private"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        ("192.0.0.8", "reserved"),
        ("192.0.2.1", "reserved"),
        ("203.0.113.9", "reserved"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("2001:db8::1", "reserved"),
        ("2001::1", "reserved"),  # Teredo
        ("2001:10::1", "reserved"),
        ("3fff::1", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("64:ff9b:1::a00:1", "reserved"),  # RFC 8215
        ("::7f00:1", "reserved"),  # the old IPv4-compatible form of 127.0.0.1
        ("2002:7f00:1::", "6to4"),
        ("2002:0909:0909::1", "6to4"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "metadata"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("64:ff9b::c0a8:1", "private"),
    ],
)
def test_special_addresses_are_refused(address: str, kind: str) -> None:
    """Each kind of address that leads back to us or to what is behind us is refused by its name."""
    with pytest.raises(PolicyRefused, match=rf"^'[0-9a-f:.]+' is not one to scan: [a-z' -]*{kind}") as caught:
        Guard().target(ip(address))
    assert "operator" in caught.value.hint


@pytest.mark.parametrize(
    "address", ["9.9.9.9", "172.32.0.1", "100.128.0.1", "169.253.0.1", "223.255.255.255", "2620:fe::fe", "2a00::1"]
)
def test_public_addresses_are_targets(address: str) -> None:
    """What anybody reaches may be scanned, at port 22."""
    assert Guard().target(ip(address)) == Target(address, ip(address), 22)


def test_forms_of_public_addresses() -> None:
    """A mapped address becomes what would be connected to; one for NAT64 stays, as the way there."""
    assert Guard().target(ip("::ffff:9.9.9.9")).address == PUBLIC4
    assert Guard().target(ip("64:ff9b::909:909")).address == ip("64:ff9b::909:909")


@given(st.ip_addresses())
def test_nothing_special_by_any_registry(address: IPAddress) -> None:
    """Whatever Python's own copy of IANA's registries calls not global is refused here too."""
    try:
        target = Guard().target(address)
    except PolicyRefused:
        return
    assert target.address.is_global or address in ipaddress.ip_network("64:ff9b::/96")
    assert not target.address.is_multicast
    assert not target.address.is_reserved or target.address.version == 6


@pytest.mark.parametrize(
    ("listed", "address", "opened"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("10.1.0.0/16", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "64:ff9b::a01:203", True),
        ("0.0.0.0/0", "10.1.2.3", False),
        ("0.0.0.0/0", "127.0.0.1", False),
        ("0.0.0.0/0", "169.254.169.254", False),
        ("169.254.0.0/16", "169.254.1.1", True),
        ("169.254.0.0/16", "169.254.169.254", False),
        ("169.254.169.254/32", "169.254.169.254", True),
        ("fd00::/8", "fd00:ec2::1", True),
        ("fd00::/8", "fd00:ec2::254", False),
        ("::/0", "fd00::1", False),
        ("::/0", "::1", False),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "::1", False),
        ("::ffff:0:0/96", "127.0.0.1", False),
        ("::ffff:0:0/96", "::ffff:127.0.0.1", False),
        ("64:ff9b::/96", "64:ff9b::7f00:1", False),
        ("2002:909::/32", "2002:909:909::1", True),
    ],
)
def test_a_listed_network_opens_what_lies_in_it(listed: str, address: str, opened: bool) -> None:
    """An operator opens a range by its name; who lists everything did not think of the metadata service."""
    allowed = Guard(allow=(network(listed),))
    if opened:
        assert allowed.target(ip(address)).port == 22
    else:
        with pytest.raises(PolicyRefused):
            allowed.target(ip(address))


def test_ports_are_listed() -> None:
    """No port but 22 and the listed ones is tried, and all reasons are given at once."""
    assert Guard(ports=(2222,)).target(PUBLIC4, 2222).port == 2222
    assert Guard(ports=(2222,)).target(PUBLIC4).port == 22
    with pytest.raises(PolicyRefused) as caught:
        Guard(ports=(2222,)).target(ip("10.0.0.1"), 80)
    assert caught.value.reasons == ("port 80 is not one to scan", "'10.0.0.1' is not one to scan: private")


def test_how_a_target_is_written() -> None:
    """Messages have the name that was asked for, and where it led."""
    assert str(Guard().target(PUBLIC6)) == "[2620:fe::fe]:22"
    assert str(Guard().target(PUBLIC4, host="db1.example")) == "'db1.example' at 9.9.9.9:22"


async def test_every_address_of_a_name_is_judged() -> None:
    """One address in a private network refuses the name, whatever else it has; the same one counts once."""
    found = await Guard().targets("DB1.example.", resolve=leads_to("9.9.9.9", "2620:fe::fe", "::ffff:9.9.9.9"))
    assert found == (Target("db1.example", PUBLIC4, 22), Target("db1.example", PUBLIC6, 22))
    with pytest.raises(PolicyRefused, match=r"'db1.example' leads to an address that is not one to scan") as caught:
        await Guard().targets("db1.example", resolve=leads_to("9.9.9.9", "10.77.0.5"))
    assert "10.77" not in str(caught.value), "a stranger does not learn what our resolver knows"


async def test_a_name_is_resolved_once() -> None:
    """What is connected to is the address that was judged, and not what the name leads to a moment later."""
    asked = []

    async def rebinding(name: str) -> Sequence[IPAddress]:
        asked.append(name)
        return [PUBLIC4 if len(asked) == 1 else ip("127.0.0.1")]

    (target,) = await Guard().targets("db1.example", resolve=rebinding)
    assert (target.address, asked) == (PUBLIC4, ["db1.example"])


@pytest.mark.parametrize(
    "host",
    ["localhost", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "fe80::1%lo", "::1%1", "*.example.com", "a..b",
     "bücher.example", "a b.example", "", ".", "[::1]", "db1.example:22", "-a.example", "a" * 64 + ".example"],
)  # fmt: skip
async def test_names_that_are_none_are_not_looked_up(host: str) -> None:
    """Short names, addresses in disguise, zones and wildcards never reach a resolver."""

    async def never(name: str) -> Sequence[IPAddress]:
        raise AssertionError(name)

    with pytest.raises(Malformed):
        await Guard().targets(host, resolve=never)


async def test_addresses_are_not_looked_up() -> None:
    """An address is itself."""
    assert await Guard().targets("9.9.9.9") == (Target("9.9.9.9", PUBLIC4, 22),)


async def test_a_name_with_too_many_addresses_or_none() -> None:
    """A name cannot make us connect to a whole network."""
    with pytest.raises(Unreachable, match=r"no address of 'db1.example'"):
        await Guard().targets("db1.example", resolve=leads_to())
    many = leads_to(*(f"9.9.9.{n}" for n in range(MAX_ADDRESSES + 1)))
    with pytest.raises(TooMuch, match="over 16 addresses"):
        await Guard().targets("db1.example", resolve=many)


async def test_the_resolver_is_asked_for_the_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is asked for with its final dot, so that no search domain makes another one of it."""
    asked = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        if host != "db1.example.":
            raise socket.gaierror
        return [(0, 0, 0, "", ("9.9.9.9", 0)), (0, 0, 0, "", ("fe80::1%eth0", 0, 0, 2))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await guard.resolve("db1.example") == [PUBLIC4, ip("fe80::1")]
    with pytest.raises(Unreachable, match=r"no address of 'other\.example'"):
        await guard.resolve("other.example")
    assert asked == ["db1.example.", "other.example."]
