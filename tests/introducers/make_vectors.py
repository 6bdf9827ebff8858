"""
Writes vectors/: `python -m tests.introducers.make_vectors`. Everything is fixed, so a second run changes nothing.

The transcripts are spelled here a second time, from docs/protocols and not from ``handfast.core.transcript``,
so that the two hold each other. Add cases; a changed file is a changed protocol.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.core.names import network
from handfast.core.records import CredentialRecord, Invitation
from tests.introducers import make_challenge, make_hosts, make_login, make_nifi, make_pop, make_x5c, stage, vectors
from tests.introducers.make_cases import (
    BY_CERTIFICATE,
    BY_INVITATION,
    BY_RENEWAL,
    BY_RETURN,
    INVITATION,
    NEXT_KEY,
    NONCE,
    OUR_NONCE,
    RENEWAL,
    RETURN,
    SHARED,
    WITH_HOSTS,
    X5C,
    Case,
    request_for,
    spelled,
    text,
)
from tests.introducers.make_lines import lines
from tests.introducers.stage import DAY, LINE, NOW, OLD_KEY, PIN, RETURN_KEY, SERIAL, SERVER_SPKI


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


def certified(case: Case) -> vectors.Vector:
    """A message with a certificate of another authority."""
    plan = case.x5c
    fields: dict[str, Any] = {
        "chain": make_x5c.der(*plan.chain),
        "nonce": NONCE,
        "newcomer_nonce": OUR_NONCE,
        "csr": request_for(),
        "reintroduction_key": NEXT_KEY,
        "role": None,
    } | case.signed
    digest = spelled(
        case.label or X5C,
        (fields["role"] or "").encode(),
        case.pin,
        case.spki,
        fields["newcomer_nonce"],
        fields["nonce"],
        fields["csr"],
        fields["reintroduction_key"],
        _claimed("x5c", case, fields),
        *fields["chain"],
    )
    fields["signature"] = plan.sign(digest)
    made = _vector("x5c", case, fields, digest, None)
    return msgspec.structs.replace(made, world=msgspec.structs.replace(made.world, x5c=plan.configured()))


def _vector(
    method: str, case: Case, fields: dict[str, Any], digest: bytes, record: Invitation | CredentialRecord | None
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
            credentials=[vectors.CredentialOnRecord.of(one) for one in records if isinstance(one, CredentialRecord)],
        ),
        connection=vectors.Connection(server_spki=SERVER_SPKI, client=case.client),
        payload=text(message) if case.payload is None else case.payload,
        finding=None
        if case.outcome != "success"
        else _found_certified(case, fields, digest)
        if record is None
        else _found(method, case, record, fields, digest),
    )


def _found_certified(case: Case, fields: dict[str, Any], digest: bytes) -> vectors.Found:
    machine, names = case.x5c.named()
    host = None
    if case.host is not None:
        place = vectors.FoundPlace(hosts=list(names.texts()), ports=sorted(case.host.ports))
        host = make_hosts.found(case.host, detail=case.x5c.about, how="x5c", place=place, machine=machine)
    return vectors.Found(
        public_key=stage.NEW_SPKI,
        machine=machine,
        roles=list(case.x5c.roles),
        names=list(names.texts()),
        sources=None,
        wished_role=fields["role"],
        wished_names=[],
        marker=f"x5c:{case.x5c.fingerprint}",
        uses=1,
        transcript=digest,
        reintroduction_key=fields["reintroduction_key"],
        expired_at=None,
        until=case.x5c.until,
        host=host,
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


def everything() -> dict[str, bytes]:
    """Every file by its path below vectors/."""
    made = {f"invitation/{case.name}.json": invited(case) for case in (*BY_INVITATION, *SHARED, *WITH_HOSTS)}
    for method, cases in (("renewal", BY_RENEWAL), ("reintroduction", BY_RETURN)):
        made |= {f"{method}/{case.name}.json": succeeding(method, case) for case in (*cases, *SHARED, *WITH_HOSTS)}
    made |= {f"x5c/{case.name}.json": certified(case) for case in (*BY_CERTIFICATE, *SHARED, *WITH_HOSTS)}
    found = {path: vectors.encode(vector) for path, vector in made.items()}
    found |= {f"{vectors.LINES}/{name}.json": vectors.encode(line) for name, line in lines()}
    found |= {path: vectors.encode(vector) for path, vector in make_pop.everything()}
    found |= {path: vectors.encode(vector) for path, vector in make_login.everything()}
    found |= {path: vectors.encode(vector) for path, vector in make_challenge.everything()}
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
