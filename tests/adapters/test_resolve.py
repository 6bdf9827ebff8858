"""Which names lead to a caller, asked of a resolver whose answers are the test's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from handfast.adapters import resolve
from handfast.core.names import Names

PLACES = {
    "one.lan": ["10.0.0.1"],
    "both.lan": ["10.0.0.1", "fd00::1"],
    "many.lan": ["10.0.0.9", "10.0.0.1"],
    "mapped.lan": ["::ffff:10.0.0.1"],
    "here.lan": ["127.0.0.1"],
    "here2.lan": ["127.0.1.1"],
    "here6.lan": ["::1"],
    "any.lan": ["0.0.0.0"],
    "group.lan": ["224.0.0.1"],
    "zone.lan": ["fe80::1%eth0"],
    "far.lan": ["192.0.2.1"],
}
ALL = tuple(sorted(PLACES))


def answer(host: str, *_arguments: Any, **_more: Any) -> list[tuple[Any, ...]]:
    """What a resolver would return."""
    name = host.removesuffix(".")
    if name not in PLACES:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in PLACES[name]]


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Answer from ``PLACES``, or as the test sets it."""
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(resolve, "_HOSTS", Path("/nonexistent"))
    return lambda other: monkeypatch.setattr(socket, "getaddrinfo", other)


def leading(names: list[str], source: str | None) -> tuple[str, ...]:
    """Return those of the names that lead to the source."""
    found = resolve.leading_to(Names.parse(names), None if source is None else ip_address(source))
    return asyncio.run(found).texts()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("10.0.0.1", ("both.lan", "many.lan", "mapped.lan", "one.lan")),
        ("fd00::1", ("both.lan",)),
        ("10.0.0.2", ()),
        ("fe80::1", ("zone.lan",)),
    ],
)
def test_names_that_lead_to_a_source(source: str, expected: tuple[str, ...]) -> None:
    """One of a name's addresses is the caller's, in either family, an IPv4 one also where it comes as IPv6."""
    assert leading(list(ALL), source) == expected


@pytest.mark.parametrize("source", ["127.0.0.1", "::1"])
def test_a_caller_on_loopback_is_this_machine(source: str) -> None:
    """Then every name of ours leads to it: all of loopback, and not what stands for any address or for a group."""
    assert leading(list(ALL), source) == ("here.lan", "here2.lan", "here6.lan")


@pytest.mark.parametrize("source", ["127.0.0.1", "10.0.0.1"])
def test_a_caller_from_an_address_of_ours_is_this_machine(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Debian knows the host's own name as 127.0.1.1: it leads to whoever calls from an address of ours."""
    ours = ["10.0.0.1", "198.51.100.1"]
    monkeypatch.setattr(resolve, "_can_bind", lambda address: str(address) in ours)
    expected = ("both.lan", "here.lan", "here2.lan", "here6.lan", "many.lan", "mapped.lan", "one.lan", "198.51.100.1")
    assert leading([*ALL, "198.51.100.1", "198.51.100.2"], source) == expected
    assert leading(["here.lan", "one.lan", "198.51.100.1"], "10.0.0.2") == ()


def test_where_any_address_can_be_had_none_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ip_nonlocal_bind, as high availability sets it, a socket can have every address: that says nothing then."""
    monkeypatch.setattr(resolve, "_can_bind", lambda _address: True)
    assert leading([*ALL, "198.51.100.1"], "10.0.0.2") == ()
    assert leading(["far.lan", "here.lan"], "127.0.0.1") == ("here.lan",)


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket of that family can be made: then no such address is ours."""

    def none(*_arguments: Any) -> socket.socket:
        raise OSError(97, "address family not supported")

    monkeypatch.setattr(socket, "socket", none)
    assert not resolve._is_ours(ip_address("fd00::1"))


@pytest.mark.parametrize(
    ("source", "names", "expected"),
    [
        ("10.0.0.1", ["10.0.0.1", "10.0.0.2", "fd00::1"], ("10.0.0.1",)),
        ("fd00::1", ["10.0.0.1", "fd00::1"], ("fd00::1",)),
        ("127.0.0.1", ["127.0.0.1", "127.0.0.53", "::1", "192.0.2.1"], ("127.0.0.1", "127.0.0.53", "::1")),
        ("10.0.0.1", ["127.0.0.1", "::1"], ()),
    ],
)
def test_addresses_are_themselves(source: str, names: list[str], expected: tuple[str, ...]) -> None:
    """An address leads to itself, and nobody is asked."""
    assert leading(names, source) == expected


def test_a_name_of_loopback_is_nobody_elses() -> None:
    """Whoever calls from outside has no claim to localhost."""
    assert leading(["here.lan", "localhost"], "10.0.0.1") == ()


def test_what_has_no_source_is_led_to_by_nothing() -> None:
    """A call without an address, by a socket of another kind."""
    assert leading(list(ALL), None) == ()


def test_attack_a_search_domain_behind_a_name(resolver: Callable[[Any], None]) -> None:
    """Who has node1.lan.svc.cluster.local is not node1.lan; a name without a dot is not asked for at all."""
    asked: list[str] = []

    def search_first(host: str, *_arguments: Any, **_more: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        address = "10.0.0.1" if host.endswith(".") else "10.6.6.6"  # as ``ndots:5`` has it
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    resolver(search_first)
    assert leading(["node1", "node1.lan"], "10.6.6.6") == ()
    assert leading(["node1", "node1.lan"], "10.0.0.1") == ("node1.lan",)
    assert set(asked) == {"node1.lan."}


def test_attack_a_host_that_is_called_like_the_administrator(resolver: Callable[[Any], None]) -> None:
    """Whoever tells a DHCP server that his machine is ``admin`` must not become CN=admin, OU=NIFI by it."""
    resolver(lambda *_arguments, **_more: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.6.6.6", 0))])
    assert leading(["admin"], "10.6.6.6") == ()


def test_this_machine_knows_its_own_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any file and any resolver; and from elsewhere nobody is called so."""
    monkeypatch.setattr(resolve, "_HOSTS", tmp_path / "none")
    monkeypatch.setattr(socket, "gethostname", lambda: "Ca1")
    assert leading(["ca1", "localhost", "node1"], "127.0.0.1") == ("ca1", "localhost")
    assert leading(["ca1", "localhost"], "10.0.0.1") == ()


def test_the_file_of_hosts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library would not find the name with its final dot there, so that the file is read for itself."""
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "# 10.0.0.2 no.lan\n\n10.0.0.2 Two.Lan two # old.lan\n::ffff:10.0.0.2 six.lan\nnonsense a.lan\n10.0.0.2\n"
    )
    monkeypatch.setattr(resolve, "_HOSTS", hosts)
    names = ["two.lan", "six.lan", "no.lan", "old.lan", "a.lan", "two"]
    assert leading(names, "10.0.0.2") == ("six.lan", "two", "two.lan")
    assert leading(names, "10.0.0.3") == ()


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_AGAIN, "later"), OSError(5, "x"), UnicodeError("idna")])
def test_a_resolver_that_fails(resolver: Callable[[Any], None], failure: Exception) -> None:
    """No answer, or a name that no resolver takes, leads nowhere; what was found of the others counts."""

    def fail(host: str, *_arguments: Any, **_more: Any) -> list[tuple[Any, ...]]:
        if host == "far.lan.":
            raise failure
        return answer(host)

    resolver(fail)
    assert leading(["far.lan", "one.lan"], "10.0.0.1") == ("one.lan",)


