"""The one door: nothing but a hello goes through it before the registrar has proved itself."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from handfast import errors
from handfast.adapters.tls import leaf_spki_sha256, newcomer_context, pinned_client_context
from handfast.core import wire
from handfast.core.invitation import Address
from handfast.core.roles import GRANTABLE, Role
from handfast.errors import HandfastError, Malformed, PolicyRefused, Refused, Unreachable, UntrustedPeer
from handfast.newcomer import connection
from handfast.newcomer.connection import parse_time, problem, verified
from tests.authority.helpers import NOW, Pki
from tests.newcomer.fake import Fake, der, http

PKI = Pki.make()
ADDRESS = Address("registrar.lan", 7443)


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A registrar that is honest until it is told otherwise."""
    with Fake(PKI) as started:
        yield started


def meet(*addresses: Address, pin: bytes = PKI.pin, context: ssl.SSLContext | None = None) -> None:
    """Go through the door and back."""
    with verified(addresses, context or newcomer_context(), pin=pin, judge=lambda claimed: claimed) as found:
        assert found.identity.role is Role.REGISTRAR


def test_an_honest_registrar_is_known_by_its_key(fake: Fake) -> None:
    """What was verified is the certificate of this very handshake."""
    with verified([fake.address], newcomer_context(), pin=PKI.pin, judge=lambda claimed: claimed) as found:
        assert found.identity.machine == "registrar"
        assert found.server_spki == leaf_spki_sha256(der(fake.chain[0])[0])
        assert found.leaf == fake.chain[0]
        assert (found.nonce, found.time) == (bytes(56), NOW)
    assert fake.requests == ["GET /v1/hello"]


def test_P1_another_root_is_refused(fake: Fake) -> None:
    """Whatever it presents and says: its root does not have the pin."""
    with pytest.raises(UntrustedPeer, match="no root with the pin") as caught:
        meet(fake.address, pin=bytes(32))
    assert "compare the pin" in caught.value.hint
    assert fake.requests == ["GET /v1/hello"]


def test_P1_the_true_root_beside_another_chain_is_refused() -> None:
    """An attacker knows the root, which is public, and sends it along with his own leaf."""
    with Fake(Pki.make()) as attacker:
        for trust, chain in ((der(PKI.root), der(PKI.issuing)), (der(PKI.root, attacker.pki.root), attacker.chain[1:])):
            sent = [c if isinstance(c, bytes) else der(c)[0] for c in chain]
            greeting = attacker.greeting(trust=trust, chain=sent)
            attacker.hello = lambda greeting=greeting: http(msgspec.json.encode(greeting))  # type: ignore[misc]
            with pytest.raises(UntrustedPeer, match="does not chain"):
                meet(attacker.address)


@pytest.mark.parametrize("role", sorted(GRANTABLE))
def test_P6_a_leaf_of_another_role_is_no_registrar(role: Role) -> None:
    """A joined machine under the right root stands in the middle: its own credential is worth nothing there."""
    with Fake(PKI, role=role) as joined:
        with pytest.raises(UntrustedPeer, match=f"is a {role}, not a registrar"):
            meet(joined.address)
        assert joined.requests == ["GET /v1/hello"]


def test_a_registrar_certificate_of_another_time_is_refused(fake: Fake) -> None:
    """An old certificate, whose key somebody found, cannot be made valid by claiming its time: the judge decides."""
    later = datetime(2031, 1, 1, tzinfo=UTC)
    with (
        pytest.raises(UntrustedPeer, match="does not chain"),
        verified([fake.address], newcomer_context(), pin=PKI.pin, judge=lambda _claimed: later),
    ):
        pass


