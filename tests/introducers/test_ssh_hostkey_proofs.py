"""The host-key challenge's steps 3 to 5: proofs, tokens and requests, and everything that only looks like one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from handfast.core import challenge as messages
from handfast.core import sshcert
from handfast.core.challenge import Proof, TokenAnswer
from handfast.core.flow import Channel, Evidence
from handfast.core.sshcert import Kind
from handfast.core.sshdata import string
from handfast.errors import EvidenceRejected, Malformed, NotMine, Refused
from handfast.introducers import ssh_hostkey
from handfast.introducers.ssh_hostkey import (
    PROOF_NAMESPACE,
    REQUEST_NAMESPACE,
    TOKEN_NAMESPACE,
)
from tests.introducers.challenges import (
    CA,
    ECDSA,
    ED25519,
    KEYS,
    LOOK,
    OTHER_CA,
    PLAY,
    SECOND,
    THIEF,
    SshStage,
    accept,
    changed,
    rsa_key,
    sha256,
    verify,
    with_signatures,
)
from tests.introducers.stage import NOW, PIN, SERVER_SPKI

# --- steps 3 and 4 ---


def test_a_payload_is_good_for_less_than_five_minutes() -> None:
    """To its last second, and not at its end; 5 min + 1 s are far behind it."""
    lifetime = ssh_hostkey.PAYLOAD_LIFETIME
    assert lifetime < timedelta(minutes=5)
    accept(PLAY.proof(), now=NOW + lifetime - SECOND)
    for late in (lifetime, timedelta(minutes=5) + SECOND):
        with pytest.raises(Refused, match="the payload is over since 2026-11-22 12:04:00Z") as caught:
            accept(PLAY.proof(), now=NOW + late)
        assert (caught.value.code, caught.value.hint) == ("refused", "run the command again")


def test_a_payload_of_the_future_is_none() -> None:
    """A clock that was set back does not bring old payloads back; two nodes may differ by a minute."""
    accept(PLAY.proof(), now=NOW - timedelta(seconds=60))
    with pytest.raises(Refused, match="the payload is of 2026-11-22 12:00:00Z, which is not now"):
        accept(PLAY.proof(), now=NOW - timedelta(seconds=61))


def test_a_payload_that_lasts_is_none() -> None:
    """Even where our CA has signed it: a later version of us might."""
    payload = changed(PLAY.payload(), expires_at=NOW + timedelta(minutes=5))
    with pytest.raises(Refused, match="which is not now"):
        accept(PLAY.proof(PLAY.challenge(payload)))


def forgeries() -> dict[str, tuple[Callable[[], Proof], str]]:
    """Proofs that prove nothing, and what our log says of each."""
    honest = PLAY.proof()
    first, second = honest.signatures
    by_thief = PLAY.but(signers=(THIEF, ECDSA)).proof()
    message = messages.proof_message(honest, server_spki=SERVER_SPKI, pin=PIN)
    other_payload = changed(honest.payload, names=["db.lan"])
    return {
        "payload changed": (
            lambda: msgspec.structs.replace(honest, payload=other_payload),
            "not signed by our SSH host CA: the signature by .* does not fit",
        ),
        "payload of another CA": (
            lambda: PLAY.but(ca=OTHER_CA).proof(),
            f"signed by {OTHER_CA.public.fingerprint}, not by our SSH host CA",
        ),
        "payload signed by the host itself": (lambda: PLAY.but(ca=ED25519).proof(), "not by our SSH host CA"),
        "payload of another authority": (lambda: PLAY.but(domain="else.lan").proof(), "of another authority"),
        "payload of another root": (
            lambda: PLAY.proof(PLAY.challenge(changed(honest.payload, pin=bytes(32)))),
            "of another authority",
        ),
        "payload in the token's namespace": (
            lambda: PLAY.but(payload_namespace=TOKEN_NAMESPACE).proof(),
            "is for b'hostkey-token@handfast', not for 'hostkey-nonce@handfast'",
        ),
        "signed by another key": (lambda: by_thief, f"{ED25519.public.fingerprint} is by {THIEF.public.fingerprint}"),
        "one key short": (lambda: with_signatures(honest, [first]), "1 signatures by 2 host keys"),
        "one too many": (lambda: with_signatures(honest, [first, second, first]), "3 signatures by 2 host keys"),
        "one twice": (lambda: with_signatures(honest, [first, first]), f"is by {ED25519.public.fingerprint}"),
        "swapped": (lambda: with_signatures(honest, [second, first]), f"is by {ECDSA.public.fingerprint}"),
        "in the request's namespace": (
            lambda: with_signatures(honest, [key.sign(message, REQUEST_NAMESPACE) for key in KEYS]),
            "not for 'hostkey-proof@handfast'",
        ),
        "in ssh-keygen's usual namespace": (
            lambda: with_signatures(honest, [key.sign(message, "file") for key in KEYS]),
            "is for b'file', not for 'hostkey-proof@handfast'",
        ),
        "over the payload alone": (
            lambda: with_signatures(honest, [key.sign(honest.payload, PROOF_NAMESPACE) for key in KEYS]),
            "does not fit",
        ),
        "for another connection": (lambda: PLAY.but(spki=bytes(32)).proof(), "does not fit"),
        "empty": (lambda: with_signatures(honest, [b"", b""]), "is not proved: the SSH signature is cut off"),
    }


@pytest.mark.parametrize("name", forgeries())
def test_P20_a_proof_that_proves_nothing(name: str) -> None:
    """It is evidence rejected, of which a stranger learns nothing else; our log has the reason."""
    made, message = forgeries()[name]
    with pytest.raises(EvidenceRejected, match=message.replace("+", r"\+")) as caught:
        accept(made())
    assert caught.value.code == "evidence-rejected"


def test_a_proof_replayed_with_another_key() -> None:
    """A payload for our keys, with a proof of the thief's for his: nothing in it is his to exchange."""
    theirs = PLAY.but(signers=(THIEF,), look=dataclasses.replace(LOOK, keys=(THIEF.public,)))
    stolen = Proof(PLAY.payload(), PLAY.challenge().ca_signature, theirs.proof().signatures)
    with pytest.raises(EvidenceRejected, match="1 signatures by 2 host keys"):
        accept(stolen)
    with pytest.raises(EvidenceRejected, match=r"is not proved|is by"):
        accept(with_signatures(stolen, [*stolen.signatures, *stolen.signatures]))


