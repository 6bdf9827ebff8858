"""Who is behind a connection on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from handfast.adapters.socket_owner import peer_uid

CALLER = """
import encodings.idna, os, socket, sys
if len(sys.argv) > 3: os.setuid(int(sys.argv[3]))
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connected:
    connected.recv(1)
"""


def caller(listening: socket.socket, *uid: str) -> subprocess.Popen[bytes]:
    """Another process that connects, as another user if told."""
    host, port, *_ = listening.getsockname()
    return subprocess.Popen([sys.executable, "-c", CALLER, host, str(port), *uid])


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_it_is_the_user_who_connected(family: socket.AddressFamily, host: str) -> None:
    """Both ends of a connection of our own are ours, over IPv4 and IPv6, also when another process has it."""
    with socket.create_server((host, 0), family=family) as listening:
        process = caller(listening)
        accepted, _ = listening.accept()
        assert peer_uid(accepted) == os.getuid()
        accepted.close()
        process.wait()


def test_a_caller_through_a_socket_of_ipv6_is_found_too() -> None:
    """Java's sockets reach 127.0.0.1 as ::ffff:127.0.0.1, and have an owner as well."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_INET6) as calling:
        calling.connect(("::ffff:127.0.0.1", listening.getsockname()[1]))
        accepted, _ = listening.accept()
        with accepted:
            assert peer_uid(accepted) == os.getuid()


@pytest.mark.root
def test_another_user_is_seen_as_that() -> None:
    """The connection of another user has that user's id, and our end of it is not looked at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = caller(listening, "65534")
        accepted, _ = listening.accept()
        assert peer_uid(accepted) == 65534
        accepted.close()
        process.wait()


def test_a_caller_that_has_gone_is_nobody_and_not_root() -> None:
    """Who sends and closes before we look has no user: of a closed socket the kernel says 0, which is root's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as gone:
            accepted, _ = listening.accept()
            gone.sendall(b"command")
        assert accepted.recv(100) == b"command"
        assert peer_uid(accepted) is None
        accepted.close()


def test_a_connection_to_elsewhere_is_nobodys() -> None:
    """A socket without a peer has no owner behind it."""
    with socket.socket() as alone:
        assert peer_uid(alone) is None
