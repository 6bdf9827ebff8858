"""
Writes vectors/: `python -m tests.introducers.make_vectors`. Everything is fixed, so a second run changes nothing.

The transcripts are spelled here a second time, from docs/protocols and not from ``handfast.core.transcript``,
so that the two hold each other. Add cases; a changed file is a changed protocol.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import sys
from datetime import timedelta
from typing import Any

from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import nonce
from handfast.core.names import network
from handfast.core.records import CredentialRecord, Invitation
from handfast.core.roles import Role
from handfast.core.secret import Secret
from tests.introducers import make_hosts, make_nifi, stage, vectors
from tests.introducers.make_lines import lines
from tests.introducers.stage import DAY, LINE, NEW_KEY, NOW, OLD_KEY, OTHER_KEY, PIN, RETURN_KEY, SERIAL, SERVER_SPKI

NEXT_KEY = stage.NEXT_RETURN_KEY.public_key().public_bytes_raw()
NONCE = nonce.make(stage.NONCE_KEY, NOW, bytes(range(16)))
OUR_NONCE = bytes([0x33]) * 32
INVITATION, RENEWAL, RETURN, ANSWER = (
    b"handfast/1 invitation request",
    b"handfast/1 renewal request",
    b"handfast/1 reintroduction request",
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


def invited(case: Case) -> vectors.Vector:
    """A message with an invitation."""
    changes = dict(case.record)
    if "sources" in changes:
        changes["sources"] = tuple(map(network, changes["sources"]))
    record = stage.an_invitation(**changes)
    fields: dict[str, Any] = {
        "key_id": LINE.key_id,
        "nonce": NONCE,
        "newcomer_nonce": OUR_NONCE,
        "csr": request_for(),
        "reintroduction_key": NEXT_KEY,
        "role": None,
        "names": [],
    } | case.signed
    digest = spelled(
        case.label or INVITATION,
        (fields["role"] or "").encode(),
        bytes.fromhex(fields["key_id"]),
        case.pin,
        case.spki,
        fields["newcomer_nonce"],
        fields["nonce"],
        fields["csr"],
        fields["reintroduction_key"],
        _claimed("invitation", case, fields),
        *(name.encode() for name in fields["names"]),
    )
    fields["signature"] = (case.key or LINE.signing_key()).sign(digest)
    return _vector("invitation", case, fields, digest, record)


def _claimed(method: str, case: Case, fields: dict[str, Any]) -> bytes:
    """Put the case's host claim into the message as it is sent, and return what the request signs of it."""
    if case.host is None:
        return b""
    made = make_hosts.claim(case.host, method=method, pin=case.pin, server_spki=case.spki, fields=fields)
    signed = case.host.signed(made)
    fields["host"] = case.host.sent(made if signed is None else signed)
    return make_hosts.commitment(signed)


