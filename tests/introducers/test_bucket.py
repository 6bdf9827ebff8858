"""An upload is believed for what signed it, and for nothing else: each part changed, moved, replayed or late."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.core.flow import HostFinding, Once
from handfast.core.hosts import Grade, How, Place
from handfast.core.invitation import key_id
from handfast.core.names import Names
from handfast.core.secret import Secret
from handfast.errors import (
    EvidenceRejected,
    InvitationCancelled,
    InvitationExpired,
    Malformed,
    NotMine,
)
from handfast.introducers import bucket, known_for_hosts, phone_home
from tests.docs.test_vectors import vectors
from tests.introducers.stage import NOW, PIN, Stage, ed25519, p256
from tests.introducers.uploads import (
    ONE_TIME,
    ONE_TIME_KEY,
    collected,
    document,
    expected,
    host_keys,
    lines,
    opaque,
    signed,
    signer,
    upload,
)

SOME = signer(ed25519(13))
HALF = known_for_hosts()["bucket"]


def stage(**changes: object) -> Stage:
    """A registrar that waits for the upload."""
    record = expected(**changes)
    return Stage(invitations={record.key_id: record})


def verify(body: bytes, **changes: object) -> HostFinding:
    """What the registrar concludes."""
    return HALF.verify(collected(body), stage(**changes))


def test_an_honest_upload() -> None:
    """All keys are found, with proof of possession, for the machine and the names that the operator said."""
    found = verify(upload())
    assert found.machine == "web1.lan"
    assert found.keys == tuple(key.public for key in host_keys())
    assert (found.how, found.how.grade, found.complete) == (How.BUCKET, Grade.PROVED, True)
    assert found.once == Once(expected().marker, 1)
    assert found.place == Place.parse(["web1.lan", "10.0.0.7"])
    assert found.detail == f"{expected().key_id}, uploaded 2026-11-22 12:01Z by instance i-0123456789abcdef0"


def test_without_names_the_place_stays() -> None:
    """Where the operator said no name, the upload says nothing of where the machine is reached."""
    assert verify(upload(), names=Names()).place is None


def test_asked_again() -> None:
    """The same upload leads to the same finding, so that a lost answer can be asked for again."""
    assert verify(upload()) == verify(upload())


def test_every_bit_counts() -> None:
    """An upload with any one character changed is refused: in the document, in each signature, between them."""
    honest = upload()
    for at in range(0, len(honest), 7):
        changed = bytearray(honest)
        changed[at] ^= 1
        with pytest.raises((EvidenceRejected, Malformed)):
            verify(bytes(changed))


def test_every_end_counts() -> None:
    """An upload that was cut off anywhere is refused, and so is one with something behind it."""
    honest = upload()
    for end in range(0, len(honest), 11):
        with pytest.raises((EvidenceRejected, Malformed)):
            verify(honest[:end])
    for more in (b"\n", b"key ssh-ed25519 AAAA\n", honest[honest.index(b"-----BEGIN") :]):
        with pytest.raises(Malformed):
            verify(honest + more)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_P14_each_signature_is_by_its_own_key(number: int) -> None:
    """A signature by another key in the place of any one is refused, though it is a good one."""
    signers = [ONE_TIME_KEY, *host_keys()]
    signers[number] = signer(ed25519(99))
    with pytest.raises(EvidenceRejected, match="one-time key" if number == 0 else "host key"):
        verify(signed(document(lines(*host_keys())), *signers))


def test_P14_someone_elses_host_key() -> None:
    """Whoever has the user-data cannot publish a key that he does not have: nothing signs with it."""
    with pytest.raises(EvidenceRejected, match="host key"):
        verify(signed(document(lines(signer(p256(77)))), ONE_TIME_KEY, ONE_TIME_KEY))


def test_signatures_in_another_order() -> None:
    """Signatures stand in the order of the keys."""
    one, two, three = host_keys()
    with pytest.raises(EvidenceRejected):
        verify(signed(document(lines(one, two, three)), ONE_TIME_KEY, two, one, three))


def test_another_namespace() -> None:
    """A signature that was made for another purpose proves nothing here."""
    keys = host_keys()
    with pytest.raises(EvidenceRejected, match="not for"):
        verify(signed(document(lines(*keys)), ONE_TIME_KEY, *keys, namespace="file"))


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": "web2.lan"},
        {"nonce": bucket.nonce(ed25519(98).public_key().public_bytes_raw(), PIN)},
        {"nonce": bucket.nonce(ONE_TIME, bytes(32))},
    ],
)
def test_made_for_somebody_else(changes: dict[str, str]) -> None:
    """An upload for another machine, another invitation or another registrar is refused, however well signed."""
    with pytest.raises(EvidenceRejected, match="another invitation or registrar"):
        verify(upload(**changes))


def test_P14_another_machines_upload() -> None:
    """One machine's upload in another's place is refused: its one-time key is another one."""
    other = ed25519(97).public_key().public_bytes_raw()
    record = expected(public_half=other, key_id=key_id(other), machine="web2.lan")
    with pytest.raises(EvidenceRejected, match="one-time key"):
        HALF.verify(collected(upload(), key_id_=record.key_id), Stage(invitations={record.key_id: record}))


def test_an_unknown_invitation() -> None:
    """Nothing is looked at where nothing was expected, or where it was expected by another method."""
    with pytest.raises(EvidenceRejected, match="unknown"):
        HALF.verify(collected(upload()), Stage())
    with pytest.raises(EvidenceRejected, match="unknown"):
        verify(upload(), method="phone-home")


def test_evidence_of_another_method() -> None:
    """It is not this introducer's."""
    with pytest.raises(NotMine):
        HALF.verify(collected(upload(), method="phone-home"), stage())


