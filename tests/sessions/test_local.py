"""Who may use a local port: this user of this machine, and nobody else who reaches it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from handfast.core.invitation import Address
from handfast.errors import Fault, Malformed, Unreachable, UsageError
from handfast.sessions import local
from handfast.sessions.local import Endpoint
from tests.sessions.tunnels import SOON

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CONNECT = (
    "import socket,sys; s=socket.socket(getattr(socket, sys.argv[1])); s.connect(eval(sys.argv[2])); "
    "s.sendall(b'drop table'); sys.argv[3] == 'stay' and s.recv(1)"
)


def call(family: str, place: object, stay: str, *prefix: str) -> subprocess.Popen[bytes]:
    """Another process that connects and sends, and then stays until it is let go, or leaves."""
    # From / with the system's Python: another user may not enter the directories of the one that runs us.
    line = [*prefix, "/usr/bin/python3" if prefix else sys.executable, "-c", CONNECT, family, repr(place), stay]
    return subprocess.Popen(line, cwd="/")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.0.2.1", "example.com"])
def test_a_local_port_is_on_loopback_only(host: str) -> None:
    """An address that others reach is refused, with what to do instead."""
    with pytest.raises(UsageError, match="not on loopback") as refused, local.listening(Endpoint(Address(host, 0))):
        pass
    assert "session friend" in refused.value.hint


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "AF_INET"), ("127.0.0.9", "AF_INET"), ("::1", "AF_INET6")])
def test_our_own_user_is_let_in(host: str, family: str) -> None:
    """A process of this user is recognised by both families of addresses."""
    with local.listening(Endpoint(Address(host, 0))) as ear:
        ear.setblocking(True)
        caller = call(family, ear.getsockname(), "stay")
        with ear.accept()[0] as accepted:
            assert local.is_ours(accepted)
        caller.wait()


def test_our_own_user_is_let_in_through_a_socket_of_both_families() -> None:
    """Java's sockets are of IPv6 and reach 127.0.0.1 as ::ffff:127.0.0.1: they are listed elsewhere."""
    with local.listening(Endpoint(Address("127.0.0.1", 0))) as ear:
        ear.setblocking(True)
        caller = call("AF_INET6", ("::ffff:127.0.0.1", ear.getsockname()[1]), "stay")
        with ear.accept()[0] as accepted:
            assert local.is_ours(accepted)
        caller.wait()


@pytest.mark.root
@pytest.mark.parametrize("stay", ["stay", "leave"])
@pytest.mark.parametrize(
    ("host", "family", "target"),
    [("127.0.0.1", "AF_INET", "127.0.0.1"), ("127.0.0.1", "AF_INET6", "::ffff:127.0.0.1"), ("::1", "AF_INET6", "::1")],
)
def test_another_user_is_refused(host: str, family: str, target: str, stay: str) -> None:
    """Another user's connection is refused, also when it has sent all it wanted and is closed."""
    with local.listening(Endpoint(Address(host, 0))) as ear:
        ear.setblocking(True)
        caller = call(family, (target, ear.getsockname()[1]), stay, *NOBODY)
        if stay == "leave":
            assert caller.wait() == 0
        with ear.accept()[0] as accepted:
            assert not local.is_ours(accepted)
        caller.wait()


def test_a_connection_that_is_over_is_nobodys() -> None:
    """Nobody can say whose it was, so it is refused even if it was ours."""
    with local.listening(Endpoint(Address("127.0.0.1", 0))) as ear:
        ear.setblocking(True)
        assert call("AF_INET", ear.getsockname(), "leave").wait() == 0
        with ear.accept()[0] as accepted:
            assert not local.is_ours(accepted)


def test_a_kernel_that_does_not_say_whose_it_is_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not knowing is no."""

    def silent(_connected: socket.socket) -> None:
        raise Fault("the kernel does not say whose a connection is: protocol not supported")

    monkeypatch.setattr(local, "peer_uid", silent)
    with local.listening(Endpoint(Address("127.0.0.1", 0))) as ear:
        ear.setblocking(True)
        with socket.create_connection(ear.getsockname()), ear.accept()[0] as accepted:
            assert not local.is_ours(accepted)


@pytest.mark.root
def test_another_user_is_refused_at_a_unix_socket(tmp_path: Path) -> None:
    """The kernel says who connected, should the mode of the socket have been changed."""
    directory = Path("/tmp") / f"handfast-test-{os.getpid()}"
    directory.mkdir(mode=0o755)
    try:
        path = directory / "door"
        with local.listening(Endpoint(path=path)) as ear:
            ear.setblocking(True)
            refused = call("AF_UNIX", str(path), "leave", *NOBODY)
            assert refused.wait() != 0, "mode 0600"
            path.chmod(0o777)
            caller = call("AF_UNIX", str(path), "stay", *NOBODY)
            with ear.accept()[0] as accepted:
                assert not local.is_ours(accepted)
            caller.wait()
        assert not path.exists()
    finally:
        directory.rmdir()


def test_a_port_in_use_is_said() -> None:
    """The message names the place and what is wrong with it."""
    said = pytest.raises(Fault, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use")
    with local.public(Address("127.0.0.1", 0)) as first, said, local.public(local.address_of(first)):
        pass


def test_a_unix_socket_of_a_running_process_is_left_alone(tmp_path: Path) -> None:
    """The second to listen there is told; a socket whose process was killed is replaced; a file is not."""
    path = tmp_path / "door"
    with local.listening(Endpoint(path=path)):
        with pytest.raises(Fault, match="in use by another process"), local.listening(Endpoint(path=path)):
            pass
        assert path.is_socket()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with local.listening(Endpoint(path=path)) as ear:
        assert ear.getsockname() == str(path)
    path.write_text("precious")
    with pytest.raises(Fault, match="no socket of ours"), local.listening(Endpoint(path=path)):
        pass
    assert path.read_text() == "precious"


def test_a_socket_that_somebody_else_put_in_our_place_is_left_there(tmp_path: Path) -> None:
    """Another process, which found ours gone and listens there now, keeps its socket when we end."""
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as another:
        with local.listening(Endpoint(path=path)):
            path.rename(tmp_path / "moved")  # and not removed: its inode could be given again at once
            another.bind(str(path))
        assert path.is_socket()


@pytest.mark.root
def test_a_dead_socket_of_another_user_is_not_removed(tmp_path: Path) -> None:
    """Where we may, we still do not take away what is not ours."""
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    os.chown(path, 65534, 65534)
    with pytest.raises(Fault, match="no socket of ours"), local.listening(Endpoint(path=path)):
        pass
    assert path.is_socket()


async def test_all_of_a_dial_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that says nothing is waited for no longer than an address where packets vanish."""

    async def silent(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
    async with asyncio.timeout(SOON):
        with pytest.raises(Unreachable, match=r"desk\.example:1 does not answer within 0\.05 s"):
            await local.dial(Endpoint(Address("desk.example", 1)), within=0.05)


@pytest.mark.parametrize("text", ["unix:", "unix:/" + "x" * 108, "nowhere", "127.0.0.1:99999", "127.0.0.1"])
def test_what_is_no_place_is_refused(text: str) -> None:
    """A typo is a message, not a traceback at the first connection."""
    with pytest.raises(Malformed):
        Endpoint.parse(text)
