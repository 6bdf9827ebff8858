"""
The one door through which every TLS context of Handfast is made, so that the engine is chosen in one place.

All contexts are TLS 1.3 unless a listener asks for 1.2. There is no resumption: a resumed session
repeats neither the check of a certificate's dates nor the proof of our own key, to which introductions
are bound. (TLS 1.3 has no compression and no renegotiation; for 1.2 both are switched off.)

Known limit of the standard library's engine: a server accepts client certificates with the usage
clientAuth only, and has no way to be told otherwise.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core.keys import spki_sha256
from handfast.errors import Malformed, Unsafe

if TYPE_CHECKING:  # or every command would wait for it
    from OpenSSL import SSL

_ALPN = ["http/1.1"]
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h), which the ssl module has no name for.
_NO_CHECK_TIME = 0x200000


def server_context(
    chain: list[x509.Certificate],
    key: CertificateIssuerPrivateKeyTypes,
    roots: list[x509.Certificate],
    *,
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """
    Return a server's context: ``chain`` is the leaf and what is sent along, ``roots`` verify clients.

    A client certificate is optional; one that does not verify (another CA, expired, no clientAuth) ends
    the handshake. *Not* checked: revocation and role. ``oldest`` is TLS 1.2 only for a foreign peer that
    needs it.
    """
    if not roots:
        raise ValueError("no roots: then no client certificate could verify, and that would go unnoticed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = max(oldest, ssl.TLSVersion.TLSv1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(_ALPN)
    context.load_verify_locations(cadata=_pem(roots).decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _in_memory(pem + _pem(chain)) as path:
        context.load_cert_chain(path)
    return context


def agent_context(
    chain: list[x509.Certificate], key: CertificateIssuerPrivateKeyTypes, root: x509.Certificate, *, clock: bool
) -> ssl.SSLContext:
    """
    Return the context of an agent: as ``server_context``, and nobody without a certificate under ``root`` gets in.

    Without ``clock`` dates are not compared with this machine's, which may be years off before it is introduced.

    *Not* checked: the client's role, which is the caller's first question, and without ``clock`` any date.
    """
    context = server_context(chain, key, [root])
    context.verify_mode = ssl.CERT_REQUIRED
    if not clock:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def controller_context(chain: list[x509.Certificate], key: CertificateIssuerPrivateKeyTypes) -> ssl.SSLContext:
    """
    Return the context of a controller that speaks to an agent: TLS 1.3 and our certificate, and NOTHING is verified.

    Before an agent is introduced nobody can; afterwards ``controller.http`` has to, who then also knows which key was
    shown instead of the right one: an error of the library's own would hide that. What the peer has proved by the end
    of the handshake is that it has the key of its certificate.
    """
    context = _client_context()
    context.verify_mode = ssl.CERT_NONE
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _in_memory(pem + _pem(chain)) as path:
        context.load_cert_chain(path)
    return context


def foreign_server_context(certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes) -> ssl.SSLContext:
    """
    Return a server's context for a foreign protocol: one certificate and nothing sent along, TLS 1.2 or later.

    No client certificate is asked for: whoever comes proves himself, or does not, by what he sends.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Java 8
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; without key exchange by the CA's key
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _in_memory(pem + _pem([certificate])) as path:
        context.load_cert_chain(path)
    return context


def newcomer_context() -> ssl.SSLContext:
    """
    Return the context of a first contact, which verifies NOTHING: only an unauthenticated channel.

    The root is not known yet, only its pin. The caller must verify the peer's chain to that pin with
    ``core.chain.verify_chain`` before it sends anything that a stranger may not have.
    """
    context = _client_context()
    context.verify_mode = ssl.CERT_NONE
    return context


