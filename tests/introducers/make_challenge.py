"""
Vectors of the host-key challenge: every message, and every way to have something else signed or believed.

As in ``make_vectors``, digests and signatures are spelled a second time, from docs/protocols/ssh-hostkey.md.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from handfast.core import nonce
from tests.introducers import stage, vectors
from tests.introducers.make_hosts import ECDSA, ED25519, STOLEN, HostKey, blob, line, spelled, sshsig, string
from tests.introducers.stage import DOMAIN, NOW, PIN, SERVER_SPKI
from tests.introducers.vectors_challenge import (
    FOLDER,
    ChallengeFound,
    ChallengeVector,
    ChallengeWorld,
    KeyOnRecord,
    Step,
)

CA, OTHER_CA = stage.ed25519(0x51), stage.ed25519(0x52)
NONCE = nonce.make(stage.NONCE_KEY, NOW, bytes(range(16)))
RANDOM, OURS, AGAIN = bytes([0x31]) * 32, bytes([0x32]) * 32, bytes([0x33]) * 32
PROOF, REQUEST = b"handfast/1 ssh-hostkey proof", b"handfast/1 ssh-hostkey request"
OF_NONCE, OF_TOKEN = b"hostkey-nonce@handfast", b"hostkey-token@handfast"
OF_PROOF, OF_REQUEST = b"hostkey-proof@handfast", b"hostkey-request@handfast"
BEGIN, PAYLOAD_END, TOKEN_END = "2026-11-22T12:00:00Z", "2026-11-22T12:04:00Z", "2026-11-22T12:01:00Z"
KEYS: tuple[HostKey, ...] = (ED25519, ECDSA)


def text(fields: dict[str, Any]) -> str:
    """JSON in the order given, without white space, bytes in base64."""
    return json.dumps(
        fields, separators=(",", ":"), ensure_ascii=False, default=lambda data: base64.b64encode(data).decode()
    )


def fingerprint(key: HostKey) -> str:
    """As ssh-keygen shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob(key)).digest()).decode().rstrip("=")


PARAMETERS: dict[str, Any] = {
    "names": ["web1.lan", "www.web.lan"],
    "addresses": ["10.0.0.7", "2001:db8::7"],
    "ports": [22, 2222],
    "keys": [blob(key) for key in KEYS],
    "newcomer_nonce": OURS,
}
PAYLOAD: dict[str, Any] = {
    "version": 1,
    "trust_domain": DOMAIN,
    "pin": PIN,
    "names": PARAMETERS["names"],
    "addresses": PARAMETERS["addresses"],
    "ports": PARAMETERS["ports"],
    "keys": PARAMETERS["keys"],
    "nonce": RANDOM,
    "newcomer_nonce": OURS,
    "issued_at": BEGIN,
    "expires_at": PAYLOAD_END,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """An honest message, and how this one departs from it; the same case may be one of several steps."""

    name: str
    describes: str
    outcome: vectors.Outcome = "success"
    payload: dict[str, Any] = dataclasses.field(default_factory=dict)  # other fields, before the CA signs
    token: dict[str, Any] = dataclasses.field(default_factory=dict)  # likewise
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)  # put in after all is signed
    written: str = ""  # appended to the payload before the CA signs
    signers: tuple[HostKey, ...] = KEYS
    ca: Any = CA
    nonce: bytes = NONCE
    pin: bytes = PIN
    spki: bytes = SERVER_SPKI
    label: bytes | None = None
    namespace: bytes | None = None  # of the host keys
    ca_namespace: bytes | None = None
    method: str = "ssh-hostkey"
    message: str | None = None
    drop: str = ""
    known: tuple[KeyOnRecord, ...] = ()


