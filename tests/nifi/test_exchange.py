"""What a node sends to a NiFi CA, and everything that it refuses of what comes back."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.nifi import https
from tests.nifi.fake_ca import DAY, HOST, Asked, FakeCa, Identity, http, ip, name, raw, tag
from tests.nifi.node import FILES, Done, Node
from tests.ports import free_port

EC = ("-a", "EC", "-k", "256")  # a key of RSA takes its time, and nothing here depends on it
PENDING = {".keystore.jks.pending"}


def refused(node: Node, done: Done, *words: str) -> None:
    """The original's code for a failed service; the words; and nothing is left but the key for the next try."""
    assert done.code == 3, done.stderr
    for each in words:
        assert each in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert node.files() <= PENDING


def test_the_request_is_the_original_s(ca: FakeCa, node: Node) -> None:
    """Method, headers, the MAC, the subject in typed order, and the names with the common name first."""
    done = node.client(ca, "-D", "CN=node1.lan, OU=NIFI", "--subjectAlternativeNames", "a.lan,10.0.0.7,n[1-2].lan")
    assert done.code == 0, done.stderr
    (asked,) = ca.asked
    lines = asked.head.split("\r\n")
    assert lines[0] == "POST / HTTP/1.1"
    assert f"Host: {HOST}:{ca.port}" in lines
    assert not [line for line in lines if line.startswith(("Content-Type", "Expect", "Authorization"))]
    assert asked.hmac == tag(asked.csr.public_key())
    assert asked.csr.is_signature_valid
    assert [each.value for each in asked.csr.subject] == ["node1.lan", "NIFI"]
    assert [(type(each.value), each.critical) for each in asked.csr.extensions] == [
        (x509.SubjectAlternativeName, False)
    ]
    (names,) = (each.value for each in asked.csr.extensions)
    assert list(names) == [
        x509.DNSName("node1.lan"), x509.DNSName("a.lan"), ip("10.0.0.7"), x509.DNSName("n1.lan"),
        x509.DNSName("n2.lan"),
    ]  # fmt: skip


def test_a_ca_of_tls_1_2_is_spoken_to(ca: FakeCa, node: Node) -> None:
    """Toolkits before 1.12, or on Java 8, know nothing newer."""
    ca.newest = ssl.TLSVersion.TLSv1_2
    assert node.client(ca, *EC).code == 0
    assert node.files() == FILES


@pytest.mark.parametrize("algorithm", [("EC", "384"), ("RSA", "2048")])
def test_the_key_is_of_the_kind_that_was_asked_for(ca: FakeCa, node: Node, algorithm: tuple[str, str]) -> None:
    """The original could make EC keys by way of the configuration only; here the flags do."""
    assert node.client(ca, "-a", algorithm[0], "-k", algorithm[1]).code == 0
    key = ca.asked[0].csr.public_key()
    assert str(key.key_size) == algorithm[1]  # type: ignore[union-attr]


# ------------------------------------------------------------------------------- answers that are refused


def answers(body: Callable[[FakeCa, Asked], str | bytes], status: str = "200 OK") -> Callable[[FakeCa], None]:
    """Return a preparation of the CA that answers so."""

    def prepare(ca: FakeCa) -> None:
        ca.answer = lambda asked: http(body(ca, asked), status)

    return prepare


def issues(**changes: object) -> Callable[[FakeCa], None]:
    """Return a preparation of the CA that issues something else than was asked for."""
    return answers(lambda ca, asked: ca.body(ca.leaf(asked, **changes)))