def pinned_client_context(roots: str, identity: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """
    Return a client's context that accepts only what chains to ``roots`` (PEM), and nothing else.

    ``identity`` is a file with our certificate and its chain, and one with the key (both PEM).

    *Not* checked here, and left to ``core.chain.verify_chain``: dates, because the caller chooses the time
    (the clocks of new machines are wrong), and who the peer is (its role, not its host name).

    :raises Malformed: no certificate in ``roots``.
    :raises Unsafe: the files of ``identity`` do not fit together, or are encrypted.
    """
    context = _client_context()
    try:
        context.load_verify_locations(cadata=roots)
    except (ssl.SSLError, ValueError) as error:
        raise Malformed(f"no root certificate to verify a peer with: {error}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    if identity is not None:
        certificate, key = identity
        try:
            context.load_cert_chain(certificate, key, password=_no_prompt)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise Unsafe(f"{str(certificate)!r} and {str(key)!r} are no pair: {error}") from None
    return context


def foreign_client_context() -> ssl.SSLContext:
    """
    Return the context of a first contact over a foreign protocol, which verifies NOTHING, in TLS 1.2 or 1.3.

    *Not* verified: that the peer's certificate chains to anything, its dates, its name. What the peer proves is
    only that it has the key of its certificate. The caller must authenticate that key by what its protocol
    has (NiFi's is a MAC with a shared token) before it believes anything that the peer said.
    """
    context = newcomer_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def public_client_context() -> ssl.SSLContext:
    """
    Return a context for servers of the public web, such as an object store: the system's CAs, and the host's name.

    Nothing of ours is trusted because of it. ``SSL_CERT_FILE`` names other CAs, as for every program.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def verifying_client_context(
    roots: list[x509.Certificate],
    identity: tuple[list[x509.Certificate], CertificateIssuerPrivateKeyTypes] | None = None,
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """
    Return the context of an ordinary HTTPS client for a foreign server: chain to ``roots``, dates, host name.

    A certificate without any alternative name may have the host in its common name. TLS 1.2 up to ``newest``.
    ``identity`` is our chain, leaf first, and its key. *Not* checked: revocation.

    :raises Unsafe: key and certificate of ``identity`` do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies, and compares the host name
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, newest
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # As Java does: whatever is in the trust store is trusted, self-signed or not.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=_pem(roots).decode())
    if identity is not None:
        chain, key = identity
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            with _in_memory(pem + _pem(chain)) as path:
                context.load_cert_chain(path)
        except ssl.SSLError as error:
            raise Unsafe(f"the client certificate and its key are no pair: {error.reason}") from None
    return context


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What one party of a session presents and asks for in TLS: always the server's side of it, or the client's."""

    context: SSL.Context
    is_server: bool
    alpn: bytes

    def connection(self, connected: socket.socket) -> SSL.Connection:
        """Return a TLS connection that reads from and writes to ``connected``; its handshake has not begun."""
        from OpenSSL import SSL

        connection = SSL.Connection(self.context, connected)
        if self.is_server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        return connection


def session_server_context(
    chain: list[x509.Certificate], key: CertificateIssuerPrivateKeyTypes, root: x509.Certificate, *, alpn: str
) -> SessionContext:
    """
    Return the context of a session's server: TLS 1.3 alone, a client certificate under ``root``, this ALPN.

    ``chain`` is ours, leaf first, without the root. No session is ever resumed. A client that offers
    another protocol, or none, comes through the handshake without one, and ``sessions.channel`` refuses it then.

    *Not* checked, and left to ``sessions.trust``, which is asked before any byte is believed: dates (the answer to a
    wrong clock is a sentence, not an alert), the role, revocation.

    :raises Unsafe: key and certificate do not fit together.
    """
    from OpenSSL import SSL

    context = _session_context(SSL.TLS_SERVER_METHOD, chain, key, root)
    wanted = alpn.encode()

    def select(_connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
        # No exception here: it would leave an entry in OpenSSL's queue of errors, which the next connection finds.
        return wanted if wanted in offered else SSL.NO_OVERLAPPING_PROTOCOLS

    context.set_alpn_select_callback(select)
    return SessionContext(context, is_server=True, alpn=wanted)


def session_client_context(
    chain: list[x509.Certificate], key: CertificateIssuerPrivateKeyTypes, root: x509.Certificate, *, alpn: str
) -> SessionContext:
    """
    Return the context of a session's client: as ``session_server_context``, and no host name is compared.

    :raises Unsafe: key and certificate do not fit together.
    """
    from OpenSSL import SSL

    context = _session_context(SSL.TLS_CLIENT_METHOD, chain, key, root)
    context.set_alpn_protos([alpn.encode()])
    return SessionContext(context, is_server=False, alpn=alpn.encode())


def _session_context(
    method: int, chain: list[x509.Certificate], key: CertificateIssuerPrivateKeyTypes, root: x509.Certificate
) -> SSL.Context:
    """pyOpenSSL, which unlike the standard library can half-close; `docs/performance.md` has the figures."""
    from OpenSSL import SSL
    from OpenSSL.crypto import X509

    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    # Without a cache, the tickets that OpenSSL sends all the same refer to nothing.
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection holds 34 KiB less
    try:
        context.use_certificate(chain[0])
        for each in chain[1:]:
            context.add_extra_chain_cert(each)
        context.use_privatekey(key)  # type: ignore[arg-type]  # all kinds that we sign with are among its own
        context.check_privatekey()
    except SSL.Error:
        raise Unsafe("the certificate and its key are no pair") from None
    if (store := context.get_cert_store()) is not None:  # without, nobody would verify
        store.add_cert(X509.from_cryptography(root))
        store.set_flags(_NO_CHECK_TIME)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def peer_chain(connection: ssl.SSLSocket | ssl.SSLObject) -> list[bytes]:
    """Return every certificate (DER) that the peer sent in the handshake, its own first; unverified."""
    if sys.version_info >= (3, 13):
        return connection.get_unverified_chain()
    # Before 3.13 the standard library has this without a public name; there is no other way to count them.
    certificates = connection._sslobj.get_unverified_chain() or ()  # type: ignore[union-attr]  # noqa: SLF001
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in certificates]


def leaf_spki_sha256(der: bytes) -> bytes:
    """
    Return the SHA-256 of a certificate's SubjectPublicKeyInfo: what introductions are bound to.

    :raises Malformed: not a certificate.
    """
    try:
        return spki_sha256(x509.load_der_x509_certificate(der).public_key())
    except ValueError as error:
        raise Malformed(f"not a certificate: {str(error)[:120]!r}") from None


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # see the callers: identity is a role under a pinned root
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols(_ALPN)
    return context


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _no_prompt() -> str:
    # Without it OpenSSL would ask on the terminal, which a service does not have.
    raise ValueError("the key is encrypted")


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Give ``data`` a path without a disk: the ssl module reads keys from files only."""
    fd = os.memfd_create("handfast", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)  # a memfd takes all of it
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
