"""
A connection to a registrar, and the moment from which it is trusted.

``verified`` is the only door: it connects, reads the registrar's public hello, and returns only if the
TLS key that the peer proved chains to the pinned root in the role ``registrar``. Until then nothing was
sent but a GET that anybody could send (P5), whatever the peer answers.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from cryptography import x509

from handfast import errors
from handfast.adapters.tls import leaf_spki_sha256
from handfast.core import wire
from handfast.core.chain import Identity, load_certificate, verify_chain
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import HandfastError, Malformed, Refused, Unreachable, UntrustedPeer

CONNECT_TIMEOUT = 10.0  # seconds for one address, and for an answer to begin
DEADLINE = 30.0  # seconds for everything on one connection: a peer that drips bytes does not hold us
_HELLO = "/v1/hello"
_MAX_TEXT = 2000  # characters of what a peer says is wrong: they go to a terminal, and to logs
_MAX_REASONS = 100
T = TypeVar("T")


class Connection:
    """One TLS connection, several requests. Not yet trusted: see ``verified``."""

    def __init__(self, address: Address, context: ssl.SSLContext, *, deadline: float) -> None:
        self.address = address
        self._late = False
        try:
            raw = socket.create_connection((address.host, address.port), timeout=CONNECT_TIMEOUT)
        except OSError as error:
            raise Unreachable(
                f"cannot reach {address}: {str(error.strerror or error).lower()}",
                hint="is the registrar running, and the port open?",
            ) from None
        # http.client writes head and body apart; without this the body waits for the peer's delayed ACK, 40 ms.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw, do_handshake_on_connect=False)
        self._http = http.client.HTTPConnection(address.host, address.port)
        self._http.sock = self._socket
        # When the peer closes, http.client would connect again by itself: without TLS, to anybody.
        self._http.auto_open = 0
        self._watchdog = threading.Timer(deadline, self._expire)
        self._watchdog.daemon = True
        self._watchdog.start()
        try:
            self.leaf = self._handshake()
        except BaseException:
            self.close()
            raise

    def _handshake(self) -> bytes:
        """Return the certificate (DER) whose key the peer proves."""
        try:
            self._socket.do_handshake()
            leaf = self._socket.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedPeer(
                f"{self.address} presents a certificate that is not from our root: {error.verify_message}",
                hint="somebody may be in the middle; `handfast explain` shows whom this machine trusts",
            ) from None
        except (ssl.SSLError, OSError) as error:
            raise Unreachable(
                f"no TLS 1.3 with {self.address}: {self._reason(error)}", hint="is this the registrar's port?"
            ) from None
        if leaf is None:  # unreachable in TLS 1.3 without pre-shared keys
            raise UntrustedPeer(f"{self.address} presented no certificate")
        return leaf

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        limit: int = wire.MAX_ANSWER,
        patience: float = CONNECT_TIMEOUT,
    ) -> tuple[int, bytes]:
        """
        Send one request and return status and body; ``patience`` is for what takes the registrar long (seconds).

        :raises Unreachable: no whole answer in time.
        :raises Malformed: an answer longer than ``limit`` bytes.
        """
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        try:
            self._socket.settimeout(patience)
            self._http.request(method, path, body=body, headers=headers)
            with contextlib.closing(self._http.getresponse()) as response:
                answer = self._read(response, limit)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{self.address} did not answer {method} {path}: {self._reason(error)}",
                hint="run the same command again: nothing is lost, and the same key gets the same answer",
            ) from None
        if len(answer) > limit:
            raise Malformed(f"{self.address} sent over {limit} bytes")
        return response.status, answer

    def _read(self, response: http.client.HTTPResponse, limit: int) -> bytes:
        if response.length is None or response.chunked:
            # http.client reads a chunk of negative size to its end, whatever limit it is given: a stranger could
            # fill our memory. Our registrar always says how much it sends.
            raise Malformed(f"{self.address} does not say how much it sends")
        answer = response.read(limit + 1)
        if response.length and len(answer) <= limit:  # with a limit, http.client takes half for a whole
            raise http.client.IncompleteRead(answer, response.length)
        return answer

    def call(
        self, method: str, path: str, kind: type[T], body: bytes | None = None, *, patience: float = CONNECT_TIMEOUT
    ) -> T:
        """
        Send one request and return its answer as ``kind``.

        :raises HandfastError: the class that the registrar's problem names.
        """
        status, answer = self.request(method, path, body, patience=patience)
        if status >= 400 or status == http.client.ACCEPTED:  # the latter where a person has to approve first
            raise problem(answer, status, str(self.address))
        return wire.decode(answer, kind)

    def _reason(self, error: BaseException) -> str:
        if self._late or isinstance(error, TimeoutError):
            return "it took too long"
        text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        words = str(text or type(error).__name__)
        return words[:1].lower() + words[1:200]

    def _expire(self) -> None:
        self._late = True
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: that would drop TLS while another thread reads.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close without ceremony; every message was whole."""
        self._watchdog.cancel()
        self._http.close()
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Verified:
    """A connection whose registrar is authentic, with what a request needs to be bound to it."""

    connection: Connection
    identity: Identity
    nonce: bytes
    server_spki: bytes
    time: datetime
    leaf: x509.Certificate


