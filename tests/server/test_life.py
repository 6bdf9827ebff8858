"""From start to end: signals, systemd, and what stays when something fails. Real processes where signals matter."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from handfast.adapters import sockets, tls
from handfast.core import checkpoint
from handfast.core.flow import Once
from handfast.core.invitation import Address, InvitationLine
from handfast.core.keys import spki
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.errors import Fault, UsageError
from handfast.policy.decide import serving
from handfast.server.limits import Limits
from handfast.wiring import log_origin, open_administration
from tests.server.running import Client, Running, running

_UP = """
import json, sys
from pathlib import Path
from handfast.core.invitation import Address, InvitationLine
from handfast.server.up import up
from handfast.wiring import Overrides
listen = Overrides(listen=Address("127.0.0.1", 0), crl_listen=Address("127.0.0.1", 0))
sys.exit(up(Path(sys.argv[1]), listen, passphrase=None, ready=lambda place: print(json.dumps(place), flush=True)))
"""
UP = [sys.executable, "-c", _UP]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
# As systemd does: sockets from descriptor 3 on, and the process id that they are meant for.
_ACTIVATE = """
import os, sys
names, *fds = sys.argv[1].split(",")
for number, fd in enumerate(fds, 3):
    os.dup2(int(fd), number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def process(
    arguments: list[str], *, fds: Sequence[int] = (), **more: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """Run a registrar as a process of its own, ready when the block starts and gone when it ends."""
    started = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=fds, env=ENVIRONMENT | more
    )
    assert started.stdout is not None
    assert started.stderr is not None
    try:
        line = started.stdout.readline()
        assert line, started.stderr.read()
        yield started, json.loads(line)
    finally:
        started.kill()
        started.communicate()


def client_of(place: dict[str, object]) -> Client:
    """Connect to a process."""
    return Client(_address(place), tls.newcomer_context())


def invited(data: Path) -> InvitationLine:
    """Invite as an operator on the registrar's machine does."""
    administration = open_administration(data)
    try:
        return administration.invite("late.lan", role=Role.SERVER, lasting=timedelta(hours=1))[0]
    finally:
        administration.ledger.close()  # type: ignore[attr-defined]  # the port has no end, the store has


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_what_is_in_flight(tmp_path: Path, number: signal.Signals) -> None:
    """A request that has begun is answered after SIGTERM, new connections are refused, and the exit code is 0."""
    with (
        process([*UP, str(tmp_path / "data")]) as (registrar, place),
        client_of(place) as busy,
        client_of(place) as idle,
    ):
        line = invited(tmp_path / "data")
        body, _ = busy.evidence(line, ec.generate_private_key(ec.SECP256R1()))
        idle.call("GET", "/healthz")
        busy.http.putrequest("POST", "/v1/introductions/invitation")
        busy.http.putheader("Content-Type", "application/json")
        busy.http.putheader("Content-Length", str(len(body)))
        busy.http.endheaders(body[:100])
        assert idle.call("GET", "/healthz")[0] == 200  # by then the other request has begun
        registrar.send_signal(number)
        assert idle.socket.recv(1) == b""  # the idle one is closed at once
        with pytest.raises(OSError):  # noqa: PT011  refused or reset, as the kernel likes
            client_of(place)
        busy.socket.sendall(body[100:])
        response = busy.http.getresponse()
        assert response.status == 200
        response.read()
        assert registrar.wait(30) == 0
        _, errors = registrar.communicate()
        assert "Traceback" not in errors
        assert all(json.loads(entry)["event"] for entry in errors.splitlines())


def test_log_has_no_secret_and_no_traceback(tmp_path: Path) -> None:
    """Whatever comes in, stderr has one JSON object a line: no body, no key, no traceback for garbage."""
    canary = b"c4n4ry-9d1f"
    with process([*UP, str(tmp_path / "data")]) as (registrar, place):
        with client_of(place) as client:
            client.call("POST", "/v1/introductions/invitation", b'{"signature":"' + canary + b'"}')
            client.call("GET", f"/{canary.decode()}", None, **{"X-Secret": canary.decode()})
            with client_of(place) as leaver:
                head = b"POST /v1/introductions/invitation HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                leaver.socket.sendall(head + b"Content-Length: 100\r\n\r\n" + canary)
                assert client.call("GET", "/healthz")[0] == 200  # by then the other request waits for its body
            client.socket.sendall(canary * 2000 + b"\r\n\r\n")
            assert client.socket.recv(20).startswith(b"HTTP/1.0 400")
        with socket.create_connection(_address(place)) as raw:
            raw.sendall(canary)
        registrar.send_signal(signal.SIGTERM)
        _, errors = registrar.communicate(timeout=30)
    assert canary.decode() not in errors
    assert "Traceback" not in errors
    assert [json.loads(line)["level"] for line in errors.splitlines()].count("error") == 0


def _address(place: dict[str, object]) -> tuple[str, int]:
    address = Address.parse(str(place["listen"]))
    return address.host, address.port


def test_two_registrars_on_one_directory(tmp_path: Path) -> None:
    """The second `up` on a data directory is refused and names the first."""
    with process([*UP, str(tmp_path / "data")]) as (first, _):
        second = subprocess.run(
            [*UP, str(tmp_path / "data")], capture_output=True, check=False, text=True, timeout=30, env=ENVIRONMENT
        )
        assert second.returncode != 0
        assert f"in use by process {first.pid}" in second.stderr


def test_where_it_listens_is_remembered(tmp_path: Path) -> None:
    """After `up` on port 0 an operator on the machine invites with the real address."""
    with process([*UP, str(tmp_path / "data")]) as (_, place):
        line = invited(tmp_path / "data")
        assert [str(address) for address in line.addresses] == [place["listen"]]


def test_bad_configuration_keeps_the_old(tmp_path: Path) -> None:
    """SIGHUP with a wrong file changes nothing and says why; with a right one it takes it over."""
    with running(tmp_path / "data") as registrar, registrar.connect() as before:
        config = tmp_path / "data" / "config.toml"
        config.write_text("[registrar]\nnmae = 'typo'\n")
        with capture_logs() as logged:
            registrar.ask(signal.SIGHUP)
            wait(lambda: any(entry["event"].startswith("reload failed") for entry in logged))
        assert any("nmae" in entry.get("reason", "") for entry in logged)
        with registrar.connect() as after:
            assert after.leaf == before.leaf
        config.write_text("[registrar]\nname = 'renamed'\n")
        registrar.ask(signal.SIGHUP)
        renamed = x509.load_der_x509_certificate(other_leaf(registrar, before.leaf))
        assert renamed.subject.rfc4514_string() == "CN=renamed"


def wait(done: Callable[[], bool]) -> None:
    """Wait for what happens in another thread; fail after half a minute."""
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_serving_certificate_is_renewed_in_time(tmp_path: Path) -> None:
    """At half its life, or when the clock was set back before it, another serving certificate is presented."""
    with running(tmp_path / "data", limits=Limits(tick=0.05)) as registrar:
        for offset in (timedelta(hours=13), timedelta(hours=-1)):
            with registrar.connect() as before:
                registrar.clock.offset = offset
                other_leaf(registrar, before.leaf)
                assert before.call("GET", "/healthz")[0] == 200


def other_leaf(registrar: Running, leaf: bytes) -> bytes:
    """Wait for another serving certificate and return it."""
    shown = [leaf]

    def changed() -> bool:
        with registrar.connect() as client:
            shown.append(client.leaf)
        return shown[-1] != leaf

    wait(changed)
    return shown[-1]


def test_checkpoint_covers_the_log_at_the_end(tmp_path: Path) -> None:
    """A registrar that ended has signed a checkpoint over all that happened."""
    with running(tmp_path / "data") as registrar:
        registrar.credential("last.lan", Role.SERVER)
    with running(tmp_path / "data", clients="again") as registrar:
        authority = registrar.service.authority
        note = registrar.service.ledger.last_checkpoint()
        assert note is not None
        signed = checkpoint.verify(note, log_origin(authority.public), authority.public.log_key)
        assert registrar.service.ledger.credentials("last.lan")
        assert signed.size >= 4


def test_stale_intents_are_abandoned(tmp_path: Path) -> None:
    """An intent that was never issued is revoked after two hours, as a signature may exist; a timer came before."""
    with running(tmp_path / "data", limits=Limits(tick=0.05)) as registrar:
        service = registrar.service
        grant = serving(
            machine="crashed",
            names=Names(),
            issuer=service.authority,
            public_key=spki(ec.generate_private_key(ec.SECP256R1()).public_key()),
            rules=service.registrar.rules,
            now=registrar.clock.now(),
        )
        serial = service.ledger.intend(grant, Once("serving:x"), at=registrar.clock.now()).result().serial
        registrar.clock.offset = timedelta(minutes=121)
        wait(lambda: serial in {revocation.serial for revocation in service.ledger.revocations()})


@contextmanager
def activated(**sockets: socket.socket) -> Iterator[tuple[list[str], list[int]]]:
    """Give a command line that passes listening sockets on as systemd does, by their names, and its descriptors."""
    # Above those that they are moved to, so that moving one does not overwrite another.
    fds = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in sockets.values()]
    try:
        yield [sys.executable, "-c", _ACTIVATE, ",".join([":".join(sockets), *map(str, fds)])], fds
    finally:
        for fd in fds:
            os.close(fd)


