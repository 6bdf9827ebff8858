"""Artifacts that the agent fetches itself: from where its policy says, to the digest that the controller knows."""

from __future__ import annotations

import hashlib
import http.server
import json
import signal
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from handfast.agent.transfers import check_place
from handfast.core.invitation import Address
from handfast.errors import HandfastError, Malformed, NotAuthorized
from tests.agent.agents import PATIENCE, Answer, Managed, managed

PLACES = ("https://repo.example/releases/", "https://other.example:8443/")
CONTENT = bytes(range(256)) * 8000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    "url",
    [
        "https://repo.example/releases/a.war", "https://REPO.example:443/releases/b/c.war?signed=1&x=../",
        "https://repo.example/releases/a%2Bb+c", "https://repo.example/releases/a?b;c=%25%2f",
        "https://other.example:8443/x",
    ],
)  # fmt: skip
def test_places_that_the_policy_names(url: str) -> None:
    """Below a folder, whatever stands behind the question mark."""
    check_place(url, PLACES)


@pytest.mark.parametrize(
    "url",
    [
        "https://repo.example/other/a", "https://repo.example/releases", "http://repo.example/releases/a",
        "https://repo.example.evil/releases/a", "https://repo.example@evil/releases/a",
        "https://evil/https://repo.example/releases/a", "https://repo.example:444/releases/a",
        "https://other.example/x", "https://repo.example/releases/../secret",
        "https://repo.example/releases/%2e%2e/secret",
        "https://repo.example/releases/%2E./secret", "https://repo.example/releases/..%2fsecret",
        "https://repo.example/releases/..\\secret", "https://repo.example/releases/a b",
        "https://repo.example/releases/a\n",
        "https://repo.example/releases/a\0", "https://repo.example/releases/%00", "https://repo.example/releases/\u0430",
        "https://user:pass@repo.example/releases/a", "//repo.example/releases/a", "file:///releases/a", "",
        "https://repo.example/releases/..;/secret", "https://repo.example/releases/a;b/c",
        "https://repo.example/releases/..%3b/secret",
        "https://repo.example/releases/%252e%252e/secret", "https://repo.example/releases/..%252fsecret",
        "https://[::1/releases/", "https://repo.example:x/releases/a", "ftp://repo.example/releases/a",
    ],
)  # fmt: skip
def test_places_that_it_does_not_name(url: str) -> None:
    """Nor what a server could read in another way than we."""
    with pytest.raises((NotAuthorized, Malformed)) as caught:
        check_place(url, PLACES)
    assert isinstance(caught.value, HandfastError)


def test_a_signed_url_is_not_told() -> None:
    """Its query is a secret, for a while."""
    for url in ("https://evil/a?X-Amz-Signature=0123", "https://[evil/a?X-Amz-Signature=0123"):
        with pytest.raises((NotAuthorized, Malformed)) as caught:
            check_place(url, PLACES)
        assert "0123" not in f"{caught.value} {caught.value.hint}"


class Repository(http.server.BaseHTTPRequestHandler):
    """What it answers stands in the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        what = self.path.rsplit("/", 1)[-1].partition("?")[0]
        if what.startswith("to-"):
            self.send_response(302)
            self.send_header("Location", REDIRECTS[what])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = {"short": len(CONTENT) + 10, "huge": 10 * 1000**3}.get(what, len(CONTENT))
        self.send_response(404 if what == "gone" else 200)
        self.send_header("Content-Length", str(size))
        if what == "zipped":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            while what == "drips":
                self.wfile.write(b"x")
                BEGAN.set()
                ENDED.wait(0.02)
            self.wfile.write(CONTENT)
        except OSError:
            self.close_connection = True
            ENDED.set()
        if what in {"short", "huge"}:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


REDIRECTS: dict[str, str] = {}
BEGAN, ENDED = threading.Event(), threading.Event()


def certificate(folder: Path) -> Path:
    """Write a key and a certificate for localhost, which is its own authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "repository.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Managed, str]]:
    """An agent that trusts a repository's authority as it would a public one, and the URL of a folder there."""
    folder = tmp_path_factory.mktemp("pull")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    address = Address("localhost", server.server_address[1])
    context, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate(folder)
    context.load_cert_chain(trusted)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://{address}/releases/"
    REDIRECTS.update(
        {
            "to-here": "good",
            "to-root": "/secret/good",
            "to-plain": f"http://{address}/releases/good",
            "to-itself": "to-itself",
            "to-nothing": "",
        }
    )
    (folder / "agent").mkdir()
    try:
        with managed(folder / "agent", f'pull = ["{url}"]', env={"SSL_CERT_FILE": str(trusted)}) as made:
            yield made, url
    finally:
        server.shutdown()
        server.server_close()


