"""The TLS contexts, by real handshakes over a socket pair."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from handfast.adapters import tls
from handfast.core import x509 as profile
from handfast.core.flow import Grant
from handfast.core.keys import spki
from handfast.core.names import Names
from handfast.core.roles import Role, spiffe_id
from handfast.errors import Malformed, Unsafe

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


class Site:
    """A root with an issuing CA, made ``ago``."""

    def __init__(self, *, ago: timedelta = 10 * DAY) -> None:
        root_key, self.key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root = profile.root(root_key, name="test", now=NOW - ago)
        self.issuing = profile.issuing(
            self.root, root_key, self.key.public_key(), name="test", generation=1, now=NOW - ago
        )
        self.pem = self.root.public_bytes(Encoding.PEM).decode()

    def leaf(self, role: Role, *, start: datetime = NOW - DAY, end: datetime = NOW + DAY) -> Pair:
        """Return a leaf with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        grant = Grant(
            machine="m",
            role=role,
            spiffe_id=spiffe_id(profile.spiffe_domain(self.root), role, "m"),
            names=Names(),
            public_key=spki(key.public_key()),
            not_before=start,
            not_after=end,
            method="test",
            why=(),
        )
        serial = x509.random_serial_number()
        certificate = profile.LeafProfile(self.issuing).builder(grant, serial).sign(self.key, SHA256())
        return Pair(key, certificate, self.issuing)

    def server(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return the registrar's context."""
        pair = pair or self.leaf(Role.REGISTRAR)
        return tls.server_context([pair.certificate, self.issuing], pair.key, [self.root])


class Pair:
    """A key and its certificate."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, issuing: x509.Certificate
    ) -> None:
        self.key, self.certificate, self.issuing = key, certificate, issuing

    def write(self, directory: Path, *, password: bytes | None = None) -> tuple[Path, Path]:
        """Return the paths of fullchain and key."""
        chain, key = directory / "fullchain.pem", directory / "privkey.pem"
        chain.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in (self.certificate, self.issuing)))
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return chain, key


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLSocket, bytes | None]:
    """Return the client's end after a handshake and one byte each way, and the certificate that the server saw."""
    ours, theirs = socket.socketpair()
    seen: list[bytes | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as end:
                end.send(end.recv(1))
                seen.append(end.getpeercert(binary_form=True))
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        end = client.wrap_socket(ours)
        try:
            end.send(b"x")
            if end.recv(1) != b"x":
                raise ConnectionResetError("the server has closed")
        except BaseException:
            end.close()
            raise
    except BaseException:
        ours.close()
        raise
    finally:
        thread.join(5)
    return end, seen[0]


def refused(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """The handshake must fail on one of the two sides."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake(server, client)


@pytest.fixture(scope="module")
def site() -> Site:
    """An authority for all tests that do not need another one."""
    return Site()


def test_newcomer_speaks_tls_1_3_only(site: Site) -> None:
    """A first contact is TLS 1.3 with HTTP/1.1, and shows the server's leaf without judging it."""
    pair = site.leaf(Role.REGISTRAR)
    end, _ = shake(site.server(pair), tls.newcomer_context())
    with end:
        assert (end.version(), end.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        assert end.getpeercert(binary_form=True) == pair.certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("make", ["newcomer", "pinned"])
def test_clients_refuse_tls_1_2(site: Site, make: str) -> None:
    """No client of ours can be talked down to TLS 1.2."""
    pair = site.leaf(Role.REGISTRAR)
    old = tls.server_context([pair.certificate], pair.key, [site.root], oldest=ssl.TLSVersion.TLSv1_2)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(old, tls.newcomer_context() if make == "newcomer" else tls.pinned_client_context(site.pem))


def test_server_goes_down_to_1_2_only_when_asked(site: Site) -> None:
    """TLS 1.2 is per listener, and nothing older can be asked for."""
    client = tls.newcomer_context()
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(site.server(), client)
    pair = site.leaf(Role.REGISTRAR)
    for oldest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MINIMUM_SUPPORTED):
        server = tls.server_context([pair.certificate], pair.key, [site.root], oldest=oldest)
        assert server.minimum_version is ssl.TLSVersion.TLSv1_2
        with shake(server, client)[0] as end:
            assert end.version() == "TLSv1.2"


def test_no_session_is_resumed(site: Site) -> None:
    """With TLS 1.3 there is no ticket, so that both keys are proved in every connection."""
    server, client = site.server(), tls.newcomer_context()
    with shake(server, client)[0] as end:
        assert end.session is None or not end.session.has_ticket


@pytest.mark.parametrize("role", [role for role in Role if role.dials])
def test_server_sees_the_client_that_dials(site: Site, tmp_path: Path, role: Role) -> None:
    """The server is handed the client's certificate, of every role that dials."""
    pair = site.leaf(role)
    end, seen = shake(site.server(), tls.pinned_client_context(site.pem, pair.write(tmp_path)))
    end.close()
    assert seen == pair.certificate.public_bytes(Encoding.DER)


def test_client_certificate_is_optional(site: Site) -> None:
    """A newcomer has none, and is served."""
    end, seen = shake(site.server(), tls.pinned_client_context(site.pem))
    end.close()
    assert seen is None


@pytest.mark.parametrize("wrong", ["server role", "expired", "another authority"])
def test_server_refuses_a_wrong_client_certificate(site: Site, tmp_path: Path, wrong: str) -> None:
    """A certificate without clientAuth, out of time or from elsewhere ends the handshake, and is not ignored."""
    pair = {
        "server role": lambda: site.leaf(Role.SERVER),
        "expired": lambda: site.leaf(Role.CLIENT, end=NOW - timedelta(hours=1)),
        "another authority": lambda: Site().leaf(Role.CLIENT),
    }[wrong]()
    refused(site.server(), tls.pinned_client_context(site.pem, pair.write(tmp_path)))


def test_pinned_client_refuses_another_authority(site: Site) -> None:
    """Only what chains to the given root is spoken to."""
    refused(Site().server(), tls.pinned_client_context(site.pem))


def test_pinned_client_leaves_dates_to_its_caller(site: Site) -> None:
    """A server certificate that is over by this machine's clock passes here: ``core.chain`` judges dates."""
    old = site.leaf(Role.REGISTRAR, start=NOW - 5 * DAY, end=NOW - 4 * DAY)
    shake(site.server(old), tls.pinned_client_context(site.pem))[0].close()
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    plain.check_hostname = False
    plain.load_verify_locations(cadata=site.pem)
    refused(site.server(old), plain)  # so it is the flag that does it


@pytest.mark.parametrize("roots", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_no_roots_are_no_trust(roots: str) -> None:
    """Without a root there is no context (rule 8: empty means no)."""
    with pytest.raises(Malformed, match="no root certificate"):
        tls.pinned_client_context(roots)


def test_server_needs_roots(site: Site) -> None:
    """A server that could verify no client is a mistake of the caller."""
    pair = site.leaf(Role.REGISTRAR)
    with pytest.raises(ValueError, match="no roots"):
        tls.server_context([pair.certificate], pair.key, [])


def test_files_that_do_not_fit(site: Site, tmp_path: Path) -> None:
    """A key of another certificate, an encrypted key and a missing file are refused by name, without a prompt."""
    chain, _ = site.leaf(Role.CLIENT).write(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for key in (
        site.leaf(Role.CLIENT).write(other)[1],
        site.leaf(Role.CLIENT).write(other, password=b"x")[1],
        tmp_path / "gone",
    ):
        with pytest.raises(Unsafe, match=r"fullchain\.pem.*are no pair"):
            tls.pinned_client_context(site.pem, (chain, key))


def test_key_leaves_no_descriptor(site: Site) -> None:
    """Loading a key from memory opens nothing that stays open."""
    before = len(os.listdir("/proc/self/fd"))
    site.server()
    assert len(os.listdir("/proc/self/fd")) == before


def test_leaf_hash(site: Site) -> None:
    """The hash that introductions are bound to is that of the SubjectPublicKeyInfo; garbage is refused."""
    pair = site.leaf(Role.REGISTRAR)
    info = pair.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert tls.leaf_spki_sha256(pair.certificate.public_bytes(Encoding.DER)) == hashlib.sha256(info).digest()
    with pytest.raises(Malformed, match="not a certificate"):
        tls.leaf_spki_sha256(b"garbage")
