"""Rows as the values of ``core``, and grants as the JSON text that is kept of them."""

from __future__ import annotations

import ipaddress
from datetime import datetime

import msgspec

from handfast.core.flow import Grant
from handfast.core.names import Names
from handfast.core.records import CredentialRecord, Invitation, Machine, Revocation
from handfast.core.roles import Role
from handfast.ledger import host_entries
from handfast.ledger.database import Row
from handfast.ledger.entries import canonical_json, micros, rfc3339, time_of


def grant_to_json(grant: Grant) -> str:
    """Return the whole grant as text, so that ``grant_from_json`` gives an equal one."""
    host = {} if grant.host is None else {"host": host_entries.grant_to(grant.host)}
    return canonical_json(
        host
        | {
            "machine": grant.machine,
            "role": grant.role.value,
            "spiffe_id": grant.spiffe_id,
            "names": _names_to(grant.names),
            "public_key": grant.public_key.hex(),
            "not_before": rfc3339(grant.not_before),
            "not_after": rfc3339(grant.not_after),
            "method": grant.method,
            "why": grant.why,
            "reintroduction_key": _hex(grant.reintroduction_key),
            "subject": _hex(grant.subject),
        }
    )


def grant_from_json(text: str) -> Grant:
    """Read what ``grant_to_json`` wrote. :raises ValueError, KeyError, TypeError: something else."""
    value = msgspec.json.decode(text)
    return Grant(
        machine=value["machine"],
        role=Role(value["role"]),
        spiffe_id=value["spiffe_id"],
        names=_names_from(value["names"]),
        public_key=bytes.fromhex(value["public_key"]),
        not_before=datetime.fromisoformat(value["not_before"]),
        not_after=datetime.fromisoformat(value["not_after"]),
        method=value["method"],
        why=tuple(value["why"]),
        reintroduction_key=_from_hex(value["reintroduction_key"]),
        subject=_from_hex(value["subject"]),
        host=host_entries.grant_from(value["host"]) if "host" in value else None,
    )


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _from_hex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _names_to(names: Names) -> dict[str, list[str]]:
    return {"dns": list(names.dns), "ips": [str(ip) for ip in names.ips]}


def _names_from(value: dict[str, list[str]]) -> Names:
    # Not Names.parse: what was decided is given back as it was, without deciding again.
    return Names(tuple(value["dns"]), tuple(ipaddress.ip_address(ip) for ip in value["ips"]))


def invitation_to_row(invitation: Invitation) -> dict[str, object]:
    """Return the columns of ``invitations``; ``spent`` and ``cancelled`` are derived, not stored."""
    sources = None if invitation.sources is None else canonical_json([str(n) for n in invitation.sources])
    return {
        "key_id": invitation.key_id,
        "method": invitation.method,
        "public_half": invitation.public_half,
        "machine": invitation.machine,
        "role": invitation.role.value,
        "names": canonical_json(_names_to(invitation.names)),
        "uses": invitation.uses,
        "created_at": micros(invitation.created_at),
        "expires_at": micros(invitation.expires_at),
        "sources": sources,
        "subject": invitation.subject,
    }


def invitation_from_row(row: Row) -> Invitation:
    """Read a row of ``statements.ALL_INVITATIONS``."""
    key_id, method, public_half, machine, role, names, uses, created_at, expires_at, sources, subject, *now = row
    spent, cancelled = now
    return Invitation(
        key_id=key_id,
        method=method,
        public_half=public_half,
        machine=machine,
        role=Role(role),
        names=_names_from(msgspec.json.decode(names)),
        uses=uses,
        created_at=time_of(created_at),
        expires_at=time_of(expires_at),
        sources=None if sources is None else tuple(ipaddress.ip_network(n) for n in msgspec.json.decode(sources)),
        subject=subject,
        spent=spent,
        cancelled=cancelled,
    )


def credential_from_row(row: Row) -> CredentialRecord:
    """Read a row of ``statements.ALL_CREDENTIALS``."""
    serial, marker, _key, _machine, grant_json, intended_at, issued_at, certificate, revoked_at, reason, _kind = row
    grant = grant_from_json(grant_json)
    return CredentialRecord(
        serial=int(serial, 16),
        machine=grant.machine,
        role=grant.role,
        method=grant.method,
        trust_domain=grant.trust_domain,
        marker=marker,
        not_before=grant.not_before,
        not_after=grant.not_after,
        names=grant.names,
        intended_at=time_of(intended_at),
        why=grant.why,
        certificate=certificate,
        issued_at=None if issued_at is None else time_of(issued_at),
        revoked_at=None if revoked_at is None else time_of(revoked_at),
        revoked_reason=reason,
        reintroduction_key=grant.reintroduction_key,
    )


def machine_from_row(row: Row) -> Machine:
    """Read a row of ``statements.ALL_MACHINES``."""
    name, role, introduced_at = row
    return Machine(name, Role(role), time_of(introduced_at))


def revocation_from_row(row: Row) -> Revocation:
    """Read a row of ``statements.ALL_REVOCATIONS``."""
    serial, revoked_at, reason, grant_json = row
    grant = grant_from_json(grant_json)
    return Revocation(int(serial, 16), time_of(revoked_at), reason, grant.not_after, grant.trust_domain)