def test_systemd_sockets_are_used(tmp_path: Path) -> None:
    """Sockets passed by systemd are served, by their names, and none other is opened."""
    with (
        socket.create_server(("127.0.0.1", 0)) as crl,
        socket.create_server(("127.0.0.1", 0)) as https,
        activated(crl=crl, https=https) as (activate, fds),
        process([*activate, *UP, str(tmp_path / "data")], fds=fds) as (_, place),
    ):
        assert place["listen"] == f"127.0.0.1:{https.getsockname()[1]}"
        with client_of(place) as client:
            assert client.call("GET", "/healthz")[0] == 200


def configured(tmp_path: Path, text: str) -> Path:
    """A data directory with a configuration, before its first start."""
    data = tmp_path / "data"
    data.mkdir(0o700)
    (data / "config.toml").write_text(text)
    return data


def test_agents_call_at_a_socket_of_systemds(tmp_path: Path) -> None:
    """Whoever calls there is listened to; the configured address, which could not be opened, is not."""
    data = configured(tmp_path, '[instances]\nwatch = true\nlisten = "192.0.2.1:7576"\n')
    with (
        socket.create_server(("127.0.0.1", 0)) as calls,
        socket.create_connection(calls.getsockname(), 20) as agent,  # before anybody accepts: it is not refused
        activated(instances=calls) as (activate, fds),
        process([*activate, *UP, str(data)], fds=fds) as (registrar, _),
    ):
        agent.sendall(b"HANDFAST-AGENT/1 nobody.lan\n")
        assert agent.recv(1) == b""  # nobody of this name is managed
        registrar.send_signal(signal.SIGTERM)
        assert registrar.wait(20) == 0


