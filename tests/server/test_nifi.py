"""NiFi's protocol on its own listener: the original's statuses, any HTTP that means something, and its TLS."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from handfast.server.limits import Limits
from tests.server.nifi_peer import CA, TOKEN, Served, context, csr, message, new_key, serving, tag
from tests.server.test_limits import end_of

KEY = new_key()
GOOD: dict[str, Any] = json.loads(message(TOKEN, KEY, csr(KEY)))
IMPATIENT = Limits(body_timeout=0.3, goodbye=0.2)
FEW = Limits(failures_burst=5, failures=0.01)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registrar to which the shared token admits what leads to its caller."""
    with serving(tmp_path_factory.mktemp("nifi") / "data", limits=Limits(failures_burst=1000)) as started:
        yield started


def with_(**fields: Any) -> bytes:
    """The good message with other fields."""
    return json.dumps(GOOD | fields).encode()


def without(field: str) -> bytes:
    """The good message without one field."""
    return json.dumps({key: value for key, value in GOOD.items() if key != field}).encode()


BROKEN = {
    "no JSON": b"hello",
    "half of it": json.dumps(GOOD).encode()[:-5],
    "a list": b"[]",
    "not UTF-8": b'{"csr":"\xff"}',
    "nested": b"[" * 50_000,
    "an empty body": b"",
    "an unknown field": with_(approve=True),
    "base64 that is none": with_(hmac="%%%%"),
    "base64 without padding": with_(hmac=GOOD["hmac"].rstrip("=")),
    "a number": with_(hmac=5),
    "a CSR that is no PEM": with_(csr="hello"),
    "a CSR without its lines": with_(csr="".join(GOOD["csr"].splitlines()[1:-1])),
    "two CSRs": with_(csr=GOOD["csr"] * 2),
    "text before it": with_(csr="Bag Attributes\n" + GOOD["csr"]),
    "a certificate": with_(csr=GOOD["csr"].replace("CERTIFICATE REQUEST", "CERTIFICATE")),
    "no DER in it": with_(csr="-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
}  # fmt: skip
MISSING = {
    "hmac": [without("hmac"), with_(hmac=None), with_(hmac=""), b"{}"],
    "csr": [without("csr"), with_(csr=None), with_(csr="")],
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_request_is_500(served: Served, body: bytes) -> None:
    """As the original, but in JSON, and with no word of what is inside: no path and no trace."""
    with served.connect() as node:
        answer = node.post(body)
        assert answer.status == 500
        assert answer.error
        for inside in ("Traceback", ".py", "handfast", "/"):
            assert inside not in answer.error
        assert node.post(json.dumps(GOOD).encode()).status == 200


@pytest.mark.parametrize(
    ("field", "how"), [(field, how) for field, bodies in MISSING.items() for how in range(len(bodies))]
)
def test_a_missing_field_is_400(served: Served, field: str, how: int) -> None:
    """The original's status and words, the tag first where both are missing."""
    with served.connect() as node:
        answer = node.post(MISSING[field][how])
    assert (answer.status, answer.error) == (400, f"{field} field must be set")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_too_large_is_500(served: Served, announced: bool) -> None:
    """More than is read is the original's 500, whether its length was announced or not."""
    body = with_(csr="A" * 100_000)
    with served.connect() as node:
        node.http.request("POST", "/", body if announced else iter([body[:60_000], body[60_000:]]))
        answer = node.answer()
    assert answer.status == 500
    assert answer.error


def other(proof: bytes) -> bytes:
    """The good message with another tag."""
    return with_(hmac=base64.b64encode(proof).decode())


WRONG = {
    "zeros": other(bytes(32)),
    "cut short": other(tag(TOKEN, KEY.public_key())[:31]),
    "too long": other(tag(TOKEN, KEY.public_key()) + b"x"),
    "upper case": other(tag(TOKEN.upper(), KEY.public_key())),
    "a space more": other(tag(TOKEN + " ", KEY.public_key())),
    "no token": other(tag("", KEY.public_key())),
    "another key": other(tag(TOKEN, new_key().public_key())),
    "another subject": message("another token of many bytes", KEY, csr(KEY, "CN=*")),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_tag_is_forbidden(served: Served, body: bytes) -> None:
    """The original's 403 and its one word, whatever is wrong with it; nobody is asked for names."""
    served.names.asked.clear()
    with served.connect() as node:
        answer = node.post(body)
    assert (answer.status, answer.error) == (403, "forbidden")
    assert not served.names.asked


def test_our_own_answer_is_no_request(served: Served) -> None:
    """The tag of an answer fits the CA's key: with that key's request it is forbidden (a CA certificate, once)."""
    with served.connect() as node:
        proof = node.enrol().content["hmac"]
        public = served.root.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert base64.b64decode(proof) == tag(TOKEN, public)
        assert served.registrar.service.nifi is not None
        key = served.registrar.service.nifi.authority.root_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        answer = node.post(message(TOKEN, key, csr(key)))
    assert (answer.status, answer.error) == (403, "forbidden")


def test_a_request_without_names(served: Served) -> None:
    """NiFi 1.0 and 1.1 send none, the original died of it since 1.24, and here the common name is the name."""
    assert served.enrol(names=[]).names == ["node1.lan"]


def test_an_attribute_that_the_original_died_of(served: Served) -> None:
    """A subject with an e-mail address is refused by policy, and not by accident."""
    answer = served.enrol(subject="E=a@b.lan, CN=node1.lan, OU=NIFI")
    assert answer.status == 403
    assert "EMAILADDRESS=a@b.lan, CN=node1.lan, OU=NIFI" in answer.error


def test_an_altered_request_is_refused(served: Served) -> None:
    """Whoever rewrites subject or names keeps key and tag, and breaks the request's own signature: he is a stranger."""
    request = x509.load_pem_x509_csr(csr(KEY, "CN=node3.lan, OU=NIFI").encode()).public_bytes(Encoding.DER)
    altered = base64.encodebytes(request.replace(b"node3", b"node1")).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{altered}-----END CERTIFICATE REQUEST-----\n"
    with served.connect() as node:
        answer = node.post(message(TOKEN, KEY, pem))
    assert answer.status == 403
    assert answer.error == "forbidden"


FORMS = {
    "new": GOOD["csr"].replace("BEGIN CERT", "BEGIN NEW CERT").replace("END CERT", "END NEW CERT"),
    "of Windows": GOOD["csr"].replace("\n", "\r\n"),
    "with empty lines": "\n" + GOOD["csr"] + "\n",
}


@pytest.mark.parametrize("pem", FORMS.values(), ids=FORMS.keys())
def test_forms_of_pem(served: Served, pem: str) -> None:
    """Both labels, and lines that end as on Windows."""
    with served.connect() as node:
        assert node.post(with_(csr=pem)).certificate.public_key() == KEY.public_key()


def test_the_certificate(served: Served) -> None:
    """The leaf alone, issued by what TLS presented, with the subject as typed; the tag is over the CA's key."""
    with served.connect() as node:
        answer = node.enrol(names=[x509.DNSName("node1.lan"), x509.IPAddress(ip_address("127.0.0.1"))])
        shown = x509.load_der_x509_certificate(node.leaf)
    answer.certificate.verify_directly_issued_by(shown)
    assert answer.certificate.subject.rfc4514_string() == "CN=node1.lan,OU=NIFI"
    assert answer.names == ["node1.lan", "127.0.0.1"]
    assert list(answer.content) == ["hmac", "pemEncodedCertificate", "error"]
    assert shown == served.root
    assert shown.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == CA


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/v1/hello", "/a/../b?c=d#e", "//x", "/%00"])
def test_any_method_and_any_path(served: Served, method: str, path: str) -> None:
    """Neither means anything to the original, and scripts were written against it."""
    with served.connect() as node:
        assert node.post(json.dumps(GOOD).encode(), method, path).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "nonsense"},
        {"Host": "elsewhere.lan"},
        {"Host": ""},
        {"Accept": "text/html"},
        {"Expect": "100-continue"},
        {"Accept-Encoding": "gzip,deflate", "User-Agent": "Apache-HttpClient/4.5.14 (Java/17.0.1)"},
        {"Cookie": "a=b", "Authorization": "Basic x", "X-Forwarded-For": "10.0.0.2"},
    ],
)
def test_headers_mean_nothing(served: Served, headers: dict[str, str]) -> None:
    """The message decides."""
    with served.connect() as node:
        assert node.post(json.dumps(GOOD).encode(), headers=headers).status == 200