ANY = (
    Case("unknown-field", "a field nobody knows", "malformed", sent={"surprise": 1}),
    Case("not-json", "no JSON", "malformed", message="web1"),
    Case("not-an-object", "a list", "malformed", message="[]"),
    Case("empty", "nothing", "malformed", message=""),
)
ASKED = (
    Case("one-name", "a name, an address, a port and a key", sent={
        "names": ["web1.lan"], "addresses": ["10.0.0.7"], "ports": [22], "keys": [blob(ED25519)]}),
    Case("plain", "two of each"),
    Case("no-names", "no name", "malformed", sent={"names": []}),
    Case("65-names", "a name more than allowed", "malformed", sent={"names": [f"w{n}.lan" for n in range(65)]}),
    Case("17-addresses", "an address more than allowed", "malformed", sent={
        "addresses": [f"10.0.0.{n}" for n in range(17)]}),
    Case("65-places", "names and addresses, more in all than a machine can have", "malformed", sent={
        "names": [f"w{n}.lan" for n in range(63)]}),
    Case("5-ports", "a port more than allowed", "malformed", sent={"ports": [22, 23, 24, 25, 26]}),
    Case("5-keys", "a key more than allowed", "malformed", sent={"keys": [blob(stage.ed25519(n)) for n in range(5)]}),
    Case("wildcard", "a wildcard", "malformed", sent={"names": ["*.lan"]}),
    Case("trailing-dot", "a name with a dot at its end", "malformed", sent={"names": ["web1.lan."]}),
    Case("upper-case", "a name in upper case", "malformed", sent={"names": ["WEB1.lan"]}),
    Case("idn", "a name that is not ASCII", "malformed", sent={"names": ["b\u00fccher.lan"]}),
    Case("single-label", "a name without a domain", "malformed", sent={"names": ["web1"]}),
    Case("name-twice", "a name twice", "malformed", sent={"names": ["web1.lan", "web1.lan"]}),
    Case("zone", "an address with a zone", "malformed", sent={"addresses": ["fe80::1%eth0"]}),
    Case("mapped", "an IPv4 address within an IPv6 one", "malformed", sent={"addresses": ["::ffff:10.0.0.7"]}),
    Case("not-compressed", "an IPv6 address in another form", "malformed", sent={"addresses": ["2001:0db8::7"]}),
    Case("port-0", "a port that is none", "malformed", sent={"ports": [0]}),
    Case("key-twice", "a key twice", "malformed", sent={"keys": [blob(ED25519)] * 2}),
    Case("key-in-hardware", "a key of a type that signs otherwise", "malformed", sent={
        "keys": [string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")]}),
    Case("key-is-a-certificate", "a certificate where a key belongs", "malformed", sent={
        "keys": [string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32))]}),
    Case("short-nonce", "a nonce of 31 bytes", "malformed", sent={"newcomer_nonce": bytes(31)}),
)  # fmt: skip
CHALLENGED = (
    Case("plain", "what was asked for"),
    Case("shortest", "over in a second: a pity for the host", payload={"expires_at": "2026-11-22T12:00:01Z"}),
    Case("name-added", "a name that was not asked for", "untrusted-peer", payload={
        "names": ["web1.lan", "www.web.lan", "db.lan"]}),
    Case("names-reordered", "another name first, which is the machine's", "untrusted-peer", payload={
        "names": ["www.web.lan", "web1.lan"]}),
    Case("another-address", "an address that was not asked for", "untrusted-peer", payload={
        "addresses": ["10.0.0.8", "2001:db8::7"]}),
    Case("another-port", "a port less", "untrusted-peer", payload={"ports": [22]}),
    Case("another-key", "another's key", "untrusted-peer", payload={"keys": [blob(STOLEN), blob(ECDSA)]}),
    Case("another-root", "of another root", "untrusted-peer", payload={"pin": bytes(32)}),
    Case("another-authority", "of another authority", "untrusted-peer", payload={"trust_domain": "else.lan"}),
    Case("another-newcomer", "for another newcomer", "untrusted-peer", payload={"newcomer_nonce": bytes(32)}),
    Case("five-minutes", "good for five minutes", "untrusted-peer", payload={"expires_at": "2026-11-22T12:05:00Z"}),
    Case("old", "61 seconds older than the registrar's hello", "untrusted-peer", payload={
        "issued_at": "2026-11-22T11:58:59Z"}),
    Case("changed", "changed behind the CA's signature", "untrusted-peer", sent={"payload": text(PAYLOAD | {
        "names": ["db.lan"]}).encode()}),
    Case("ca-is-the-host-key", "signed by the host's own key", "untrusted-peer", ca=ED25519),
    Case("namespace-of-tokens", "signed as a token", "untrusted-peer", ca_namespace=OF_TOKEN),
    Case("version-2", "of a later version", "untrusted-peer", payload={"version": 2}),
    Case("white-space", "with a line feed behind it", "untrusted-peer", written="\n"),
)  # fmt: skip
SIGNED = (
    Case("wrong-pin", "signed for the root of another authority", "evidence-rejected", pin=bytes(32)),
    Case("relayed", "signed in a connection to another TLS key: a man in the middle relays it", "evidence-rejected",
         spki=bytes(32)),
    Case("one-short", "one key did not sign", "evidence-rejected", signers=(ED25519,)),
    Case("one-twice", "one key signed in the place of the other", "evidence-rejected", signers=(ED25519, ED25519)),
    Case("swapped", "the signatures stand in another order", "evidence-rejected", signers=(ECDSA, ED25519)),
    Case("forged", "another key signed", "evidence-rejected", signers=(STOLEN, ECDSA)),
    Case("five-signatures", "signatures more than allowed", "malformed", signers=(ED25519,) * 5),
    Case("label-of-the-answer", "a signature over the label of answers: no reflection", "evidence-rejected",
         label=b"handfast/1 introduction answer"),
    Case("namespace-of-introductions", "signed in the namespace of introductions", "evidence-rejected",
         namespace=b"hostkeys@handfast"),
    Case("namespace-of-ssh-pop", "signed in the namespace of ssh-pop", "evidence-rejected",
         namespace=b"ssh-pop@handfast"),
    Case("namespace-of-files", "signed in ssh-keygen's usual namespace", "evidence-rejected", namespace=b"file"),
    Case("another-ca", "by another CA", "evidence-rejected", ca=OTHER_CA),
    Case("ca-is-the-host-key", "by the host's own key as CA", "evidence-rejected", ca=ED25519),
)  # fmt: skip
PROVED = (
    Case("plain", "a payload of ours, signed by its keys"),
    Case("last-second", "a payload in its last second", payload={
        "issued_at": "2026-11-22T11:56:01Z", "expires_at": "2026-11-22T12:00:01Z"}),
    Case("stale", "a payload that is over", "refused", payload={
        "issued_at": "2026-11-22T11:56:00Z", "expires_at": "2026-11-22T12:00:00Z"}),
    Case("stale-5min-1s", "a payload of five minutes and one second ago", "refused", payload={
        "issued_at": "2026-11-22T11:54:59Z", "expires_at": "2026-11-22T11:58:59Z"}),
    Case("of-the-future", "a payload of another clock, 61 seconds ahead", "refused", payload={
        "issued_at": "2026-11-22T12:01:01Z", "expires_at": "2026-11-22T12:05:01Z"}),
    Case("too-long", "a payload of a later version of us, for five minutes", "refused", payload={
        "expires_at": "2026-11-22T12:05:00Z"}),
    Case("another-authority", "a payload of another authority with our CA", "evidence-rejected", payload={
        "trust_domain": "else.lan"}),
    Case("changed", "changed behind the CA's signature", "evidence-rejected", sent={"payload": text(PAYLOAD | {
        "names": ["db.lan"]}).encode()}),
    Case("white-space", "a line feed behind the payload", "malformed", written="\n"),
    Case("time-with-offset", "a time in another form", "malformed", payload={"issued_at": "2026-11-22T12:00:00+00:00"}),
    Case("namespace-of-tokens", "the payload signed as a token", "evidence-rejected", ca_namespace=OF_TOKEN),
    Case("namespace-of-requests", "signed in the namespace of the next step", "evidence-rejected",
         namespace=OF_REQUEST),
    Case("label-of-requests", "signed under the label of the next step", "evidence-rejected", label=REQUEST),
    Case("no-signatures", "a field is missing", "malformed", drop="signatures"),
)  # fmt: skip
REDEEMED = (
    Case("plain", "a token of ours, and its keys"),
    Case("known", "the keys are a machine's that is called otherwise", known=(
        KeyOnRecord(key=line(ECDSA), machine="old-name"),)),
    Case("two-machines", "the keys are those of two machines", "refused", known=(
        KeyOnRecord(key=line(ED25519), machine="a"), KeyOnRecord(key=line(ECDSA), machine="b"))),
    Case("payload-over", "the payload is over, and the token is not", payload={
        "issued_at": "2026-11-22T11:55:00Z", "expires_at": "2026-11-22T11:59:00Z"}),
    Case("stale", "a token that is over", "refused", token={
        "issued_at": "2026-11-22T11:59:00Z", "expires_at": "2026-11-22T12:00:00Z"}),
    Case("too-long", "a token for more than a minute", "refused", token={"expires_at": "2026-11-22T12:01:01Z"}),
    Case("another-payload", "a token for another payload", "evidence-rejected", token={"payload_sha256": bytes(32)}),
    Case("another-key", "a token for another key", "evidence-rejected", token={
        "keys": [fingerprint(STOLEN), fingerprint(ECDSA)]}),
    Case("payload-changed", "the payload exchanged for another name's", "evidence-rejected", sent={
        "payload": text(PAYLOAD | {"names": ["db.lan"]}).encode()}),
    Case("nonce-as-token", "what the CA signed in step 2 as a token", "evidence-rejected", ca_namespace=OF_NONCE),
    Case("namespace-of-proofs", "signed in the namespace of the step before", "evidence-rejected", namespace=OF_PROOF),
    Case("label-of-proofs", "signed under the label of the step before", "evidence-rejected", label=PROOF),
    Case("stale-nonce", "the nonce is 301 seconds old", "evidence-rejected",
         nonce=nonce.make(stage.NONCE_KEY, NOW - timedelta(seconds=301), bytes(16))),
    Case("another-nonce-after-signing", "a fresh nonce of ours, but not the one that was signed", "evidence-rejected",
         sent={"nonce": nonce.make(stage.NONCE_KEY, NOW, bytes(16))}),
    Case("newcomer-nonce-changed", "the newcomer's nonce was changed after signing", "evidence-rejected",
         sent={"newcomer_nonce": bytes(32)}),
    Case("other-method", "evidence of another method", "not-mine", method="ssh-pop"),
    Case("no-token", "a field is missing", "malformed", drop="token"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Made:
    """The signed parts of a case."""

    payload: bytes
    payload_signature: bytes
    token: bytes
    token_signature: bytes


def made(case: Case) -> Made:
    """Sign as its CA does."""
    payload = (text(PAYLOAD | case.payload) + case.written).encode()
    token = {
        "version": 1,
        "payload_sha256": hashlib.sha256(payload).digest(),
        "keys": [fingerprint(key) for key in KEYS],
        "issued_at": BEGIN,
        "expires_at": TOKEN_END,
    }
    written = text(token | case.token).encode()
    return Made(
        payload,
        sshsig(case.ca, payload, case.ca_namespace or OF_NONCE),
        written,
        sshsig(case.ca, written, case.ca_namespace or OF_TOKEN),
    )


def found(case: Case) -> ChallengeFound:
    """What is to be looked at."""
    fields = PARAMETERS | {key: value for key, value in case.sent.items() if key in PARAMETERS}
    lines = {blob(key): line(key) for key in KEYS}
    return ChallengeFound(
        names=fields["names"],
        addresses=fields["addresses"],
        ports=fields["ports"],
        keys=[lines.get(key, "") for key in fields["keys"]],
    )


def asked(case: Case) -> ChallengeVector:
    """Step 1."""
    return vector("parameters", case, PARAMETERS | case.sent, found(case))


def challenged(case: Case) -> ChallengeVector:
    """The answer to it."""
    parts = made(case)
    to_sign = spelled(PROOF, parts.payload, parts.payload_signature, SERVER_SPKI, PIN)
    fields = {"payload": parts.payload, "ca_signature": parts.payload_signature}
    finding = ChallengeFound(signed_by=line(case.ca), to_sign=to_sign)
    return vector("challenge", case, fields | case.sent, finding)


def proved(case: Case) -> ChallengeVector:
    """Step 3."""
    parts = made(case)
    digest = spelled(case.label or PROOF, parts.payload, parts.payload_signature, case.spki, case.pin)
    fields = {
        "payload": parts.payload,
        "ca_signature": parts.payload_signature,
        "signatures": [sshsig(key, digest, case.namespace or OF_PROOF) for key in case.signers],
    }
    return vector("proof", case, fields | case.sent, found(Case("", "")))


def redeemed(case: Case) -> ChallengeVector:
    """Step 5."""
    parts = made(case)
    digest = spelled(case.label or REQUEST, parts.token, case.nonce, AGAIN, case.spki, case.pin)
    fields = {
        "payload": parts.payload,
        "token": parts.token,
        "ca_signature": parts.token_signature,
        "nonce": case.nonce,
        "newcomer_nonce": AGAIN,
        "signatures": [sshsig(key, digest, case.namespace or OF_REQUEST) for key in case.signers],
    }
    finding = found(Case("", ""))
    known = case.known[0].machine if case.known else "web1.lan"
    whole = ChallengeFound(
        names=finding.names,
        addresses=finding.addresses,
        ports=finding.ports,
        keys=finding.keys,
        machine=known,
        marker=f"ssh-hostkey:{RANDOM.hex()}",
        transcript=digest,
    )
    return vector("request", case, fields | case.sent, whole)


def vector(step: Step, case: Case, fields: dict[str, Any], finding: ChallengeFound) -> ChallengeVector:
    """The file of a case."""
    message = {key: value for key, value in fields.items() if key != case.drop}
    return ChallengeVector(
        describes=case.describes,
        step=step,
        outcome=case.outcome,
        method=case.method,
        world=ChallengeWorld(
            now=NOW,
            pin=PIN,
            trust_domain=DOMAIN,
            nonce_key=stage.NONCE_KEY.reveal(),
            host_ca=line(CA),
            known=list(case.known),
        ),
        server_spki=SERVER_SPKI,
        asked=text(PARAMETERS) if step == "challenge" else None,
        payload=text(message) if case.message is None else case.message,
        finding=finding if case.outcome == "success" else None,
    )


def everything() -> Iterator[tuple[str, ChallengeVector]]:
    """Every file by its path below vectors/."""
    for cases, make, step in (
        ((*ASKED, *ANY), asked, "parameters"),
        (CHALLENGED, challenged, "challenge"),
        ((*PROVED, *SIGNED, *ANY), proved, "proof"),
        ((*REDEEMED, *SIGNED, *ANY), redeemed, "request"),
    ):
        for case in cases:
            yield f"{FOLDER}/{step}-{case.name}.json", make(case)