def pulled(repository: tuple[Managed, str], what: str, digest: str = DIGEST, place: str | None = None) -> Answer:
    """Have something fetched."""
    met, url = repository
    asked = {"url": place or url + what, "sha256": digest}
    return met.agent.talk().ask("POST", "/v1/services/web/artifacts/app.war/pull", asked)


@pytest.mark.parametrize("what", ["good", "good?signed=x/../y", "to-here", "zipped"])
def test_it_is_fetched(what: str, repository: tuple[Managed, str]) -> None:
    """Byte by byte what the server sends, whatever it says about it."""
    answer = pulled(repository, what)
    assert (answer.status, answer.json()) == (201, {"name": "app.war", "size": len(CONTENT), "sha256": DIGEST})
    file = repository[0].place / "artifacts/app.war"
    assert file.read_bytes() == CONTENT
    file.unlink()


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("to-root", 403, "does not allow to fetch"),
        ("to-plain", 403, "does not allow to fetch"),
        ("to-itself", 503, "over 5 redirects"),
        ("to-nothing", 503, "over 5 redirects"),
        ("gone", 503, "answered with status 404"),
        ("short", 503, "cannot fetch"),
        ("huge", 413, "has 10000000000 bytes"),
    ],
)
def test_what_is_not_taken(what: str, status: int, reason: str, repository: tuple[Managed, str]) -> None:
    """Led elsewhere, in circles, cut off, too large: there is no file, and the reason is told."""
    answer = pulled(repository, what)
    assert (answer.status, reason in answer.json()["detail"]) == (status, True), answer
    assert list((repository[0].place / "artifacts").iterdir()) == []


def test_a_pull_ends_with_its_request(repository: tuple[Managed, str]) -> None:
    """A controller that is gone has no place for artifacts held, by a repository that takes its time."""
    met, url = repository
    talk, asked = met.agent.talk(), json.dumps({"url": url + "drips", "sha256": DIGEST}).encode()
    head = f"POST /v1/services/web/artifacts/slow/pull HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(asked)}\r\n\r\n"
    talk.tls.sendall(head.encode() + asked)
    assert BEGAN.wait(PATIENCE)
    ENDED.clear()
    talk.close()
    assert ENDED.wait(PATIENCE)
    assert list((met.place / "artifacts").iterdir()) == []


def test_another_file_is_not_taken(repository: tuple[Managed, str]) -> None:
    """Whoever changes the file at the repository changes nothing here."""
    answer = pulled(repository, "good", digest="0" * 64)
    assert (answer.status, "it is not the file that was meant" in answer.json()["hint"]) == (400, True)
    assert list((repository[0].place / "artifacts").iterdir()) == []


def test_another_server_is_not_believed(repository: tuple[Managed, str]) -> None:
    """The name in the certificate is not that in the URL."""
    met, url = repository
    place = url.replace("localhost", "127.0.0.1")
    text = met.agent.policy.read_text()
    met.agent.policy.write_text(text.replace(url, place))
    met.agent.process.kill_with(signal.SIGHUP)
    met.agent.process.expect("reloaded")
    answer = pulled(repository, "", place=place + "good")
    met.agent.policy.write_text(text)
    met.agent.process.kill_with(signal.SIGHUP)
    met.agent.process.expect("reloaded")
    assert (answer.status, "certificate" in answer.json()["detail"].lower()) == (503, True), answer


def test_the_original_fetches_with_a_digest(repository: tuple[Managed, str]) -> None:
    """It answers at once, and the artifact is there when it is."""
    met, url = repository
    form = urlencode({"artifact": json.dumps({"location": url + "good", "sha256": DIGEST})}).encode()
    asked = met.agent.talk().ask(
        "POST", "/services/web/artifacts", form, Content_Type="application/x-www-form-urlencoded"
    )
    assert asked.json() == {"status": "pending"}
    assert met.agent.process.stop() == 0  # which waits for what is under way
    assert (met.place / "artifacts/good").read_bytes() == CONTENT
    (met.place / "artifacts/good").unlink()
    met.agent.start()
    met.talk = met.agent.talk()