def test_cancelled() -> None:
    """What the operator took back stays so, whenever the upload was made."""
    with pytest.raises(InvitationCancelled):
        verify(upload(), cancelled="a test")


def test_uploaded_too_late() -> None:
    """An upload of after the end is refused, even where a store let it in."""
    with pytest.raises(InvitationExpired, match="ended"):
        HALF.verify(collected(upload(), at=NOW + timedelta(hours=1)), stage())


def test_uploaded_in_time_and_collected_later() -> None:
    """The store's time of the upload counts, not when it was collected; but not for ever."""
    waiting = stage()
    waiting.time = NOW + timedelta(days=20)
    assert HALF.verify(collected(upload()), waiting).machine == "web1.lan"
    waiting.time = NOW + timedelta(days=31)
    with pytest.raises(InvitationExpired, match="30 days"):
        HALF.verify(collected(upload()), waiting)


def test_a_key_of_an_unknown_type() -> None:
    """It is kept, and said: the one-time key vouches for it, and nobody here can verify its own signature."""
    ours = host_keys()[0]
    keys = [*lines(ours), opaque("ssh-mldsa-44@openssh.com")]
    found = verify(signed(document(keys), ONE_TIME_KEY, ours, ours))
    assert [key.algorithm for key in found.keys] == ["ssh-ed25519", "ssh-mldsa-44@openssh.com"]
    assert found.detail.endswith("; only the one-time key vouches for ssh-mldsa-44@openssh.com")


def test_a_weak_key() -> None:
    """A key that is too short to prove anything spoils the upload."""
    weak = signer(rsa.generate_private_key(65537, 1024))
    with pytest.raises(EvidenceRejected, match="1024 bits"):
        verify(signed(document(lines(weak)), ONE_TIME_KEY, weak))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not an upload"),
        (b"\xff" * 100, "not an upload"),
        (b"<html>", "not an upload"),
        (upload().replace(b"keys 1\n", b"keys 2\n", 1), "handfast host keys 2"),
        (upload().replace(b"instance i", b"instance \x1b[31mi", 1), "not an upload"),
        (b"x" * (bucket.MAX_UPLOAD + 1), "at most"),
        (signed(document([]), ONE_TIME_KEY), "not an upload"),
        (signed(document(lines(*host_keys())), ONE_TIME_KEY), "signatures"),
        (signed(document(lines(SOME) * 2), ONE_TIME_KEY, SOME, SOME), "twice"),
        (signed(document([opaque(f"type-{number}") for number in range(33)]), *[SOME] * 34), "not an upload"),
        (signed(document([opaque("ssh-ed25519-cert-v01@openssh.com")]), *[SOME] * 2), "certificate"),
        (signed(document(["ssh-rsa " + lines(SOME)[0].split()[1]]), *[SOME] * 2), "the line says"),
    ],
)
def test_malformed(body: bytes, words: str) -> None:
    """What is no upload is refused with what it is instead."""
    with pytest.raises(Malformed, match=words):
        verify(body)


def test_a_message_with_another_field() -> None:
    """Every input is accounted for."""
    evidence = collected(upload())
    with pytest.raises(Malformed):
        HALF.verify(dataclasses.replace(evidence, payload=evidence.payload[:-1] + b',"more":1}'), stage())


def test_the_vectors_of_the_page() -> None:
    """What docs/protocols/host-keys.md says is what the code computes."""
    given = vectors("host-keys.md")
    one_time = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["one-time key"]))
    host = signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["host key seed"])))
    half = one_time.public_key().public_bytes_raw()
    nonce = bucket.nonce(half, bytes.fromhex(given["pin"]))
    assert (half.hex(), key_id(half), nonce) == (given["public half"], given["key id"], given["nonce"])
    assert lines(host) == [given["host key"]]
    text = document(lines(host), machine=given["machine"], nonce=nonce, instance=given["instance"])
    assert hashlib.sha256(text).hexdigest() == given["document"]
    assert hashlib.sha256(signed(text, signer(one_time), host)).hexdigest() == given["upload"]
    token = phone_home.token(Secret(bytes.fromhex(given["token seed"])))
    assert token.reveal().decode() == given["token"]
    assert phone_home.public_half(token).hex() == given["token half"]
    assert key_id(phone_home.public_half(token)) == given["token key id"]
