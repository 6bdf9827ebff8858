"""NiFi's protocol at the registrar: what its wire leaves open is held here, one attack after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from datetime import timedelta

import msgspec
import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import keys
from handfast.core.flow import Channel, Evidence
from handfast.core.secret import Secret
from handfast.errors import EvidenceRejected, HandfastError, InvitationCancelled, Malformed, UsageError
from handfast.introducers import nifi
from handfast.introducers.nifi import MOST_TOKENS, REGISTRAR_HALF, NifiIntroducer, SharedToken, check_token
from tests.introducers import stage
from tests.introducers.nifi_messages import ANY, DER, RSA_KEY, asked, shown
from tests.introducers.stage import (
    CA_KEY,
    MASTER,
    NEW_KEY,
    NIFI,
    NODE_TOKEN,
    NOW,
    OTHER_KEY,
    SALT,
    SHARED_TOKEN,
    Stage,
    a_node,
    by_nifi,
    node_request,
    pem,
)

# ------------------------------------------------------------------------------------------- who answers, who asks


def test_by_itself_it_accepts_nobody() -> None:
    """Being known is not being configured: without an authority and a token no tag fits."""
    honest = by_nifi()
    halves = (
        REGISTRAR_HALF,
        NifiIntroducer(CA_KEY.public_key()),
        NifiIntroducer(shared=NIFI.shared, master=MASTER),
        NifiIntroducer(CA_KEY.public_key(), shared=NIFI.shared),
        NifiIntroducer(CA_KEY.public_key(), master=Secret(bytes(32))),
    )
    for half in halves:
        with pytest.raises(EvidenceRejected):
            half.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize("ca", [CA_KEY, RSA_KEY], ids=["P-256", "RSA"])
def test_attack_reflection(ca: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """
    Our answer's tag is that of a request with our own key: whoever saw one may not present it.

    Even a request that our key did sign (the CA's own certificate request, found in a backup) is refused.
    """
    half = dataclasses.replace(ANY, ca=ca.public_key())
    reflected = node_request(ca, "CN=evil.lan", ("evil.lan",))
    answered = nifi.tag(SHARED_TOKEN, ca.public_key())
    assert answered == nifi.tag(SHARED_TOKEN, reflected.public_key())
    body = msgspec.json.encode({"hmac": answered, "csr": reflected.public_bytes(Encoding.PEM).decode()})
    with pytest.raises(EvidenceRejected, match="reflects"):
        half.verify(Evidence("nifi", body, Channel(b"")), Stage())


def test_attack_reflection_under_another_algorithm() -> None:
    """The tag covers the key's bits and not its algorithm: the same bits as RSASSA-PSS key are our key still."""
    half = dataclasses.replace(ANY, ca=RSA_KEY.public_key())
    der = node_request(RSA_KEY, "CN=evil.lan", ("evil.lan",)).public_bytes(Encoding.DER)
    plain, pss = bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06092a864886f70d01010a")
    assert der.count(plain) == 1
    evidence = shown(SHARED_TOKEN, pem(der.replace(plain, pss)), key=RSA_KEY)
    with pytest.raises((EvidenceRejected, Malformed)):
        half.verify(evidence, Stage())


@pytest.mark.parametrize("nth", [0, 1], ids=["subject", "alternative name"])
def test_attack_a_relay_rewrites_what_the_tag_does_not_cover(nth: int) -> None:
    """The tag is only over the key, and the original signs anything with it; here the request's signature breaks."""
    places = [place for place in range(len(DER)) if DER.startswith(b"node1.lan", place)]
    assert len(places) == 2
    forged = bytearray(DER)
    forged[places[nth] : places[nth] + 9] = b"admin.lan"
    evidence = shown(NODE_TOKEN, pem(bytes(forged)))
    assert pyca.load_der_x509_csr(bytes(forged)).public_key() == NEW_KEY.public_key()
    with pytest.raises(EvidenceRejected, match="not signed by the key in it"):
        NIFI.verify(evidence, by_nifi().stage)


def test_attack_another_key_under_an_overheard_tag() -> None:
    """A tag that was seen on its way is of no use for a thief's own key."""
    stolen = shown(NODE_TOKEN, node_request(OTHER_KEY).public_bytes(Encoding.PEM).decode())
    with pytest.raises(EvidenceRejected, match="forbidden"):
        NIFI.verify(stolen, by_nifi().stage)


def test_a_replay_is_for_the_same_key_only() -> None:
    """The wire has no nonce: what is sent again has the same key and marker, which the ledger spends once."""
    honest = by_nifi()
    later = dataclasses.replace(honest.stage, time=NOW + timedelta(minutes=59))
    again = NIFI.verify(honest.evidence, later)
    assert (again.public_key, again.once) == (stage.NEW_SPKI, NIFI.verify(honest.evidence, honest.stage).once)


def test_a_shared_token_is_once_for_each_key() -> None:
    """The marker is the key's, so that one key has one certificate, and two have two."""
    first, again, other = (asked(node_request(key)).once for key in (NEW_KEY, NEW_KEY, OTHER_KEY))
    assert first == again != other
    assert first.uses == 1
    assert first.marker == f"nifi:{hashlib.sha256(stage.NEW_SPKI).hexdigest()}"


# ------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("token", [b"", b"x" * 32, SHARED_TOKEN.reveal()[:-1], SHARED_TOKEN.reveal() + b"\n"])
def test_attack_wrong_token(token: bytes) -> None:
    """No token but the whole one fits, and the stranger learns one word."""
    with pytest.raises(EvidenceRejected, match=r"^forbidden$"):
        ANY.verify(by_nifi(token=Secret(token)).evidence, Stage())


@pytest.mark.parametrize("fields", [{}, {"hmac": None}, {"hmac": ""}, {"hmac": "AAAA"}])
def test_attack_no_tag(fields: dict[str, object]) -> None:
    """Nothing is not equal to anything."""
    body = msgspec.json.encode(fields | {"csr": pem(DER)})
    with pytest.raises(EvidenceRejected):
        ANY.verify(Evidence("nifi", body, Channel(b"")), by_nifi().stage)


def test_one_of_all_the_tokens_there_may_be_fits() -> None:
    """Each is tried, in well under the time of a handshake; only the one that fits says what it is for."""
    nodes = {}
    for number in range(MOST_TOKENS):
        salt = hashlib.sha256(bytes([number & 255, number >> 8])).digest()
        key_id = f"{number:016x}"
        nodes[key_id] = a_node(key_id=key_id, public_half=salt, machine=f"node{number}")
    scene = Stage(invitations=nodes)
    for number in (0, MOST_TOKENS // 2, MOST_TOKENS - 1):
        evidence = by_nifi(token=nifi.one_time_token(MASTER, nodes[f"{number:016x}"].public_half)).evidence
        finding = NIFI.verify(evidence, scene)
        assert (finding.entitlement.machine, finding.once.marker) == (f"node{number}", f"invitation:{number:016x}")
    begin = time.process_time()
    with pytest.raises(EvidenceRejected):
        NIFI.verify(by_nifi(token=Secret(b"none of these is it")).evidence, scene)
    assert time.process_time() - begin < 0.1


def test_a_stolen_ledger_admits_nobody() -> None:
    """What the ledger keeps, presented as the token, is none; another master makes other tokens of it."""
    node = a_node()
    for guess in (SALT, SALT.hex().encode(), node.key_id.encode()):
        with pytest.raises(EvidenceRejected):
            NIFI.verify(by_nifi(token=Secret(guess)).evidence, Stage(invitations={node.key_id: node}))
    assert nifi.one_time_token(Secret(bytes(32)), SALT).reveal() != NODE_TOKEN.reveal()


def test_one_time_tokens_are_strong_and_say_whose_they_are() -> None:
    """They pass what is asked of a shared one, and are recognized where somebody lost one."""
    check_token(NODE_TOKEN)
    assert NODE_TOKEN.reveal().startswith(b"handfastnifi1_")
    assert len(NODE_TOKEN.reveal()) == len("handfastnifi1_") + 43


def test_attack_cancelled() -> None:
    """Its holder is told, in any order of presenting, and a stranger is not."""
    honest = by_nifi(record=a_node(cancelled="lost"))
    with pytest.raises(InvitationCancelled, match=a_node().key_id):
        NIFI.verify(honest.evidence, honest.stage)
    with pytest.raises(EvidenceRejected):
        NIFI.verify(by_nifi(token=Secret(b"x" * 16)).evidence, honest.stage)


@pytest.mark.parametrize(("late", "fits"), [(timedelta(minutes=59, seconds=59), True), (timedelta(hours=1), False)])
def test_attack_expired(late: timedelta, fits: bool) -> None:
    """A token has an end, and is tried no more from that second."""
    honest = by_nifi()
    honest.stage.time += late
    if fits:
        assert NIFI.verify(honest.evidence, honest.stage).once.marker == f"invitation:{a_node().key_id}"
    else:
        with pytest.raises(EvidenceRejected, match="forbidden"):
            NIFI.verify(honest.evidence, honest.stage)


def test_attack_an_invitation_is_no_token() -> None:
    """The public key of an invitation stands in the log: what derives from it is tried for no node."""
    salt = stage.LINE.public_key()
    honest = by_nifi(token=nifi.one_time_token(MASTER, salt))
    honest.stage.invitations = {stage.LINE.key_id: stage.an_invitation()}
    with pytest.raises(EvidenceRejected):
        NIFI.verify(honest.evidence, honest.stage)
    honest.stage.invitations = {stage.LINE.key_id: a_node(key_id=stage.LINE.key_id, public_half=salt)}
    assert NIFI.verify(honest.evidence, honest.stage).entitlement.machine == "node1"


def test_a_token_beyond_ascii() -> None:
    """It is its bytes in UTF-8: not normalized, not folded."""
    token = Secret("tökén-unicode-16".encode())
    half = dataclasses.replace(ANY, shared=SharedToken(token, any_name=True))
    assert half.verify(by_nifi(token=token).evidence, Stage()).transcript == nifi.tag(token, CA_KEY.public_key())
    for other in ("token-unicode-16", "to\u0308ke\u0301n-unicode-16", "TÖKÉN-UNICODE-16"):
        with pytest.raises(EvidenceRejected):
            half.verify(by_nifi(token=Secret(other.encode())).evidence, Stage())


@pytest.mark.parametrize(
    "token",
    [b"", b"fifteen bytes !", b"a" * 32, b"abababababababab", b"myTestTokenUseSomethingStronger", b"SIXTEENcharacters"],
)
def test_a_token_that_can_be_guessed_is_refused(token: bytes) -> None:
    """Who poses as the CA has a tag to try at leisure; the message has no token in it."""
    with pytest.raises(UsageError) as caught:
        check_token(Secret(token))
    assert "openssl rand" in caught.value.hint
    assert not token or token.decode() not in caught.value.message


@pytest.mark.parametrize("token", [b"0123456789abcdee", "tökén-unicode-16".encode(), b"\xff" * 9 + b"1234567"])
def test_a_token_of_sixteen_bytes_will_do(token: bytes) -> None:
    """As the original has it, in bytes and not characters."""
    check_token(Secret(token))


def test_both_halves_read_each_other() -> None:
    """What the client's half writes is found, and what the registrar proves is accepted, by this CA's key only."""
    finding = asked(node_request(), NIFI)
    leaf = stage.certificate(NEW_KEY.public_key())
    body = msgspec.json.encode(nifi.NifiAnswer(finding.transcript, leaf.public_bytes(Encoding.PEM).decode()))
    ca, other = (stage.certificate(key.public_key()) for key in (CA_KEY, OTHER_KEY))
    assert nifi.decode_answer(body, SHARED_TOKEN, ca) == leaf
    for token, shower in ((NODE_TOKEN, ca), (SHARED_TOKEN, other)):
        with pytest.raises(EvidenceRejected, match="man in the middle"):
            nifi.decode_answer(body, token, shower)


@pytest.mark.parametrize("body", [b"", b"{}", b" " * (nifi.MAX_BODY + 1), b"<html>", b'{"hmac":"AAAA"}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    """Of whatever answers there: one of our errors, and nothing is read beyond the limit."""
    with pytest.raises(HandfastError) as caught:
        nifi.decode_answer(body, SHARED_TOKEN, stage.certificate(CA_KEY.public_key()))
    assert caught.value.hint


def test_the_tag_is_over_the_identifier_of_the_key() -> None:
    """The same key in a request and in a certificate has one tag, of 32 bytes."""
    whole = nifi.tag(SHARED_TOKEN, node_request().public_key())
    assert whole == nifi.tag(SHARED_TOKEN, stage.certificate(NEW_KEY.public_key()).public_key())
    assert len(whole) == 32
    assert keys.spki(node_request().public_key()) == stage.NEW_SPKI