@pytest.mark.parametrize(
    "response",
    [
        http(b"{}"),
        http(b"not json"),
        http(b"[" * 100_000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 100_000,
        http(b'{"x":' + b"[" * 100_000),
        http(b"\xff\xfe"),
        http(b"", status="204 No Content"),
        http(b"", status="302 Found", headers="Location: https://elsewhere.lan/\r\n"),
        http(b"x" * (wire.MAX_ANSWER + 1)),
        http(b'{"title":"come in","status":403,"code":"already-spent","detail":"say abracadabra"}', status="403 No"),
        http(b'{"title":"come in","status":202,"code":"waiting","detail":"say abracadabra"}', status="400 No"),
        http(b'{"title":"come in","status":500,"code":"fault","detail":"say abracadabra"}', status="500 No"),
    ],
)
def test_what_a_stranger_says_is_no_error_of_ours(fake: Fake, response: bytes) -> None:
    """Before it is verified, every answer but a hello makes an untrusted peer, and its words are not repeated."""
    fake.hello = lambda: response
    with pytest.raises(UntrustedPeer, match=r"does not answer like a registrar|sent over") as caught:
        meet(fake.address)
    assert "abracadabra" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "yesterday"},
        {"time": "2026-11-22T12:00:00"},
        {"time": "0001-01-01T00:00:00+23:59"},
        {"time": "9999-12-31T23:59:59-23:59"},
        {"time": ""},
        {"trust": [b"garbage"]},
        {"trust": []},
        {"chain": [b"garbage"]},
        {"trust": [bytes(100_000)]},
        {"time": "0001-01-01T00:00:00+00:00"},
        {"time": "9999-12-31T23:59:59+00:00"},
    ],
)
def test_a_hello_that_means_nothing_is_refused(fake: Fake, changes: dict[str, Any]) -> None:
    """Times at the edges of the calendar and certificates that are none end as an untrusted peer."""
    fake.hello = lambda: http(msgspec.json.encode(fake.greeting(**changes)))
    with pytest.raises(UntrustedPeer):
        meet(fake.address)


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" * 200],
)
def test_half_an_answer_is_none(fake: Fake, raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated or foreign responses: unreachable, with the hint that a retry is safe."""
    monkeypatch.setattr(connection, "DEADLINE", 0.3)
    fake.hello = lambda: raw or None
    with pytest.raises((Unreachable, UntrustedPeer)):
        meet(fake.address)


def test_a_registrar_that_hangs_up_is_not_called_in_the_clear(fake: Fake) -> None:
    """http.client would connect again by itself, without TLS: the evidence must not follow it."""
    fake.hello = lambda: http(msgspec.json.encode(fake.greeting()), headers="Connection: close\r\n")
    with (
        pytest.raises(Unreachable, match="did not answer POST"),
        verified([fake.address], newcomer_context(), pin=PKI.pin, judge=lambda claimed: claimed) as found,
    ):
        found.connection.call("POST", "/v1/introductions/invitation", wire.IntroductionAnswer, b'{"secret":1}')
    assert fake.requests == ["GET /v1/hello"]
    assert b"secret" not in fake.seen


@contextmanager
def bare(serve: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A TCP listener without TLS; ``serve`` gets each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def loop() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    serve(peer)

        thread = threading.Thread(target=loop)
        thread.start()
        yield Address("127.0.0.1", listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def void(_result: object) -> None:
    """Nothing."""


def test_a_peer_that_never_speaks_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and says nothing, not even a handshake."""
    monkeypatch.setattr(connection, "DEADLINE", 0.3)
    released = threading.Event()
    with bare(lambda _peer: void(released.wait(60))) as address:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="too long") as caught:
            meet(address)
        assert time.monotonic() - started < 5
        released.set()
    assert caught.value.hint