OTHER = ec.generate_private_key(ec.SECP256R1())
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
REFUSALS = {
    "wrong tag": (
        answers(lambda ca, asked: ca.body(ca.leaf(asked), tag(ca.certificate.public_key(), "another"))),
        "hmac",
    ),
    "our own tag, reflected": (answers(lambda ca, asked: ca.body(ca.leaf(asked), asked.hmac)), "does not fit"),
    "no tag": (answers(lambda ca, asked: ca.body(ca.leaf(asked), "")), "no hmac"),
    "no certificate": (
        answers(lambda ca, asked: json.dumps({"hmac": tag(ca.certificate.public_key()), "error": None})),
        "no certificate",
    ),
    "no PEM": (
        answers(
            lambda ca, asked: json.dumps({"hmac": tag(ca.certificate.public_key()), "pemEncodedCertificate": "hello"})
        ),
        "no certificate",
    ),
    "a field too much": (
        answers(lambda ca, asked: json.dumps({**json.loads(ca.body(ca.leaf(asked))), "more": 1})),
        "unknown field",
    ),
    "not JSON": (answers(lambda ca, asked: "<html>"), "does not answer as a NiFi CA"),
    "compressed": (answers(lambda ca, asked: gzip.compress(ca.body(ca.leaf(asked)).encode())), "does not answer as"),
    "another key": (issues(public_key=OTHER.public_key()), "another key than ours"),
    "signed by another": (issues(signer=OTHER), "not signed by the CA's key"),
    "another issuer": (issues(issuer=name("other")), "is not the CA's"),
    "another subject": (issues(subject=name("mallory.lan")), "is for the subject 'CN=mallory.lan, OU=NIFI'"),
    "a part of the subject": (issues(subject=x509.Name([])), "is for the subject ''"),
    "an authority": (issues(ca=True), "would make this node an authority"),
    "no names": (issues(names=None), "lacks node1.lan, a.lan, 10.0.0.7"),
    "one name less": (issues(names=[x509.DNSName("node1.lan"), ip("10.0.0.7")]), "lacks a.lan"),
    "an address as another's": (
        issues(names=[x509.DNSName("node1.lan"), x509.DNSName("a.lan"), x509.DNSName("#04040a000008")]),
        "lacks 10.0.0.7",
    ),
    "expired": (issues(start=LONG_AGO, end=LONG_AGO + DAY), "the certificate is valid from 2020-01-01"),
    "not yet valid": (issues(start=datetime.now(UTC) + DAY), "the certificate is valid from"),
    "201": (answers(lambda ca, asked: ca.body(ca.leaf(asked)), "201 Created"), "answered with status 201"),
    "204": (answers(lambda ca, asked: b"", "204 No Content"), "answered with status 204"),
    "redirect": (answers(lambda ca, asked: b"", "302 Found\r\nLocation: https://127.0.0.1:1/"), "status 302"),
    "forbidden": (
        answers(
            lambda ca, asked: json.dumps({"hmac": None, "pemEncodedCertificate": None, "error": "forbidden"}),
            "403 Forbidden",
        ),
        "status 403: 'forbidden'",
    ),
    "not allowed": (
        answers(lambda ca, asked: json.dumps({"error": "not for \x1b[31mthis name"}), "403 Forbidden"),
        "the CA's operator decides",
    ),
    "spent": (
        answers(
            lambda ca, asked: json.dumps({"error": "'salt' was already used with another key (tell the operator)"}),
            "403 Forbidden",
        ),
        "ask for a new token; tell the CA's operator if it was not you",
    ),
    "HTML, 500": (answers(lambda ca, asked: "<html>" + "at java.lang.Thread" * 50, "500 Server Error"), "status 500"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_what_was_asked_for_is_refused(ca: FakeCa, node: Node, case: str) -> None:
    """Each answer but the right one ends with 3, with the reason, and leaves nothing in the directory."""
    prepare, words = REFUSALS[case]
    prepare(ca)
    done = node.client(ca, *EC, "-D", "CN=node1.lan, OU=NIFI", "--subjectAlternativeNames", "a.lan,10.0.0.7")
    refused(node, done, words)
    assert "java.lang" not in done.stderr
    assert "\x1b" not in done.stderr
    assert len(ca.asked) == 1  # no second try with the same MAC


def test_an_address_written_as_the_toolkit_writes_it_is_taken_with_a_remark(ca: FakeCa, node: Node) -> None:
    """Toolkits since 1.24 can do no better: refusing would make addresses impossible with them."""
    names = [x509.DNSName(HOST), x509.DNSName("#04040a000007"), x509.DNSName("#0410" + "fd" + "0" * 29 + "1")]
    issues(names=names)(ca)
    done = node.client(ca, *EC, "-D", f"CN={HOST}, OU=NIFI", "--subjectAlternativeNames", "10.0.0.7,fd00::1")
    assert done.code == 0, done.stderr
    assert "wrote the address 10.0.0.7 as a DNS name" in done.stderr
    assert "wrote the address fd00::1 as a DNS name" in done.stderr


def test_a_clock_five_minutes_ahead_is_no_reason(ca: FakeCa, node: Node) -> None:
    """The toolkit does not backdate, so that a CA whose clock is a little ahead would be of no use."""
    issues(start=datetime.now(UTC) + DAY / 720)(ca)
    assert node.client(ca, *EC).code == 0


def test_the_original_s_ways_to_answer_are_all_understood(ca: FakeCa, node: Node) -> None:
    """Chunked, without a length, without the field error: the real client took them all."""

    def chunked(asked: Asked) -> bytes:
        body = ca.body(ca.leaf(asked)).replace(', "error": null', "").encode()
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)

    ca.answer = chunked
    assert node.client(ca, *EC).code == 0
    (node.directory / "keystore.jks").unlink()
    ca.answer = lambda asked: b"HTTP/1.0 200 OK\r\n\r\n" + ca.body(ca.leaf(asked)).encode()
    assert node.client(ca, *EC).code == 0


# ------------------------------------------------------------------------------- whom it does not talk to


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity(common="other"), "has the common name 'other', expected 'localhost'"),
        (Identity(common="Localhost"), "has the common name 'Localhost'"),
        (Identity(names=(x509.DNSName("other.lan"),)), "its alternative names are other.lan"),
        (Identity(names=()), "its alternative names are none"),
        (Identity(names=None, common="other"), "has the common name 'other'"),
    ],
)
def test_a_ca_of_another_name_is_sent_nothing(node: Node, identity: Identity, words: str) -> None:
    """The name proves nothing, but a MAC that was not sent cannot be guessed at."""
    with FakeCa(identity).serving() as ca:
        refused(node, node.client(ca, *EC), words)
        assert ca.asked == []


