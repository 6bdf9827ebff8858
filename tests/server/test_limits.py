"""What a stranger may cost: slow, large, many, broken and frequent requests, against a real listener."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.adapters import tls
from handfast.adapters.buckets import Buckets
from handfast.adapters.callers import peer_address, prefix
from handfast.server.connections import Connections
from handfast.server.limits import Limits
from handfast.server.metrics import Metrics
from tests.server.running import Running, running

INTRODUCE = "/v1/introductions/invitation"
SOON = Limits(
    head_timeout=2.0,  # also a test's own, for what it has to say in time
    body_timeout=0.3,
    handshake_timeout=3.0,
    goodbye=0.2,
)
DEFAULT = 9.0  # seconds: before the usual limits would end anything


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registrar whose limits a test reaches soon."""
    with running(tmp_path_factory.mktemp("impatient") / "data", limits=SOON) as started:
        yield started


def end_of(connection: socket.socket) -> bytes:
    """Return all that comes until the peer closes; fail if it does not before the usual limits would."""
    connection.settimeout(DEFAULT)
    received = b""
    while True:
        try:
            part = connection.recv(65536)
        except (ConnectionError, ssl.SSLEOFError):
            return received
        if not part:
            return received
        received += part


def test_connection_without_a_handshake_is_closed(impatient: Running) -> None:
    """Who connects and says nothing is dropped when the handshake's time is over."""
    with socket.create_connection(impatient.address) as silent:
        assert end_of(silent) == b""