def test_SHA1_is_refused() -> None:
    """A signature by RSA over SHA-1 proves nothing, even by the right key."""
    key = rsa_key()
    play = PLAY.but(signers=(key,), look=dataclasses.replace(LOOK, keys=(key.public,)))
    proof = play.proof()
    signature = proof.signatures[0]
    old = signature.replace(string(b"rsa-sha2-512"), string(b"ssh-rsa"))
    cut = string(signature[signature.index(string(b"rsa-sha2-512")) :])
    body = signature[: -len(cut)] + string(old[old.rindex(string(b"ssh-rsa")) :])
    with pytest.raises(EvidenceRejected, match="is over SHA-1"):
        accept(with_signatures(proof, [body]))


def test_the_CAs_signature_is_no_certificates() -> None:
    """What our CA signs here begins with SSHSIG: put into a certificate, it certifies nothing."""
    signature = PLAY.challenge().ca_signature
    inner = signature[signature.rindex(string(b"ssh-ed25519")) :]
    blob = b"".join(
        [
            string(b"ssh-ed25519-cert-v01@openssh.com"),
            string(bytes(32)),
            string(THIEF.public.blob[-32:]),
            (1).to_bytes(8),
            (2).to_bytes(4),
            string(b"db"),
            string(string(b"db.lan")),
            (0).to_bytes(8),
            (2**64 - 1).to_bytes(8),
            string(b"") * 3,
            string(CA.public.blob),
            string(inner),
        ]
    )
    forged = sshcert.read(blob)
    assert sshcert.against(forged, authorities={CA.public}, kind=Kind.HOST, principal="db.lan", at=NOW) == (
        f"the signature of its authority {CA.public.fingerprint} does not fit",
    )
    with pytest.raises(Malformed):
        sshcert.read(PLAY.payload())


# --- step 5 ---


def test_a_token_is_good_for_a_minute() -> None:
    """To its last second, and not at its end."""
    evidence = PLAY.evidence()
    verify(evidence, SshStage(time=NOW + timedelta(seconds=59)))
    with pytest.raises(Refused, match="the token is over since 2026-11-22 12:01:00Z") as caught:
        verify(evidence, SshStage(time=NOW + timedelta(seconds=60)))
    assert caught.value.code == "refused"


def test_the_payload_may_be_over_when_the_token_is_not() -> None:
    """The second look has its own time."""
    later = NOW + timedelta(seconds=50)
    play = PLAY.but(stage=SshStage(time=later))
    verify(play.evidence(), SshStage(time=later))