def test_a_chain_of_two_is_sent_nothing(ca: FakeCa, node: Node) -> None:
    """A proxy or a mesh in between shows its own; the original fails there too."""
    ca.chain = [ca.certificate, Identity("mesh").certificate()]
    refused(node, node.client(ca, *EC), "presents 2 certificates, and a NiFi CA exactly one")
    assert ca.asked == []


def test_without_alternative_names_the_common_name_counts(node: Node) -> None:
    """Toolkits before 1.4 wrote none."""
    with FakeCa(Identity(names=None)).serving() as ca:
        assert node.client(ca, *EC).code == 0


def test_a_ca_is_found_by_its_address(node: Node) -> None:
    """An address has to be an address among the names, as for every HTTPS client."""
    with FakeCa(Identity("127.0.0.1", (ip("127.0.0.1"),))).serving() as ca:
        assert node.client(ca, *EC, "-c", "127.0.0.1").code == 0
    (node.directory / "keystore.jks").unlink()
    with FakeCa(Identity("127.0.0.1", (x509.DNSName("127.0.0.1"),))).serving() as ca:
        assert "is not for '127.0.0.1'" in node.client(ca, *EC, "-c", "127.0.0.1").stderr


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity(ca=False), "signed by a certificate which is no authority's"),
        (Identity(start=LONG_AGO, end=LONG_AGO + DAY), "the CA's certificate is valid from 2020-01-01"),
    ],
)
def test_a_certificate_that_is_no_ca_s_is_refused(node: Node, identity: Identity, words: str) -> None:
    """The original takes an expired CA, and anything that signs."""
    with FakeCa(identity).serving() as ca:
        refused(node, node.client(ca, *EC), words)


def test_a_ca_without_basic_constraints_is_taken(node: Node) -> None:
    """The extension is younger than some CAs: its absence says nothing."""
    with FakeCa(Identity(ca=None)).serving() as ca:
        assert node.client(ca, *EC).code == 0