@pytest.mark.parametrize(
    "text", ["", "[instances]\nwatch = true\n", '[instances]\nwatch = false\nlisten = "127.0.0.1:7576"\n']
)
def test_a_socket_for_agents_that_nobody_would_answer(tmp_path: Path, text: str) -> None:
    """Without a controller in `up`, or without `listen`, it does not start with one: agents would wait for nobody."""
    data = configured(tmp_path, text)
    with socket.create_server(("127.0.0.1", 0)) as calls, activated(instances=calls) as (activate, fds):
        refused = subprocess.run(
            [*activate, *UP, str(data)],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            env=ENVIRONMENT,
            pass_fds=fds,
        )
    assert refused.returncode != 0
    assert "UsageError: systemd passed a socket called 'instances', and nobody would take agents' calls" in (
        refused.stderr
    )


def test_systemd_is_told(tmp_path: Path) -> None:
    """READY when it serves, RELOADING and READY around a reload, WATCHDOG in between, STOPPING at the end."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(30)
        told: list[str] = []
        with process([*UP, str(tmp_path / "data")], NOTIFY_SOCKET=str(path), WATCHDOG_USEC="200000") as (registrar, _):
            until(notify, told, "READY=1")
            until(notify, told, "WATCHDOG=1")
            registrar.send_signal(signal.SIGHUP)
            until(notify, told, "RELOADING=1")
            assert any(line.startswith("MONOTONIC_USEC=") for line in told)
            until(notify, told, "READY=1")
            registrar.send_signal(signal.SIGTERM)
            until(notify, told, "STOPPING=1")
            assert registrar.wait(30) == 0


def until(notify: socket.socket, told: list[str], line: str) -> None:
    """Receive until this line has come."""
    while True:
        lines = notify.recv(4096).decode().splitlines()
        told.extend(lines)
        if line in lines:
            return


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        (Address("192.0.2.1", 0), UsageError, "is not an address of this machine"),
        (Address("no-such-host.invalid", 0), UsageError, "no such host"),
    ],
)
def test_address_that_cannot_be(address: Address, error: type[Exception], words: str) -> None:
    """An address to listen on that is not ours is named in the refusal."""
    with pytest.raises(error, match=words):
        sockets.listen(address)


def test_port_in_use_is_named() -> None:
    """A port that another program has is named in the refusal."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Fault, match=f"'127.0.0.1:{port}' is in use") as caught:
            sockets.listen(Address("127.0.0.1", port), setting="--crl-listen")
    assert caught.value.hint == "stop it, or choose another port with --crl-listen"


def test_both_families_on_one_socket() -> None:
    """Listening on :: also takes IPv4."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with sockets.listen(Address("::", 0)) as both:
        socket.create_connection(("127.0.0.1", both.getsockname()[1])).close()