def test_a_resolver_that_hangs(resolver: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for all names together; what came before it counts, and the others lead nowhere."""
    released = threading.Event()

    def hang(host: str, *_arguments: Any, **_more: Any) -> list[tuple[Any, ...]]:
        if host != "one.lan.":
            released.wait(60)
        return answer(host)

    async def ask() -> Names:
        loop, came, found = asyncio.get_running_loop(), asyncio.Event(), resolve._addresses
        clock, passed = loop.time, 0.0

        async def noted(name: str) -> Any:
            addresses = await found(name)
            came.set()
            return addresses

        monkeypatch.setattr(resolve, "_addresses", noted)
        monkeypatch.setattr(loop, "time", lambda: clock() + passed)
        names = Names.parse(["one.lan", "both.lan", "many.lan"])
        asked = asyncio.ensure_future(resolve.leading_to(names, ip_address("10.0.0.1")))
        try:
            await came.wait()  # the one that is answered; then the time of the others is over
            passed = resolve.PATIENCE
            return await asked
        finally:
            released.set()  # or the loop's end would wait for its threads

    resolver(hang)
    assert asyncio.run(ask()).texts() == ("one.lan",)


def test_few_are_asked_at_once(resolver: Callable[[Any], None]) -> None:
    """One request takes no more than some of the threads which all requests share."""
    running, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(4, timeout=30)

    def count(host: str, *_arguments: Any, **_more: Any) -> list[tuple[Any, ...]]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]

    resolver(count)
    assert len(leading([f"n{number}.lan" for number in range(16)], "10.0.0.1")) == 16
    assert most == 4


def test_the_system_is_asked() -> None:
    """The server's own loop asks the system's resolver, for which /etc/hosts counts: localhost is this machine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(resolve.leading_to(Names.parse(["localhost"]), ip_address("127.0.0.1")))
    assert found.texts() == ("localhost",)


def test_the_file_counts_before_dns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every program: what the administrator wrote is the whole answer; our own name is not in it by itself."""
    hosts = tmp_path / "hosts"
    hosts.write_text("10.9.9.9 one.lan two.lan # three.lan\n::ffff:10.9.9.8 TWO.lan\nnonsense one.lan\n")
    monkeypatch.setattr(resolve, "_HOSTS", hosts)
    monkeypatch.setattr(socket, "gethostname", lambda: "many.lan")
    found = {name: list(map(str, resolve.addresses_of(name))) for name in ("one.lan", "Two.lan", "many.lan")}
    assert found == {"one.lan": ["10.9.9.9"], "Two.lan": ["10.9.9.9", "10.9.9.8"], "many.lan": ["10.0.0.9", "10.0.0.1"]}
    with pytest.raises(socket.gaierror):
        resolve.addresses_of("three.lan")