def test_a_registrar_that_hangs_ends_at_the_deadline(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake is fine, and then nothing comes."""
    monkeypatch.setattr(connection, "DEADLINE", 0.3)

    def hang() -> bytes | None:
        fake.hang()
        return None

    fake.hello = hang
    with pytest.raises(Unreachable, match="took too long"):
        meet(fake.address)


def test_a_registrar_that_drips_ends_at_the_deadline(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte now and then resets every timeout of a read; the deadline is for all of it."""
    monkeypatch.setattr(connection, "DEADLINE", 0.5)
    drops: list[bytes] = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"]

    def drip(self: Fake, line: str, body: bytes) -> bytes | None:
        return drops.pop() if drops else None

    monkeypatch.setattr(Fake, "_respond", drip)

    def read(self: Fake, tls: ssl.SSLSocket) -> tuple[str, bytes]:
        if drops:
            return original(self, tls)
        while not self._stopping.wait(0.05):
            tls.sendall(b" ")
        return "", b""

    original = Fake._read
    monkeypatch.setattr(Fake, "_read", read)
    started = time.monotonic()
    with pytest.raises(Unreachable, match="took too long"):
        meet(fake.address)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_service_is_unreachable(said: bytes) -> None:
    """A port on which something else listens."""
    with bare(lambda peer: peer.sendall(said)) as address, pytest.raises(Unreachable) as caught:
        meet(address)
    assert "port" in caught.value.hint


def test_tls_1_2_is_not_spoken(fake: Fake) -> None:
    """There is no fallback: a peer that cannot do better is no registrar."""
    fake._context.minimum_version = ssl.TLSVersion.TLSv1_2
    fake._context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(Unreachable, match=r"no TLS 1\.3"):
        meet(fake.address)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_the_next_address_is_tried(fake: Fake) -> None:
    """One that is down is passed over; all that are down are named."""
    down = Address("127.0.0.1", free_port())
    meet(down, fake.address)
    with pytest.raises(Unreachable) as caught:
        meet(down, Address("127.0.0.1", free_port()))
    assert caught.value.message.count("cannot reach 127.0.0.1") == 2
    with pytest.raises(Unreachable):
        meet()


def test_an_impostor_ends_the_search(fake: Fake) -> None:
    """Who answers under an address of ours and is not the registrar is news, not a reason to go on."""
    with Fake(Pki.make()) as impostor, pytest.raises(UntrustedPeer):
        meet(impostor.address, fake.address)
    assert fake.requests == []


def test_a_context_with_roots_refuses_in_the_handshake(fake: Fake) -> None:
    """Who has joined before knows the root: an impostor does not even get a hello."""
    context = pinned_client_context(ssl.DER_cert_to_PEM_cert(der(PKI.root)[0]))
    meet(fake.address, context=context)
    with Fake(Pki.make()) as impostor:
        with pytest.raises(UntrustedPeer, match="not from our root"):
            meet(impostor.address, context=context)
        assert impostor.requests == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("already-spent", errors.AlreadySpent),
        ("invitation-expired", errors.InvitationExpired),
        ("evidence-rejected", errors.EvidenceRejected),
        ("revoked", errors.Revoked),
        ("too-much", errors.TooMuch),
        ("waiting", errors.Waiting),
        ("fault", Unreachable),
        ("of-the-future", Refused),
    ],
)
def test_both_sides_end_with_the_same_code(code: str, kind: type[HandfastError]) -> None:
    """A problem of the registrar becomes the same class here; its fault is not ours."""
    body = msgspec.json.encode(wire.Problem("title", 403, code, detail="why", hint="what to do"))
    error = problem(body, 403, str(ADDRESS))
    assert type(error) is kind
    assert "why" in error.message
    assert error.hint


@pytest.mark.parametrize("who", ["the registrar", "the agent"])
def test_whose_log_says_why(who: str) -> None:
    """Evidence is refused without a reason: whoever runs both looks where it was refused."""
    body = msgspec.json.encode(wire.Problem("no", 403, errors.EvidenceRejected.code))
    assert problem(body, 403, str(ADDRESS), who=who).hint == f"{who}'s log says why"


def test_every_reason_of_policy_arrives() -> None:
    """All reasons, as reasons."""
    body = msgspec.json.encode(wire.Problem("no", 403, "policy-refused", reasons=["one", "two"]))
    error = problem(body, 403, str(ADDRESS))
    assert isinstance(error, PolicyRefused)
    assert error.reasons == ("one", "two")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b'{"x":' + b"[" * 100_000])
def test_an_error_without_a_problem_is_a_failure_of_transport(body: bytes) -> None:
    """A proxy's page has no reason that we could repeat."""
    assert isinstance(problem(body, 502, str(ADDRESS)), Unreachable)


def test_an_unknown_code_from_a_failing_server_is_no_refusal() -> None:
    """Five hundred and something says nothing about us."""
    body = msgspec.json.encode(wire.Problem("no", 503, "of-the-future"))
    assert isinstance(problem(body, 503, str(ADDRESS)), Unreachable)


def test_a_failure_says_what_helps() -> None:
    """By the hint of whoever failed; else its log has it."""
    told = wire.Problem("the registrar failed", 500, "fault", detail="the disk is full", hint="free some space")
    for sent, hint in (
        (told, "free some space"),
        (msgspec.structs.replace(told, hint=""), "see its log, then run this again"),
    ):
        error = problem(msgspec.json.encode(sent), 500, str(ADDRESS))
        assert (type(error), error.message, error.hint) == (Unreachable, "the registrar failed: the disk is full", hint)


def test_times_have_an_offset() -> None:
    """Another zone is converted, no zone is refused, and the calendar's edges do not overflow."""
    assert parse_time("2026-11-22T13:00:00+01:00") == NOW
    for text in ("2026-11-22T12:00:00", "", "now", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"):
        with pytest.raises(Malformed):
            parse_time(text)
