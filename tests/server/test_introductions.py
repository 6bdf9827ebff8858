"""Introductions over real TLS: the happy path, what a stranger learns, and which key an answer is signed with."""

from __future__ import annotations

import signal
import ssl
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.adapters import tls
from handfast.core import csr, wire
from handfast.core.chain import read_identity
from handfast.core.invitation import InvitationLine
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.introducers import invitation, renewal
from tests.server.running import Client, Joined, Running, running

INTRODUCE = "/v1/introductions/invitation"


def renewed(client: Client, registrar: Running, old: Joined) -> Joined:
    """Return the successor."""
    key = ec.generate_private_key(ec.SECP256R1())
    status, answer = renew(client, registrar, old, key)
    assert status == 200, answer
    return Joined(key, x509.load_der_x509_certificate(wire.decode(answer, wire.IntroductionAnswer).certificate))


def renew(
    client: Client, registrar: Running, old: Joined, key: ec.EllipticCurvePrivateKey | None = None
) -> tuple[int, bytes]:
    """Ask for a successor on this connection."""
    hello = msgspec.json.decode(client.call("GET", "/v1/hello")[1], type=wire.Hello)
    body, _ = renewal.present(
        old.key,
        serial=old.certificate.serial_number,
        pin=registrar.service.authority.pin,
        csr_der=csr.build(key or ec.generate_private_key(ec.SECP256R1())),
        next_key=bytes(32),
        nonce=hello.nonce,
        server_spki=tls.leaf_spki_sha256(client.leaf),
    )
    return client.call("POST", "/v1/introductions/renewal", body)


def test_newcomer_gets_what_it_was_invited_for(registrar: Running) -> None:
    """An invitation leads to a certificate with its name and role, over our own key, signed for by the TLS key."""
    joined = registrar.credential("web1.lan", Role.SERVER)
    identity = read_identity(joined.certificate)
    assert (identity.machine, identity.role, identity.names.dns) == ("web1.lan", Role.SERVER, ("web1.lan",))
    assert joined.certificate.public_key() == joined.key.public_key()


def test_same_key_gets_the_same_certificate(registrar: Running) -> None:
    """After a lost answer the same key gets the same bytes, on another connection too (rule 3)."""
    line, key = registrar.invite("again.lan"), ec.generate_private_key(ec.SECP256R1())
    with registrar.connect() as first, registrar.connect() as second:
        assert first.join(line, key).certificate == second.join(line, key).certificate


def test_second_key_is_refused_with_an_alarm(registrar: Running) -> None:
    """Another key with a used invitation gets 409, and the alarm is counted and shown."""
    line = registrar.invite("twice.lan")
    with registrar.connect() as client:
        client.join(line)
        body, _ = client.evidence(line, ec.generate_private_key(ec.SECP256R1()))
        problem = client.problem("POST", INTRODUCE, body)
        assert (problem.status, problem.code) == (409, "already-spent")
        assert b"handfast_alarms_total 1.0" in client.call("GET", "/metrics")[1]
    assert registrar.service.administration.show("twice.lan").alarms


def test_stranger_cannot_tell_unknown_from_forged(registrar: Running) -> None:
    """Unknown key id, wrong signature and a foreign nonce are answered with the same bytes."""
    line = registrar.invite("silent.lan")
    unknown = InvitationLine(Secret(bytes(32)), line.pin, line.not_before, line.not_after, line.addresses)
    with registrar.connect() as client:
        key = ec.generate_private_key(ec.SECP256R1())
        known = msgspec.json.decode(client.evidence(line, key)[0], type=invitation.InvitationRequest)
        forged = msgspec.structs.replace(known, signature=bytes(64))
        stale = msgspec.structs.replace(known, nonce=bytes(56))
        bodies = [client.evidence(unknown, key)[0], msgspec.json.encode(forged), msgspec.json.encode(stale)]
        answers = [client.call("POST", INTRODUCE, body) for body in bodies]
        assert {status for status, _ in answers} == {403}
        assert len({answer for _, answer in answers}) == 1
        assert msgspec.json.decode(answers[0][1]) == {
            "title": "the evidence was not accepted",
            "status": 403,
            "code": "evidence-rejected",
        }


def test_evidence_of_another_connection_is_rejected(tmp_path: Path) -> None:
    """A request made for one serving key proves nothing on a connection with another one: no relaying."""
    with running(tmp_path / "data") as registrar, registrar.connect() as first:
        body, _ = first.evidence(registrar.invite(), ec.generate_private_key(ec.SECP256R1()))
        with reloaded(registrar, first) as second:
            assert second.problem("POST", INTRODUCE, body).code == "evidence-rejected"


def test_policy_tells_the_holder_every_reason(registrar: Running) -> None:
    """Who proved the seed is told all reasons at once."""
    line = registrar.invite("bounded.lan")
    with registrar.connect() as client:
        key = ec.generate_private_key(ec.SECP256R1())
        request = msgspec.json.decode(client.evidence(line, key)[0], type=invitation.InvitationRequest)
        request = msgspec.structs.replace(request, role=Role.CLIENT, names=["other.lan"])

        signed = invitation.transcript(request, pin=line.pin, server_spki=tls.leaf_spki_sha256(client.leaf))
        request = msgspec.structs.replace(request, signature=line.signing_key().sign(signed))
        problem = client.problem("POST", INTRODUCE, msgspec.json.encode(request))
        assert (problem.status, problem.code, len(problem.reasons)) == (403, "policy-refused", 2)