def test_a_proxy_cannot_say_where_a_request_comes_from(served: Served) -> None:
    """Names lead to the connection's source, whatever a header says of it."""
    key = new_key()
    body = message(TOKEN, key, csr(key, "CN=node2.lan, OU=NIFI"))
    headers = {"X-Forwarded-For": "10.0.0.2", "Forwarded": "for=10.0.0.2", "X-Real-IP": "10.0.0.2"}
    with served.connect() as node:
        assert node.post(body, headers=headers).status == 403


def test_chunked_and_kept_alive(served: Served) -> None:
    """A body in pieces, and several requests on one connection, refused ones among them."""
    body = json.dumps(GOOD).encode()
    with served.connect() as node:
        for parts in ([body], [body[:7], body[7:]], [b"{", b"}"]):
            node.http.request("POST", "/", iter(parts))
            assert node.answer().status == (400 if parts[0] == b"{" else 200)


def test_http_1_0(served: Served) -> None:
    """A client of the first HTTP is answered, and the connection ends with the answer."""
    body = json.dumps(GOOD).encode()
    with served.connect() as node:
        node.socket.sendall(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = end_of(node.socket)
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert b'"pemEncodedCertificate":"-----BEGIN CERTIFICATE-----' in answer


@pytest.mark.parametrize("head", [b"POST * HTTP/1.1\r\n", b"GET\r\n", b"POST / HTTP/9.9\r\n", b"\x00\x01\x02\r\n"])
def test_what_is_no_http(served: Served, head: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """It is refused, leaves no traceback, and nobody else notices."""
    with served.connect() as node:
        node.socket.sendall(head + b"Host: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " not in end_of(node.socket)[:20]
    assert served.enrol().status == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_native_routes_are_not_there(served: Served) -> None:
    """Neither metrics nor lists, neither a hello nor an introduction of ours: every path is NiFi's."""
    paths = ["/metrics", "/v1/hello", "/v1/methods", "/healthz", "/openapi.json", "/v1/machines", "/crl/nifi.crl"]
    with served.connect() as node:
        assert {node.post(None, "GET", path).status for path in paths} == {500}
        for method in ("invitation", "renewal", "nifi"):
            assert node.post(b"{}", path=f"/v1/introductions/{method}").status == 400


def test_nifi_is_not_served_beside_our_own_methods(served: Served) -> None:
    """At our own listener the method is unknown, unlisted and undescribed, with the best of tokens."""
    with served.registrar.connect() as client:
        refused = client.problem("POST", "/v1/introductions/nifi", json.dumps(GOOD).encode())
        assert (refused.status, refused.code) == (404, "not-found")
        assert "nifi" not in msgspec.json.decode(client.call("GET", "/v1/methods")[1])["methods"]
        described = msgspec.json.decode(client.call("GET", "/openapi.json")[1])
        assert "nifi" not in " ".join([*described["paths"], *described["components"]["schemas"]]).lower()
        assert client.call("POST", "/", json.dumps(GOOD).encode())[0] == 404
    with socket.create_connection(served.registrar.address, timeout=10) as raw, pytest.raises(ssl.SSLError):
        context(newest=ssl.TLSVersion.TLSv1_2).wrap_socket(raw)


def test_a_slow_body_is_cut_off(tmp_path: Path) -> None:
    """What does not come in time is 408, and the connection ends."""
    with serving(tmp_path / "data", limits=IMPATIENT) as served, served.connect() as node:
        node.socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = end_of(node.socket)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"hmac":null,"pemEncodedCertificate":null,"error":"the body took too long"}')


def test_a_flood_is_limited_and_stops_nobody(tmp_path: Path) -> None:
    """After some refused evidence a source gets 429 for the next; a good token from there gets in as always."""
    stranger = "nobody's token, long enough"
    with serving(tmp_path / "data", limits=FEW) as served, served.connect() as node:
        for refused in [b"", b"{", with_(csr="x"), other(bytes(32)), message(stranger, KEY, csr(KEY))]:
            assert node.post(refused).status in {403, 500}
        for refused in [b"", with_(csr="x"), other(bytes(32))]:
            answer = node.post(refused)
            assert (answer.status, answer.error) == (429, "too often")
            assert int(answer.headers["Retry-After"]) > 0
        assert node.enrol().status == 200
        assert node.enrol(served.invite()[0]).status == 200
        told = node.enrol(subject="CN=node2.lan, OU=NIFI")
        assert (told.status, "not entitled" in told.error) == (403, True)
        with served.registrar.connect() as client:
            metrics = client.call("GET", "/metrics")[1].decode()
    assert 'handfast_introductions_total{code="limited",method="nifi"} 3.0' in metrics


def test_nothing_secret_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither tokens nor tags nor what a stranger wrote into path and body come into the log."""
    with serving(tmp_path / "data") as served, capture_logs() as logged:
        once, _ = served.invite()
        key = new_key()
        with served.connect() as node:
            assert node.enrol(once, key=key).status == 200
            assert node.enrol(once).status == 403
            assert node.enrol(subject="CN=node2.lan, OU=NIFI").status == 403
            assert node.post(with_(secret=TOKEN), path=f"/?token={TOKEN.replace(' ', '+')}").status == 500
    said = json.dumps(logged, default=str) + "".join(capfd.readouterr())
    assert '"route": "/{path}"' in said
    for secret in (TOKEN, TOKEN.replace(" ", "+"), once, once[14:], base64.b64encode(tag(once, key.public_key()))):
        assert (secret if isinstance(secret, str) else secret.decode()) not in said
