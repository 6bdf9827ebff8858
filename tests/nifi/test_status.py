"""`status` verifies the server, proves who asks, and prints what it answered."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import javastore
from handfast.core.javastore import KeyEntry, StoreType, TrustedEntry
from handfast.core.secret import Secret
from handfast.nifi import https
from tests.nifi.fake_ca import DAY, Identity, certificate, http, name, raw
from tests.nifi.node import Done, Node

PASSWORD = "the password of a store"
LOCALHOST = Identity("localhost")
TRUST = ("-ts", "truststore", "-tsp", PASSWORD)


class Server:
    """An HTTPS server whose certificate is its own, and which may ask for the client's."""

    def __init__(self, identity: Identity = LOCALHOST, *, trusts: Identity | None = None) -> None:
        self.identity, self.port, self.asked = identity, 0, list[str]()
        self.answer = http("", "401 Unauthorized")
        self.callers = list[str]()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.NamedTemporaryFile() as file:
            file.write(key + identity.certificate().public_bytes(Encoding.PEM))
            file.flush()
            self.context.load_cert_chain(file.name)
        if trusts is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(cadata=trusts.certificate().public_bytes(Encoding.PEM).decode())

    @contextlib.contextmanager
    def serving(self) -> Iterator[Server]:
        """Answer until the test is done."""
        with raw(self._serve) as self.port:
            yield self

    def _serve(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as secure:
            self.asked.append(secure.recv(65536).decode())
            self.callers.append(str((secure.getpeercert() or {}).get("subject")))
            secure.sendall(self.answer)


def store(node: Node, file: str, *entries: javastore.Entry, kind: StoreType = StoreType.JKS) -> str:
    """Write a key store and return its name."""
    data = javastore.write(
        entries, kind, password=Secret(PASSWORD.encode()), created_at=datetime.now(UTC), random_bytes=os.urandom
    )
    (node.directory / file).write_bytes(data)
    return file


def trust(node: Node, *identities: Identity, kind: StoreType = StoreType.JKS) -> tuple[str, ...]:
    """Return the flags of a trust store with these."""
    entries = [
        TrustedEntry(f"ca{number}", each.certificate().public_bytes(Encoding.DER))
        for number, each in enumerate(identities)
    ]
    return ("-ts", store(node, "truststore", *entries, kind=kind), "-tst", kind, "-tsp", PASSWORD)


def ask(node: Node, server: Server, *arguments: str, host: str = "localhost", path: str = "/") -> Done:
    """Run ``status``."""
    return node.run("status", "-u", f"https://{host}:{server.port}{path}", *arguments)


@pytest.mark.parametrize("kind", StoreType)
def test_it_prints_the_status_and_nothing_else(node: Node, kind: StoreType) -> None:
    """Whatever the number is, the question was answered: 0. Path and query go along."""
    with Server().serving() as server:
        done = ask(node, server, *trust(node, LOCALHOST, kind=kind), path="/nifi-api/x?y=z")
    assert (done.code, done.stdout) == (0, "Response Code - 401\n"), done.stderr
    lines = server.asked[0].split("\r\n")
    assert lines[0] == "GET /nifi-api/x?y=z HTTP/1.1"
    assert f"Host: localhost:{server.port}" in lines


def test_a_redirect_is_an_answer(node: Node) -> None:
    """NiFi's front page is one: it is not followed."""
    with Server().serving() as server:
        server.answer = http("", "302 Found", "Location: https://localhost:1/")
        assert ask(node, server, *trust(node, LOCALHOST)).stdout == "Response Code - 302\n"


@pytest.mark.parametrize("kind", StoreType)
def test_it_proves_who_asks(node: Node, kind: StoreType) -> None:
    """With a key store the server sees its certificate, under whatever alias."""
    ca = Identity("ca")
    mine = Identity("node1.lan")
    leaf = certificate(mine.subject, mine.key.public_key(), ca.subject, ca.key, ca=False, names=None)
    der = mine.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    chain = (leaf.public_bytes(Encoding.DER), ca.certificate().public_bytes(Encoding.DER))
    entry = KeyEntry("mine", Secret(der), chain, Secret(b"a password of its own"))
    keystore = ("-ks", store(node, "keystore", entry, kind=kind), "-kst", kind, "-ksp", PASSWORD)
    with Server(trusts=ca).serving() as server:
        done = ask(node, server, *trust(node, LOCALHOST), *keystore, "-kp", "a password of its own")
        assert done.stdout == "Response Code - 401\n", done.stderr
        assert "node1.lan" in server.callers[0]
        assert ask(node, server, *trust(node, LOCALHOST)).code == 3  # nobody asks
        wrong = ask(node, server, *trust(node, LOCALHOST), *keystore, "-kp", "wrong password")
        assert (wrong.code, wrong.stdout) == (2, "")


def test_the_newest_version_of_tls_can_be_bounded(node: Node) -> None:
    """-p TLSv1.2 speaks no 1.3; TLSv1.3, the default, speaks 1.2 as well."""
    with Server().serving() as server:
        assert ask(node, server, *trust(node, LOCALHOST), "-p", "TLSv1.2").code == 0
        server.context.minimum_version = ssl.TLSVersion.TLSv1_3
        done = ask(node, server, *trust(node, LOCALHOST), "-p", "TLSv1.2")
        assert done.code == 3
        assert "no TLS with localhost" in done.stderr
        server.context.minimum_version = server.context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert ask(node, server, *trust(node, LOCALHOST)).code == 0


@pytest.mark.parametrize(
    ("identity", "trusted", "host", "words"),
    [
        (LOCALHOST, Identity("other"), "localhost", "does not verify"),
        (LOCALHOST, LOCALHOST, "127.0.0.1", "IP address mismatch"),
        (Identity("other", names=None), None, "localhost", "Hostname mismatch"),
        (Identity(end=datetime.now(UTC) - DAY / 2), None, "localhost", "expired"),
    ],
)
def test_a_server_that_does_not_verify_is_not_asked(
    node: Node, identity: Identity, trusted: Identity | None, host: str, words: str
) -> None:
    """Another CA, another name, no name, another day: 3, and nothing was sent to it."""
    with Server(identity).serving() as server:
        done = ask(node, server, *trust(node, trusted or identity), host=host)
    assert (done.code, done.stdout, server.asked) == (3, "", [])
    assert words in done.stderr


def test_without_alternative_names_the_common_name_counts(node: Node) -> None:
    """As for Java: NiFi's own toolkit wrote none before 1.2."""
    identity = Identity(names=None)
    with Server(identity).serving() as server:
        assert ask(node, server, *trust(node, identity)).code == 0


def test_a_server_that_is_not_there_or_says_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 with the reason: nobody listens, it is no TLS, it closes, it is silent."""
    monkeypatch.setattr(https, "TIMEOUT", 0.5)
    flags = trust(node, LOCALHOST)
    done = node.run("status", "-u", "https://localhost:1", *flags)
    assert (done.code, "cannot reach localhost:1: connection refused" in done.stderr) == (3, True)
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        done = node.run("status", "-u", f"https://localhost:{port}", *flags)
        assert (done.code, "no TLS with localhost" in done.stderr) == (3, True)
    with raw(lambda connection: connection.recv(1) and None) as port:
        assert node.run("status", "-u", f"https://localhost:{port}", *flags).code == 3
    with raw(lambda connection: connection.recv(1 << 16) and connection.recv(1 << 16) and None) as port:
        done = node.run("status", "-u", f"https://localhost:{port}", *flags)
        assert (done.code, "it took too long" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no address to ask"),
        (("-u", " "), "no address to ask"),
        (("-u", ":bad", *TRUST), "not an HTTPS address: ':bad'"),
        (("-u", "http://localhost", *TRUST), "not an HTTPS address"),
        (("-u", "https://localhost:99999", *TRUST), "not an HTTPS address"),
        (("-u", "https://localhost:1"), "no trust store"),
        (("-u", "https://localhost:1", "-ts", "truststore"), "no password for 'truststore'"),
        (("-u", "https://localhost:1", "-ts", "nope", "-tsp", PASSWORD), "'nope'"),
        (("-u", "https://localhost:1", "-ts", "truststore", "-tsp", "wrong password"), "password is wrong"),
        (("-u", "https://localhost:1", "-ts", "empty", "-tsp", PASSWORD), "trusts nobody"),
        (("-u", "https://localhost:1", "-p", "TLSv1.1"), "no such version of TLS"),
        (("-u", "https://localhost:1", *TRUST, "-ks", "truststore"), "no password for"),
        (
            ("-u", "https://localhost:1", *TRUST, "-ks", "truststore", "-ksp", PASSWORD),
            "holds no key",
        ),
    ],
)
def test_what_cannot_be_asked_ends_with_2(node: Node, arguments: tuple[str, ...], words: str) -> None:
    """As in the original: an address, or stores, which mean nothing."""
    trust(node, LOCALHOST)
    store(node, "empty")
    done = node.run("status", *arguments)
    assert (done.code, done.stdout) == (2, ""), done.stderr
    assert words in done.stderr
    assert PASSWORD not in done.stderr


def test_passwords_come_from_files_and_the_environment(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no process list shows them; what was an argument is told once."""
    flags = trust(node, LOCALHOST)[:2]
    with Server().serving() as server:
        silent = ask(node, server, *flags, "--truststore-password-file", str(node.secret(PASSWORD)))
        assert (silent.code, silent.stderr) == (0, "")
        monkeypatch.setenv("HANDFAST_NIFI_TRUSTSTORE_PASSWORD", PASSWORD)
        silent = ask(node, server, *flags)
        assert (silent.code, silent.stderr) == (0, "")
        told = ask(node, server, *flags, "-tsp", PASSWORD)
        assert told.code == 0
        assert told.stderr.count("every user of this machine can read what follows -tsp") == 1


def test_a_store_with_an_oddity_is_used_all_the_same(node: Node) -> None:
    """A store of public CAs holds certificates that nobody reads any more: they trust nothing."""
    good = TrustedEntry("good", LOCALHOST.certificate().public_bytes(Encoding.DER))
    der = name("x").public_bytes()
    store(node, "truststore", TrustedEntry("odd", der), good)
    with Server().serving() as server:
        assert ask(node, server, "-ts", "truststore", "-tsp", PASSWORD).code == 0
