"""
Vectors of what host keys sign to be certified, and of what a certified key signs to take its certificate back.

As in ``make_vectors``, digests and signatures are spelled a second time, from docs/protocols/ssh-certificates.md.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from handfast.core import nonce
from handfast.core.secret import Secret
from tests.introducers import stage, vectors
from tests.introducers.make_hosts import ECDSA, ED25519, STOLEN, HostKey, blob, line, spelled, sshsig, string
from tests.introducers.stage import NOW, PIN, SERVER_SPKI
from tests.introducers.vectors_ssh import CertificateOnRecord, HostOnRecord, KnownHostKey, PopFound, PopVector, PopWorld

NONCE = nonce.make(stage.NONCE_KEY, NOW, bytes(range(16)))
OUR_NONCE = bytes([0x33]) * 32
POP, REVOKE = b"handfast/1 ssh-pop request", b"handfast/1 ssh-revoke request"
POP_NAMESPACE, REVOKE_NAMESPACE = b"ssh-pop@handfast", b"ssh-revoke@handfast"
NEW = stage.ed25519(0x13)
THEIRS = stage.ed25519(0x14)  # of another machine
SERIAL = 0x400000000000000A
STALE, OLDEST, FUTURE = (nonce.make(stage.NONCE_KEY, NOW - timedelta(seconds=age), bytes(16)) for age in (301, 300, -1))
FOREIGN = nonce.make(Secret(b"x" * 32), NOW, bytes(16))
HOSTS = [
    HostOnRecord(
        machine="web1",
        keys=[KnownHostKey(key=line(ED25519), how="invitation"), KnownHostKey(key=line(ECDSA), how="operator")],
    ),
    HostOnRecord(machine="web2", keys=[KnownHostKey(key=line(THEIRS), how="invitation")]),
]
ISSUED = CertificateOnRecord(serial=str(SERIAL), kind="host", holder="web1", key=line(ED25519), issued=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """An honest message, and how this one departs from it."""

    name: str
    describes: str
    outcome: vectors.Outcome = "success"
    keys: tuple[HostKey, ...] = (ED25519,)
    signers: tuple[HostKey, ...] | None = None  # who signs in their place
    principals: tuple[str, ...] = ()
    nonce: bytes = NONCE
    pin: bytes = PIN
    spki: bytes = SERVER_SPKI
    label: bytes | None = None
    namespace: bytes | None = None
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)  # put in after signing
    drop: str = ""
    payload: str | None = None
    method: str | None = None
    hosts: tuple[HostOnRecord, ...] = tuple(HOSTS)
    new: tuple[HostKey, ...] = ()
    basis: tuple[HostKey, ...] = ()
    serial: int = SERIAL
    reason: str = "keyCompromise"
    record: CertificateOnRecord | None = ISSUED


def proof(key: HostKey, signature: bytes) -> dict[str, bytes]:
    """An entry of the list of keys."""
    return {"key": blob(key), "signature": signature}


FRESHNESS = (
    Case("stale-nonce", "the nonce is 301 seconds old", "evidence-rejected", nonce=STALE),
    Case("oldest-nonce", "the nonce is 300 seconds old, which is allowed", nonce=OLDEST),
    Case("nonce-of-the-future", "the nonce is one second ahead of the clock", "evidence-rejected", nonce=FUTURE),
    Case("foreign-nonce", "the nonce was made with another key", "evidence-rejected", nonce=FOREIGN),
    Case("another-nonce-after-signing", "a fresh nonce of ours, but not the one that was signed", "evidence-rejected",
         sent={"nonce": nonce.make(stage.NONCE_KEY, NOW, bytes(16))}),
    Case("wrong-pin", "signed for the root of another authority", "evidence-rejected", pin=bytes(32)),
    Case("relayed", "signed in a connection to another TLS key: a man in the middle relays it", "evidence-rejected",
         spki=bytes(32)),
    Case("label-of-the-answer", "a signature over the label of answers: no reflection", "evidence-rejected",
         label=b"handfast/1 introduction answer"),
    Case("label-of-renewal", "a signature over the label of another method", "evidence-rejected",
         label=b"handfast/1 renewal request"),
    Case("namespace-of-introductions", "signed for the namespace of introductions", "evidence-rejected",
         namespace=b"hostkeys@handfast"),
    Case("namespace-of-git", "signed for somebody else's namespace", "evidence-rejected", namespace=b"git"),
    Case("unknown-field", "a field nobody knows", "malformed", sent={"surprise": 1}),
    Case("no-nonce", "a field is missing", "malformed", drop="nonce"),
    Case("not-json", "no JSON", "malformed", payload="web1"),
    Case("not-an-object", "a list", "malformed", payload="[]"),
    Case("empty", "nothing", "malformed", payload=""),
    Case("other-method", "evidence of another method", "not-mine", method="renewal"),
)  # fmt: skip

ASKING = (
    Case("one-key", "a known key asks for its certificate"),
    Case("two-keys", "two known keys of one machine, in the order asked", keys=(ECDSA, ED25519)),
    Case("names", "some of the machine's names are enough", principals=("web1.lan", "10.0.0.7")),
    Case("new-key", "a known key vouches for a new one", keys=(NEW, ED25519), new=(NEW,), basis=(ED25519,)),
    Case("new-key-by-report", "a key known by report alone stands beside a new one, and is no foundation",
         keys=(ECDSA, NEW), new=(NEW,)),
    Case("new-key-by-both", "of two known keys, that which is proved is the foundation",
         keys=(ECDSA, ED25519, NEW), new=(NEW,), basis=(ED25519,)),
    Case("unknown-key", "a key that no machine has", "evidence-rejected", keys=(NEW,)),
    Case("retired-key", "a key that no machine has any more", "evidence-rejected", hosts=(HOSTS[1],)),
    Case("two-machines", "keys of two machines", "evidence-rejected", keys=(ED25519, THEIRS)),
    Case("forged", "a known key, and another's signature", "evidence-rejected", signers=(STOLEN,)),
    Case("forged-beside-own", "a known key beside the forger's own, both signed by him", "evidence-rejected",
         keys=(ED25519, NEW), signers=(NEW, NEW)),
    Case("new-key-not-proved", "the new key did not sign", "evidence-rejected",
         keys=(ED25519, STOLEN), signers=(ED25519, ED25519)),
    Case("key-added", "a key was added after signing", "evidence-rejected", sent={"keys": "added"}),
    Case("key-taken-away", "a key was taken away after signing", "evidence-rejected", keys=(ED25519, ECDSA),
         sent={"keys": "first"}),
    Case("keys-reordered", "the keys were reordered after signing", "evidence-rejected", keys=(ED25519, ECDSA),
         sent={"keys": "reversed"}),
    Case("name-added", "a name was added after signing", "evidence-rejected", sent={"principals": ["web9.lan"]}),
    Case("name-taken-away", "the names were taken away after signing", "evidence-rejected",
         principals=("web1.lan",), sent={"principals": []}),
    Case("newcomer-nonce-changed", "the host's own nonce was changed after signing", "evidence-rejected",
         sent={"newcomer_nonce": bytes(32)}),
    Case("same-key-twice", "one key, listed twice", "malformed", keys=(ED25519, ED25519)),
    Case("no-keys", "an empty list of keys", "malformed", sent={"keys": []}),
    Case("33-keys", "a key more than allowed", "malformed",
         sent={"keys": [proof(stage.ed25519(0x20 + number), b"") for number in range(33)]}),
    Case("key-empty", "a key of no bytes", "evidence-rejected", sent={"keys": [{"key": b"", "signature": b""}]}),
    Case("key-in-hardware", "a key of a type that signs otherwise", "evidence-rejected", sent={
        "keys": [{"key": string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:"), "signature": b""}]
    }),
    Case("key-is-a-certificate", "a certificate where a key belongs", "evidence-rejected", sent={
        "keys": [{"key": string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32)), "signature": b""}]
    }),
    Case("signature-empty", "no signature", "evidence-rejected", sent={"keys": [proof(ED25519, b"")]}),
    Case("namespace-of-revocation", "signed for taking a certificate back", "evidence-rejected",
         namespace=REVOKE_NAMESPACE),
)  # fmt: skip

TAKING_BACK = (
    Case("host", "a host's key takes its certificate back"),
    Case("superseded", "for a reason that lets the key be certified again", reason="superseded"),
    Case("user", "so does a user's", record=CertificateOnRecord(
        serial=str(SERIAL), kind="user", holder="ann@example.org", key=line(ED25519), issued=True)),
    Case("other-key", "another key signs", "evidence-rejected", signers=(ECDSA,)),
    Case("unknown", "nobody knows that certificate", "evidence-rejected", record=None),
    Case("never-issued", "it was intended only", "evidence-rejected", record=CertificateOnRecord(
        serial=str(SERIAL), kind="host", holder="web1", key=line(ED25519), issued=False)),
    Case("serial-changed", "turned to another certificate after signing", "evidence-rejected",
         serial=SERIAL + 1, sent={"serial": str(SERIAL)}),
    Case("reason-changed", "turned to another reason after signing", "evidence-rejected",
         sent={"reason": "superseded"}),
    Case("no-such-reason", "a reason that RFC 5280 does not have", "malformed", reason="because"),
    Case("certificate-hold", "a reason that is not for good", "malformed", reason="certificateHold"),
    Case("serial-0", "the serial that means none", "malformed", serial=0),
    Case("serial-too-long", "a serial that no ledger has", "malformed", serial=2**64),
    Case("serial-in-hex", "another form of the serial", "malformed", sent={"serial": f"{SERIAL:x}"}),
    Case("serial-with-line-feed", "something behind the serial", "malformed", serial=7, sent={"serial": "7\n"}),
    Case("namespace-of-certificates", "signed for being certified", "evidence-rejected", namespace=POP_NAMESPACE),
    Case("label-of-certificates", "a signature over the label of asking", "evidence-rejected", label=POP),
)  # fmt: skip


def text(fields: dict[str, Any]) -> str:
    """The message: JSON, bytes in base64."""
    return json.dumps(fields, separators=(",", ":"), default=lambda data: base64.b64encode(data).decode())


def asking(case: Case) -> PopVector:
    """A message to /v1/ssh/certificates/ssh-pop."""
    blobs = [blob(key) for key in case.keys]
    digest = spelled(
        case.label or POP,
        case.pin,
        case.spki,
        OUR_NONCE,
        case.nonce,
        len(blobs).to_bytes(4, "big"),
        *blobs,
        *(name.encode() for name in case.principals),
    )
    namespace = case.namespace or POP_NAMESPACE
    proofs = [
        proof(key, sshsig(by, digest, namespace)) for key, by in zip(case.keys, case.signers or case.keys, strict=True)
    ]
    changed: dict[str, Any] = {
        "added": [*proofs, proof(NEW, sshsig(NEW, digest, namespace))],
        "first": proofs[:1],
        "reversed": proofs[::-1],
    }
    sent = dict(case.sent)
    if isinstance(sent.get("keys"), str):
        sent["keys"] = changed[sent["keys"]]
    fields = {
        "nonce": case.nonce,
        "newcomer_nonce": OUR_NONCE,
        "keys": proofs,
        "principals": list(case.principals),
    }
    found = PopFound(
        machine="web1",
        keys=list(map(line, case.keys)),
        principals=list(case.principals),
        transcript=digest,
        new=list(map(line, case.new)),
        basis=list(map(line, case.basis)),
    )
    return _vector("ssh-pop", case, fields | sent, found)


def taking_back(case: Case) -> PopVector:
    """A message to /v1/ssh/revocations."""
    digest = spelled(
        case.label or REVOKE, case.pin, case.spki, case.nonce, case.serial.to_bytes(9, "big")[-8:], case.reason.encode()
    )
    (by,) = case.signers or (ED25519,)
    fields = {
        "nonce": case.nonce,
        "serial": str(case.serial),
        "reason": case.reason,
        "signature": sshsig(by, digest, case.namespace or REVOKE_NAMESPACE),
    }
    found = PopFound(serial=str(case.serial), reason=case.reason)
    return _vector("ssh-revoke", case, fields | case.sent, found)


def _vector(method: str, case: Case, fields: dict[str, Any], found: PopFound) -> PopVector:
    message = {key: value for key, value in fields.items() if key != case.drop}
    records = [] if case.record is None or method == "ssh-pop" else [case.record]
    return PopVector(
        describes=case.describes,
        outcome=case.outcome,
        method=case.method or method,
        world=PopWorld(
            now=NOW,
            pin=PIN,
            nonce_key=stage.NONCE_KEY.reveal(),
            hosts=list(case.hosts) if method == "ssh-pop" else [],
            certificates=records,
        ),
        server_spki=SERVER_SPKI,
        payload=text(message) if case.payload is None else case.payload,
        finding=found if case.outcome == "success" else None,
    )


def everything() -> Iterator[tuple[str, PopVector]]:
    """Every file by its path below vectors/."""
    for case in (*ASKING, *FRESHNESS):
        yield f"ssh-pop/{case.name}.json", asking(case)
    for case in (*TAKING_BACK, *FRESHNESS):
        yield f"ssh-revoke/{case.name}.json", taking_back(case)
