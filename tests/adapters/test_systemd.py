"""systemd's protocol, against real descriptors and a real datagram socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from handfast.adapters import systemd
from handfast.errors import UsageError


@pytest.mark.parametrize("name", ["path", "abstract"])
def test_notification_arrives(tmp_path: Path, name: str) -> None:
    """What is told arrives as lines, at a path or in the abstract namespace."""
    address = f"@handfast-test-{os.getpid()}" if name == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd_side:
        systemd_side.bind("\0" + address[1:] if name == "abstract" else address)
        systemd_side.settimeout(5)
        systemd.Notifier({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=here")
        assert systemd_side.recv(100) == b"READY=1\nSTATUS=here"


def test_nobody_to_tell(tmp_path: Path) -> None:
    """Without systemd, or when its socket is gone, telling does nothing and fails nothing."""
    systemd.Notifier({}).tell("READY=1")
    systemd.Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog(environment: dict[str, str], seconds: float | None) -> None:
    """The watchdog's time is ours only if it is meant for this process."""
    assert systemd.Notifier(environment).watchdog == seconds


def test_children_do_not_inherit_the_variables() -> None:
    """What was meant for this process is taken out of the environment."""
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "LISTEN_PID": "1", "LISTEN_FDS": "1", "HOME": "/"}
    systemd.Notifier(environment)
    systemd.sockets(environment)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("pid", ["", "1"])
def test_sockets_of_another_process(pid: str) -> None:
    """Sockets that were passed to a parent are left alone."""
    assert systemd.sockets({"LISTEN_PID": pid, "LISTEN_FDS": "1"}) == {}


def passed(monkeypatch: pytest.MonkeyPatch, *fds: int, names: str) -> dict[str, socket.socket]:
    """Have ``fds`` passed; they follow each other, and stand for 3 and up."""
    monkeypatch.setattr(systemd, "_FIRST_FD", fds[0])
    return systemd.sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names})


def test_sockets_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listening socket is found by its name, does not block, and is not inherited further."""
    listening = socket.create_server(("127.0.0.1", 0))
    where = listening.getsockname()
    with passed(monkeypatch, listening.detach(), names="https")["https"] as found:
        assert (found.getsockname(), found.getblocking(), found.get_inheritable()) == (where, False, False)


def test_what_does_not_listen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A datagram socket, or a connected one, is refused by its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        fd = os.dup(datagram.fileno())
        with pytest.raises(UsageError, match="'https' from systemd"):
            passed(monkeypatch, fd, names="https")
