"""The host-key challenge's messages have one form each, and any other bytes are an error of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handfast.core import challenge as messages
from handfast.core import sshkeys, sshsig, wire
from handfast.core.challenge import Challenge, Parameters, Payload, Proof, Token, TokenAnswer
from handfast.core.flow import Channel, Evidence
from handfast.errors import EvidenceRejected, HandfastError, Malformed, Refused, UntrustedPeer
from handfast.introducers.ssh_hostkey import (
    PAYLOAD_NAMESPACE,
    PROOF_NAMESPACE,
    REQUEST_NAMESPACE,
    TOKEN_NAMESPACE,
)
from tests.introducers.challenges import (
    CA,
    LOOK,
    OURS,
    PLAY,
    RANDOM,
    accept,
    changed,
    judged,
    sha256,
    verify,
    with_signatures,
)
from tests.introducers.stage import SERVER_SPKI

# --- one form ---


@pytest.mark.parametrize("kind", [Payload, Token])
@pytest.mark.parametrize(
    "other",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b":", b": ", 1),
        lambda data: data.replace(b'Z"', b'+00:00"', 1),
        lambda data: msgspec.json.encode(dict(reversed(msgspec.json.decode(data).items()))),
        lambda data: data.replace(b'"version":1', b'"version":1,"version":1'),
    ],
    ids=["line feed", "space", "offset", "order", "twice"],
)
def test_there_is_one_way_to_write_it(kind: type[Any], other: Callable[[bytes], bytes]) -> None:
    """Two writings of one content would be two payloads with one nonce."""
    data = PLAY.payload() if kind is Payload else PLAY.token().token
    assert messages.written(messages.read(data, kind, what="it")) == data
    with pytest.raises(Malformed, match="it is not written in its one form"):
        messages.read(other(data), kind, what="it")


# --- fuzzing: every message, every byte ---


def refusing(call: Callable[[], object], *expected: type[HandfastError]) -> None:
    """It ends with one of our errors."""
    with pytest.raises(expected):
        call()


@given(st.binary(max_size=400))
def test_any_bytes_are_an_error_of_ours(noise: bytes) -> None:
    """A stranger's bytes, in the place of each message and of each signature in it."""
    refusing(lambda: wire.decode(noise, Parameters), Malformed)
    refusing(lambda: wire.decode(noise, Proof), Malformed)
    refusing(lambda: verify(Evidence("ssh-hostkey", noise, Channel(SERVER_SPKI))), Malformed)
    refusing(lambda: judged(Challenge(noise, PLAY.challenge().ca_signature)), UntrustedPeer)
    refusing(lambda: judged(Challenge(PLAY.payload(), noise)), UntrustedPeer)
    refusing(lambda: accept(Proof(noise, noise, [noise])), Malformed, EvidenceRejected)
    refusing(lambda: accept(with_signatures(PLAY.proof(), [noise, noise])), EvidenceRejected)
    refusing(lambda: verify(PLAY.evidence(TokenAnswer(noise, PLAY.token().ca_signature))), EvidenceRejected)
    refusing(lambda: verify(PLAY.evidence(TokenAnswer(PLAY.token().token, noise))), EvidenceRejected)


@given(st.data())
def test_a_payload_of_our_CA_with_any_content_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever a field is, in a payload or a token that is well signed: an error of ours, or what was meant."""
    scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=40), st.floats(allow_nan=False))
    value = st.one_of(scalar, st.lists(scalar, max_size=5), st.dictionaries(st.text(max_size=5), scalar, max_size=3))
    field = data.draw(st.sampled_from(Payload.__struct_fields__))
    payload = changed(PLAY.payload(), **{field: data.draw(value)})
    field = data.draw(st.sampled_from(Token.__struct_fields__))
    token = changed(changed(PLAY.token().token, payload_sha256=sha256(payload)), **{field: data.draw(value)})
    answer = TokenAnswer(token, CA.sign(token, TOKEN_NAMESPACE))
    calls: tuple[Callable[[], object], ...] = (
        lambda: accept(PLAY.proof(PLAY.challenge(payload))),
        lambda: judged(PLAY.challenge(payload)),
        lambda: verify(PLAY.evidence(answer, payload)),
    )
    for call in calls:
        with suppress(Refused, UntrustedPeer):
            call()


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=200, deadline=None)
@given(st.sampled_from(["proof", "request"]), st.integers(min_value=0), st.integers(0, 7))
def test_one_bit_changes_everything(which: str, at: int, bit: int) -> None:
    """A bit anywhere in a message: refused, or read the same (a padding bit that no decoder reads)."""
    body = bytearray(msgspec.json.encode(PROOF) if which == "proof" else EVIDENCE.payload)
    body[at % len(body)] ^= 1 << bit
    with suppress(Refused):
        if which == "proof":
            assert accept(wire.decode(bytes(body), Proof)) == LOOK
        else:
            assert verify(dataclasses.replace(EVIDENCE, payload=bytes(body))) == verify(EVIDENCE)


PROOF, EVIDENCE = PLAY.proof(), PLAY.evidence()


@given(st.integers(min_value=0))
def test_every_truncation_is_refused(at: int) -> None:
    """A message cut anywhere is Malformed, never read as a shorter one."""
    body = EVIDENCE.payload[: at % len(EVIDENCE.payload)]
    refusing(lambda: verify(dataclasses.replace(EVIDENCE, payload=body)), Malformed)
    proof = msgspec.json.encode(PROOF)
    refusing(lambda: wire.decode(proof[: at % len(proof)], Proof), Malformed)


def test_its_own_namespaces_and_labels() -> None:
    """Four purposes, four namespaces; none is another's beginning."""
    names = [PAYLOAD_NAMESPACE, TOKEN_NAMESPACE, PROOF_NAMESPACE, REQUEST_NAMESPACE, "hostkeys@handfast"]
    assert len(set(names)) == len(names)
    assert not any(a != b and b.startswith(a) for a in names for b in names)


def test_what_ssh_keygen_would_sign_is_the_same() -> None:
    """A payload is signed as it is, so that `ssh-keygen -Y verify` can check it with the CA's key."""
    challenge = PLAY.challenge()
    assert sshsig.verify(challenge.ca_signature, challenge.payload, namespace=PAYLOAD_NAMESPACE) == CA.public
    assert sshkeys.from_blob(CA.public.blob) == CA.public
    assert OURS != RANDOM