def succeeding(method: str, case: Case) -> vectors.Vector:
    """A message for the successor of a credential."""
    late: dict[str, Any] = {"not_after": NOW - DAY} if method == "reintroduction" else {}
    record = stage.a_credential(**(late | case.record))
    label, key = (RENEWAL, OLD_KEY) if method == "renewal" else (RETURN, RETURN_KEY)
    fields: dict[str, Any] = {
        "serial": f"{SERIAL:032x}",
        "nonce": NONCE,
        "newcomer_nonce": OUR_NONCE,
        "csr": request_for(),
        "reintroduction_key": NEXT_KEY,
    } | case.signed
    digest = spelled(
        case.label or label,
        bytes.fromhex(fields["serial"]),
        case.pin,
        case.spki,
        fields["newcomer_nonce"],
        fields["nonce"],
        fields["csr"],
        fields["reintroduction_key"],
        _claimed(method, case, fields),
    )
    signer = case.key or key
    if isinstance(signer, Ed25519PrivateKey):
        fields["signature"] = signer.sign(digest)
    else:
        fields["signature"] = signer.sign(digest, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return _vector(method, case, fields, digest, record)


def _vector(
    method: str, case: Case, fields: dict[str, Any], digest: bytes, record: Invitation | CredentialRecord
) -> vectors.Vector:
    message = {key: value for key, value in (fields | case.sent).items() if key != case.drop}
    records = [] if case.unknown else [record]
    return vectors.Vector(
        describes=case.describes,
        outcome=case.outcome,
        method=case.method or method,
        world=vectors.World(
            now=NOW,
            pin=PIN,
            nonce_key=stage.NONCE_KEY.reveal(),
            invitations=[vectors.InvitationOnRecord.of(one) for one in records if isinstance(one, Invitation)],
            credentials=[_credential(one) for one in records if isinstance(one, CredentialRecord)],
        ),
        connection=vectors.Connection(server_spki=SERVER_SPKI, client=case.client),
        payload=text(message) if case.payload is None else case.payload,
        finding=_found(method, case, record, fields, digest) if case.outcome == "success" else None,
    )


def _found(
    method: str, case: Case, record: Invitation | CredentialRecord, fields: dict[str, Any], digest: bytes
) -> vectors.Found:
    sources = record.sources if isinstance(record, Invitation) else None
    late = isinstance(record, CredentialRecord) and record.not_after <= NOW
    return vectors.Found(
        public_key=stage.NEW_SPKI,
        machine=record.machine,
        roles=[record.role],
        names=list(record.names.texts()),
        sources=None if sources is None else [str(network) for network in sources],
        wished_role=fields.get("role"),
        wished_names=fields.get("names", []),
        marker=f"invitation:{record.key_id}" if isinstance(record, Invitation) else f"successor:{record.serial:032x}",
        uses=record.uses if isinstance(record, Invitation) else 1,
        transcript=digest,
        reintroduction_key=fields["reintroduction_key"],
        expired_at=record.not_after if isinstance(record, CredentialRecord) and late else None,
        host=None if case.host is None else _found_host(method, case.host, record),
    )


def _found_host(method: str, plan: make_hosts.Plan, record: Invitation | CredentialRecord) -> vectors.FoundHost:
    detail, place = f"credential {SERIAL:032x}", None
    if isinstance(record, Invitation):  # only an operator's word says where a machine is
        detail = f"invitation {record.key_id}"
        place = vectors.FoundPlace(hosts=list(record.names.texts()), ports=sorted(plan.ports))
    return make_hosts.found(plan, detail=detail, how=method, place=place, machine=record.machine)


def _credential(record: CredentialRecord) -> vectors.CredentialOnRecord:
    return vectors.CredentialOnRecord(
        serial=f"{record.serial:032x}",
        machine=record.machine,
        role=record.role,
        names=list(record.names.texts()),
        not_before=record.not_before,
        not_after=record.not_after,
        certificate=record.certificate,
        reintroduction_key=record.reintroduction_key,
        revoked_at=record.revoked_at,
        revoked_reason=record.revoked_reason,
    )


def everything() -> dict[str, bytes]:
    """Every file by its path below vectors/."""
    made = {f"invitation/{case.name}.json": invited(case) for case in (*BY_INVITATION, *SHARED, *WITH_HOSTS)}
    for method, cases in (("renewal", BY_RENEWAL), ("reintroduction", BY_RETURN)):
        made |= {f"{method}/{case.name}.json": succeeding(method, case) for case in (*cases, *SHARED, *WITH_HOSTS)}
    found = {path: vectors.encode(vector) for path, vector in made.items()}
    found |= {f"{vectors.LINES}/{name}.json": vectors.encode(line) for name, line in lines()}
    return found | {path: vectors.encode(vector) for path, vector in make_nifi.everything()}


def main() -> int:
    """Write the files that differ, and remove those that nobody makes any more."""
    files = everything()
    for stale in set(vectors.FOLDER.rglob("*.json")) - {vectors.FOLDER / path for path in files}:
        stale.unlink()
    for path, content in files.items():
        target = vectors.FOLDER / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != content:
            target.write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