def in_namespace(namespace: str) -> Evidence:
    """A request whose keys signed for another purpose."""
    evidence = PLAY.evidence()
    request = msgspec.json.decode(evidence.payload, type=ssh_hostkey.SshHostkeyRequest)
    message = ssh_hostkey.request_message(request, server_spki=SERVER_SPKI, pin=PIN)
    signatures = [key.sign(message, namespace) for key in KEYS]
    body = msgspec.json.encode(msgspec.structs.replace(request, signatures=signatures))
    return dataclasses.replace(evidence, payload=body)


def requests() -> dict[str, tuple[Callable[[], Evidence], str]]:
    """Requests that prove nothing."""
    token = PLAY.token()
    thief_look = dataclasses.replace(LOOK, keys=(THIEF.public,))
    thief = PLAY.but(signers=(THIEF,), look=thief_look)
    payload_as_token = TokenAnswer(PLAY.payload(), PLAY.challenge().ca_signature)
    foreign = changed(token.token, payload_sha256=sha256(b"other"))

    def signed(content: bytes) -> TokenAnswer:
        return TokenAnswer(content, CA.sign(content, TOKEN_NAMESPACE))

    return {
        "nonce's signature as token": (lambda: PLAY.evidence(payload_as_token), "not for 'hostkey-token@handfast'"),
        "token of another CA": (
            lambda: PLAY.evidence(PLAY.but(ca=OTHER_CA).token()),
            f"the token is signed by {OTHER_CA.public.fingerprint}",
        ),
        "token signed by the host": (lambda: PLAY.evidence(PLAY.but(ca=ED25519).token()), "not by our SSH host CA"),
        "token changed": (
            lambda: PLAY.evidence(
                TokenAnswer(changed(token.token, keys=[THIEF.public.fingerprint]), token.ca_signature)
            ),
            "the token is not signed by our SSH host CA: the signature by",
        ),
        "token of another payload": (lambda: PLAY.evidence(signed(foreign)), "the token is for another payload"),
        "payload changed": (
            lambda: PLAY.evidence(payload=changed(PLAY.payload(), names=["db.lan"])),
            "the token is for another payload",
        ),
        "token of another key": (lambda: thief.evidence(token, PLAY.payload()), "1 signatures by 2 host keys"),
        "token of other keys than its payload's": (
            lambda: PLAY.evidence(signed(changed(token.token, keys=[THIEF.public.fingerprint]))),
            "of different keys or authorities",
        ),
        "signed by another key": (
            lambda: PLAY.but(signers=(THIEF, ECDSA)).evidence(token, PLAY.payload()),
            f"is by {THIEF.public.fingerprint}",
        ),
        "redeemed from another connection": (lambda: PLAY.but(spki=bytes(32)).evidence(), "does not fit"),
        "signed for another root": (lambda: PLAY.but(pin=bytes(32)).evidence(token, PLAY.payload()), "does not fit"),
        "in the proof's namespace": (lambda: in_namespace(PROOF_NAMESPACE), "not for 'hostkey-request@handfast'"),
        "in ssh-pop's namespace": (lambda: in_namespace("ssh-pop@handfast"), "not for 'hostkey-request@handfast'"),
    }


@pytest.mark.parametrize("name", requests())
def test_P20_a_request_that_proves_nothing(name: str) -> None:
    """A token without its keys' signatures in this connection is worth nothing, and says so to nobody else."""
    made, message = requests()[name]
    with pytest.raises(EvidenceRejected, match=message.replace("+", r"\+")) as caught:
        verify(made())
    assert caught.value.code == "evidence-rejected"


def test_a_proof_is_no_request() -> None:
    """What the keys signed in step 3, sent again in step 5."""
    request = msgspec.json.decode(PLAY.evidence().payload, type=ssh_hostkey.SshHostkeyRequest)
    body = msgspec.json.encode(msgspec.structs.replace(request, signatures=PLAY.proof().signatures))
    with pytest.raises(EvidenceRejected, match="not for 'hostkey-request@handfast'"):
        verify(Evidence("ssh-hostkey", body, Channel(SERVER_SPKI)))


def test_a_nonce_that_is_not_ours() -> None:
    """A request recorded yesterday, or made for another registrar."""
    with pytest.raises(EvidenceRejected, match="the nonce is not ours"):
        verify(PLAY.evidence(), SshStage(time=NOW + timedelta(minutes=6)))


def test_foreign_evidence() -> None:
    """Evidence of every other method is not its own, whatever the bytes are."""
    for method in ("", "ssh-pop", "SSH-HOSTKEY", "invitation"):
        with pytest.raises(NotMine, match="evidence of method"):
            verify(dataclasses.replace(PLAY.evidence(), method=method))
