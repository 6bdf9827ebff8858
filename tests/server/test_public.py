"""What anybody may ask: health, metrics, roots, revocation lists, and the description of it all."""

from __future__ import annotations

import http.client
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from handfast.core import wire
from handfast.core.roles import Role
from handfast.server import openapi
from handfast.server.routes import ROUTES
from tests.server.running import Running, running


def fetch(url: str | None) -> tuple[int, str, bytes]:
    """Get over plain HTTP."""
    assert url is not None
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=30)
    try:
        connection.request("GET", place.path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def number(der: bytes) -> int:
    """Return the number of a revocation list."""
    return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_hello_is_fresh(registrar: Running) -> None:
    """Each hello has a nonce of its own, the time, and the authority's certificates."""
    with registrar.connect() as client:
        first, second = (msgspec.json.decode(client.call("GET", "/v1/hello")[1], type=wire.Hello) for _ in range(2))
    assert first.nonce != second.nonce
    assert (first.trust, first.chain) == (
        list(registrar.service.authority.trust),
        list(registrar.service.authority.chain),
    )


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health(registrar: Running, path: str) -> None:
    """A registrar that serves says so."""
    with registrar.connect() as client:
        status, answer = client.call("GET", path)
        assert (status, msgspec.json.decode(answer)["status"]) == (200, "ok")


def test_not_ready_when_its_certificates_are_over(tmp_path: Path) -> None:
    """A registrar whose serving certificate or issuing CA has expired names the check that failed."""
    with running(tmp_path / "data") as registrar, registrar.connect() as client:
        registrar.clock.offset = timedelta(days=5000)
        status, answer = client.call("GET", "/readyz")
        assert (status, msgspec.json.decode(answer)["failing"]) == (503, ["authority", "serving-certificate"])


def test_not_ready_without_its_ledger(tmp_path: Path) -> None:
    """A ledger that takes no write makes the registrar not ready, though alive; and introductions fail as ours."""
    with running(tmp_path / "data") as registrar, registrar.connect() as client:
        registrar.service.ledger.close()
        assert msgspec.json.decode(client.call("GET", "/readyz")[1])["failing"] == ["ledger"]
        assert client.call("GET", "/healthz")[0] == 200
        request = b'{"key_id":"0000000000000000"}'
        assert client.problem("POST", "/v1/introductions/invitation", request).code == "malformed"


def test_metrics_parse(registrar: Running) -> None:
    """Prometheus reads the exposition, and finds introductions by method and outcome."""
    registrar.credential("counted.lan", Role.SERVER)
    with registrar.connect() as client:
        text = client.call("GET", "/metrics")[1].decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    introductions = families["handfast_introductions"].samples
    assert any(s.labels == {"method": "invitation", "code": "ok"} and s.value >= 1 for s in introductions)
    assert families["handfast_serving_certificate_expiry_seconds"].samples[0].value > time.time()
    assert families["handfast_connections"].samples[0].value >= 1


def test_paths_make_no_series(registrar: Running) -> None:
    """A path that a stranger made up appears in no metric."""
    with registrar.connect() as client:
        assert client.problem("GET", "/made-up-7f3a").code == "not-found"
        assert client.problem("PUT", "/v1/hello").status == 405
        assert b"made-up" not in client.call("GET", "/metrics")[1]


def test_root_is_given_by_its_pin(registrar: Running) -> None:
    """The root is there under its whole pin, and under no other."""
    with registrar.connect() as client:
        status, pem = client.call("GET", f"/root/{registrar.ready.pin}")
        assert (status, x509.load_pem_x509_certificate(pem)) == (200, registrar.service.authority.root)
        assert client.call("GET", "/roots.pem") == (200, pem)
        assert client.problem("GET", f"/root/{registrar.ready.pin[:16]}").code == "not-found"


def test_revocation_list_follows_revocations(registrar: Running) -> None:
    """The list is signed once and kept; a revocation makes a new one with a higher number, that has the serial."""
    joined = registrar.credential("revoked.lan", Role.SERVER)
    status, kind, before = fetch(registrar.ready.crl_url)
    assert (status, kind) == (200, "application/pkix-crl")
    assert fetch(registrar.ready.crl_url)[2] == before
    registrar.service.administration.revoke("revoked.lan", reason="keyCompromise")
    after = fetch(registrar.ready.crl_url)[2]
    crl = x509.load_der_x509_crl(after)
    key = registrar.service.authority.issuing.public_key()
    assert crl.is_signature_valid(key)  # type: ignore[arg-type]
    assert crl.get_revoked_certificate_by_serial_number(joined.certificate.serial_number) is not None
    assert number(after) > number(before)


def test_a_herd_gets_one_revocation_list(tmp_path: Path) -> None:
    """After a revocation many who ask at once get the same bytes, and the log has one entry more for them."""
    with running(tmp_path / "data") as registrar:
        registrar.credential("revoked.lan", Role.SERVER)
        before = fetch(registrar.ready.crl_url)[2]
        registrar.service.administration.revoke("revoked.lan", reason="superseded")
        with ThreadPoolExecutor(20) as herd:
            lists = {der for _, _, der in herd.map(fetch, [registrar.ready.crl_url] * 60)}
        assert len(lists) == 1
        assert number(lists.pop()) > number(before)
        assert len(registrar.service.ledger.events(kind_prefix="crl.")) == 2


@pytest.mark.parametrize("days", [5, -5])
def test_revocation_list_is_signed_anew_in_time(tmp_path: Path, days: int) -> None:
    """A list past half its life, or one from the future after the clock was set back, is replaced."""
    with running(tmp_path / "data") as registrar:
        before = fetch(registrar.ready.crl_url)[2]
        registrar.clock.offset = timedelta(days=days)
        assert number(fetch(registrar.ready.crl_url)[2]) > number(before)


def test_revocation_list_has_two_names(registrar: Running) -> None:
    """The list is found by its CA's generation and by its key, over HTTPS too."""
    with registrar.connect() as client:
        names = registrar.service.authority.public.crl_names
        assert len(names) == 2
        answers = {client.call("GET", f"/crl/{name}.crl") for name in names}
        assert len(answers) == 1
        assert client.problem("GET", "/crl/other.crl").code == "not-found"


@pytest.mark.parametrize("path", ["/roots.pem", "/v1/hello", "/v1/machines", "/metrics", "/healthz", "/openapi.json"])
def test_plain_http_has_the_list_and_nothing_else(registrar: Running, path: str) -> None:
    """Without TLS there is only what is signed: no root, no API, no numbers."""
    place = urlsplit(registrar.ready.crl_url or "")
    assert fetch(f"http://{place.netloc}{path}")[0] == 404


def test_openapi_lists_every_route(registrar: Running) -> None:
    """The description has every route and method, and every reference in it leads somewhere."""
    with registrar.connect() as client:
        document = msgspec.json.decode(client.call("GET", "/openapi.json")[1])
    assert document == msgspec.to_builtins(openapi.document())
    assert document["openapi"] == "3.1.0"
    described = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    references = set(re.findall(r"#/components/schemas/(\w+)", msgspec.json.encode(document).decode()))
    assert references == set(document["components"]["schemas"])
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