# ------------------------------------------------------------------------------- broken peers


@pytest.mark.parametrize("head", ["Content-Length: 99999999999999", "X: y", "Transfer-Encoding: chunked"])
def test_a_body_without_end_is_cut_off(ca: FakeCa, node: Node, head: str) -> None:
    """Whatever length is claimed, a mebibyte is read and no more."""
    ca.answer = lambda asked: f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + b"f00000\r\n" + b"x" * (3 << 20)
    refused(node, node.client(ca, *EC), "1048576 bytes")


def test_half_an_answer_is_none(ca: FakeCa, node: Node) -> None:
    """A connection that ends in the middle is no answer, even where the half is JSON."""
    ca.answer = lambda asked: http(ca.body(ca.leaf(asked)))[:-40]
    refused(node, node.client(ca, *EC), "broke off in the middle")


def test_a_body_that_drips_is_cut_off(ca: FakeCa, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the whole answer, not for each byte of it."""
    monkeypatch.setattr(https, "TIMEOUT", 0.5)
    done, stop = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        with ca.context().wrap_socket(connection, server_side=True) as secure, contextlib.suppress(OSError):
            secure.recv(65536)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.05):
                secure.sendall(b" ")
        done.set()

    with raw(drip) as port:
        refused(node, node.client(port, *EC), "it took too long")
        stop.set()
        assert done.wait(10)


def test_garbage_instead_of_tls_ends_it(node: Node) -> None:
    """A server of something else is no CA that is starting: there is nothing to wait for."""
    with raw(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")) as port:
        done = node.client(port, *EC, "--wait", "60s")
    refused(node, done, f"no TLS with localhost:{port}")


def test_something_that_is_not_http_ends_it(ca: FakeCa, node: Node) -> None:
    """An answer that is not HTTP is named as what it is."""
    ca.answer = lambda asked: b"220 mail ESMTP\r\n"
    refused(node, node.client(ca, *EC), "does not answer in HTTP")


def test_a_connection_that_closes_after_the_request_is_not_repeated(ca: FakeCa, node: Node) -> None:
    """Something was sent: whoever asks again, with the same key, is a person or a script."""
    ca.answer = lambda asked: b""
    refused(node, node.client(ca, *EC, "--wait", "60s"), "does not answer in HTTP")
    assert len(ca.asked) == 1


# ------------------------------------------------------------------------------- waiting for a CA


def test_it_waits_for_a_ca_that_is_starting(node: Node) -> None:
    """Refused connections and proxies without a server behind them are tried again, and told once."""
    port = free_port()
    cut = threading.Event()

    def proxy(connection: socket.socket) -> None:
        cut.set()

    def start() -> None:
        with raw(proxy, port):
            assert cut.wait(30)
        with FakeCa(Identity()).serving(port=port):
            assert enrolled.wait(30)

    enrolled = threading.Event()
    thread = threading.Thread(target=start)
    thread.start()
    try:
        done = node.run(
            "client", "-p", str(port), "--wait", "30s", "--token-file", str(node.secret("7vTc0qJmR2kXwZ8yLbN4")), *EC
        )
    finally:
        enrolled.set()
        thread.join()
    assert done.code == 0, done.stderr
    assert done.stderr.count("waiting for localhost") == 1


def test_it_does_not_wait_for_ever(node: Node) -> None:
    """After --wait the last reason is told; nothing was sent."""
    port = free_port()
    done = node.client(port, *EC, "--wait", "1s")
    refused(node, done, f"cannot reach localhost:{port}: connection refused", "nothing was sent")


def test_the_answer_may_have_text_around_the_certificate(ca: FakeCa, node: Node) -> None:
    """The first certificate is taken, whatever stands beside it, as by the original."""

    def body(asked: Asked) -> bytes:
        content = json.loads(ca.body(ca.leaf(asked)))
        more = ca.certificate.public_bytes(Encoding.PEM).decode()
        content["pemEncodedCertificate"] = "subject: x\n" + content["pemEncodedCertificate"] + more
        return http(json.dumps(content))

    ca.answer = body
    assert node.client(ca, *EC).code == 0