def test_P3_a_line_of_successors_cannot_flood_the_ledger(tmp_path: Path) -> None:
    """Ten renewals in a 24th of the life, then policy refuses until time has passed; the log keeps ten refusals."""
    with running(tmp_path / "data") as registrar, registrar.connect() as client:
        held = registrar.credential("thief.lan", Role.SERVER)
        for _ in range(10):
            held = renewed(client, registrar, held)
        for _ in range(12):
            status, answer = renew(client, registrar, held)
            assert (status, b"renewed 10 times" in answer) == (403, True)
        assert len(registrar.service.ledger.credentials("thief.lan")) == 11
        assert len(registrar.service.ledger.events(kind_prefix="introduction.refused", subject="thief.lan")) == 10
        registrar.credential("other.lan", Role.SERVER)
        registrar.clock.offset = timedelta(minutes=61)
        assert renew(client, registrar, held)[0] == 200


@pytest.mark.parametrize("role", [Role.CLIENT, Role.PEER])
def test_renewal_over_mutual_tls(registrar: Running, role: Role) -> None:
    """A credential that dials renews over a connection that it authenticates, and not over one without it."""
    joined = registrar.credential(f"renews-{role}.lan", role)
    with registrar.connect() as client:
        assert renew(client, registrar, joined)[0] == 403
    with registrar.connect(registrar.context_with(joined)) as client:
        assert renew(client, registrar, joined)[0] == 200


def test_certificate_that_expires_on_an_open_connection_counts_no_more(tmp_path: Path) -> None:
    """TLS checked the dates once; a request after the end of the certificate is judged without it."""
    with running(tmp_path / "data") as registrar:
        joined = registrar.credential("sleeper.lan", Role.CLIENT)
        with registrar.connect(registrar.context_with(joined)) as client:
            registrar.clock.offset = timedelta(hours=25)
            assert renew(client, registrar, joined)[0] == 403


def test_server_certificate_is_no_client_certificate(registrar: Running) -> None:
    """A credential of role server cannot even finish a handshake as client (rule 6)."""
    joined = registrar.credential("only-server.lan", Role.SERVER)
    assert ExtendedKeyUsageOID.CLIENT_AUTH not in list(usages(joined))
    with pytest.raises((ssl.SSLError, ConnectionError)), registrar.connect(registrar.context_with(joined)) as client:
        client.call("GET", "/v1/hello")


def test_certificate_of_another_authority_ends_the_handshake(registrar: Running, tmp_path: Path) -> None:
    """A client certificate from elsewhere is not ignored: the connection is refused."""
    with running(tmp_path / "other") as other:
        foreign = other.credential("stranger.lan", Role.OPERATOR)
    with pytest.raises((ssl.SSLError, ConnectionError)), registrar.connect(registrar.context_with(foreign)) as client:
        client.call("GET", "/v1/hello")


def test_expired_client_certificate_ends_the_handshake(tmp_path: Path) -> None:
    """A client certificate whose time is over is refused by TLS itself."""
    with running(tmp_path / "data") as registrar:
        registrar.clock.offset = timedelta(minutes=-59)
        registrar.service.registrar.rules.lifetimes[Role.CLIENT] = timedelta(minutes=2)
        joined = registrar.credential("late.lan", Role.CLIENT)
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            registrar.connect(registrar.context_with(joined)) as client,
        ):
            client.call("GET", "/v1/hello")


def test_tls_1_2_is_refused(registrar: Running) -> None:
    """The registrar's listener speaks TLS 1.3 and nothing older."""
    context = tls.newcomer_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):  # uvloop closes without sending OpenSSL's alert
        registrar.connect(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    with registrar.connect(context) as client:
        assert client.socket.version() == "TLSv1.3"


def test_no_session_is_resumed(registrar: Running) -> None:
    """The registrar hands out no session, so that every connection proves both keys anew."""
    with registrar.connect() as client:
        client.call("GET", "/v1/hello")
        assert client.socket.session is None or not client.socket.session.has_ticket


def test_open_connection_keeps_the_key_of_its_handshake(tmp_path: Path) -> None:
    """After a new serving certificate, old connections answer with the old key and new ones with the new key."""
    with running(tmp_path / "data") as registrar, registrar.connect() as old:
        old.join(registrar.invite("before.lan"))
        with reloaded(registrar, old) as new:
            old.join(registrar.invite("old-connection.lan"))  # ``join`` verifies with the leaf of its own handshake
            new.join(registrar.invite("new-connection.lan"))


def test_method_that_does_not_exist(registrar: Running) -> None:
    """An unknown method is 404, and its name makes no new series in the metrics."""
    with registrar.connect() as client:
        assert client.problem("POST", "/v1/introductions/no-such", b"{}").code == "not-found"
        text = client.call("GET", "/metrics")[1]
        assert b'method="unknown"' in text
        assert b"no-such" not in text


def usages(joined: Joined) -> list[object]:
    """Return the extended key usages of a credential."""
    from cryptography import x509

    return list(joined.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def reloaded(registrar: Running, old: Client) -> Client:
    """Reload, wait until another leaf is presented, and return a connection with it."""
    registrar.ask(signal.SIGHUP)
    for _ in range(200):
        client = registrar.connect()
        if client.leaf != old.leaf:
            return client
        client.socket.close()
    raise AssertionError("the serving certificate did not change")