# Returns the time at which the registrar's certificate is checked, given the time that it claims.
TimeJudge = Callable[[datetime], datetime]


@contextlib.contextmanager
def verified(
    addresses: Sequence[Address],
    context: ssl.SSLContext,
    *,
    pin: bytes,
    judge: TimeJudge,
    deadline: float | None = None,
) -> Iterator[Verified]:
    """
    Connect to the first address that answers and prove that it is the registrar under ``pin``.

    ``deadline`` is for all that is done within (seconds); by default what a request needs that is answered at once.

    :raises Unreachable: none answers.
    :raises UntrustedPeer: it is somebody else, or right root and wrong role.
    """
    connection = _first(addresses, context, deadline or DEADLINE)
    try:
        yield _verify(connection, pin=pin, judge=judge)
    finally:
        connection.close()


def _first(addresses: Sequence[Address], context: ssl.SSLContext, deadline: float) -> Connection:
    failures: list[Unreachable] = []
    for address in addresses:
        try:
            return Connection(address, context, deadline=deadline)
        except Unreachable as error:
            failures.append(error)
    raise Unreachable("; ".join(error.message for error in failures), hint=failures[0].hint if failures else "")


def _verify(connection: Connection, *, pin: bytes, judge: TimeJudge) -> Verified:
    try:
        status, answer = connection.request("GET", _HELLO)
        if status != http.client.OK:  # what an unknown peer says is wrong is no error of ours, nor its words
            raise Malformed(f"status {status}")
        hello = wire.decode(answer, wire.Hello)
        claimed = parse_time(hello.time)
        roots = [load_certificate(der) for der in hello.trust]
        chain = [load_certificate(der) for der in hello.chain]
        leaf = load_certificate(connection.leaf)
    except Refused as error:
        raise UntrustedPeer(
            f"{connection.address} does not answer like a registrar: {error.message}",
            hint="is the address right? nothing was sent to it",
        ) from None
    identity = verify_chain(leaf, chain, roots, pin=pin, role=Role.REGISTRAR, at=judge(claimed))
    return Verified(connection, identity, hello.nonce, leaf_spki_sha256(connection.leaf), claimed, leaf)


def parse_time(text: str) -> datetime:
    """
    Read an RFC 3339 time with an offset.

    :raises Malformed: anything else.
    """
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise Malformed(f"a time without an offset: {text[:40]!r}")
        return time.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter for the first and the last day that there are
        raise Malformed(f"not a time: {text[:40]!r}") from None


def problem(answer: bytes, status: int, where: str, *, who: str = "the registrar") -> HandfastError:
    """Return the error that an RFC 9457 problem names, so that both sides end with the same code."""
    try:
        content = _cut(wire.decode(answer, wire.Problem))
    except Malformed:
        return Unreachable(f"{where} answered with status {status} and no reason", hint=f"see {who}'s log")
    message = "; ".join(content.reasons) or content.detail or content.title
    kind = _by_code().get(content.code, Refused if status < 500 else Unreachable)
    if issubclass(kind, errors.Fault):
        return Unreachable(f"{who} failed: {message}", hint=content.hint or "see its log, then run this again")
    if kind is errors.PolicyRefused:
        return errors.PolicyRefused(tuple(content.reasons) or (message,), hint=content.hint)
    if kind is errors.TooMuch:
        return errors.TooMuch(message, hint=content.hint, after=content.after)
    # The server says no more to a stranger, on purpose; who runs both can look.
    unsaid = f"{who}'s log says why" if kind is errors.EvidenceRejected else ""
    return kind(message, hint=content.hint or unsaid)


def _cut(said: wire.Problem) -> wire.Problem:
    title, detail, hint = (text[:_MAX_TEXT] for text in (said.title, said.detail, said.hint))
    reasons = [text[:_MAX_TEXT] for text in said.reasons[:_MAX_REASONS]]
    return msgspec.structs.replace(said, title=title, detail=detail, hint=hint, reasons=reasons)


def _by_code() -> dict[str, type[HandfastError]]:
    found: dict[str, type[HandfastError]] = {}
    todo: list[type[HandfastError]] = [HandfastError]
    while todo:
        kind = todo.pop()
        found[kind.code] = kind
        todo += kind.__subclasses__()
    return found