@pytest.mark.parametrize("head", [b"", b"GET /v1/hello HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_slow_head_is_closed(impatient: Running, head: bytes) -> None:
    """A connection that does not finish its request's head is closed, with nothing or half a head sent."""
    with impatient.connect() as client:
        client.socket.sendall(head)
        assert end_of(client.socket) == b""


def test_dripped_head_is_closed(impatient: Running) -> None:
    """Sending a byte now and then does not prolong the time for a head."""
    with impatient.connect() as client:
        client.socket.sendall(b"GET /v1/hello HTTP/1.1\r\nX: ")
        started = time.monotonic()
        client.socket.settimeout(0.05)
        while time.monotonic() - started < DEFAULT:
            try:
                client.socket.sendall(b"a")
                if not client.socket.recv(1):
                    break
            except TimeoutError:
                continue
            except (OSError, ssl.SSLError):
                break
        assert time.monotonic() - started < DEFAULT


def test_slow_body_is_refused(impatient: Running) -> None:
    """A body that does not come in time is answered with 408, and the connection closed."""
    with impatient.connect() as client:
        client.socket.sendall(
            b"POST /v1/introductions/invitation HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        answer = end_of(client.socket)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"malformed"' in answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_megabyte_is_refused(registrar: Running, chunked: bool) -> None:
    """A body over 64 KiB is answered with 413, whether its length was announced or not."""
    garbage = os.urandom(1 << 20)
    headers = {"Content-Type": "application/json"} | ({"Transfer-Encoding": "chunked"} if chunked else {})
    with registrar.connect() as client:
        body = iter([garbage[:40_000], garbage[:40_000]]) if chunked else garbage[:70_000]
        client.http.request("POST", "/v1/introductions/invitation", body, headers, encode_chunked=chunked)
        response = client.http.getresponse()
        assert response.status == 413
        assert b'"code":"too-much"' in response.read()


def test_garbage_json_is_malformed(registrar: Running) -> None:
    """Garbage within the limits is 400, named as such."""
    with registrar.connect() as client:
        assert client.problem("POST", "/v1/introductions/invitation", os.urandom(60_000)).code == "malformed"


def test_long_header_is_refused(registrar: Running) -> None:
    """A header field over its limit is 400, and the connection closed."""
    with registrar.connect() as client:
        client.socket.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n")
        assert end_of(client.socket).startswith(b"HTTP/1.0 400 ")


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", bytes(300), b"\x16\x03\x01\xff\xff" * 50]
)
def test_garbage_on_the_tls_port(impatient: Running, garbage: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no TLS ends its connection, leaves no traceback, and takes no place for good."""
    with socket.create_connection(impatient.address) as stranger:
        stranger.sendall(garbage)
        end_of(stranger)
    with impatient.connect() as client:
        assert client.call("GET", "/healthz")[0] == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_too_many_connections_of_one_source(tmp_path: Path) -> None:
    """Over the limit of one source a connection is closed before its handshake; a place that is left is given again."""
    limits = Limits(connections=12, connections_per_source=8, handshake_timeout=3600.0)  # which ends nothing here
    with running(tmp_path / "data", limits=limits) as registrar:
        held = [socket.create_connection(registrar.address) for _ in range(limits.connections_per_source)]
        with socket.create_connection(registrar.address) as extra:
            assert end_of(extra) == b""
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                with registrar.connect() as client:
                    assert b'refused_connections_total{limit="source"}' in client.call("GET", "/metrics")[1]
                    break
            except (OSError, ssl.SSLError):
                assert time.monotonic() < deadline


def test_garbage_of_a_neighbor_stops_nobody(tmp_path: Path) -> None:
    """Rejected proofs are answered with 429 after some, and good evidence from the same address as always."""
    limits = Limits(failures_burst=5, failures=0.01)
    with (
        running(tmp_path / "data", limits=limits) as registrar,
        registrar.connect() as client,
        registrar.connect() as honest,
    ):
        for _ in range(limits.failures_burst):
            assert client.call("POST", INTRODUCE, b"{}")[0] == 400
        for garbage in (b"{}", b"", os.urandom(100)):
            problem = client.problem("POST", INTRODUCE, garbage)
            assert (problem.status, problem.code) == (429, "too-much")
            assert int(client.headers["Retry-After"]) > 0
        assert client.problem("POST", "/v1/introductions/none", b"{}").status == 429
        honest.join(registrar.invite("neighbor.lan"))
        expired = registrar.invite("cancelled.lan")
        registrar.service.administration.cancel(expired.key_id, reason="lost")
        body, _ = honest.evidence(expired, ec.generate_private_key(ec.SECP256R1()))
        assert honest.problem("POST", INTRODUCE, body).code == "invitation-cancelled"
        assert b"handfast_limited_total 4.0" in client.call("GET", "/metrics")[1]


def test_evidence_is_counted_by_what_it_proves(tmp_path: Path) -> None:
    """Who repeats good evidence too often gets 429 for his own marker alone."""
    limits = Limits(introductions=0.01, introductions_burst=2)
    with running(tmp_path / "data", limits=limits) as registrar, registrar.connect() as client:
        line, key = registrar.invite("eager.lan"), ec.generate_private_key(ec.SECP256R1())
        assert client.join(line, key).certificate == client.join(line, key).certificate
        problem = client.problem("POST", INTRODUCE, client.evidence(line, key)[0])
        assert (problem.status, problem.code, client.headers["Retry-After"]) == (429, "too-much", "100")
        client.join(registrar.invite("other.lan"))
        assert not registrar.service.ledger.events(kind_prefix="introduction.")


def is_cut_off(connection: socket.socket, request: bytes) -> bool:
    """Ask and never read; return whether the peer ends it within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            connection.sendall(request * 100)
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize("secure", [True, False])
def test_a_client_that_does_not_read_loses_its_place(tmp_path: Path, secure: bool) -> None:
    """Whoever asks for much and reads nothing is cut off when its time is over, over TLS and over plain HTTP."""
    with running(tmp_path / "data", limits=Limits(unread=0.3, head_timeout=60)) as registrar:
        place = urlsplit(registrar.ready.crl_url or "")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(registrar.address if secure else (place.hostname, place.port))
        path = "/openapi.json" if secure else place.path
        with tls.newcomer_context().wrap_socket(raw) if secure else raw as connection:
            connection.settimeout(0.1)
            assert is_cut_off(connection, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        with registrar.connect() as client:
            assert b"handfast_connections 1.0" in client.call("GET", "/metrics")[1]


def test_other_content_type_is_refused(registrar: Running) -> None:
    """A form or plain text, which a browser would send for any site, is 415."""
    with registrar.connect() as client:
        status, _ = client.call("POST", "/v1/introductions/invitation", b"{}", **{"Content-Type": "text/plain"})
        assert status == 415


def test_bucket_fills_with_time() -> None:
    """A bucket gives its burst, then one token for each interval, and says how long to wait."""
    now = [0.0]
    bucket = Buckets(0.5, 2, now=lambda: now[0])
    for _ in range(2):
        assert bucket.wait("a") == 0
        bucket.take("a")
    assert (bucket.wait("a"), bucket.wait("b")) == (2, 0)
    now[0] = 2.0
    assert bucket.wait("a") == 0
    now[0] = 1e6
    bucket.take("a")
    bucket.take("a")
    assert bucket.wait("a") == 2


def test_buckets_are_bounded() -> None:
    """More sources than are remembered push out the one that was longest quiet."""
    buckets = Buckets(0.001, 1, most=2, now=lambda: 0.0)
    for source in "abc":
        buckets.take(source)
    assert buckets.wait("a") == 0
    assert buckets.wait("c") > 0


@pytest.mark.parametrize(
    ("address", "source"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), (None, "None")],
)
def test_source_is_an_address_or_a_64(address: str | None, source: str) -> None:
    """IPv6 hosts choose their last 64 bits, so these do not make another source."""
    assert prefix(ip_address(address) if address else None) == source


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::1"),
        (("192.0.2.7", 1), "192.0.2.7"),
        ("", None),
        (("nonsense", 1), None),
    ],
)
def test_peer_address(peername: object, address: str | None) -> None:
    """Mapped and zoned addresses are read as what they are, other sockets have none."""
    assert peer_address(peername) == (ip_address(address) if address else None)


def test_places_are_counted_and_given_back() -> None:
    """All places, and those of one source, are limited; every connection that ends gives its place back."""
    connections = Connections(Limits(connections=3, connections_per_source=2), Metrics())
    assert [connections.admit(source) for source in "aaab"] == [True, True, False, True]
    assert not connections.admit("c")
    connections.release("a")
    assert connections.admit("c")
