"""TLS as NiFi's nodes of any age need it, and no weaker: one certificate, no resumption, no key exchange by the CA."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from handfast.adapters.tls import peer_chain
from tests.server.nifi_peer import CA, Served, context, serving
from tests.server.test_limits import end_of


@pytest.fixture(scope="module")
def rsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same with the original's kind of key."""
    with serving(tmp_path_factory.mktemp("rsa") / "data", key_algorithm="RSA", key_size=2048) as started:
        yield started


@pytest.mark.parametrize("name", ["elsewhere.lan", None, CA, "x.y.z"])
def test_any_server_name(rsa: Served, name: str | None) -> None:
    """A client calls it what it likes, or nothing: it has one certificate."""
    raw = socket.create_connection(rsa.address, timeout=10)
    with raw, context().wrap_socket(raw, server_hostname=name) as stream:
        assert x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"") == rsa.root


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_tls(rsa: Served, version: ssl.TLSVersion) -> None:
    """TLS 1.2 for Java 8, with an ephemeral key and authenticated encryption; 1.3 alone for the others."""
    with rsa.connect(context(version, version)) as node:
        assert node.enrol().status == 200
        assert len(peer_chain(node.socket)) == 1
        cipher = node.socket.cipher()
        assert cipher is not None
        assert cipher[0].startswith(("ECDHE-", "TLS_"))
        assert "GCM" in cipher[0] or "POLY1305" in cipher[0]
        assert node.socket.compression() is None


@pytest.mark.parametrize(
    ("newest", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1, "DEFAULT:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "kRSA"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AES:!AESGCM:!AESCCM"),
        (ssl.TLSVersion.TLSv1_2, "DHE+AESGCM"),
        (ssl.TLSVersion.TLSv1_2, "aNULL:@SECLEVEL=0"),
    ],
)
def test_old_tls_is_refused(rsa: Served, newest: ssl.TLSVersion, ciphers: str) -> None:
    """Older versions, key exchange by the CA's own key, and modes that were broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the names themselves
        made = context(ssl.TLSVersion.TLSv1, newest)
    made.set_ciphers(ciphers)
    with capture_logs() as logged, pytest.raises((ssl.SSLError, ConnectionError)):
        rsa.connect(made)
    assert [reason for reason in logged if "NO_SHARED_CIPHER" in reason["error"] or "UNSUPPORTED" in reason["error"]]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed(rsa: Served, version: ssl.TLSVersion) -> None:
    """A resumed session would prove neither the CA's key anew nor ours: it is not offered, or it is cut off."""
    made = context(version, version)
    with rsa.connect(made) as first:
        assert first.enrol().status == 200
        session = first.socket.session
    assert session is None or not session.has_ticket
    with socket.create_connection(rsa.address, timeout=10) as raw:
        try:
            with made.wrap_socket(raw, session=session) as again:
                assert not again.session_reused or end_of(again) == b""
        except (ssl.SSLError, ConnectionError):
            pass
    assert rsa.enrol().status == 200
