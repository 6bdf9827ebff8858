"""The session's commands when something goes wrong: their exit codes, and what the other side says and does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.hosts import HANDFAST, PATIENCE, Host, local_host
from tests.interop.session_stage import (
    IMPATIENT,
    Session,
    ask,
    attempt,
    connect,
    pour,
    program_at,
    serve,
    service,
    shout,
    started,
)
from tests.ports import free_port

NO_DISK = ("prlimit", "--fsize=0", "--")  # every write to a file fails; pipes and sockets are not files


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """This machine."""
    with local_host() as made:
        yield made


@pytest.fixture(scope="module")
def session(host: Host) -> Session:
    """A session with a file for each party."""
    made = Session.new(host, "bob", "eve", "dan")
    for who in ("server", "client", "bob", "eve", "dan"):
        made.export(who)
    return made


def file(session: Session, who: str) -> Path:
    """A party's file."""
    return session.owner.directory / f"{session.directory.name}-{who}.pem"


def free() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


def broken(program: socket.socket) -> bool:
    """Whether a stream breaks off, and does not end."""
    try:
        while program.recv(1 << 18):
            pass
    except ConnectionResetError:
        return True
    return False


# --- exit codes ---


@pytest.mark.parametrize(
    "flags",
    [
        ("serve", "--to", "127.0.0.1:1"),
        ("serve", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--dial", "127.0.0.1:1"),
        ("serve", "--to", "127.0.0.1:1", "--dial", "127.0.0.1:1", "--every", "0s"),
        ("connect", "127.0.0.1:1"),
        ("connect", "--local", "127.0.0.1:0"),
        ("connect", "127.0.0.1:1", "--wait", "127.0.0.1:0", "--stdio"),
        ("connect", "127.0.0.1:1", "--local", "127.0.0.1:0", "--stdio"),
        ("connect", "127.0.0.1:1", "--local", "unix:/tmp/door", "--any-user"),
        ("connect", "127.0.0.1:1", "--stdio", "--any-user"),
        ("phone", "127.0.0.1:1", "--every", "2d"),
    ],
    ids=" ".join,
)
def test_what_means_nothing_is_2(host: Host, session: Session, flags: tuple[str, ...]) -> None:
    """Flags that contradict each other, or say nothing, are refused before anything is done."""
    who = "server" if flags[0] == "serve" else "client"
    assert "hint:" in attempt(host, flags[0], file(session, who), *flags[1:], code=2).stderr


def test_a_local_port_for_everybody_is_2(host: Host, session: Session) -> None:
    """It is said after the server has proved itself, and never opened."""
    with service(shout) as (where, _):
        server = serve(host, file(session, "server"), where)
        flags = (str(server.place["listen"]), "--local", "0.0.0.0:0")
        assert "not on loopback" in attempt(host, "connect", file(session, "client"), *flags, code=2).stderr
        assert server.process.stop() == 0


def test_nobody_there_is_4(host: Host, session: Session) -> None:
    """With a local port, with --stdio, and for `session phone` without a client."""
    where = free()
    for flags in (("--local", "127.0.0.1:0"), ("--stdio",)):
        assert f"cannot reach {where}" in attempt(host, "connect", file(session, "dan"), where, *flags, code=4).stderr
    assert "no client runs" in attempt(host, "phone", file(session, "dan"), where, code=4).stderr


def test_somebody_else_there_is_5(host: Host, session: Session) -> None:
    """A server of another session is not who it should be; a file of the wrong role or with a wrong mode is 3."""
    other = Session.new(host, name="other")
    with service(shout) as (where, touched):
        server = serve(host, other.export("server"), where)
        place = str(server.place["listen"])
        refused = attempt(host, "connect", file(session, "client"), place, "--stdio", code=5)
        assert "was not issued in this session" in refused.stderr
        attempt(host, "connect", file(session, "server"), place, "--stdio", code=3)
        readable = other.export("client")
        readable.chmod(0o644)
        attempt(host, "connect", readable, place, "--stdio", code=3)
        assert not touched
        assert server.process.stop() == 0


def test_a_signal_ends_both_sides_with_0(host: Host, session: Session) -> None:
    """SIGTERM and SIGINT are how a session is left; the streams break off."""
    with service(pour) as (where, _):
        server = serve(host, file(session, "server"), where)
        client = connect(host, file(session, "client"), server)
        with program_at(client.port) as program:
            assert program.recv(10)
            os.kill(client.process.pid, signal.SIGINT)
            assert client.process.wait() == 0
            assert broken(program)
        server.process.expect("client is gone")
        assert server.process.stop() == 0


def test_our_own_revocation_is_3(host: Host, session: Session) -> None:
    """The friend's command ends, with its stream in mid-transfer, and says why."""
    with service(pour) as (where, _):
        server = serve(host, file(session, "server"), where)
        friend = connect(host, file(session, "bob"), server)
        with program_at(friend.port) as program:
            assert program.recv(10)
            session.revoke("bob")
            assert broken(program)
        assert friend.process.wait() == 3
        assert "was revoked" in "\n".join(friend.process.lines)
        attempt(host, "connect", file(session, "bob"), str(server.place["listen"]), "--stdio", code=3)
        server.process.stop()


# --- --stdio ---


def test_stdio_is_a_stream_with_both_its_ends(host: Host, session: Session) -> None:
    """What goes in comes out, the answer after the end of the input too, and nothing else is on stdout."""
    with service(shout) as (where, _):
        server = serve(host, file(session, "server"), where)
        text = "a line of talk\n" * 100_000
        flags = ("session", "connect", "--session", file(session, "client"), str(server.place["listen"]), "--stdio")
        assert host.handfast(*flags, stdin=text).stdout == text.upper()
        server.process.stop()


def test_stdio_waits_for_the_server_to_dial(host: Host, session: Session) -> None:
    """The same in the reverse direction, though the server comes late."""
    with service(shout) as (where, _):
        place = free()
        server = host.start(
            *HANDFAST, "session", "serve", "--session", file(session, "server"),
            "--dial", place, "--every", "1s", "--to", where,
        )  # fmt: skip
        server.expect("cannot reach")
        flags = ("session", "connect", "--session", file(session, "client"), "--wait", place, "--stdio")
        assert host.handfast(*flags, stdin="hello").stdout == "HELLO"
        assert server.stop() == 0


def test_stdio_says_that_the_service_is_down(host: Host, session: Session) -> None:
    """ssh shows these words to its user, and the code says that nothing was reached."""
    server = serve(host, file(session, "server"), nowhere := free())
    refused = attempt(host, "connect", file(session, "client"), str(server.place["listen"]), "--stdio", code=4)
    assert f"the peer says: cannot reach {nowhere}: Connection refused" in refused.stderr
    assert refused.stdout == ""
    server.process.stop()


def test_a_signal_ends_stdio_that_nobody_reads(host: Host, session: Session) -> None:
    """A full pipe does not keep the command alive."""
    with service(pour) as (where, touched):
        server = serve(host, file(session, "server"), where)
        line = (
            *HANDFAST,
            "session",
            "connect",
            "--session",
            str(file(session, "client")),
            server.place["listen"],
            "--stdio",
        )
        with subprocess.Popen(line, env=host.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as full:
            assert full.stdout is not None
            assert full.stdout.read(10)
            full.terminate()
            try:
                assert full.wait(10) == 0
            finally:
                full.kill()
        assert len(touched) == 1
        server.process.stop()


# --- killed, stopped, and without a disk ---


def test_a_killed_client_is_said_and_another_one_comes(host: Host, session: Session) -> None:
    """The server names who is gone and which stream broke, and serves the next one."""
    with service(pour) as (where, _):
        server = serve(host, file(session, "server"), where)
        client = connect(host, file(session, "client"), server)
        with program_at(client.port) as program:
            assert program.recv(10)
            client.process.kill()
        lines = [server.process.expect("client"), server.process.expect("client"), server.process.expect("client")]
        assert any("a stream of client ended after" in line for line in lines), lines
        assert any("client is gone: " in line for line in lines), lines
        again = connect(host, file(session, "client"), server)
        with program_at(again.port) as program:
            assert program.recv(10)
        again.process.stop()
        server.process.stop()


def test_a_killed_server_is_said_and_found_again(host: Host, session: Session) -> None:
    """In mid-transfer: the program's stream breaks, the client says why, and after the restart its port works again."""
    with service(pour) as (where, _):
        place = free()
        server = serve(host, file(session, "server"), where, listen=place)
        client = connect(host, file(session, "client"), server, command=IMPATIENT)
        with program_at(client.port) as program:
            assert program.recv(10)
            server.process.kill()
            assert broken(program)
        client.process.expect("the connection to the peer broke off")
        server = serve(host, file(session, "server"), where, listen=place)
        client.process.expect("server is here again")
        with program_at(client.port) as program:
            assert program.recv(10)
        client.process.stop()
        server.process.stop()


def test_a_laptop_that_sleeps(host: Host, session: Session) -> None:
    """After longer than DEAD the server gives the client up; awake again, it comes back, its stream still open."""
    with service(shout) as (where, _):
        server = serve(host, file(session, "server"), where, command=IMPATIENT)
        client = connect(host, file(session, "client"), server, command=IMPATIENT)
        with program_at(client.port) as program:
            program.sendall(b"before")
            assert program.recv(10) == b"BEFORE"
            os.kill(client.process.pid, signal.SIGSTOP)
            server.process.expect("client is gone: the peer did not say that it is still there within 0.8 s")
            os.kill(client.process.pid, signal.SIGCONT)
            server.process.expect("client is here")
            program.sendall(b"after")
            assert program.recv(10) == b"AFTER"
        assert ask(client.port) == b"HELLO"
        client.process.stop()
        server.process.stop()


def test_a_full_disk_does_not_keep_the_server_from_phoning(host: Host, session: Session) -> None:
    """It says that a restart would not know, and phones the new place all the same."""
    with service(shout) as (where, _):
        first, home = free(), free()
        client = host.start(
            *HANDFAST, "session", "connect", "--session", file(session, "client"), "--wait", first,
            "--local", "127.0.0.1:0", "--json",
        )  # fmt: skip
        client.expect("waiting for the server")
        server = host.start(
            *NO_DISK, *HANDFAST, "session", "serve", "--session", file(session, "server"),
            "--dial", first, "--every", "1s", "--to", where,
        )  # fmt: skip
        client.expect('"local"')
        attempt(host, "phone", file(session, "client"), home, "--every", "1s", code=0)
        assert client.wait() == 0
        server.expect("a restart would not know that: cannot write")
        again = started(host, "connect", file(session, "client"), "--wait", home, "--local", "127.0.0.1:0")
        assert ask(again.port) == b"HELLO"
        again.process.stop()
        assert server.stop() == 0
        assert not file(session, "server").with_name(file(session, "server").name + ".phone").exists()


def test_a_full_disk_does_not_keep_the_revoked_in(host: Host, session: Session) -> None:
    """A list that cannot be kept beside the file counts from its arrival, and that it cannot be kept is said."""
    with service(pour) as (where, _):
        server = serve(host, file(session, "server"), where, command=(*NO_DISK, *HANDFAST))
        friend = connect(host, file(session, "eve"), server)
        with program_at(friend.port) as program:
            assert program.recv(10)
            session.revoke("eve")
            assert broken(program)
        assert friend.process.wait() == 3
        server.process.expect("cannot write")
        server.process.stop()


# --- others on this machine, and many ---


@pytest.mark.root
def test_another_user_of_this_machine_gets_nothing(host: Host, session: Session) -> None:
    """A program of the user nobody is cut off at the local port, the service is not touched, and we are told."""
    with service(shout) as (where, touched):
        server = serve(host, file(session, "server"), where)
        client = connect(host, file(session, "client"), server)
        assert "HELLO" not in as_nobody(client.port)
        client.process.expect("refused a local connection")
        assert not touched
        assert ask(client.port) == b"HELLO"
        client.process.stop()
        server.process.stop()


@pytest.mark.root
def test_any_user_is_let_in_where_that_was_asked_for(host: Host, session: Session) -> None:
    """With --any-user the same program gets its answer, and who opened the port was warned."""
    with service(shout) as (where, touched):
        server = serve(host, file(session, "server"), where)
        flags = (str(server.place["listen"]), "--local", "127.0.0.1:0", "--any-user")
        client = started(host, "connect", file(session, "client"), *flags)
        assert any(
            "whoever has an account on this machine can use the session" in line for line in client.process.lines
        )
        assert "HELLO" in as_nobody(client.port)
        assert len(touched) == 1
        client.process.stop()
        server.process.stop()


def as_nobody(port: int) -> str:
    """What the user nobody is answered there."""
    script = (
        "import socket; s = socket.create_connection(('127.0.0.1', PORT)); s.sendall(b'hello');"
        "s.settimeout(30); print(s.recv(9))"
    ).replace("PORT", str(port))
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "/usr/bin/python3", "-c", script)
    return subprocess.run(nobody, cwd="/", capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


@pytest.mark.slow
def test_a_thousand_idle_connections(host: Host, session: Session) -> None:
    """With a thousand open at once another one is served, and a server's memory stays below 100 KiB for each."""
    with service(shout) as (where, _), contextlib.ExitStack() as stack:
        server = serve(host, file(session, "server"), where)
        client = connect(host, file(session, "client"), server)
        before = resident(server.process.pid)
        idle = [stack.enter_context(program_at(client.port)) for _ in range(1000)]
        for each in idle:
            each.sendall(b"x")
        assert {each.recv(1) for each in idle} == {b"X"}
        assert ask(client.port) == b"HELLO"
        assert resident(server.process.pid) - before < 1000 * 100
        for each in idle:
            each.sendall(b"y")
        assert {each.recv(1) for each in idle} == {b"Y"}
        client.process.stop()
        server.process.stop()


def resident(pid: int) -> int:
    """Return a process's memory, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])
