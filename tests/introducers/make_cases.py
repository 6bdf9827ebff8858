"""The cases of vectors/: an honest message of each method, and how each of the others departs from it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from datetime import timedelta
from typing import Any

from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import nonce
from handfast.core.roles import Role
from handfast.core.secret import Secret
from tests.introducers import make_hosts, make_x5c, stage, vectors
from tests.introducers.stage import LINE, NEW_KEY, NOW, OTHER_KEY, PIN, RETURN_KEY, SERIAL, SERVER_SPKI

NEXT_KEY = stage.NEXT_RETURN_KEY.public_key().public_bytes_raw()
NONCE = nonce.make(stage.NONCE_KEY, NOW, bytes(range(16)))
OUR_NONCE = bytes([0x33]) * 32
INVITATION, RENEWAL, RETURN, X5C, ANSWER = (
    b"handfast/1 invitation request",
    b"handfast/1 renewal request",
    b"handfast/1 reintroduction request",
    b"handfast/1 x5c request",
    b"handfast/1 introduction answer",
)


def spelled(*fields: bytes) -> bytes:
    """SHA-256 over every field after its length, four bytes big-endian."""
    return hashlib.sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()


def request_for(
    key: ec.EllipticCurvePrivateKey = NEW_KEY, *, extension: pyca.ExtensionType | None = None, common_name: str = ""
) -> bytes:
    """A PKCS#10 request."""
    attributes = [pyca.NameAttribute(pyca.NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = pyca.CertificateSigningRequestBuilder(pyca.Name(attributes))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def flipped(data: bytes) -> bytes:
    """The same with its last bit changed."""
    return data[:-1] + bytes([data[-1] ^ 1])


def text(fields: dict[str, Any]) -> str:
    """The message: JSON, bytes in base64."""
    return json.dumps(
        fields, separators=(",", ":"), ensure_ascii=False, default=lambda data: base64.b64encode(data).decode()
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """An honest message, and how this one departs from it."""

    name: str
    describes: str
    outcome: vectors.Outcome = "success"
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)  # put in after signing
    signed: dict[str, Any] = dataclasses.field(default_factory=dict)  # put in before signing
    label: bytes | None = None
    pin: bytes = PIN
    spki: bytes = SERVER_SPKI
    key: Any = None
    drop: str = ""
    payload: str | None = None
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    unknown: bool = False
    client: bytes | None = None
    method: str | None = None
    host: make_hosts.Plan | None = None
    x5c: make_x5c.Plan = make_x5c.Plan()  # noqa: RUF009  a frozen value


SHARED = (
    Case("stale-nonce", "the nonce is 301 seconds old", "evidence-rejected",
         signed={"nonce": nonce.make(stage.NONCE_KEY, NOW - timedelta(seconds=301), bytes(16))}),
    Case("oldest-nonce", "the nonce is 300 seconds old, which is allowed",
         signed={"nonce": nonce.make(stage.NONCE_KEY, NOW - timedelta(seconds=300), bytes(16))}),
    Case("nonce-of-the-future", "the nonce is one second ahead of the clock", "evidence-rejected",
         signed={"nonce": nonce.make(stage.NONCE_KEY, NOW + timedelta(seconds=1), bytes(16))}),
    Case("foreign-nonce", "the nonce was made with another key", "evidence-rejected",
         signed={"nonce": nonce.make(Secret(b"x" * 32), NOW, bytes(16))}),
    Case("another-nonce-after-signing", "a fresh nonce of ours, but not the one that was signed", "evidence-rejected",
         sent={"nonce": nonce.make(stage.NONCE_KEY, NOW, bytes(16))}),
    Case("newcomer-nonce-changed", "the newcomer's nonce was changed after signing", "evidence-rejected",
         sent={"newcomer_nonce": bytes(32)}),
    Case("wrong-pin", "signed for the root of another authority", "evidence-rejected", pin=bytes(32)),
    Case("relayed", "signed in a connection to another TLS key: a man in the middle relays it", "evidence-rejected",
         spki=bytes(32)),
    Case("request-swapped", "the request was exchanged for another key's after signing", "evidence-rejected",
         sent={"csr": request_for(OTHER_KEY)}),
    Case("reintroduction-key-swapped", "the next reintroduction key was exchanged after signing", "evidence-rejected",
         sent={"reintroduction_key": bytes(32)}),
    Case("label-of-the-answer", "a signature over the label of answers: no reflection", "evidence-rejected",
         label=ANSWER),
    Case("signature-of-zeros", "the signature is all zeros", "evidence-rejected", sent={"signature": bytes(64)}),
    Case("request-not-signed-by-its-key", "genuine evidence, but no proof of possession", "evidence-rejected",
         signed={"csr": flipped(request_for())}),
    Case("request-with-extension", "the request asks for a CA certificate", "malformed",
         signed={"csr": request_for(extension=pyca.BasicConstraints(ca=True, path_length=None))}),
    Case("request-with-common-name", "a common name is read and ignored",
         signed={"csr": request_for(common_name="root")}),
    Case("request-empty", "the request is empty", "malformed", signed={"csr": b""}),
    Case("unknown-field", "one field more", "malformed", sent={"profile": "ca"}),
    Case("missing-signature", "one field less", "malformed", drop="signature"),
    Case("empty", "no bytes", "malformed", payload=""),
    Case("not-an-object", "JSON, but no object", "malformed", payload="[]"),
    Case("not-json", "no JSON", "malformed", payload="handfast"),
    Case("other-method", "the message came under another method's name", "not-mine", method="parchment"),
)  # fmt: skip

BY_CERTIFICATE = (
    *(Case(name, shows, outcome, x5c=plan) for name, shows, outcome, plan in make_x5c.PLANS),
    Case("wish-role", "a role that policy may refuse", signed={"role": "client"}),
    Case("role-changed", "the role was changed after signing", "evidence-rejected", sent={"role": "peer"}),
    Case("chain-changed", "the root was added after signing", "evidence-rejected",
         sent={"chain": make_x5c.der(*make_x5c.THEIRS.chain, make_x5c.THEIRS.root.certificate)}),
    Case("label-of-renewal", "a signature for another method", "evidence-rejected", label=RENEWAL),
    Case("six-certificates", "more than are read", "malformed",
         signed={"chain": make_x5c.der(make_x5c.THEIRS.leaf) * 6}),
    Case("no-certificate", "none at all", "malformed", signed={"chain": ()}),
    Case("not-a-certificate", "bytes", "malformed", signed={"chain": (b"0",)}),
)  # fmt: skip

WITH_HOSTS = tuple(Case(name, shows, outcome, host=plan) for name, shows, outcome, plan in make_hosts.PLANS)

BY_INVITATION = (
    Case("plain", "no wishes: whatever the invitation is for"),
    Case("with-wishes", "the role and one of the names of the invitation",
         signed={"role": "server", "names": ["web1.lan"]}),
    Case("wish-beyond", "a role and a name beyond the invitation: found here, refused by policy",
         signed={"role": "operator", "names": ["other.lan"]}),
    Case("three-uses-two-spent", "how many uses are left is for the ledger", record={"uses": 3, "spent": 2}),
    Case("source-bound", "the networks are passed on", record={"sources": ("10.0.0.0/24",)}),
    Case("role-changed", "the role was changed after signing", "evidence-rejected", sent={"role": "peer"}),
    Case("name-added", "a name was added after signing", "evidence-rejected", sent={"names": ["web1.lan"]}),
    Case("names-joined", "two names were joined into one after signing", "evidence-rejected",
         signed={"names": ["web1", "lan"]}, sent={"names": ["web1lan"]}),
    Case("unknown", "no such invitation", "evidence-rejected", unknown=True),
    Case("other-seed", "signed with another seed", "evidence-rejected", key=RETURN_KEY),
    Case("label-of-reintroduction", "a signature for another method", "evidence-rejected", label=RETURN),
    Case("expired", "at the second of its end", "invitation-expired", record={"expires_at": NOW}),
    Case("cancelled", "taken back by the operator", "invitation-cancelled", record={"cancelled": "lost"}),
    Case("cancelled-stranger", "a stranger does not learn that it was cancelled", "evidence-rejected",
         record={"cancelled": "lost"}, key=RETURN_KEY),
    Case("key-id-upper-case", "key ids are lower case", "malformed", sent={"key_id": LINE.key_id.upper()}),
    Case("key-id-line-feed", "and end where they end", "malformed", sent={"key_id": LINE.key_id + "\n"}),
    Case("signature-short", "63 bytes", "malformed", sent={"signature": bytes(63)}),
    Case("wildcard", "a wildcard is no name", "malformed", signed={"names": ["*.lan"]}),
    Case("role-registrar", "the registrar's role can be wished, and policy refuses it", signed={"role": "registrar"}),
    Case("role-unknown", "a role that does not exist", "malformed", sent={"role": "root"}),
    Case("65-names", "more names than a certificate may carry", "malformed", sent={"names": ["a"] * 65}),
)  # fmt: skip

BY_RENEWAL = (
    Case("server", "a server signs in the message"),
    Case("client", "a client also presents its certificate in the handshake", record={"role": Role.CLIENT},
         client=stage.certificate().public_bytes(Encoding.DER)),
    Case("client-without-handshake", "a client that did not present it", "evidence-rejected",
         record={"role": Role.CLIENT}),
    Case("client-with-another", "a client that presented another certificate", "evidence-rejected",
         record={"role": Role.CLIENT}, client=stage.certificate(serial=SERIAL + 1).public_bytes(Encoding.DER)),
    Case("other-key", "signed with another key", "evidence-rejected", key=OTHER_KEY),
    Case("new-key", "signed with the key of the request: that is no possession of the old one", "evidence-rejected",
         key=NEW_KEY),
    Case("unknown", "no such serial", "evidence-rejected", unknown=True),
    Case("never-issued", "an intent that was never issued", "evidence-rejected", record={"certificate": None}),
    Case("revoked", "taken back", "revoked", record={"revoked_at": NOW, "revoked_reason": "keyCompromise"}),
    Case("expired", "at the second of its end", "policy-refused", record={"not_after": NOW}),
    Case("label-of-reintroduction", "a signature for another method", "evidence-rejected", label=RETURN),
    Case("signature-empty", "no signature", "evidence-rejected", sent={"signature": b""}),
    Case("serial-upper-case", "serials are lower case", "malformed", sent={"serial": f"{SERIAL:032X}"}),
    Case("serial-short", "serials have 32 digits", "malformed", sent={"serial": f"{SERIAL:031x}"[1:]}),
)  # fmt: skip

BY_RETURN = (
    Case("plain", "a day after its end"),
    Case("two-years", "how long ago is too long is for policy", record={"not_after": NOW - timedelta(days=730)}),
    Case("at-its-end", "in the second of its end", record={"not_after": NOW}),
    Case("still-valid", "one second before its end: the credential itself has to prove it", "policy-refused",
         record={"not_after": NOW + timedelta(seconds=1)}),
    Case("revoked", "taken back", "revoked", record={"revoked_at": NOW, "revoked_reason": "keyCompromise"}),
    Case("successor-key", "signed with the successor's reintroduction key", "evidence-rejected",
         key=stage.NEXT_RETURN_KEY),
    Case("unknown", "no such serial", "evidence-rejected", unknown=True),
    Case("no-key-kept", "no reintroduction key is on record", "evidence-rejected",
         record={"reintroduction_key": None}),
    Case("never-issued", "an intent that was never issued", "evidence-rejected", record={"certificate": None}),
    Case("label-of-renewal", "a signature for another method", "evidence-rejected", label=RENEWAL),
    Case("signature-short", "63 bytes", "malformed", sent={"signature": bytes(63)}),
)  # fmt: skip
