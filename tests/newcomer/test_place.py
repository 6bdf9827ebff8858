"""What a machine believes of itself: its full name, and where it is reached."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Self

import pytest

from handfast.core.invitation import Address
from handfast.core.names import ip_address
from handfast.errors import Unreachable, UsageError
from handfast.newcomer.place import own_addresses, own_name

REGISTRAR = Address("127.0.0.1", 9)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """Give the machine a host name, and what a resolver makes of it."""

    def call(name: str, full: str | None) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)

        def resolve(*_given: Any, **_more: Any) -> list[tuple[Any, ...]]:
            if full is None:
                raise OSError("no such name")
            return [(None, None, None, full, None)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    return call


@pytest.mark.parametrize(
    ("name", "full", "expected"),
    [
        ("web1.lan", None, "web1.lan"),
        ("web1", "web1.lan", "web1.lan"),
        ("WEB1", "Web1.Lan.", "web1.lan"),
    ],
)
def test_its_name(called: Callable[[str, str | None], None], name: str, full: str | None, expected: str) -> None:
    """The host name, completed where it is none in full, in lower case."""
    called(name, full)
    assert own_name() == expected


@pytest.mark.parametrize(
    ("name", "full", "message"),
    [
        ("web1", None, "called 'web1', which is not a full DNS name"),
        ("web1", "", "called 'web1', which is not a full DNS name"),
        ("localhost", "localhost.localdomain", "'localhost.localdomain', which is not a full DNS name"),
        ("web_1.lan", None, "not a DNS name: 'web_1.lan'"),
    ],
)
def test_a_name_that_cannot_be_used(
    called: Callable[[str, str | None], None], name: str, full: str | None, message: str
) -> None:
    """Exit code 2, and the flag that says it otherwise."""
    called(name, full)
    with pytest.raises(UsageError, match=message) as caught:
        own_name()
    assert "--name" in caught.value.hint


def leading(monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
    """Have names lead to addresses; another leads nowhere."""
    real = socket.getaddrinfo

    def resolve(host: str, port: Any, *given: Any, **more: Any) -> Any:
        if port is not None:
            return real(host, port, *given, **more)
        if host.partition(".")[0] not in names:
            raise OSError("no such name")
        return [(None, None, None, "", (address, 0)) for address in names[host.partition(".")[0]]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_where_its_names_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, each once, in a steady order, without what means this machine or link alone."""
    leading(
        monkeypatch,
        web1=["10.0.0.7", "127.0.1.1", "fe80::1%eth0", "2001:db8::7"],
        www=["10.0.0.7", "::ffff:10.0.0.9", "::1", "0.0.0.0", "169.254.1.1", "224.0.0.1"],
    )
    expected = tuple(map(ip_address, ("10.0.0.7", "10.0.0.9", "2001:db8::7")))
    assert own_addresses(("web1.lan", "www.lan"), REGISTRAR) == expected


def test_from_where_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its names lead to itself alone, as in /etc/hosts of Debian: the address that the registrar would see."""
    leading(monkeypatch, web1=["127.0.1.1"])

    class Probe:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def connect(self, _place: object) -> None: ...

        def getsockname(self) -> tuple[str, int]:
            return ("10.0.0.7", 1)

    monkeypatch.setattr(socket, "socket", lambda *_given: Probe())
    assert own_addresses(("web1.lan",), REGISTRAR) == (ip_address("10.0.0.7"),)


def test_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address at all: exit code 4, and the flag that says it."""
    leading(monkeypatch)
    with pytest.raises(Unreachable, match=r"no address of web1\.lan was found, and no way to 127\.0\.0\.1:9") as caught:
        own_addresses(("web1.lan",), REGISTRAR)  # which is reached from loopback
    assert "--address" in caught.value.hint
